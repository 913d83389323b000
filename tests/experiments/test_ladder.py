"""A ladder: runs that go on from each other, and a law told from losses whose law is known."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import cli, ladder_plan
from experiments.config import Experiment
from experiments.ladder import Cell, Ladder, budgets, cells, load, parse_sizes
from experiments.ladder_fit import averaged, findings, points_of, seed_noise, warnings
from experiments.ladder_plan import _most_tokens
from experiments.ladder_report import write_report
from experiments.ladder_run import begin, states, work_on_chain
from experiments.scaling_law import Law, enough
from model.config import ModelConfig
from model.errors import UserError
from model.tokenizer import TokenizerConfig
from tests.experiments.narrador import TEXT, command
from train.config import DataConfig, TrainConfig
from train.mapping import to_mapping

MINI = """
base: char
model: {layers: 1, width: 16, heads: 1, mlp_width: 32, context_length: 32}
data: {sources: ["text:text.txt"], sequence_length: 32}
train: {batch_size: 4, log_every: 5, eval_batches: 2, warmup_steps: 5, learning_rate: 0.01}
"""
LAW = Law(E=0.35, A=30.0, B=400.0, alpha=0.4, beta=0.45)


def experiment(source="text:text.txt"):
    return Experiment(
        model=ModelConfig(layers=1, width=16, heads=1, mlp_width=32, context_length=32, tied_head=True),
        tokenizer=TokenizerConfig(kind="char"),
        data=DataConfig(sources=(source,), sequence_length=32),
        train=TrainConfig(batch_size=4, log_every=5, eval_batches=2, warmup_steps=5, learning_rate=0.01),
    )


def ladder_of(base, sizes=("16", "32"), steps=(20, 40), seeds=1):
    """A plan whose numbers are made up."""
    made = [
        replace(size, total=k * 2500, non_embedding=k * 2000, flops_per_token=k * 12000.0, seconds_per_step=k * 0.01)
        for k, size in ((size.width**2 // 256, size) for size in parse_sizes(base.model, sizes))
    ]
    return Ladder(base, tuple(made), cells(made, steps, seeds, 0), 2, 10**9, 64, ("narrador", "scale"))


def final_params(run, step):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((run.path / f"pretrain/checkpoints/{step}/params").absolute())


@pytest.fixture
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("compile_quickly")
def test_a_run_that_goes_on_from_a_shorter_one_is_the_run_from_scratch(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    ladder = ladder_of(experiment(f"text:{tmp_path / 'text.txt'}"), sizes=("32",))
    short, long = ladder.chain("32x1", 0)
    assert work_on_chain(ladder, tmp_path / "chain", [short, long])
    assert work_on_chain(ladder, tmp_path / "alone", [long])
    chained, alone = ladder.run(tmp_path / "chain", long), ladder.run(tmp_path / "alone", long)
    assert jax.tree.all(jax.tree.map(np.array_equal, final_params(chained, 40), final_params(alone, 40)))
    logs = [run.path / "pretrain" / "metrics.jsonl" for run in (chained, alone)]
    assert logs[0].read_bytes() == logs[1].read_bytes()
    # Times are another's of every step that was taken: those up to the decay are the short run's.
    first = ladder.run(tmp_path / "chain", short).stage("pretrain")
    shared = [row for row in first.rows("speed") if row["step"] <= short.decay_start]
    assert chained.stage("pretrain").rows("speed")[: len(shared)] == shared != []
    assert chained.stage("pretrain").result["tokens"] == alone.stage("pretrain").result["tokens"]
    assert first.result["validation_loss"] != chained.stage("pretrain").result["validation_loss"]
    # What is done is not done again, and what another process holds is left to it.
    before = logs[0].stat().st_mtime_ns
    assert work_on_chain(ladder, tmp_path / "chain", [short, long])
    assert logs[0].stat().st_mtime_ns == before
    held = ladder.run(tmp_path / "held", short)
    with held.lock():
        held.claim(to_mapping(ladder.experiment_of(short)))
        assert not work_on_chain(ladder, tmp_path / "held", [short, long])
        assert [state for _, state, _, _ in states(ladder, tmp_path / "held")] == ["running", "planned"]


def test_a_ladder_is_planned_stopped_and_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "mini.yaml").write_text(MINI)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda *_: None)
    plan = ["scale", "ladder", "plan", "mini.yaml", "--sizes", "16", "--tokens", "2560", "64000", "--seeds", "1"]
    assert cli.main([*plan, "--json"]) == 0
    capsys.readouterr()
    ladder = load(tmp_path / "ladders" / "mini")
    assert [cell.steps for cell in ladder.cells] == [20, 500]
    assert all(size.seconds_per_step > 0 and size.memory_bytes > 4 * 4 * size.total for size in ladder.sizes)
    words = ("scale", "ladder", "run", "ladders/mini")
    log = ladder.run(tmp_path / "ladders/mini", ladder.cells[0]).path / "pretrain/metrics.jsonl"
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 150
        while not log.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
    assert "go on with: narrador scale ladder run" in said
    assert process.returncode == 130
    assert cli.main(["scale", "ladder", "status", "ladders/mini", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in told["runs"]} - {"done"} <= {"planned", "stopped"}
    assert told["seconds_left"] > 0
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["done"] == 2
    assert cli.main(["scale", "ladder", "fit", "ladders/mini"]) == 2
    assert "too few" in capsys.readouterr().err
    assert cli.main(plan) == 2
    assert "holds the runs of another plan" in capsys.readouterr().err


def known(folder, ladder, noise=0.0, floor=LAW.E):
    """Results as LAW has them, with N counted by FLOPs."""
    rng = np.random.default_rng(0)
    for cell in ladder.cells:
        tokens = cell.steps * ladder.tokens_per_step
        loss = LAW.loss(ladder.size(cell.size).flops_per_token / 6, tokens) * np.exp(noise * rng.normal())
        result = {"validation_loss": loss, "tokens": tokens, "seconds": 1.0, "floor_loss": floor}
        ladder.run(folder, cell).stage("pretrain").complete(result)
    return ladder


STEPS = (2000, 4000, 8000, 16000)


def test_a_known_law_is_told_from_the_runs_of_a_ladder(tmp_path):
    ladder = known(tmp_path, ladder_of(experiment(), ("16", "32", "64", "96"), STEPS, seeds=2), noise=1e-4)
    advanced = []
    found = findings(ladder, tmp_path, 20, 0, lambda: advanced.append(1))
    assert len(advanced) == 4 * 20
    told = found["laws"]["flops"]
    assert told["exponent"] == pytest.approx(LAW.exponent, abs=0.03)
    assert told["E"] == pytest.approx(LAW.E, rel=0.1)
    held = found["held_out"]
    assert (held["size"], held["steps"], held["seeds"]) == ("96x1", 16000, 2)
    assert held["fitted"] == len(ladder.cells) - 2  # no seed of it is left among them
    assert abs(held["error"]) < 2e-3
    assert held["times_the_compute"] == pytest.approx(2)
    # The sizes of this plan have N in fixed ratios, so that only A depends on how it is counted.
    for count, ratio in (("total", 2500 / 2000), ("non_embedding", 2000 / 2000)):
        other = found["laws"][count]
        assert other["alpha"] == pytest.approx(told["alpha"], rel=1e-2)
        assert other["A"] == pytest.approx(told["A"] * ratio ** told["alpha"], rel=5e-2)
    assert found["seed_noise"]["deviation"] < 1e-3
    text = write_report(ladder, tmp_path, found).read_text()
    assert "was held out" in text
    assert "the truth itself has 0.3500 nats per token" in text
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2
    assert json.loads((tmp_path / "fit.json").read_text())["held_out"] == held


def test_what_is_to_doubt(tmp_path):
    ladder = known(tmp_path, ladder_of(experiment(), ("16", "32", "64"), (20, 40, 80), seeds=2))
    runs = [(cell, dict(ladder.run(tmp_path, cell).stage("pretrain").result)) for cell in ladder.cells]
    again = next(result for cell, result in runs if cell.seed == 1)
    again["validation_loss"] *= 1.5
    noise = seed_noise(runs)
    first = again["validation_loss"] / 1.5
    # Two losses d apart have a variance of d^2 / 2, and eight other places none.
    assert noise["deviation"] == pytest.approx(0.5 * first / np.sqrt(2 * 9))
    means = [np.mean([r["validation_loss"] for c, r in runs if c.steps == steps]) for steps in (40, 80)]
    assert noise["gain"] == pytest.approx(means[0] - means[1])
    (mean,) = [result["validation_loss"] for cell, result in averaged(runs) if cell.place == ("16x1", 20)]
    assert mean == pytest.approx(1.25 * first)
    rows = [{"size": c.size, "steps": c.steps, "epochs": 1.5} for c, r in runs]
    edge = {"C": 1e9, "loss": [1.0, 2.0, 3.0], "interior": False}
    told = "\n".join(warnings(ladder, {"planned": 19, "runs": rows, "isoflop": [edge], "seed_noise": noise}))
    for line in ("1 of 19 runs are not done", "Only 3 sizes", "Only 3 budgets", "the best size is the smallest"):
        assert line in told
    assert "Seeds differ by" in told
    assert "see their data 1.5 times" in told
    assert seed_noise([run for run in runs if run[0].seed == 0]) is None
    assert points_of(ladder, runs, "total").N[0] == 2500


def test_seeds_are_no_budgets_of_their_own(tmp_path):
    """Rows of another seed hold a little more text; the law is told from as many budgets as were planned."""
    ladder = known(tmp_path, ladder_of(experiment(), ("16", "32", "64", "96"), (20, 40), seeds=2))
    runs = [(cell, dict(ladder.run(tmp_path, cell).stage("pretrain").result)) for cell in ladder.cells]
    for cell, result in runs:
        result["tokens"] += 7 * cell.seed
    points = points_of(ladder, runs, "flops")
    assert sorted(set(points.D)) == [steps * ladder.tokens_per_step + 3.5 for steps in (20, 40)]
    assert not enough(points)


def test_a_run_whose_early_checkpoints_are_gone_is_no_dead_end(tmp_path):
    """Who is stopped often in a decay keeps the newest checkpoints only: the next one begins before them, or anew."""
    ladder = ladder_of(experiment(), sizes=("32",))
    short, long = ladder.chain("32x1", 0)
    source = ladder.run(tmp_path, short)
    for path in (source.tokenizer_path, source.data_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    stage = source.stage("pretrain")
    stage.path.mkdir()
    for name in ("samples", "speed", "metrics"):
        stage.log(name).write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 21)))
    for step in (12, 17, 20):
        (stage.checkpoints / str(step)).mkdir(parents=True)
    target = ladder.run(tmp_path, long)
    with target.lock():
        begin(ladder, tmp_path, long, short)
    assert [path.name for path in target.stage("pretrain").checkpoints.iterdir()] == ["12"]
    assert [row["step"] for row in target.stage("pretrain").rows("metrics")] == list(range(1, 13))
    (stage.checkpoints / "12").rmdir()
    shutil.rmtree(target.path)
    with target.lock():
        begin(ladder, tmp_path, long, short)
    assert target.config_path.exists()
    assert not target.stages()


def test_a_plan_that_cannot_be_leaves_the_one_before(tmp_path, monkeypatch):
    ladder = ladder_of(experiment())
    ladder.save(tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    monkeypatch.setattr(ladder_plan, "_open_data", lambda _: (10**9, 64))
    monkeypatch.setattr(ladder_plan, "_measured", lambda *_: ladder.sizes)
    sizes = [size.name for size in ladder.sizes]
    with pytest.raises(UserError, match="is too little"):
        ladder_plan.plan(experiment(), tmp_path, sizes, (), 4, 1e-3, 1.0, 1, 2, ())
    assert (tmp_path / "plan.json").read_bytes() == before


def test_budgets_are_as_many_as_the_money_buys():
    ladder = ladder_of(experiment())
    unit = 20 * ladder.tokens_per_step
    tokens = _most_tokens(sum, 100.5 * unit, 3, ladder, "--budget 1")
    assert tokens == [14 * unit, 28 * unit, 56 * unit]  # 98 units; 15 would be 105
    with pytest.raises(UserError, match="--budget 1 is too little: the least ladder of 3 budgets needs"):
        _most_tokens(sum, unit, 3, ladder, "--budget 1")


def test_chains_and_their_time():
    ladder = ladder_of(experiment(), steps=(20, 40), seeds=2)
    assert [chain[0].size for chain in ladder.chains()] == ["32x1", "32x1", "16x1", "16x1"]
    long = Cell("32x1", 40, 0)
    assert ladder.own_steps(long) == 40 - 16
    assert ladder.seconds(long) == pytest.approx(24 * 0.04)
    # A large chain of 44 steps and a small one on each worker.
    assert ladder.wall_seconds() == pytest.approx(44 * 0.04 + 44 * 0.01)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("20",), "a width must be a multiple of 16, the experiment's width of a head; 16 and 32 are"),
        (("16", "16x1"), "names 16x1 twice"),
        (("wide",), "'wide' must be WIDTH or WIDTHxLAYERS"),
        (("16x0",), "'16x0' must be WIDTH or WIDTHxLAYERS"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with pytest.raises(UserError, match=message):
        parse_sizes(experiment().model, sizes)


def test_budgets_that_cannot_be(tmp_path, capsys):
    train = TrainConfig(warmup_steps=50)
    with pytest.raises(UserError, match=r"decay begins after 32, before train.warmup_steps=50"):
        budgets([4000], 100, train)
    with pytest.raises(UserError, match="two budgets come to the same number of steps"):
        budgets([8000, 8100], 100, train)
    for words, message in (
        (["run", str(tmp_path)], "holds no ladder"),
        (["stats", str(tmp_path)], "Did you mean 'status'?"),
        (["plan", "narrator-tiny", "--seeds", "0"], "--seeds 0 must be a positive number"),
        (["plan", "narrator-tinny"], "Did you mean 'narrator-tiny'?"),
    ):
        assert cli.main(["scale", "ladder", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_plan_is_kept_as_it_is(tmp_path):
    ladder = ladder_of(experiment(), seeds=2)
    ladder.save(tmp_path)
    assert load(tmp_path) == ladder
    run = ladder.run(tmp_path, ladder.cells[0])
    with run.lock():
        begin(ladder, tmp_path, ladder.cells[0], None)
    assert run.config() == to_mapping(ladder.experiment_of(ladder.cells[0]))
    assert run.config()["model"]["parametrization"] == "completep"
