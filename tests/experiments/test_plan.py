"""What knows the answer: sums by hand, the traced step, and what the TPU compiler once said of llama3.1-405b."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import cli
from experiments.config import Experiment, find_experiment
from experiments.least_traffic import least_bytes
from experiments.plan import (
    advice,
    bill,
    collective_bytes,
    flops,
    lay_out,
    memory,
    memory_traffic,
    parts_that_fit,
    roofline,
)
from experiments.plan_page import PLANS, layout_of
from experiments.plan_search import mesh_text, meshes, parse_mesh, search
from experiments.presets import RECIPES
from experiments.topologies import find_topology
from experiments.traced_flops import traced_flops
from model.config import MESH_AXES, MeshConfig, ModelConfig, ShardingRules
from model.errors import UserError
from model.presets import gpt2
from model.sharding import make_mesh
from model.transformer import Transformer
from train.batches import Batch
from train.config import DataConfig, TrainConfig
from train.flops import train_flops_per_token
from train.optimizer import hyperparameters
from train.step import abstract_state, jitted_step

SMALL = Experiment(
    model=ModelConfig(
        layers=3, width=32, heads=4, kv_heads=2, mlp_width=96, vocab_size=64, context_length=16, scan=True
    ),
    data=DataConfig(sequence_length=16),
    train=TrainConfig(batch_size=8, vocab_chunk=16),
)
"""N = 3 x (32 x 12 x 8 + 32 x 32 + 3 x 32 x 96 + 2 x 32) + 2 x 64 x 32 + 32, norms the scales alone."""


def small(mesh, topology="v5e:2x2", **changes):
    model = replace(SMALL.model, **{k: v for k, v in changes.items() if k in ("remat", "experts")})
    train = replace(
        SMALL.train, **{k: v for k, v in changes.items() if k in ("batch_size", "accumulation", "vocab_chunk")}
    )
    return lay_out(replace(SMALL, model=model, train=train), find_topology(topology), mesh)


@pytest.fixture
def call(capsys):
    """Exit code, stdout and stderr of `narrador plan ...`, sums alone."""

    def run(*arguments):
        try:
            code = cli.main(("plan", *arguments, "--no-compile"))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def llama_405b():
    _, experiment = find_experiment("llama3.1-405b")
    experiment = replace(experiment, train=replace(experiment.train, batch_size=256))
    return lay_out(experiment, find_topology("v5p:16x16x8"), {"fsdp": 256, "tensor": 8})


def test_state_of_405b_is_what_the_tpu_compiler_said():
    assert memory(llama_405b())["arguments"] == pytest.approx(2_378_534_912, rel=1e-3)


def test_a_chip_keeps_its_share_of_state():
    layers, ends = 3 * (32 * 8 * 4 + 2 * 32 * 8 * 2 + 32 * 32 + 3 * 32 * 96 + 2 * 32), 2 * 64 * 32 + 32
    assert small({"data": 4}).parameters == (layers + ends, layers + ends)
    assert small({"fsdp": 4}).parameters == ((layers + ends) / 4, layers + ends)
    kept, gathered = small({"fsdp": 2, "tensor": 2}).parameters
    scales = 3 * 2 * 32 + 32  # of norms: no tensor axis splits them
    assert (kept, gathered) == ((layers + ends - scales) / 4 + scales / 2, (layers + ends - scales) / 2 + scales)
    batch = 5 * 4 * 8 * 16 / 4
    assert memory(small({"fsdp": 4}))["arguments"] == 12 * (layers + ends) / 4 + batch


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize(("chunk", "experts"), [(None, None), (16, None), (16, 4)])
def test_what_is_executed_is_what_the_traced_step_has(remat, chunk, experts):
    layout = small({"data": 4}, remat=remat, vocab_chunk=chunk, experts=experts)
    experiment = layout.experiment
    mesh, rules = make_mesh(MeshConfig(), jax.devices()[:1]), ShardingRules()
    model, train = Transformer(experiment.model, rules), experiment.train
    state = abstract_state(model, train, mesh, rules)
    batch = Batch(*(jnp.zeros((8, 16), jnp.float32 if name == "weights" else jnp.int32) for name in Batch._fields))
    program = jitted_step(model, train, state).trace(state, batch, hyperparameters(train)).jaxpr.jaxpr
    assert flops(layout)["executed"] == pytest.approx(traced_flops(program), rel=0.01)
    assert traced_flops(program, trips=False) < traced_flops(program)
    assert flops(layout)["formula"] == train_flops_per_token(experiment.model, 16) * 8 * 16


def test_traced_flops_of_a_loop_by_hand():
    def program(x):
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=5)[0]

    jaxpr = jax.make_jaxpr(program)(jnp.zeros((4, 4))).jaxpr
    assert (traced_flops(jaxpr), traced_flops(jaxpr, trips=False)) == (5 * 2 * 64, 2 * 64)


def test_traffic_goes_along_the_axes_that_split_something():
    """By how much, `test_collectives.py` holds against the compiler."""
    fsdp, tensor = small({"fsdp": 4}, remat="full"), small({"tensor": 2, "data": 2}, remat="full")
    assert {axis for axis, sent in collective_bytes(fsdp).items() if sent} == {"fsdp"}
    assert {axis for axis, sent in collective_bytes(tensor).items() if sent} == {"tensor", "data"}
    halves = small({"fsdp": 4}, remat="full", accumulation=2)
    assert collective_bytes(halves)["fsdp"] == 2 * collective_bytes(fsdp)["fsdp"]  # gathered for each part
    assert memory_traffic(halves) > memory_traffic(fsdp)


def test_what_has_four_bytes_in_a_bfloat16_model_is_sent_whole():
    """Two devices send half of an array to gather or scatter it, and all of it to sum it; two bytes more of each."""
    mesh = dict.fromkeys(MESH_AXES, 1) | {"fsdp": 2}
    layers, width, wide, vocabulary, places = 2, 8, 20, 16, 4
    plain = ModelConfig(
        layers=layers, width=width, heads=2, mlp_width=wide, vocab_size=vocabulary, context_length=places
    )
    biased = replace(gpt2(layers, width, 2, context_length=places), mlp_width=wide, vocab_size=vocabulary)
    norms = layers * 2 * 3 * width + 2 * width  # gathered twice in layers, once at the end; scattered once
    biases = layers * (3 * 2 * width + 2 * wide + 2 * 3 * width)  # of heads and hidden values: whole on both, summed
    for config, more in (
        (plain, 2 * vocabulary * width + norms),
        (biased, (vocabulary + places) * width + 2 * norms + biases),
    ):
        sent = {size: least_bytes(config, mesh, 4, places, itemsize=size)["fsdp"] for size in (2, 4)}
        assert sent[2] == sent[4] / 2 + more


@pytest.mark.parametrize(
    ("topology", "mesh", "gigabytes"),
    [
        ("v5p:16x16x8", {"fsdp": 256, "tensor": 8}, {"fsdp": 400, "tensor": 200}),  # two rings, one ring of 100 a link
        ("v5p:2x2x1", {"fsdp": 4}, {"fsdp": 200}),  # two lines
        ("v6e:16x16", {"fsdp": 16, "tensor": 16}, {"fsdp": 200, "tensor": 200}),
        ("v6e:16x16", {"fsdp": 64, "tensor": 4}, {"tensor": 100}),  # a part of an axis: a line
        # A whole axis of 4, a ring; half of one of 8, a line, though another axis has 4 chips.
        ("v5p:4x8x8", {"fsdp": 16, "context": 4, "tensor": 4}, {"tensor": 200, "context": 100}),
        ("h100:8x64", {"fsdp": 64, "tensor": 8}, {"fsdp": 50, "tensor": 450}),
        ("h100:8x64", {"fsdp": 128, "tensor": 4}, {"fsdp": 100, "tensor": 450}),  # two of a node's share their network
        ("h100:8x1", {"fsdp": 8}, {"fsdp": 450}),
    ],
)
def test_speeds_of_axes(topology, mesh, gigabytes):
    found = find_topology(topology).bandwidths(dict.fromkeys(MESH_AXES, 1) | mesh)
    assert {axis: found[axis] / 1e9 for axis in gigabytes} == pytest.approx(gigabytes)


def test_the_longest_binds_and_bounds():
    layout = small({"fsdp": 4})
    free, jammed = roofline(layout, {}), roofline(layout, {"fsdp": 1e12})
    assert free["bound_by"] != "interconnect" == jammed["bound_by"]
    assert jammed["seconds_per_step"] == 1e12 / 100e9  # 2 x 2 of v5e: two lines of 50
    for found in (free, jammed):
        rate = flops(layout)["formula"] / found["seconds_per_step"]
        assert found["mfu_bound"] == pytest.approx(rate / (4 * 197e12))
        assert found["mfu_bound"] < 1
    found = bill(layout, 2.0, 8 * 16 * 43_200)
    assert found == {"days": 1.0, "dollars": pytest.approx(24 * 4 * 1.20)}


def test_parts_make_a_batch_fit_and_what_helps_is_named():
    _, experiment = find_experiment("llama3.1-405b")
    whole = lay_out(experiment, find_topology("v5p:16x16x8"), {"fsdp": 256, "tensor": 8})
    assert memory(whole)["total"] > memory(whole)["available"]
    assert "--accumulation 8" in advice(whole)
    parted = parts_that_fit(whole)
    assert parted.experiment.train.accumulation > 1
    assert memory(parted)["total"] <= memory(parted)["available"]
    one = lay_out(
        replace(experiment, train=replace(experiment.train, batch_size=256)), find_topology("v6e:16x16"), {"fsdp": 256}
    )
    assert "tensor or context" in advice(one)


def test_search_ranks_what_fits():
    found = search(SMALL, find_topology("v5e:2x2"))
    assert all(memory(layout)["total"] <= memory(layout)["available"] for layout in found)
    times = [roofline(layout)["seconds_per_step"] / layout.tokens_per_step for layout in found]
    assert times[0] <= 1.1 * min(times)
    tried = [tuple(sizes.values()) for sizes in meshes(SMALL, 4)]
    assert len(set(tried)) == len(tried)
    assert {math.prod(sizes) for sizes in tried} == {4}
    assert all(parse_mesh(mesh_text(layout)).items() <= layout.mesh.items() for layout in found)
    with pytest.raises(UserError, match=r"nothing fits on v5e:2x2: the nearest.* of a chip's 16"):
        search(find_experiment("llama3.1-70b")[1], find_topology("v5e:2x2"))


def test_json_has_what_the_issue_names(call):
    code, out, _ = call("llama3.1-405b", "--topology", "v5p:16x16x8", "--mesh", "fsdp=256,tensor=8", "--json")
    found = json.loads(out.splitlines()[-1])
    assert code == 0
    assert found["fits"]
    assert found["batch"] * 8192 >= 2e6
    assert found["memory_per_chip_bytes"].keys() == {"arguments", "temporaries", "total", "available"}
    assert found["collective_bytes"].keys() == {"fsdp", "tensor"}
    assert (found["devices"], found["compile_seconds"], found["compiled"]) == (2048, None, False)
    for key in ("parameters", "flops_per_step", "seconds_per_step", "mfu_bound", "days", "dollars"):
        assert found[key] > 0


def test_gpus_are_planned_by_sums_and_it_says_so(capsys):
    assert cli.main(("plan", "llama3.1-8b", "--topology", "h100:8x8", "--mesh", "fsdp=64")) == 0
    assert "all of it by sums: there is no compiling for GPUs" in capsys.readouterr().out


def test_without_a_compiler_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr("experiments.plan_compile.has_compiler", lambda: False)
    assert cli.main(("plan", "gpt2-124m", "--topology", "v5e:4x4", "--mesh", "fsdp=16")) == 0
    assert "libtpu, the TPU's compiler, is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_every_published_architecture_has_a_plan_that_fits(name):
    found = memory(layout_of(name))
    assert found["total"] <= found["available"]


def test_the_page_shows_them_all_as_fitting():
    text = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
    shown = {row[1].strip(): row for line in text.splitlines() if len(row := line.split("|")) > 12 and ":" in row[2]}
    for name in RECIPES:
        assert shown[name][2].strip() == PLANS[name][0]
        assert shown[name][7].strip() == "yes", f"{name}: run `narrador plan > docs/plans.md` anew"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny", "--topology", "v9:2x2"), "unknown chip 'v9'. Did you mean 'v4'? Known: v4, v5e"),
        (("tiny", "--topology", "v5e:2x3"), "unknown topology 'v5e:2x3'. Known of v5e: 1x1, 2x2, 2x4"),
        (("tiny", "--topology", "v5p:6x6x6"), "multiples of 4 along each axis, up to 16x20x28"),
        (("tiny", "--topology", "v5e"), "'v5e' is not a chip and its arrangement, such as v5e:16x16"),
        (("tiny", "--topology", "h100:9x2"), "at most 8 in a node"),
        (("tiny",), "--topology is missing"),
        (("tiny", "--topology", "v5e:2x2", "--mesh", "fsdp=2"), "2 devices, but v5e:2x2 has 4 chips; fsdp=4 would do"),
        (("tiny", "--topology", "v5e:2x2", "--mesh", "fspd=4"), "unknown mesh axis 'fspd'. Did you mean 'fsdp'?"),
        (("tiny", "--topology", "v5e:2x2", "--mesh", "fsdp=four"), "'fsdp=four' is not an axis and its chips"),
        (("tiny", "--topology", "v5e:2x2", "--mesh", "fsdp=4", "--batch", "6"), "nearest sizes that can are 4 and 8"),
        (("gpt2-124m", "--topology", "v5e:2x2", "--mesh", "tensor=4"), "axis 'vocab' of 50257 cannot be split over 4"),
        (("tiny", "--topology", "v5e:2x2", "--mesh", "fsdp=4", "--search"), "give one of the two"),
        (("tiny", "--topology", "v5e:2x2", "--batch", "0"), "--batch 0 must lie between 1 and a billion"),
        (("gpt2-12m", "--topology", "v5e:2x2"), "Did you mean 'gpt2-124m'?"),
    ],
)
def test_bad_input_ends_in_one_message_and_code_2(arguments, told, call):
    code, out, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert told in re.sub(r"[\s│]+", " ", err + out)


def test_a_mixture_whose_tokens_meet_all_experts_does_what_a_layer_as_wide_does():
    """Two experts of two, and one network twice as wide: the same products, but for the router's."""
    mixture = replace(SMALL.model, experts=2, experts_per_token=2, remat="none")
    dense = replace(SMALL.model, mlp_width=2 * 96, remat="none")
    one, other = (
        lay_out(replace(SMALL, model=model), find_topology("v5e:2x2"), {"fsdp": 4}) for model in (mixture, dense)
    )
    router = 2 * 3 * 32 * 2 * one.tokens_per_step  # forward; backward costs twice that
    assert flops(one)["executed"] - flops(other)["executed"] == pytest.approx(3 * router)
    apart = lay_out(replace(SMALL, model=mixture), find_topology("v5e:2x2"), {"expert": 2, "fsdp": 2})
    assert collective_bytes(apart)["expert"] > 0 == collective_bytes(one)["expert"]


def test_products_inside_a_shard_map_count_for_all_devices():
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    rows = jax.sharding.PartitionSpec("fsdp")

    def product(x, y):
        return jax.shard_map(jnp.matmul, in_specs=(rows, jax.sharding.PartitionSpec()), out_specs=rows)(x, y)

    with jax.set_mesh(mesh):
        traced = jax.jit(product).trace(jnp.ones((4, 3)), jnp.ones((3, 5)))
    assert traced_flops(traced.jaxpr) == 2 * 4 * 3 * 5
