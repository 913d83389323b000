"""What knows the answer: a power law, and what Tensor Programs says of the two parametrizations."""

import json

import jax
import numpy as np
import pytest

from experiments import cli
from experiments.coordinate_check import ACTIVATIONS, curves, fit_slope
from model.errors import UserError
from tests.experiments.narrador import TEXT

SMALL = """
base: narrator-tiny
model: {layers: 2, width: 32, heads: 2, mlp_width: 64, context_length: 32, scan: true}
tokenizer: {kind: char}
data: {sources: ["text:text.txt"], sequence_length: 32}
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)


def test_a_power_law_has_its_exponent_for_slope():
    sizes, exponents = np.array([64, 128, 256]), np.array([0.4, 0.6])
    fitted = fit_slope("logits", sizes, 3.0 * sizes ** exponents[:, None])
    assert fitted["slope"] == pytest.approx(0.5)
    # Two seeds 0.2 apart: standard error 0.1, and 12.706 of it with one degree of freedom.
    assert fitted["slope_interval"] == pytest.approx([0.5 - 1.2706, 0.5 + 1.2706], abs=1e-4)
    with pytest.raises(UserError, match="the change of logits is not a positive number"):
        fit_slope("logits", sizes, np.array([[1.0, 2.0, np.nan]] * 2))


@pytest.fixture
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_over_depth_the_last_blocks_are_compared():
    seeds = [{name: np.array(1.0) for name in ACTIVATIONS} | {"mlp": np.array([3.0, 5.0])}]
    deeper = [seeds[0] | {"mlp": np.array([1.0, 1.0, 1.0, 7.0])}]
    found = curves([seeds, deeper], by_block=False)
    np.testing.assert_allclose(found["mlp"], [[5.0, 7.0]])
    np.testing.assert_array_equal(found["logits"], [[1.0, 1.0]])
    assert list(curves([seeds], by_block=True)) == ["embedding", "attention", "mlp 1", "mlp 2", *list(ACTIVATIONS)[3:]]


def test_completep_is_flat_where_the_standard_parametrization_is_not(small, compile_quickly, tmp_path, capsys):
    words = ["small.yaml", "--widths", "32", "128", "--seeds", "2", "--out", "page", "--json"]
    assert cli.main(["scale", "coordcheck", *words]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    standard, completep = (
        {name: fitted["slope"] for name, fitted in check["activations"].items()} for check in found["checks"]
    )
    blocks = [f"{which} {block}" for which in ("attention", "mlp", "residual") for block in (1, 2)]
    assert list(completep) == ["embedding", *blocks, "last norm", "logits"]
    assert max(map(abs, completep.values())) < 0.2
    assert standard["logits"] > 0.5
    assert json.loads((tmp_path / "page" / "coordcheck.json").read_text()) == found
    assert "CompleteP over width 32 128" in (tmp_path / "page" / "report.md").read_text()
    assert "data:image/png" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--widths", "64"], "--widths 64 must be at least two different sizes above 0"),
        (["--widths", "32", "40"], "--widths 40: model.heads=2 at model.width=32 does not come out whole there"),
        (["--seeds", "1"], "--seeds 1 must be at least 2"),
        (["--steps", "1"], "--steps 1 must be at least 2"),
        (["--learning-rate", "0"], "--learning-rate 0.0 must be a positive number"),
    ],
)
def test_what_cannot_be_checked_is_said(small, capsys, words, told):
    assert cli.main(["scale", "coordcheck", "small.yaml", *words]) == 2
    assert told in capsys.readouterr().err
