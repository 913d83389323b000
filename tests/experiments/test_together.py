"""Runs that train together, against the same runs alone."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.config import Experiment, claim, vocabulary_guess
from experiments.lanes import WHOLE, compile_together
from experiments.together import SHARE, alike, check_alike, pretrain_together, runs_that_fit, turn
from model.config import ModelConfig
from model.errors import UserError
from model.tokenizer import TokenizerConfig
from model.transformer import Transformer
from tests.experiments.narrador import TEXT
from train.config import DataConfig, TrainConfig
from train.loop import Interrupted, StopRequest
from train.record import Diverged
from train.run_directory import RunDirectory

OTHERS = (
    {"learning_rate": 3e-3, "seed": 1},
    {
        "learning_rate": 2e-3,
        "seed": 2,
        "weight_decay": 0.5,
        "warmup_steps": 5,
        "muon_learning_rate": 0.01,
        "beta2": 0.9,
    },
)


def experiment(folder, **train):
    """Ten steps on a pattern; Adam's epsilon so large that rounding of a zero gradient is no step."""
    (folder / "text.txt").write_text(TEXT)
    told = {"steps": 10, "batch_size": 4, "warmup_steps": 2, "epsilon": 1e-5, "log_every": 5, "eval_every": 5}
    rest = {"eval_batches": 2, "sample_every": 10, "sample_tokens": 4, "sample_prompt": "1 and", "checkpoint_every": 5}
    return Experiment(
        model=ModelConfig(layers=1, width=16, heads=2, mlp_width=32, context_length=16),
        tokenizer=TokenizerConfig(kind="char"),
        data=DataConfig(sources=(f"text:{folder / 'text.txt'}",), sequence_length=16),
        train=TrainConfig(**{**told, **rest, **train}),
    )


def several(base):
    """It, and others that differ from it in all sorts of numbers."""
    first, *rest = [replace(base, train=replace(base.train, **numbers)) for numbers in ({}, *OTHERS)]
    return [first, *rest, replace(first, model=replace(first.model, init_std=0.05))]


def train(experiments, folder, stop=None, most=None):
    """What they come to together, and their folders."""
    runs = [RunDirectory(folder / str(index)) for index in range(len(experiments))]
    for one, run in zip(experiments, runs, strict=True):
        run.path.mkdir(parents=True, exist_ok=True)
        claim(run, one)
    return pretrain_together(experiments, runs, stop or StopRequest(), most), runs


def learned(run):
    """The last parameters, and the rows of metrics.jsonl."""
    stage = run.stage("pretrain")
    newest = max(int(path.name) for path in stage.checkpoints.iterdir() if path.name.isdigit())
    with ocp.StandardCheckpointer() as reader:
        params = reader.restore((stage.checkpoints / str(newest) / "params").absolute())
    return jax.device_get(params), stage.rows("metrics")


def assert_equal(one, other, tolerance):
    """Two runs learned the same."""
    (params, rows), (other_params, other_rows) = learned(one), learned(other)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()
    assert [row.keys() for row in rows] == [row.keys() for row in other_rows]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, rel=tolerance)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four runs together, two on each device: the experiments, what they came to, and their folders.

    Under Muon, which leaves all but the matrices to AdamW.
    """
    assert jax.device_count() == 2
    folder = tmp_path_factory.mktemp("four")
    experiments = several(experiment(folder, optimizer="muon"))
    return experiments, *train(experiments, folder / "together")


def names(run, pattern):
    return {path.name for path in run.path.glob(pattern)}


def test_each_equals_its_run_alone(four, tmp_path):
    """Those that differ most from the first, alone and on one device: the same, in the same form."""
    experiments, together, runs = (those[2:] for those in four)
    assert len({row["validation_loss"] for row in four[1]}) == 4
    alone, single = train(experiments, tmp_path, most=1)
    for index, found in enumerate(alone):
        assert together[index].keys() == found.keys()
        assert together[index]["validation_loss"] == pytest.approx(found["validation_loss"], rel=1e-4)
        assert_equal(runs[index], single[index], 1e-4)
        said, said_alone = (each[index].stage("pretrain").rows("samples") for each in (runs, single))
        assert said[0] == said_alone[0]  # later weights differ by rounding
        assert [row["step"] for row in said] == [row["step"] for row in said_alone] == [0, 10]
        for pattern in ("*", "pretrain/*", "pretrain/checkpoints/*"):
            assert names(runs[index], pattern) == names(single[index], pattern)
        assert runs[index].stage("pretrain").result == together[index]


def test_one_that_diverges_leaves_the_others_alone(four, tmp_path, monkeypatch):
    experiments, outcomes, runs = four
    train_config = replace(experiments[1].train, learning_rate=1e30, warmup_steps=0)
    wild = [experiments[0], replace(experiments[1], train=train_config), *experiments[2:]]
    # Samples longer than the context are drawn of each alone; they begin as those of all in one program.
    wild = [replace(one, train=replace(one.train, sample_tokens=14)) for one in wild]
    monkeypatch.setattr("train.record.SKIPPED_LIMIT", 3)
    found, beside = train(wild, tmp_path)
    assert isinstance(found[1], Diverged)
    assert beside[1].stage("pretrain").result is None
    for index in (0, 2, 3):
        assert found[index]["validation_loss"] == pytest.approx(outcomes[index]["validation_loss"], rel=1e-5)
        assert_equal(beside[index], runs[index], 1e-4)
        longer, shorter = (each.stage("pretrain").rows("samples")[0]["text"] for each in (beside[index], runs[index]))
        assert longer.startswith(shorter)
        assert len(longer) > len(shorter)


class _StopAfter(StopRequest):
    """Told to stop after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def agreed(self, mesh):
        self.left -= 1
        self.received = self.left == 0
        return super().agreed(mesh)


def test_what_was_stopped_goes_on(four, tmp_path):
    experiments, outcomes, undisturbed = four
    with pytest.raises(Interrupted):
        train(experiments, tmp_path, _StopAfter(7))
    # As if a kill had come before the last two had their checkpoint of step 7: each goes on from its own.
    for index in (2, 3):
        folder = tmp_path / str(index) / "pretrain/checkpoints"
        assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["5", "7"]
        shutil.rmtree(folder / "7")
    found, runs = train(experiments, tmp_path)
    for index, run in enumerate(runs):
        assert found[index]["validation_loss"] == pytest.approx(outcomes[index]["validation_loss"], rel=1e-5)
        assert_equal(run, undisturbed[index], 1e-4)
    again, _ = train(experiments, tmp_path)  # complete: nothing is trained again
    assert again == found


def test_what_differs_in_more_than_numbers_is_refused_by_name(tmp_path):
    base = experiment(tmp_path)
    wider = replace(base, model=replace(base.model, width=32))
    longer = replace(base, train=replace(base.train, steps=11))
    numbers = several(base)
    check_alike(numbers)
    assert alike([*numbers, wider, longer, wider]) == [[0, 1, 2, 3], [4, 6], [5]]
    for other, field in ((wider, "model.width=16 and 32"), (longer, "train.steps=10 and 11")):
        with pytest.raises(UserError, match=field):
            train([base, other], tmp_path / "never")


def test_as_many_train_at_a_time_as_memory_holds(tmp_path, monkeypatch):
    """By the programs themselves: every turn fits where one run fits, however it spreads over two devices."""
    base = experiment(tmp_path)
    model = replace(base.model, vocab_size=vocabulary_guess(base))
    shape = (Transformer(model, WHOLE, jnp.float32), base.train, base.data.sequence_length)

    def used(runs):
        memory = compile_together(*shape, runs).memory_analysis()
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes

    available = used(8) / SHARE
    monkeypatch.setattr("experiments.together.memory_of_device", lambda: available)
    for wanted in (9, 24):
        size = turn(wanted, runs_that_fit(base, wanted))
        assert 1 < size < wanted
        assert used(size) <= SHARE * available
    monkeypatch.setattr("experiments.together.memory_of_device", lambda: 1)
    assert runs_that_fit(base, 24) == 1
    monkeypatch.setattr("experiments.together.memory_of_device", lambda: 1e12)
    assert runs_that_fit(base, 24) == 16

    def refuse(model, config, length, runs):
        if runs > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory in memory space hbm")
        return compile_together(model, config, length, runs)

    monkeypatch.setattr("experiments.together.compile_together", refuse)
    assert turn(24, runs_that_fit(base, 24)) in (2, 4)


def test_turns_are_few_and_alike():
    assert jax.local_device_count() == 2
    for wanted, each, size in (
        *((24, 16, 24), (33, 16, 18), (24, 6, 12), (9, 5, 6), (9, 4, 6), (5, 1, 2), (1, 1, 1)),
        (3, 1, 2),  # three would lie on one device
        (13, 13, 13),
    ):
        assert turn(wanted, each) == size
