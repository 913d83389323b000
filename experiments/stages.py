"""The stages of an experiment: config to data, model and mesh, and through the loop."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.config import Experiment
from experiments.machine import session
from experiments.truth import floor, knows_truth
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import UserError
from model.sharding import ShardingRules, make_mesh
from model.tokenizer import Tokenizer, TokenizerConfig
from model.transformer import Transformer
from rlhf.ppo import PaddedPrompts, PPOTrainer, encode_prompts
from rlhf.preferences import PromptGroup, open_preferences
from rlhf.prompts import open_prompts
from rlhf.reward import Comparer, RewardTrainer, evaluate_reward
from rlhf.scorer import load_scorer
from rlhf.stage import run_stage
from serve.store import open_stored_preferences
from train.batches import PackedRows, check_long_enough, training_batches, validation_batches
from train.chats import open_chats
from train.corpus import TokenStream, tokenize, tokenize_chats, train_tokenizer_once
from train.evaluation import bits_per_byte, evaluate
from train.files import hash_text
from train.loop import StopRequest, Workbench, check_rows_divide, compute_dtype, fit
from train.narration.checker import check
from train.narration.questions import draw_prompt
from train.narration.raters import ceiling, draw_pair, gold_reward
from train.objective import next_token_loss
from train.run_directory import RunDirectory, write_atomically
from train.sources import Documents, open_source
from train.trained import load


def pretrain(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn by next-token prediction; resumes, and returns at once what a complete stage came to."""
    stage = run.stage("pretrain")
    if stage.result is not None:
        return stage.result
    data, train = experiment.data, experiment.train
    mesh, rules = make_mesh(experiment.mesh), ShardingRules()
    check_rows_divide(train, mesh)
    start = time.perf_counter()
    sources = [open_source(spec, data.validation_fraction) for spec in data.sources]
    run.claim_data({source.spec: source.key for source in sources})
    run.add_session(session())
    if run.tokenizer_path.exists():
        tokenizer = Tokenizer.load(run.tokenizer_path)
    else:
        tokenizer = train_tokenizer_once(experiment.tokenizer, sources)
        write_atomically(run.tokenizer_path, tokenizer.to_json())
        if (own := _template_beside(experiment.tokenizer)) is not None:
            write_atomically(run.chat_template_path, own.text)
    streams = [tokenize(source, "train", tokenizer) for source in sources]
    held_out = [tokenize(source, "validation", tokenizer) for source in sources]
    for source, stream in zip(sources, streams, strict=True):
        check_long_enough(stream, data.sequence_length, source.spec)
    rows = [PackedRows(stream, data.sequence_length) for stream in streams]
    data_seconds = time.perf_counter() - start
    bench = Workbench(
        model=Transformer(_sized(experiment.model, tokenizer), rules, compute_dtype(train.precision)),
        config=train,
        mesh=mesh,
        rules=rules,
        tokenizer=tokenizer,
        training=training_batches(rows, data.weights, train.batch_size, train.seed),
        validation={
            source.spec: validation_batches(PackedRows(stream, data.sequence_length), train.batch_size)
            for source, stream in zip(sources, held_out, strict=True)
        },
        directory=stage,
        prompt=[tokenizer.document_end, *tokenizer.encode(train.sample_prompt)],
        ends={tokenizer.document_end},
    )
    result = {"stage": "pretrain", "data_seconds": round(data_seconds, 3), **fit(bench, stop)}
    told = [pair for pair in zip(sources, held_out, strict=True) if knows_truth(pair[0].spec)]
    if told:
        result |= against_truth(result, *told[0])  # the one that the report holds the model against
    stage.complete(result)
    return result


def sft(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn to answer from demonstrations (Ouyang et al. 2022, section 3.5): the loss counts the assistant's tokens.

    Begins with what pre-training came to; resumes, and returns at once what a complete stage came to.
    """
    stage = run.stage("sft")
    if stage.result is not None:
        return stage.result
    data, train, length = experiment.sft.data, experiment.sft.train, experiment.data.sequence_length
    mesh, rules = make_mesh(experiment.mesh), ShardingRules()
    check_rows_divide(train, mesh)
    start = time.perf_counter()
    chats = [open_chats(spec, data.validation_fraction) for spec in data.sources]
    run.claim_data({f"sft {source.spec}": source.key for source in chats})
    run.add_session(session())
    before = load(run, "pretrain")
    tokenizer, template = before.tokenizer, before.template
    write_atomically(run.chat_template_path, template.text)
    streams = [tokenize_chats(source, "train", tokenizer, template) for source in chats]
    held_out = [tokenize_chats(source, "validation", tokenizer, template) for source in chats]
    for source, stream in zip(chats, streams, strict=True):
        check_long_enough(stream, length, source.spec)
    prompt = template.encode(tokenizer, chats[0].validation[0][:-1], answer=True).tokens
    data_seconds = time.perf_counter() - start
    bench = Workbench(
        model=Transformer(_sized(experiment.model, tokenizer), rules, compute_dtype(train.precision)),
        config=train,
        mesh=mesh,
        rules=rules,
        tokenizer=tokenizer,
        training=training_batches([PackedRows(stream, length) for stream in streams], (), train.batch_size, train.seed),
        validation={
            source.spec: validation_batches(PackedRows(stream, length), train.batch_size)
            for source, stream in zip(chats, held_out, strict=True)
        },
        directory=stage,
        prompt=[tokenizer.document_end, *prompt],
        ends={tokenizer.document_end, template.stop_token(tokenizer)},
        initial=before.params,
    )
    result = {"stage": "sft", "data_seconds": round(data_seconds, 3), **fit(bench, stop)}
    stage.complete(result)
    return result


def reward(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn which of two answers people choose, from the fine-tuned model; on one device."""
    stage, config = run.stage("reward"), experiment.reward
    if stage.result is not None:
        return stage.result
    opened = open_stored_preferences if config.source.startswith("store:") else open_preferences
    choices = opened(config.source, config.validation_fraction)
    run.claim_data({f"reward {choices.spec}": choices.key})
    run.add_session(session())
    before = load(run, "sft")
    seed = experiment.train.seed

    def comparer(groups: Sequence[PromptGroup]) -> Comparer:
        return Comparer(groups, before.tokenizer, before.template, config.length, config.batch_size, seed)

    learning, held_out = comparer(choices.train), comparer(choices.validation)
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
    found = evaluate_reward(trainer, state.params, held_out)
    result = {"stage": "reward", "steps": config.steps, "seconds": round(seconds, 3), **found._asdict()}
    if config.source.startswith("narration_preferences"):
        result["ceiling"] = world_ceiling()
    stage.complete(result)
    return result


def ppo(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn to please the reward model and stay near the fine-tuned one, by PPO; on one device."""
    stage, config, seed = run.stage("ppo"), experiment.ppo, experiment.train.seed
    if stage.result is not None:
        return stage.result
    asked = open_prompts(config.prompts)
    sources = [open_source(spec, experiment.data.validation_fraction) for spec in experiment.data.sources]
    keys = {source.spec: source.key for source in sources}
    run.claim_data({f"ppo {config.prompts}": hash_text(str(asked)), **keys})
    run.add_session(session())
    before = load(run, "sft")
    tokenizer, template, model = before.tokenizer, before.template, before.model
    scorer = load_scorer(run, model)
    room = model.config.context_length - config.max_tokens
    length = experiment.data.sequence_length
    texts = None
    if config.ptx_coefficient:
        rows = [PackedRows(tokenize(source, "train", tokenizer), length) for source in sources]
        texts = training_batches(rows, experiment.data.weights, config.ptx_rows, seed + 1)
    trainer = PPOTrainer(
        model,
        config,
        PaddedPrompts(encode_prompts(asked, tokenizer, template, room), config.batch_size, seed),
        before.params,
        scorer,
        tokenizer,
        (template.stop_token(tokenizer), tokenizer.document_end),
        seed,
        texts,
        _gold(config.prompts),
    )
    first = trainer.initial(before.params, scorer)
    state, seconds = run_stage("PPO", stage, first, config.steps, trainer.take_step, stop, config.checkpoint_every)
    held_out = {
        source.spec: validation_batches(PackedRows(tokenize(source, "validation", tokenizer), length), HELD_OUT_ROWS)
        for source in sources
    }
    loss_of, place = jax.jit(partial(next_token_loss, model)), jax.tree.leaves(before.params)[0].sharding.mesh
    whole = NamedSharding(place, PartitionSpec())
    kept = [
        evaluate(loss_of, params, held_out, whole, tokenizer.byte_lengths, limit=HELD_OUT_BATCHES)
        for params in (before.params, state.params)
    ]
    last = stage.rows("metrics")[-AVERAGED:]
    watched = [name for name in ("reward", "gold_reward", "kl", "stop_rate") if name in last[-1]]
    averages: dict[str, Any] = {name: sum(row[name] for row in last) / len(last) for name in watched}
    result: dict[str, Any] = {
        "stage": "ppo",
        "steps": config.steps,
        "seconds": round(seconds, 3),
        **averages,
        "base_bits_per_byte_before": kept[0]["validation_bits_per_byte"],
        "base_bits_per_byte": kept[1]["validation_bits_per_byte"],
    }
    stage.complete(result)
    return result


def _gold(prompts: str) -> Callable[[int, str], float] | None:
    """The gold reward of an answer to prompt i of a source, where it is the narrator's world that asks."""
    kind, *numbers = prompts.split(":")
    if kind != "narration_chat":
        return None
    seed = int(numbers[1]) if len(numbers) > 1 else 0

    def gold(index: int, answer: str) -> float:
        # As the example was drawn: its prompt comes first.
        return gold_reward(check(*draw_prompt(random.Random(f"{kind} {seed} {index}")), answer))

    return gold


Stage = Callable[[Experiment, RunDirectory, StopRequest], dict[str, Any]]
STAGES: dict[str, Stage] = {"pretrain": pretrain, "sft": sft, "reward": reward, "ppo": ppo}
HELD_OUT_ROWS, HELD_OUT_BATCHES = 8, 20  # of pre-training text, on which PPO should not get worse
AVERAGED = 10  # last iterations that PPO's result is the mean of


def _template_beside(config: TokenizerConfig) -> ChatTemplate | None:
    """The chat template that lies beside a given tokenizer, if one does."""
    path = Path(config.path).with_name("chat_template.jinja") if config.path else None
    return ChatTemplate.load(path) if path and path.exists() else None


def _sized(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model with its tokenizer's vocabulary, where the config leaves that open.

    Raises:
        UserError: the config's vocabulary is too small.
    """
    if config.vocab_size is None:
        return replace(config, vocab_size=tokenizer.size)
    if config.vocab_size < tokenizer.size:
        raise UserError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {tokenizer.size} tokens."
        )
    return config


def against_truth(result: Mapping[str, Any], source: Documents, held_out: TokenStream) -> dict[str, float]:
    """The held-out loss and its floor by word, and the floor by token and by byte, of a source whose truth is known."""
    loss = result.get(f"validation_loss {source.spec}", result["validation_loss"])  # of a source alone it is the loss
    nats, words, size = floor(source)
    tokens = len(held_out.tokens) - 1
    return {
        "validation_nats_per_word": loss * tokens / words,
        "floor_nats_per_word": nats / words,
        "floor_loss": nats / tokens,
        "floor_bits_per_byte": bits_per_byte(nats, size),
    }


def world_ceiling(pairs: int = 4000) -> float:
    """The best accuracy that a reward model can have on the choices of the world's raters, over drawn pairs."""
    rng = random.Random("ceiling")
    return ceiling([draw_pair(rng)[-2:] for _ in range(pairs)])
