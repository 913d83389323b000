"""How far a reward model can be trusted: proxy and gold reward as a policy is optimized against the proxy.

After Gao, Schulman and Hilton 2022 (arXiv 2210.10760), in the narrator's world, where the gold reward is known.

RUN/overoptimisation/study.json      what was asked for
RUN/overoptimisation/answers.npz     the fine-tuned model's answers to the held-out prompts
RUN/overoptimisation/2000x4/reward/  a reward model of 2,000 choices with four heads
RUN/overoptimisation/2000x4/scores.npy, ppo-mean/, ppo-min/   its scores of the answers, and PPO against it
RUN/overoptimisation/report.md, report.html, pictures/

Letters: as `held_out.py`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.alignment import over_batches
from experiments.config import Experiment
from experiments.held_out import Drawn, HeldOut, ask
from experiments.learned_reward import load_reward_model
from experiments.proxies import Proxy, Rule, Settings
from experiments.stages.alignment import comparer, world_ceiling
from model.errors import UserError
from rlhf.config import PPOConfig, RewardConfig
from rlhf.learner import PolicyState
from rlhf.objectives import penalize_unstopped
from rlhf.ppo import PPOTrainer
from rlhf.preferences import Preferences, PromptGroup, open_preferences
from rlhf.prompts import PaddedPrompts
from rlhf.reward import Comparer, RewardTrainer, evaluate_reward
from rlhf.scorer import RewardModel, combined, score
from rlhf.stage import Step, run_stage
from train.loop import StopRequest
from train.mapping import from_mapping, to_mapping
from train.progress import bar
from train.run_directory import RunDirectory, StageDirectory, write_atomically
from train.sources import read_world
from train.trained import load

FOLDER = "overoptimisation"
FULL_SIZE = 24_000  # choices that a run's own number of steps is for here, where it learns from other ones
LEARNING_RATE = 4e-4  # twice as much as the narrator's own: to go too far within the iterations there are
SHARING = 16  # answers that are scored behind one reading of their prompt
MEASUREMENTS = 10  # at least, of each policy on its way
# What a study is told by nobody, but must not change on its way.
FIXED = {"full_size": FULL_SIZE, "learning_rate": LEARNING_RATE, "measurements": MEASUREMENTS}


class Study:
    """The parts of a study; each is made once, kept in the run's folder and read from there."""

    def __init__(self, run: RunDirectory, settings: Settings, stop: StopRequest) -> None:
        """Take the run's folder for this study, or go on with the one that it holds.

        Raises:
            UserError: the run's `sft` is not complete, or its folder holds a study with other settings.
        """
        if run.stage("sft").result is None:
            raise UserError(
                f"{str(run.path)!r} has no complete stage 'sft', from which reward models and policies begin. "
                f"Try narrador run {run.path} --stages pretrain,sft."
            )
        self.settings, self.stop, self.folder = settings, stop, run.path / FOLDER
        self.experiment = from_mapping(Experiment, run.config(), str(run.config_path))
        self.folder.mkdir(exist_ok=True)
        claim(self.folder / "study.json", settings)
        self.before = load(run, "sft")
        # Compiled once, for every reward model.
        self._score = jax.jit(partial(score, self.before.model))

    # --- prompts and answers ----------------------------------------------------------------------------------------

    @cached_property
    def held_out(self) -> HeldOut:
        """What everything is measured on."""
        most = self.experiment.ppo.max_tokens
        asked = ask(self.before, f"{FOLDER} held out {self.settings.seed}", self.settings.prompts, most)
        return HeldOut(self.before, asked, most)

    @cached_property
    def learned_from(self) -> list[list[int]]:
        """The prompts that PPO learns from, each met once."""
        count = self.settings.iterations * self.experiment.ppo.prompts_per_step
        label = f"{FOLDER} learned from {self.settings.seed}"
        return ask(self.before, label, count, self.experiment.ppo.max_tokens).rows

    @cached_property
    def drawn(self) -> Drawn:
        """Answers of the fine-tuned model to the held-out prompts, from answers.npz if it is there."""
        path = self.folder / "answers.npz"
        if path.exists():
            return Drawn(**np.load(path))
        found = self.held_out.draw(self.settings.answers, self.settings.seed)
        _save(path, lambda file: np.savez(file, **found._asdict()))
        return found

    def as_one(
        self, scores: Float[np.ndarray, "B K"], stopped: Bool[np.ndarray, "B"], rule: Rule
    ) -> Float[np.ndarray, "B"]:
        """What PPO is rewarded with: the heads' scores as one, less the penalty on what did not stop."""
        one = combined(jnp.asarray(scores), rule)
        return np.asarray(penalize_unstopped(one, jnp.asarray(stopped), self.experiment.ppo.unstopped_penalty))

    # --- reward models ----------------------------------------------------------------------------------------------

    def learn_reward(self, proxy: Proxy) -> dict[str, Any]:
        """Learn from the first choices of the world, beginning with the fine-tuned model."""
        config = reward_config(self.experiment.reward, proxy, self.settings.seed)
        own = RunDirectory(self.folder / proxy.folder)
        stage = own.stage("reward")
        known, groups = stage.result, self._choices_held_out.validation
        if known is not None and known["pairs"] == sum(len(group.pairs) for group in groups):
            return known
        held_out = self._comparer(groups, config)
        if known is None:
            own.path.mkdir(exist_ok=True)
            own.claim({"reward": to_mapping(config)})
            learning = self._comparer(open_preferences(config.source, config.validation_fraction).train, config)
            trainer = RewardTrainer(self.before.model, config, learning)
            first = trainer.initial(self.before.params, self.settings.seed)
            name, every = f"reward model of {proxy.learned}", config.checkpoint_every
            state, seconds = run_stage(
                name, stage, first, config.steps, trainer.take_step, self.stop, every, config.log_every
            )
            params = state.params
        else:  # a larger size has come since, and with it more choices held out
            trainer, seconds = RewardTrainer(self.before.model, config, held_out), known["seconds"]
            params = self.reward(proxy)
        found = evaluate_reward(trainer, params, held_out, stage.rows("metrics")[-1]["score_std"])
        result = {
            **{"choices": proxy.choices, "heads": proxy.heads, "steps": config.steps, "seconds": round(seconds, 3)},
            **found._asdict(),
            "ceiling": self._ceiling,
        }
        stage.complete(result)
        return result

    @cached_property
    def _ceiling(self) -> float:
        return world_ceiling()

    @cached_property
    def _choices_held_out(self) -> Preferences:
        """Choices that every reward model is judged on: a prompt held out of the largest size is in no size."""
        largest = Proxy(max(self.settings.sizes))
        config = reward_config(self.experiment.reward, largest, self.settings.seed)
        return open_preferences(config.source, config.validation_fraction)

    def _comparer(self, groups: Sequence[PromptGroup], config: RewardConfig) -> Comparer:
        return comparer(self.before, groups, config.length, config.batch_size, self.settings.seed)

    def reward(self, proxy: Proxy) -> RewardModel:
        """A reward model that was learned."""
        own = RunDirectory(self.folder / proxy.folder)
        return load_reward_model(own, self.before.model, self.before.params)

    def scores(self, proxy: Proxy) -> Float[np.ndarray, "U K"]:
        """Every head's scores of the answers drawn, from scores.npy if it is there."""
        path, drawn = self.folder / proxy.folder / "scores.npy", self.drawn
        if path.exists():
            return np.load(path)
        params, room, rows = self.reward(proxy), self.experiment.ppo.max_tokens, drawn.in_rows(SHARING)

        def of_batch(which: Int[np.ndarray, "B"]) -> Float[Array, "N K"]:
            return self._score(params, drawn.behind_prompts(rows[which], room))

        with bar(f"scores by the reward model of {proxy.learned}", rows.size) as advance:
            scores = over_batches(of_batch, len(rows), advance, SHARING)
        found = np.empty((len(drawn.gold), proxy.heads), scores.dtype)
        found[rows.ravel()] = scores
        _save(path, lambda file: np.save(file, found))
        return found

    # --- PPO --------------------------------------------------------------------------------------------------------

    def optimize(self, proxy: Proxy) -> StageDirectory:
        """PPO against a reward model with nothing to hold it back.

        Every few iterations samples.jsonl gets the policy's KL, proxy and gold reward on every held-out prompt.
        """
        stage = StageDirectory(self.folder / proxy.folder / proxy.stage)
        if stage.result is not None:
            return stage
        before, seed, reward = self.before, self.settings.seed, self.reward(proxy)
        config = ppo_config(self.experiment.ppo, proxy, self.settings.iterations)
        prompts = PaddedPrompts(self.learned_from, config.prompts_per_step, seed)
        ends = self.held_out.ends
        trainer = PPOTrainer(before.model, config, prompts, before.params, reward, before.tokenizer, ends, seed)

        def take_step(state: PolicyState, number: int) -> Step:
            taken = trainer.take_step(state, number)
            if not measured(number, config.steps):
                return taken._replace(samples=None)
            key = jax.random.fold_in(jax.random.key(seed), number)
            found = self.held_out.measure(taken.state.params, key, partial(self._score, reward))
            proxies = self.as_one(found.scores, found.stopped, proxy.rule)
            kept = {"kl": found.kl.tolist(), "proxy": proxies.tolist(), "gold": found.gold.tolist()}
            return taken._replace(samples={**(taken.samples or {}), **kept})

        first, name = trainer.initial(before.params, reward), f"PPO against {proxy.name}"
        _, seconds = run_stage(name, stage, first, config.steps, take_step, self.stop, config.checkpoint_every)
        stage.complete({"steps": config.steps, "seconds": round(seconds, 3)})
        return stage


def reward_config(config: RewardConfig, proxy: Proxy, seed: int) -> RewardConfig:
    """How a proxy is learned: as the run's own, with steps that go by the square root of the choices."""
    known = config.source.partition(":")[0] == "narration_preferences"
    own = read_world(config.source, FULL_SIZE)[1] if known else FULL_SIZE
    steps = max(2, round(config.steps * math.sqrt(proxy.choices / own)))
    return replace(
        config,
        source=f"narration_preferences:{proxy.choices}:{seed}",
        heads=proxy.heads,
        steps=steps,
        warmup_steps=min(config.warmup_steps, steps // 5),
    )


def ppo_config(config: PPOConfig, proxy: Proxy, iterations: int) -> PPOConfig:
    """The run's own PPO without what holds it back: no penalty on the KL or on length, no loss on text."""
    return replace(
        config,
        steps=iterations,
        temperature=1.0,
        kl_coefficient=0.0,
        length_penalty=0.0,
        ptx_coefficient=0.0,
        learning_rate=LEARNING_RATE,
        critic_learning_rate=3 * LEARNING_RATE,
        ensemble=proxy.rule,
        checkpoint_every=10,
    )


def measured(number: int, iterations: int) -> bool:
    """Whether a policy is measured after iteration `number`: of all at least `MEASUREMENTS`, the last among them."""
    return (iterations - number) % max(1, iterations // MEASUREMENTS) == 0


def claim(path: Path, settings: Settings) -> None:
    """Note what was asked for, or find that it is still the same. Sizes may be added: each is a part of its own.

    Raises:
        UserError: something else was asked for before, or by a version that went about it otherwise.
    """
    now = FIXED | {name: value for name, value in to_mapping(settings).items() if name != "sizes"}
    if not path.exists():
        write_atomically(path, json.dumps(now, indent=2) + "\n")
        return
    there = json.loads(path.read_text())
    changed = [
        f"{'' if name in FIXED else '--'}{name} {there.get(name)} there, {value} now"
        for name, value in now.items()
        if there.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{str(path.parent)!r} holds a study with other settings ({'; '.join(changed)}); nothing was changed. "
            "Ask for the same, or delete that folder."
        )


def _save(path: Path, write: Callable[[BytesIO], None]) -> None:
    """Write a file of arrays that is there whole or not at all."""
    buffer = BytesIO()
    write(buffer)
    write_atomically(path, buffer.getvalue())
