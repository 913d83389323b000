"""The TPU's own compiler on a small step, where libtpu is installed: what the rules ask for is in the program."""

import json

import pytest

from experiments import cli
from experiments.plan_compile import has_compiler

pytestmark = pytest.mark.skipif(not has_compiler(), reason="libtpu, the TPU's compiler, is not installed (extra `tpu`)")

SMALL = """
base: gpt2-124m
model: {layers: 2, width: 256, heads: 4, vocab_size: 512, context_length: 256}
data: {sequence_length: 256}
train: {vocab_chunk: 128, batch_size: 16}
"""


def test_the_step_of_a_small_model_for_a_tpu(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = ("plan", str(tmp_path / "small.yaml"), "--topology", "v5e:2x2", "--json", "--mesh")

    def plan(*rest):
        assert cli.main((*arguments, "fsdp=2,tensor=2", *rest)) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    sums, compiled = plan("--no-compile"), plan()
    assert (sums["compiled"], compiled["compiled"]) == (False, True)
    held, expected = compiled["memory_per_chip_bytes"], sums["memory_per_chip_bytes"]
    assert held["arguments"] == pytest.approx(expected["arguments"], rel=0.02)  # tiles round arrays up
    assert held["total"] <= 1.1 * expected["total"]
    # Gradients are reduced and scattered over fsdp, not reduced whole; tensor splits the loss' chunks as well.
    assert compiled["collectives"]["reduce-scatter"] > 0
    assert "all-to-all" not in compiled["collectives"]
    assert compiled["collective_bytes"].keys() == {"fsdp", "tensor"}
    for axis, least in sums["collective_bytes"].items():
        assert least < compiled["collective_bytes"][axis] < 2 * least  # 2 layers: the ends weigh as much as they do
    assert compiled["compiler_flops_per_chip"] * 4 == pytest.approx(compiled["traced_flops_once"], rel=0.1)
    assert compiled["flops_executed"] == pytest.approx(sums["flops_executed"], rel=0.01)
    assert compiled["compile_seconds"] > 0
