"""The small mixture of experts as a user runs it, on text whose pattern it can learn."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import jax
import pytest

from experiments import cli
from tests.experiments.narrador import TEXT


@pytest.fixture
def compile_quickly():
    """The steps are few and small, so that most of the time would go into optimizing them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("compile_quickly")
def test_tiny_moe_learns_and_logs_how_its_experts_are_used(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda *_: None)  # the test session has its own way
    out = io.StringIO()
    few = (
        "--train.steps",
        "40",
        "--train.warmup-steps",
        "5",
        "--train.sample-tokens",
        "4",
        "--train.eval-batches",
        "2",
    )
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        code = cli.main(["run", "tiny-moe", "--data", "text:text.txt", "--run-dir", "moe", "--json", *few])
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "moe" / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (row for row in rows if "loss" in row)
    assert last["loss"] < 0.75 * first["loss"]
    assert 0.25 <= last["largest_load"] <= 0.5  # of four experts, two a token
    assert last["balance_loss"] == pytest.approx(1, abs=0.2)
    assert last["router_z_loss"] >= 0
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < losses[0]
