"""What knows the answer: runs whose losses are written by hand."""

import json
import math
from dataclasses import replace

import pytest

from experiments import cli, rate_transfer
from experiments.presets import NARRATOR_TINY
from experiments.rate_transfer import claim, findings, plan, rates_around
from experiments.workers import Ended
from model.errors import UserError
from tests.experiments.narrador import LEAST, TEXT


def finished(folder, best, diverged=()):
    """A grid whose losses are parabolas in log2 of the learning rate, least where told by width."""
    rates = rates_around(1e-2, 2, 1)
    cells = plan(folder, NARRATOR_TINY, ["standard", "completep"], [64, 128], rates, seeds=2)
    claim(cells)
    for cell in cells:
        if (cell.width, cell.learning_rate) not in diverged:
            away = math.log2(cell.learning_rate / best[cell.parametrization][cell.width])
            cell.run.stage("pretrain").complete({"validation_loss": 2 + away**2 + cell.seed, "seconds": 1.0})
    return cells


def test_the_best_rates_and_how_far_they_move(tmp_path):
    best = {"standard": {64: 1e-2, 128: 2.5e-3}, "completep": {64: 5e-3, 128: 1e-2}}
    found = findings("tiny", finished(tmp_path, best, diverged={(128, 2e-2)}))
    told = found["parametrizations"]
    assert [told[name]["moved"] for name in ("standard", "completep")] == pytest.approx([-2, 1])
    wide = told["completep"]["curves"][1]
    assert wide["width"] == 128
    assert wide["best"] == {"learning_rate": pytest.approx(1e-2), "loss": pytest.approx(2.5)}  # the seeds' mean
    assert wide["points"][-1]["loss"] is None
    assert told["completep"]["warnings"] == []
    assert "the grid's lowest" in told["standard"]["warnings"][0]
    assert len(found["diverged"]) == 4
    assert (found["runs"], found["run_seconds"]) == (32, 28)


def test_the_models_of_a_grid_differ_in_width_and_share_a_base(tmp_path):
    cells = plan(tmp_path, NARRATOR_TINY, ["standard", "completep"], [64, 256], [1e-2], seeds=1)
    assert [cell.width for cell in cells] == [256, 256, 64, 64]
    standard, completep = (cell.experiment.model for cell in cells[:2])
    assert (completep.base_width, completep.base_layers, completep.heads, completep.mlp_width) == (64, 2, 8, 768)
    assert completep.head_dim == NARRATOR_TINY.model.head_dim
    assert replace(completep, parametrization="standard", base_width=None, base_layers=None) == standard


def test_a_folder_of_another_study_is_refused(tmp_path):
    cells = finished(tmp_path, {name: {64: 1e-2, 128: 1e-2} for name in ("standard", "completep")})
    (cells[0].run.path / "pretrain" / "metrics.jsonl").touch()
    longer = replace(NARRATOR_TINY, train=replace(NARRATOR_TINY.train, steps=501))
    with pytest.raises(UserError, match=r"train\.steps: 500 there, 501 now"):
        claim(plan(tmp_path, longer, ["standard", "completep"], [64, 128], rates_around(1e-2, 2, 1), seeds=2))


def test_a_run_that_was_stopped_alone_has_not_diverged(tmp_path, monkeypatch):
    """SIGTERM reached one child: it saved, ended well, and has no loss."""
    cells = plan(tmp_path, NARRATOR_TINY, ["standard"], [64], [1e-2, 2e-2], seeds=1)

    def run(commands, workers, ended):
        cells[0].run.stage("pretrain").complete({"validation_loss": 1.0})
        return [Ended(tuple(command), 0, ()) for command in commands]

    monkeypatch.setattr(rate_transfer, "run_commands", run)
    with pytest.raises(UserError, match=r"lr0.02-s0 --stages pretrain' was stopped before its end"):
        rate_transfer.train(cells, 2, lambda: None)
    monkeypatch.setattr(rate_transfer, "run_commands", lambda c, w, ended: [Ended(tuple(c[0]), 1, ("not finite",))])
    assert [child.code for child in rate_transfer.train(cells, 2, lambda: None)] == [1]


def test_it_trains_what_is_missing_and_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda *_: None)  # the test session has its own way
    (tmp_path / "least.yaml").write_text(LEAST)
    (tmp_path / "text.txt").write_text(TEXT)
    grid = ("--widths", "32", "48", "--below", "0", "--above", "0", "--parametrizations", "completep", "--steps", "2")
    words = ("scale", "transfer", "least.yaml", *grid, "--out", "out", "--json")
    assert cli.main(list(words)) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert runs == ["completep-w32-lr0.001-s0", "completep-w48-lr0.001-s0"]
    assert not found["diverged"]
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "transfer.json").read_text()) == found
    assert cli.main(list(words)) == 0
    again = capsys.readouterr()
    assert "2 of 2 runs are complete" in again.err
    assert json.loads(again.out.splitlines()[-1])["parametrizations"] == found["parametrizations"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--widths", "64"], "--widths 64 must be at least two different sizes"),
        (["--below", "-1"], "--below -1 must be at least 0"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
    ],
)
def test_what_cannot_be_studied_is_said(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["scale", "transfer", *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_later_stages_are_refused_under_completep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = "{parametrization: completep, base_width: 64, base_layers: 2}"
    (tmp_path / "wide.yaml").write_text(f"base: narrator\nmodel: {model}\ntrain: {{optimizer: adamw}}\n")
    assert cli.main(["run", "wide.yaml", "--stages", "pretrain,sft,reward"]) == 2
    assert "completep has rules for train.optimizer=adamw, not muon" in capsys.readouterr().err
    assert cli.main(["run", "wide.yaml", "--sft.train.optimizer", "adamw", "--stages", "pretrain,sft,reward"]) == 2
    assert "stage 'reward' has an optimizer of its own, which knows no model.parametrization=completep" in (
        capsys.readouterr().err
    )
