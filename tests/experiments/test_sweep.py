"""Sweeps: the grammar of ranges, asking and telling against known optima, and studies of real runs."""

import json
import math
import os
import signal
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import jax
import optuna
import pytest
import yaml

from experiments import cli
from experiments.config import find_experiment
from experiments.presets import EXPERIMENTS
from experiments.search_space import grid, parse_space, with_values
from experiments.stages.language import open_sources
from experiments.study import SILENCE, Study, outcome, shown
from experiments.sweep import Sweep, find_sweep
from experiments.sweep_report import findings, write_report
from experiments.trials import _check_possible, work
from model.errors import UserError
from tests.experiments.narrador import command, write_small
from train.loop import StopRequest
from train.record import Diverged, Enough

RATE, DECAY = "train.learning_rate", "train.weight_decay"


def begin(folder: Path, *param: str, **options) -> Study:
    folder.mkdir(exist_ok=True, parents=True)
    return Study(Sweep(EXPERIMENTS["narrator-tiny"], param, **options).checked(), folder)


def optimize(study: Study, loss) -> None:
    """Work on a study as if a run with these values came to loss(values)."""
    while taken := study.take():
        study.tell(taken[0], "complete", loss(taken[0].values))


# Ranges.


def test_ranges_hold_what_they_say():
    params = (f"{RATE}=log:1e-4:1e-2:5", "train.weight-decay=lin:0:0.3:4", "model.width=int:64:250:64")
    space = parse_space((*params, "train.schedule=choice:wsd,cosine", "model.kv-heads=choice:none,1"), "grid")
    assert space[RATE].cells() == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    assert (space[RATE].cells()[0], space[RATE].cells()[-1]) == (1e-4, 1e-2)
    assert space[DECAY].cells() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert space["model.width"].cells() == [64, 128, 192]
    assert space["train.schedule"].cells() == ["wsd", "cosine"]
    assert space["model.kv_heads"].cells() == [None, 1]
    assert len(grid(space)) == 5 * 4 * 3 * 2 * 2
    # As they are written they are read again.
    assert parse_space([f"{path}={values}" for path, values in space.items()], "grid") == space


def test_values_reach_the_config_with_their_types():
    values = {RATE: 0.5, "model.width": 128, "model.kv_heads": None, "train.tensorboard": True}
    changed = with_values(EXPERIMENTS["narrator-tiny"], values, "trial 1")
    assert (changed.train.learning_rate, changed.model.width, changed.model.kv_heads) == (0.5, 128, None)
    assert changed.train.tensorboard is True
    assert changed.data == EXPERIMENTS["narrator-tiny"].data
    with pytest.raises(UserError, match=r"model.heads=2 does not divide model.width=63"):
        with_values(EXPERIMENTS["narrator-tiny"], {"model.width": 63}, "trial 2")


def test_losses_of_all_trials_are_of_as_much_text():
    """Rows of 8 x 128 tokens, 20 batches of them, are 10 of twice as many rows and 80 of a quarter as long ones."""
    tiny = EXPERIMENTS["narrator-tiny"]
    assert with_values(tiny, {RATE: 1.0}, "trial 1").train.eval_batches == tiny.train.eval_batches == 20
    assert with_values(tiny, {"train.batch_size": 16}, "trial 2").train.eval_batches == 10
    assert with_values(tiny, {"data.sequence_length": 32}, "trial 3").train.eval_batches == 80
    assert with_values(tiny, {"train.batch_size": 1024}, "trial 4").train.eval_batches == 1
    ladder = EXPERIMENTS["narrator-ladder"]  # evaluates on all
    assert with_values(ladder, {"train.batch_size": 16}, "trial 5").train.eval_batches is None


@pytest.mark.parametrize(
    ("param", "told"),
    [
        ("train.learning-rte=log:1e-4:1e-2", r"unknown parameter 'train.learning_rte'. Did you mean '.*learning_rate'"),
        ("trian.learning-rate=log:1e-4:1e-2", r"Did you mean 'train.learning_rate'"),
        ("learning_rate=log:1e-4:1e-2", r"unknown parameter"),
        ("train=log:1:2", r"unknown parameter 'train'"),
        ("ppo.learning-rate=log:1e-4:1e-2", r"does not depend on it"),
        ("tokenizer.vocab-size=int:100:200", r"could not be compared"),
        ("data.validation-fraction=lin:0.1:0.2", r"could not be compared"),
        (RATE, r"must be PATH=RANGE"),
        (f"{RATE}=", r"unknown kind of range"),
        (f"{RATE}=lgo:1e-4:1e-2", r"unknown kind of range .* 'lgo'. Did you mean 'log'"),
        (f"{RATE}=log:1e-4", r"log:LOW:HIGH"),
        (f"{RATE}=log:1e-4:1e-2:5:6", r"log:LOW:HIGH"),
        (f"{RATE}=log:1e-4:x", r"'x' is not a number"),
        (f"{RATE}=log:1e-4:inf", r"'inf' is not finite"),
        (f"{RATE}=log:1e-2:1e-4", r"reversed"),
        (f"{RATE}=log:1e-2:1e-2", r"empty"),
        (f"{RATE}=log:0:1e-2", r"must lie above 0"),
        (f"{RATE}=log:-1:1e-2", r"must lie above 0"),
        (f"{RATE}=log:1e-4:1e-2:5", r"is for --sampler grid"),
        (f"{RATE}=choice:", r"choices are empty"),
        (f"{RATE}=choice:1,,2", r"choices are empty"),
        (f"{RATE}=choice:1,1.0", r"twice"),
        (f"{RATE}=choice:1,b", r"'b' is not a number"),
        ("model.width=lin:64:128", r"whole number; give its range as int:"),
        ("model.width=int:64:128.5", r"'128.5' is not a whole number"),
        ("model.width=int:64:128:0", r"step 0"),
        ("model.width=choice:64,x", r"'x' is not a whole number"),
        ("train.schedule=lin:0:1", r"is no number; give its values as choice"),
        ("train.schedule=choice:wsd,cosin", r"unknown value of train.schedule 'cosin'. Did you mean 'cosine'"),
        ("train.tensorboard=choice:true,maybe", r"true or false, not 'maybe'"),
    ],
)
def test_bad_ranges_are_refused_by_name(param, told):
    with pytest.raises(UserError, match=told):
        parse_space([param], "tpe")


def test_bad_sweeps_are_refused():
    tiny, rate = EXPERIMENTS["narrator-tiny"], f"{RATE}=log:1e-4:1e-2"
    for sweep, told in (
        (Sweep(tiny, trials=3), "something to vary"),
        (Sweep(tiny, (rate, "train.learning-rate=lin:0:1"), trials=3), "given twice"),
        (Sweep(tiny, (rate,)), "how many --trials"),
        (Sweep(tiny, (rate,), trials=0), "--trials 0"),
        (Sweep(tiny, (rate,), trials=3, seed=-1), "--seed -1"),
        (Sweep(tiny, (rate,), sampler="grid"), "how many points"),
        (Sweep(tiny, (f"{rate}:5",), sampler="grid", trials=6), "the grid has 5 cells"),
        (Sweep(tiny, ("model.width=int:1:1000000",), sampler="grid"), "too many"),
    ):
        with pytest.raises(UserError, match=told):
            sweep.checked()


def test_an_older_study_has_the_defaults_of_what_it_did_not_know():
    sweep = Sweep(EXPERIMENTS["narrator-tiny"], (f"{RATE}=log:1e-4:1e-2",), trials=3).checked()
    known = sweep.identity()
    del known["experiment"]["model"]["qk_norm"]
    assert sweep.differs(known) == []
    known["experiment"]["model"]["qk_norm"] = True
    assert sweep.differs(known) == [("experiment.model.qk_norm", True, False)]


def test_files_describe_the_same_sweep(tmp_path):
    param = (f"{RATE}=log:1e-4:1e-2", f"{DECAY}=choice:0,0.1")
    expected = Sweep(EXPERIMENTS["narrator-tiny"], param, trials=7, sampler="random").checked()
    mapping = {"experiment": "narrator-tiny", "trials": 7, "sampler": "random"}
    mapping["param"] = {"train.learning-rate": "log:1e-4:1e-2", "train.weight-decay": [0, 0.1]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(mapping))
    (tmp_path / "b.py").write_text(
        "from experiments.presets import EXPERIMENTS\nfrom experiments.sweep import Sweep\n"
        f"SWEEP = Sweep(EXPERIMENTS['narrator-tiny'], {param!r}, trials=7, sampler='random')\n"
    )
    expected.save(tmp_path)  # as sweep.yaml
    for name in ("a.yaml", "b.py", "sweep.yaml"):
        assert find_sweep(str(tmp_path / name))[1].checked() == expected, name
    assert find_sweep("narrator-tiny") == ("narrator-tiny", Sweep(EXPERIMENTS["narrator-tiny"]))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**mapping, "trails": 3}))
    with pytest.raises(UserError, match=r"'trails'. Did you mean 'trials'"):
        find_sweep(str(tmp_path / "c.yaml"))


# Asking and telling.


def bowl(values):
    """Least, 0, at a rate of 1e-2 without decay."""
    return math.log10(values[RATE] / 1e-2) ** 2 + values.get(DECAY, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_grid_runs_every_cell_once_and_finds_the_best(tmp_path, workers):
    params = (f"{RATE}=log:1e-4:1:5", f"{DECAY}=choice:0,0.1,0.2")
    # Studies on one storage are to each other as those of other processes are.
    studies = [begin(tmp_path, *params, sampler="grid") for _ in range(workers)]
    seen = []
    while studies[0].left():
        held = [(study, each) for study in studies for each in study.take()]
        for study, taken in held:
            seen.append(tuple(taken.values.items()))
            study.tell(taken, "complete", bowl(taken.values))
    assert sorted(seen) == sorted(tuple(cell.items()) for cell in grid(studies[0].space))
    best = studies[0].best()
    assert best.value == pytest.approx(0)
    assert best.params == {RATE: pytest.approx(1e-2), DECAY: 0}
    assert list(studies[0].importance()) == [RATE, DECAY]  # most of the bowl is the rate's


def test_tpe_comes_near_a_known_optimum(tmp_path):
    study = begin(tmp_path, f"{RATE}=log:1e-5:1e2", f"{DECAY}=lin:0:1", trials=40)
    optimize(study, bowl)
    assert len(study.finished()) == 40
    # Within a quarter of a decade and 0.03 of decay: one random point of 470.
    assert study.best().value < 0.09


def test_random_draws_are_the_same_however_many_workers_draw(tmp_path):
    drawn = []
    for workers in (1, 2):
        studies = [
            begin(tmp_path / str(workers), f"{RATE}=log:1e-4:1", trials=6, sampler="random") for _ in range(workers)
        ]
        found = {}
        while taken := [(study, each) for study in studies for each in study.take()]:
            for study, each in taken:
                found[each.number] = each.values[RATE]
                study.tell(each, "complete", 1.0)
        drawn.append(found)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0].values())) == 6


def test_a_trial_that_lost_its_worker_is_taken_up_again_by_the_next(tmp_path):
    studies = [begin(tmp_path, f"{RATE}=log:1e-4:1", trials=2) for _ in range(2)]
    first, second = (study.take()[0] for study in studies)
    assert (first.number, second.number) == (0, 1)
    assert studies[0].take() == studies[1].take() == []  # both live
    second.held.close()  # as the system does for a process that ends
    again = studies[0].take()[0]
    assert (again.number, again.values, again.run.path) == (1, second.values, second.run.path)
    studies[0].tell(again, "complete", 1.0)
    studies[1].tell(second, "complete", 7.0)  # the dead comes back, too late
    studies[0].tell(first, "complete", 2.0)
    assert [trial.value for trial in studies[1].finished()] == [2.0, 1.0]
    assert studies[1].take() == []


def test_a_worker_elsewhere_is_lost_once_it_shows_no_life(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/study.db"
    here, there = (
        begin(tmp_path / place / "study", f"{RATE}=log:1e-4:1", trials=1, storage=url) for place in ("here", "there")
    )
    now = 1000.0
    monkeypatch.setattr("experiments.study.time.monotonic", lambda: now)
    taken = there.take()[0]
    assert here.take() == []
    for _ in range(3):
        now += SILENCE / 2 + 1
        taken.trial.set_user_attr("alive", f"{now}")
        assert here.take() == []
    now += SILENCE + 1
    again = here.take()[0]
    assert (again.number, again.values) == (0, taken.values)
    assert again.run.path != taken.run.path
    again.held.close()


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_study_can_get_more_trials_later(tmp_path, storage):
    url = f"sqlite:///{tmp_path}/study.db" if storage == "sqlite" else None
    for trials, total in ((2, 2), (3, 3), (1, 3)):
        study = begin(tmp_path / "study", f"{RATE}=log:1e-4:1", trials=trials, storage=url)
        optimize(study, bowl)
        assert study.left() == 0
        assert [trial.number for trial in study.finished()] == list(range(total))
        assert [trial.value for trial in study.finished()] == [bowl(trial.params) for trial in study.finished()]


def test_another_study_in_the_storage_is_refused_with_the_difference(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    begin(tmp_path / "a" / "s", f"{RATE}=log:1e-5:1", trials=1, storage=url)  # of no trial yet: nothing to lose
    begin(tmp_path / "a" / "s", f"{RATE}=log:1e-4:1", trials=1, storage=url).take()[0].held.close()
    told = r"another study named 's'.*\n  param.train.learning_rate: 'log:0.0001:1.0' there, 'log:0.001:1.0' now"
    with pytest.raises(UserError, match=told):
        begin(tmp_path / "b" / "s", f"{RATE}=log:1e-3:1", trials=1, storage=url)
    begin(tmp_path / "b" / "s", f"{RATE}=log:1e-4:1", trials=9, storage=url)
    stranger = optuna.create_study(storage=url, study_name="x")
    stranger.optimize(lambda trial: trial.suggest_float("y", 0, 1), n_trials=1)
    with pytest.raises(UserError, match="not made by 'narrador sweep'"):
        begin(tmp_path / "b" / "x", f"{RATE}=log:1e-4:1", trials=1, storage=url)


@pytest.mark.parametrize(
    "storage", ["sqlite:////no/such/folder/study.db", "nosql://here", "no://", "/no/such/folder/journal.log"]
)
def test_a_storage_that_cannot_be_reached_is_named(tmp_path, storage):
    with pytest.raises(UserError, match=r"storage '.*' cannot be used: "):
        begin(tmp_path / "s", f"{RATE}=log:1e-4:1", trials=1, storage=storage)


def test_passwords_of_a_storage_are_not_shown():
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


# The trials' loop, with runs that are told what to come to.


def each_by(run):
    """In place of training together: each by a function, and what it raises of its own is its outcome."""

    def alone(*arguments):
        try:
            return run(*arguments)
        except (Diverged, Enough) as outcome:
            return outcome

    def together(experiments, runs, stop, most, watches):
        return [alone(each, run, stop, watch) for each, run, watch in zip(experiments, runs, watches, strict=True)]

    return together


def test_trials_that_diverge_or_cannot_be_are_recorded_and_the_study_goes_on(tmp_path, monkeypatch):
    def run(experiment, directory, stop, watch):
        rate = experiment.train.learning_rate
        watch(0, {"validation_loss": 5.0})
        if rate > 0.1:
            raise Diverged("the numbers are not finite")
        watch(250, {"validation_loss": rate})
        watch(500, {"validation_loss": 2 * rate})
        return {"validation_loss": 2 * rate}

    monkeypatch.setattr("experiments.trials.pretrain_together", each_by(run))
    study = begin(tmp_path, f"{RATE}=choice:0.01,0.02,1", "model.width=choice:64,65", sampler="grid")
    work(study, StopRequest())
    expected = {(0.01, 64): "complete", (0.02, 64): "complete", (1.0, 64): "diverged"}
    expected |= {(rate, 65): "refused" for rate in (0.01, 0.02, 1.0)}
    assert {tuple(trial.params[p] for p in study.space): outcome(trial) for trial in study.finished()} == expected
    assert study.best().value == 0.02
    found = findings(study)
    assert found["best"]["params"] == {RATE: 0.01, "model.width": 64}
    assert found["outcomes"] == {"complete": 2, "pruned": 0, "diverged": 1, "refused": 3, "running": 0}
    messages = {row["outcome"]: row.get("message", "") for row in found["rows"]}
    assert "does not divide model.width=65" in messages["refused"]
    assert "not finite" in messages["diverged"]


def test_pruning_stops_what_is_above_the_median(tmp_path, monkeypatch):
    steps = []

    def run(experiment, directory, stop, watch):
        rate = experiment.train.learning_rate
        for step in (0, 100, 200, 500):
            steps.append((rate, step))
            watch(step, {"validation_loss": rate if step else 5.0})
        return {"validation_loss": rate}

    monkeypatch.setattr("experiments.trials.pretrain_together", each_by(run))
    study = begin(tmp_path, f"{RATE}=lin:0.1:1", trials=12, sampler="random", prune=True)
    work(study, StopRequest())
    values = [trial.params[RATE] for trial in study.finished()]
    # The median rule by hand: from the sixth trial on, against those complete, never before step 1.
    complete = []
    for trial, value in zip(study.finished(), values, strict=True):
        pruned = len(complete) >= 5 and value > statistics.median(complete)
        assert outcome(trial) == ("pruned" if pruned else "complete")
        assert [step for rate, step in steps if rate == value] == ([0, 100] if pruned else [0, 100, 200, 500])
        if not pruned:
            complete.append(value)
    assert 0 < values.index(study.best().value) == values.index(min(values))


def test_a_sweep_whose_first_trials_all_cannot_be_says_so(tmp_path):
    study = begin(tmp_path, "model.width=int:65:85:2", trials=9, sampler="random")
    with pytest.raises(UserError, match=r"first 3 trials cannot be.*does not divide model.width"):
        work(study, StopRequest())
    assert len(study.finished()) == 3


def test_a_fault_of_the_machine_loses_no_trial(tmp_path, monkeypatch):
    def run(experiment, directory, stop, watch):
        log = directory.stage("pretrain").log("metrics")
        log.parent.mkdir(parents=True)
        log.touch()
        raise UserError("could not save a checkpoint")

    monkeypatch.setattr("experiments.trials.pretrain_together", each_by(run))
    study = begin(tmp_path, f"{RATE}=lin:0.1:1", trials=2, sampler="random")
    with pytest.raises(UserError, match="could not save"):
        work(study, StopRequest())
    assert study.left() == 2
    assert study.take()[0].number == 0


def test_text_that_only_this_machine_lacks_costs_no_trial(tmp_path, monkeypatch):
    """Where all trials would fail in reading, it is not what they are."""
    text = tmp_path / "text.txt"
    text.write_text("a b c")
    tiny = EXPERIMENTS["narrator-tiny"]
    base = replace(tiny, data=replace(tiny.data, sources=(f"text:{text}",)))
    study = Study(Sweep(base, (f"{RATE}=lin:0.1:1",), trials=2, sampler="random").checked(), tmp_path)

    def run(experiment, directory, stop, watch):
        open_sources(experiment)
        return {"validation_loss": 1.0}

    monkeypatch.setattr("experiments.trials.pretrain_together", each_by(run))
    text.rename(tmp_path / "away")
    with pytest.raises(UserError, match="no file matches"):
        work(study, StopRequest())
    assert (study.left(), study.finished()) == (2, [])
    (tmp_path / "away").rename(text)
    work(study, StopRequest())
    assert [outcome(trial) for trial in study.finished()] == ["complete", "complete"]


def test_a_sweep_is_no_lost_cause_while_a_trial_trains(tmp_path):
    """Three that cannot be come to their end at once, when one that can be has only begun."""
    study = begin(tmp_path, "model.width=choice:64,65,67,69", sampler="grid")
    taken = study.take(4)
    for one in taken:
        if one.values["model.width"] != 64:
            study.tell(one, "refused", message="no")
            one.held.close()
    _check_possible(study)
    study.tell(next(one for one in taken if one.values["model.width"] == 64), "refused", message="no")
    with pytest.raises(UserError, match="first 4 trials cannot be"):
        _check_possible(study)


def test_a_report_leaves_out_what_has_no_values_yet(tmp_path):
    """As a worker leaves a trial that is killed between being numbered and drawing its values."""
    study = begin(tmp_path, f"{RATE}=log:1e-4:1e-2", f"{DECAY}=lin:0:0.2", trials=4, sampler="random")
    for loss in (1.0, 2.0):
        taken = study.take()[0]
        study.tell(taken, "complete", loss)
        taken.held.close()
    study._study.ask()
    assert "best" in write_report(study, tmp_path).read_text().lower()
    assert (tmp_path / "pictures" / "parallel.png").exists()


# Real runs.


def test_trials_that_differ_in_numbers_alone_train_together(tmp_path, monkeypatch):
    write_small(tmp_path)
    monkeypatch.chdir(tmp_path)
    base = find_experiment("small.yaml")[1]
    few = replace(base.train, steps=12, eval_every=12, sample_tokens=0)
    base = replace(
        base, model=replace(base.model, layers=1), data=replace(base.data, sources=("text:text.txt",)), train=few
    )
    (tmp_path / "sweep").mkdir()
    params = (f"{RATE}=choice:1e-3,1e-2,1e38", "model.width=choice:32,33")
    study = Study(Sweep(base, params, sampler="grid").checked(), tmp_path / "sweep")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        work(study, StopRequest(), together=True)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    expected = {(1e-3, 32): "complete", (1e-2, 32): "complete", (1e38, 32): "diverged"}
    expected |= {(rate, 33): "refused" for rate in (1e-3, 1e-2, 1e38)}
    assert {tuple(trial.params[p] for p in study.space): outcome(trial) for trial in study.finished()} == expected
    for trial in study.finished():
        run = study.run_directory(trial.number)
        if outcome(trial) != "refused":
            assert [session["together"] for session in run.sessions()] == [3]
        if outcome(trial) == "complete":
            assert trial.value == run.completed("pretrain")["validation_loss"]


SWEEP = ("sweep", "small.yaml", "--data", "text:text.txt", "--param", f"{RATE}=choice:1e-3,3e-3,1e-2,1e38")
SWEEP += (
    "--model.layers",
    "1",
    "--train.sample-tokens",
    "0",
    "--sampler",
    "grid",
    "--execution",
    "processes",
    "--workers",
    "2",
)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def until(condition, process: subprocess.Popen):
    """What `condition` gives once it gives something."""
    deadline = time.monotonic() + 200
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_study_survives_kills_and_signals_with_no_trial_lost_or_doubled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # compiling would take most of the time
    write_small(tmp_path)
    trials = tmp_path / "sweeps" / "small" / "trials"

    def training() -> list[Path]:
        """Locks of trials that have learned something and are not complete."""
        logged = [path.parents[1] for path in trials.glob("*/pretrain/metrics.jsonl") if path.stat().st_size]
        return [run / ".lock" for run in logged if not (run / "pretrain" / "result.json").exists()]

    process = subprocess.Popen(command(*SWEEP), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lock = until(training, process)[0]
    victim = int(lock.read_text())
    assert victim in children(process)
    os.kill(victim, signal.SIGKILL)
    until(lambda: [path for path in trials.glob("*/pretrain/result.json") if path.parents[1] != lock.parent], process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "signal SIGKILL" in told
    assert "Go on with:\n  narrador sweep small.yaml --data text:text.txt" in told
    assert "Traceback" not in told

    assert cli.main([*SWEEP, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["outcomes"] == {"complete": 3, "pruned": 0, "diverged": 1, "refused": 0, "running": 0}
    assert found["trials"] == 4
    assert sorted(path.name for path in trials.iterdir()) == [f"{number:04d}" for number in range(4)]
    rows = json.loads((tmp_path / "sweeps" / "small" / "report.json").read_text())["rows"]
    assert sorted(row["params"][RATE] for row in rows) == [1e-3, 3e-3, 1e-2, 1e38]
    for row in rows:
        run = tmp_path / row["run_dir"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["train"]["learning_rate"] == row["params"][RATE]
        if row["outcome"] == "complete":
            assert json.loads((run / "pretrain" / "result.json").read_text())["validation_loss"] == row["value"]
            steps = [json.loads(line)["step"] for line in (run / "pretrain" / "metrics.jsonl").open()]
            assert steps == sorted(steps)
            assert steps[-1] == 40
    # The killed trial went on in its own folder.
    assert len(json.loads((lock.parent / "environment.json").read_text())) >= 2
    assert found["best"]["value"] == min(row["value"] for row in rows if row["outcome"] == "complete")

    assert cli.main(["sweep", "best", "sweeps/small", "--as-config", "best.yaml"]) == 0
    _, best = find_experiment("best.yaml")
    assert best == find_experiment(found["best"]["run_dir"])[1]
    assert (tmp_path / "sweeps" / "small" / "report.html").read_text().count("data:image/png") == 1

    assert cli.main([*SWEEP, "--train.steps", "41"]) == 2
    told = capsys.readouterr().err
    assert "holds another sweep" in told
    assert "experiment.train.steps: 40 there, 41 now" in told
