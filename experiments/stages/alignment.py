"""The stages that learn from what people choose: reward model, PPO and GRPO against one, DPO without."""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.config import Experiment
from experiments.learned_reward import judge_for, load_reward_model
from experiments.machine import session
from experiments.ranked_answers import KIND, rank_answers
from experiments.stages.language import open_sources
from model.sharding import check_used, make_mesh
from rlhf.config import PolicyConfig
from rlhf.dpo import DPOTrainer
from rlhf.grpo import GRPOTrainer
from rlhf.ppo import PPOTrainer
from rlhf.preferences import Preferences, PromptGroup, open_preferences
from rlhf.prompts import PaddedPrompts, encode_prompts, open_prompts, stop_tokens
from rlhf.reward import Comparer, RewardTrainer, evaluate_reward
from rlhf.stage import run_stage
from rlhf.trainer import PolicyTrainer
from serve.store import open_stored_preferences
from train.batches import PackedRows, training_batches, validation_batches
from train.corpus import tokenize
from train.evaluation import evaluate
from train.files import hash_text
from train.loop import StopRequest
from train.narration.checker import check
from train.narration.passage import Passage
from train.narration.questions import Question, draw_prompt
from train.narration.raters import ceiling, draw_pair, gold_reward
from train.objective import next_token_loss
from train.run_directory import RunDirectory
from train.sources import Documents, read_world
from train.trained import Trained, load

HELD_OUT_ROWS, HELD_OUT_BATCHES = 8, 20  # of pre-training text, on which no policy should get worse
AVERAGED = 10  # last iterations that a policy's result is the mean of


Stage = Callable[[Experiment, RunDirectory, StopRequest], dict[str, Any]]
"""Resumes, and returns at once what a complete stage came to."""


def on_mesh(stage: Stage) -> Stage:
    """The stage with the experiment's mesh in context: what it loads is split over it as the rules say."""

    @wraps(stage)
    def placed(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
        mesh = make_mesh(experiment.mesh)
        check_used(mesh, experiment.sharding)
        with jax.set_mesh(mesh):
            return stage(experiment, run, stop)

    return placed


@on_mesh
def reward(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn which of two answers people choose, from the fine-tuned model."""
    stage, config = run.stage("reward"), experiment.reward
    if stage.result is not None:
        return stage.result
    before, seed = load(run, "sft"), experiment.train.seed
    choices, ceiling = _open_choices(experiment, run, before)
    run.claim_data({f"reward {choices.spec}": choices.key})
    run.add_session(session())
    learning, held_out = _comparers(experiment, choices, before, config.batch_size)
    trainer = RewardTrainer(before.model, config, learning)
    state, seconds = run_stage(
        "choices",
        stage,
        trainer.initial(before.params, seed),
        config.steps,
        trainer.take_step,
        stop,
        config.checkpoint_every,
        config.log_every,
    )
    found = evaluate_reward(trainer, state.params, held_out, stage.rows("metrics")[-1]["score_std"])
    result = {"stage": "reward", "steps": config.steps, "seconds": round(seconds, 3), **found._asdict()}
    if ceiling is not None:
        result["ceiling"] = ceiling()
    stage.complete(result)
    return result


@on_mesh
def ppo(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn to please a reward model and stay near the fine-tuned one, by PPO."""
    return _please(PPOTrainer, experiment.ppo, experiment, run, stop)


@on_mesh
def grpo(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """The same by GRPO."""
    return _please(GRPOTrainer, experiment.grpo, experiment, run, stop)


def judging_run(config: PolicyConfig, run: RunDirectory) -> RunDirectory:
    """The run whose reward model a policy of `run` learns from."""
    return RunDirectory(Path(config.reward_run)) if config.reward_run else run


def _please(
    method: type[PolicyTrainer],
    config: PolicyConfig,
    experiment: Experiment,
    run: RunDirectory,
    stop: StopRequest,
) -> dict[str, Any]:
    name, seed = config.stage, experiment.train.seed
    stage = run.stage(name)
    if stage.result is not None:
        return stage.result
    judging = judging_run(config, run)
    asked, sources = open_prompts(config.prompts), open_sources(experiment)
    own = {f"{name} {config.prompts}": str(asked), f"{name} reward model": str(judging.completed("reward"))}
    run.claim_data({what: hash_text(text) for what, text in own.items()} | {s.spec: s.key for s in sources})
    run.add_session(session())
    before = load(run, "sft")
    tokenizer, template = before.tokenizer, before.template
    judge = judge_for(before, judging)
    reward_model = load_reward_model(judging, judge, None if config.reward_run else before.params)
    room = min(model.config.context_length for model in (before.model, judge)) - config.max_tokens
    texts = None
    if config.ptx_coefficient:
        rows = [PackedRows(tokenize(s, "train", tokenizer), experiment.data.sequence_length) for s in sources]
        texts = training_batches(rows, experiment.data.weights, config.ptx_rows, seed + 1)
    trainer = method(
        before.model,
        config,
        PaddedPrompts(encode_prompts(asked, tokenizer, template, room), config.prompts_per_step, seed),
        before.params,
        reward_model,
        tokenizer,
        stop_tokens(tokenizer, template),
        seed,
        texts,
        _gold(config.prompts),
        judge,
    )
    first = trainer.initial(before.params, reward_model)
    state, seconds = run_stage(
        name.upper(), stage, first, config.steps, trainer.take_step, stop, config.checkpoint_every
    )
    last = stage.rows("metrics")[-AVERAGED:]
    watched = [name for name in ("reward", "gold_reward", "kl", "stop_rate") if name in last[-1]]
    result: dict[str, Any] = {
        "stage": name,
        "steps": config.steps,
        "seconds": round(seconds, 3),
        **{name: sum(row[name] for row in last) / len(last) for name in watched},
        **_base_text(experiment, sources, before, state.params),
    }
    stage.complete(result)
    return result


@on_mesh
def dpo(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn from choices without a reward model, by DPO from the fine-tuned model."""
    stage, config = run.stage("dpo"), experiment.dpo
    if stage.result is not None:
        return stage.result
    before, sources = load(run, "sft"), open_sources(experiment)
    choices, _ = _open_choices(experiment, run, before)
    run.claim_data({f"reward {choices.spec}": choices.key} | {source.spec: source.key for source in sources})
    run.add_session(session())
    learning, held_out = _comparers(experiment, choices, before, config.batch_size)
    trainer = DPOTrainer(before.model, config, learning, before.params)
    first = trainer.initial(before.params)
    state, seconds = run_stage(
        "DPO", stage, first, config.steps, trainer.take_step, stop, config.checkpoint_every, config.log_every
    )
    result = {
        "stage": "dpo",
        "steps": config.steps,
        "seconds": round(seconds, 3),
        **trainer.evaluate(state.params, held_out),
        **_base_text(experiment, sources, before, state.params),
    }
    stage.complete(result)
    return result


def _open_choices(
    experiment: Experiment, run: RunDirectory, before: Trained
) -> tuple[Preferences, Callable[[], float] | None]:
    """What people chose, from wherever it is kept; and what tells the best accuracy possible on it, where known."""
    config = experiment.reward
    kind, fraction = config.source.partition(":")[0], config.validation_fraction
    if kind == KIND:
        found = rank_answers(config.source, before, run, config.answers, experiment.ppo.max_tokens, fraction)
        return found.choices, found.ceiling
    if kind == "store":
        return open_stored_preferences(config.source, fraction), None
    choices = open_preferences(config.source, fraction)
    return choices, world_ceiling if kind == "narration_preferences" else None


def _comparers(
    experiment: Experiment, choices: Preferences, before: Trained, batch_size: int
) -> tuple[Comparer, Comparer]:
    """Batches of choices, to learn from and held out."""

    length, seed = experiment.reward.length, experiment.train.seed
    return (
        comparer(before, choices.train, length, batch_size, seed),
        comparer(before, choices.validation, length, batch_size, seed),
    )


def comparer(before: Trained, groups: Sequence[PromptGroup], length: int, batch_size: int, seed: int) -> Comparer:
    """Batches of choices in rows of at most `length` tokens, and no more than the context has."""
    length = min(length, before.model.config.context_length)
    return Comparer(groups, before.tokenizer, before.template, length, batch_size, seed)


def _base_text(experiment: Experiment, sources: Sequence[Documents], before: Trained, params: Any) -> dict[str, float]:
    """Bits per byte of held-out pre-training text, by the fine-tuned model and by what came of it."""
    tokenizer, length = before.tokenizer, experiment.data.sequence_length
    held_out = {
        source.spec: validation_batches(PackedRows(tokenize(source, "validation", tokenizer), length), HELD_OUT_ROWS)
        for source in sources
    }
    loss_of = jax.jit(partial(next_token_loss, before.model))
    whole = NamedSharding(jax.tree.leaves(before.params)[0].sharding.mesh, PartitionSpec())

    def bits(params: Any) -> float:
        found = evaluate(loss_of, params, held_out, whole, tokenizer.byte_lengths, limit=HELD_OUT_BATCHES)
        return found["validation_bits_per_byte"]

    return {"base_bits_per_byte_before": bits(before.params), "base_bits_per_byte": bits(params)}


def _gold(prompts: str) -> Callable[[int, str], float] | None:
    """The gold reward of an answer to prompt i of a source, where it is the narrator's world that asks."""
    if prompts.partition(":")[0] != "narration_chat":
        return None
    kind, _, seed = read_world(prompts)

    @lru_cache(maxsize=64)  # answers to one prompt come one after the other
    def asked(index: int) -> tuple[Passage, Question]:
        return draw_prompt(random.Random(f"{kind} {seed} {index}"))  # as the example was drawn: its prompt comes first

    return lambda index, answer: gold_reward(check(*asked(index), answer))


def world_ceiling(pairs: int = 4000) -> float:
    """The best accuracy that a reward model can have on the choices of the world's raters, over drawn pairs."""
    rng = random.Random("ceiling")
    return ceiling([draw_pair(rng)[-2:] for _ in range(pairs)])
