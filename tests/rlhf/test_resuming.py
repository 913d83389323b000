"""A stage that is killed and goes on, against the same one left alone: to the bit, in all that it reads and writes."""

import shutil
import time
from dataclasses import replace

import pytest

from model.errors import UserError
from rlhf.stage import Step, run_stage
from tests.rlhf.tiny import GRPO, JUDGE, PPO, fresh, fresh_reward_model, same, texts, trainer_of
from train.loop import StopRequest
from train.run_directory import StageDirectory

STEPS, EVERY, KILLED = 7, 3, 5


class Watched:
    """Batches by number, and what was taken of them."""

    def __init__(self, batches):
        self.batches, self.taken = batches, []

    def __getitem__(self, number):
        self.taken.append(number)
        return self.batches[number]

    def batch(self, number):
        self.taken.append(self.batches.batch(number).tolist())
        return self.batches.batch(number)

    def __getattr__(self, name):
        return getattr(self.batches, name)


@pytest.mark.parametrize("config", [PPO, GRPO], ids=["ppo", "grpo"])
def test_a_killed_stage_goes_on_as_if_nothing_had_been(config, tmp_path, monkeypatch):
    """Several epochs and text mixed in. What a kill leaves is what lies on disk in the midst of a step."""
    config = replace(config, steps=STEPS, accumulation=2, ptx_coefficient=0.5)
    params, reward = fresh(), fresh_reward_model(JUDGE)

    def learn(folder, before_step=lambda number: None):
        """The last state, and the prompts and texts of each step."""
        trainer, seen = trainer_of(config, params, reward, texts=texts(), reward_model=JUDGE), {}
        asked, read = Watched(trainer.prompts), Watched(trainer.texts)
        trainer.prompts, trainer.texts = asked, read

        def take_step(state, number):
            before_step(number)
            asked.taken, read.taken = [], []
            taken = trainer.take_step(state, number)
            seen[number] = asked.taken, read.taken
            return taken

        start, stop = trainer.initial(params, reward), StopRequest()
        state, _ = run_stage("answers", StageDirectory(folder), start, STEPS, take_step, stop, EVERY)
        return state, seen

    def copy_when_killed(number):
        if number == KILLED:
            deadline = time.monotonic() + 60
            while not (tmp_path / "whole/checkpoints" / str(EVERY)).exists():  # saved while the next steps are taken
                assert time.monotonic() < deadline
                time.sleep(0.01)
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    whole, seen = learn(tmp_path / "whole", copy_when_killed)
    lines = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
    assert len(lines) == KILLED - 1  # more than the checkpoint knows of
    resumed, seen_again = learn(tmp_path / "killed")
    assert list(seen_again) == list(range(EVERY + 1, STEPS + 1))
    assert all(seen_again[number] == seen[number] for number in seen_again)
    updates = config.epochs * config.minibatches
    assert [number for _, taken in seen.values() for number in taken] == list(range(STEPS * updates))
    assert all(len(taken) == 1 for taken, _ in seen.values())
    assert whole.step == STEPS
    assert not same(whole.params, params)
    assert same(whole, resumed)  # the policy, the critic, and the moments and counts of both
    for log in ("metrics", "samples"):
        one, other = ((tmp_path / run / f"{log}.jsonl").read_bytes() for run in ("whole", "killed"))
        assert one == other
        assert len(one.splitlines()) == STEPS


def test_a_step_whose_numbers_are_not_finite_is_refused_and_what_was_saved_stays(tmp_path):
    params, reward = fresh(), fresh_reward_model(JUDGE)
    trainer = trainer_of(PPO, params, reward, reward_model=JUDGE)

    def take_step(state, number):
        found = {"reward": 1.0, "kl": float("nan") if number == 3 else 0.0}
        return Step(state._replace(step=state.step + 1), found)

    with pytest.raises(UserError, match="answers: kl of step 3 are not finite; nothing was kept of it"):
        run_stage("answers", StageDirectory(tmp_path), trainer.initial(params, reward), 4, take_step, StopRequest(), 2)
    assert [row["step"] for row in StageDirectory(tmp_path).rows("metrics")] == [1, 2]
    assert (tmp_path / "checkpoints" / "2").exists()
