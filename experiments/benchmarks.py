"""Measurements of speed, each beside what this machine could do at most, taken in the same run."""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config import Experiment
from experiments.peers import PpoShape, TrlPpo
from model.attention import init_cache
from model.decode import decode_step, prefill
from model.presets import gpt2
from model.sharding import make_mesh
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer, count_parameters
from rlhf.config import PPOConfig
from rlhf.ppo import PPOTrainer
from rlhf.prompts import PaddedPrompts
from rlhf.scorer import init_reward_model
from train.batches import Batch
from train.flops import matmul_parameters, measured_matmul_flops, train_flops_per_token
from train.loop import check_batch_divides, check_fits, compute_dtype
from train.narration.truth import word_probabilities
from train.narration.words import split_words
from train.optimizer import hyperparameters
from train.step import abstract_state, batch_sharding, compile_step, init_state, place


@dataclass(frozen=True)
class Spread:
    """Median, least and most of repeated measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of `values`."""
        return cls(statistics.median(values), min(values), max(values))


def seconds_of(work: Callable[[], Any], repeats: int, warmup: int = 1) -> list[float]:
    """Wall time of each repeat of `work`, which must wait for its result."""
    times = []
    for index in range(warmup + repeats):
        start = time.perf_counter()
        work()
        if index >= warmup:
            times.append(time.perf_counter() - start)
    return times


def measured_memory_read(repeats: int = 5) -> float:
    """Bytes a second that a sum over float32 reads, 256 MiB on a CPU and 4 GiB elsewhere; the median."""
    size = 1 << (28 if jax.default_backend() == "cpu" else 32)
    x = jnp.ones(size // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    return size / statistics.median(seconds_of(lambda: total(x).block_until_ready(), repeats))


class Step(NamedTuple):
    """A training step ready to be measured."""

    model: Transformer
    compiled: Any
    compile_seconds: float
    run: Callable[[], None]
    """Take one and wait for its loss."""


def training_step(experiment: Experiment, mesh: Mesh) -> Step:
    """The compiled training step of an experiment, whose vocabulary is known, on a batch of random tokens.

    Raises:
        UserError: the batch cannot be split over the mesh, or the state does not fit.
    """
    config, train, rules = experiment.model, experiment.train, experiment.sharding
    length = experiment.data.sequence_length
    check_batch_divides(train, length, mesh, rules)
    model = Transformer(config, rules, compute_dtype(train.precision))
    shape = (train.batch_size, length)
    tokens = jax.random.randint(jax.random.key(0), shape, 0, config.vocabulary)
    positions = jnp.broadcast_to(jnp.arange(length), shape)
    batch = Batch(tokens, jnp.roll(tokens, -1, 1), positions, jnp.ones_like(tokens), jnp.ones(shape))
    check_fits(abstract_state(model, train, mesh, rules))
    with jax.set_mesh(mesh):
        batch = place(batch, batch_sharding(mesh, rules))
        numbers = place(hyperparameters(train), NamedSharding(mesh, PartitionSpec()))
        state = init_state(model, train, mesh, rules)
        start = time.perf_counter()
        compiled = compile_step(model, train, state, batch)
        compile_seconds = time.perf_counter() - start

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch, numbers)
        metrics["loss"].block_until_ready()

    return Step(model, compiled, compile_seconds, run)


def bench_train(experiment: Experiment, vocab_size: int, repeats: int) -> dict[str, Any]:
    """Training steps of an experiment's shape on random tokens, against the machine's matrix product."""
    config = replace(experiment.model, vocab_size=experiment.model.vocab_size or vocab_size)
    train, length = experiment.train, experiment.data.sequence_length
    step = training_step(replace(experiment, model=config), make_mesh(experiment.mesh))
    before = measured_matmul_flops(step.model.dtype)
    times = seconds_of(step.run, repeats, warmup=2)
    after = measured_matmul_flops(step.model.dtype)
    rate = Spread.of([train.batch_size * length / seconds for seconds in times])
    flops, ceiling = train_flops_per_token(config, length), (before + after) / 2
    return {
        "batch": train.batch_size,
        "length": length,
        "parameters": count_parameters(config),
        "tokens_per_second": rate.median,
        "tokens_per_second_least": rate.least,
        "tokens_per_second_most": rate.most,
        "flops_per_token": flops,
        "matmul_flops": ceiling,
        "matmul_share": rate.median * flops / ceiling,
        "compile_seconds": step.compile_seconds,
    }


def bench_decode(experiment: Experiment, vocab_size: int, batch: int, repeats: int) -> dict[str, Any]:
    """Cached decoding of half a context after a prompt of the other half, against the machine's memory.

    Each step must at least read the layers and the head once for the batch, and each sequence's cache.
    """
    config = replace(experiment.model, vocab_size=experiment.model.vocab_size or vocab_size, scan=False, remat="none")
    model = Transformer(config, dtype=compute_dtype(experiment.train.precision))
    length = config.context_length
    prompt = jnp.zeros((batch, length // 2), jnp.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), prompt))["params"]
    steps = length - length // 2

    def decode() -> float:
        cache = init_cache(config, batch, length, model.dtype)
        logits, cache = prefill(model, params, prompt, jnp.full(batch, length // 2), cache)
        logits.block_until_ready()
        start = time.perf_counter()
        for index in range(steps):
            token = jnp.argmax(logits, -1)
            logits, cache = decode_step(model, params, token, jnp.full(batch, length // 2 + index), cache)
        logits.block_until_ready()
        return time.perf_counter() - start

    ceiling = measured_memory_read()
    decode()  # compiles
    rate = Spread.of([batch * steps / decode() for _ in range(repeats)])
    cache_bytes = (
        2 * config.layers * config.key_value_heads * config.head_dim * length * jnp.dtype(model.dtype).itemsize
    )
    read = matmul_parameters(config) * 4 + batch * cache_bytes * 3 / 4  # on average three quarters are filled
    return {
        "batch": batch,
        "parameters": count_parameters(config),
        "tokens_per_second": rate.median,
        "tokens_per_second_least": rate.least,
        "tokens_per_second_most": rate.most,
        "bytes_per_step": read,
        "memory_bytes_per_second": ceiling,
        "memory_share": rate.median / batch * read / ceiling,
    }


def bench_world(documents: int, repeats: int) -> dict[str, Any]:
    """Words a second: documents of the narrator's world drawn and written by all cores, and their truth by one."""
    from train.narration.datasets import write_world  # and with it TFDS, which no other benchmark waits for

    cores, written, known = os.cpu_count() or 1, [], []
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            source = write_world("narration", documents, seed, Path(folder))
            seconds = time.perf_counter() - start
            texts = [source[index]["text"].decode() for index in range(len(source))]
        words = sum(len(split_words(text)) for text in texts)
        written.append(words / seconds / cores)
        start = time.perf_counter()
        count = sum(len(word_probabilities(text)) for text in texts[:200])
        known.append(count / (time.perf_counter() - start))
    return {
        "documents": documents,
        "words": words,
        "cores": cores,
        "written_words_per_second_per_core": asdict(Spread.of(written)),
        "known_words_per_second": asdict(Spread.of(known)),
    }


def bench_ppo(shape: PpoShape, repeats: int, peers: bool) -> dict[str, Any]:
    """PPO episodes a second on random weights, whole iterations; with `peers` in turn with TRL's, A B A B.

    Policy, reference, critic and reward model are networks of their own, as the peer's are.
    """
    ours = _ppo_iterations(shape)
    ours(2)
    if not peers:
        return {"episodes_per_second": Spread.of([ours(PPO_UPDATES) for _ in range(repeats)]).median}
    theirs = TrlPpo(shape)
    theirs.warm_up()
    turns = [(ours(PPO_UPDATES), theirs.episodes_per_second(PPO_UPDATES)) for _ in range(repeats)]
    mine, other = (Spread.of([turn[side] for turn in turns]) for side in (0, 1))
    ratio = Spread.of([a / b for a, b in turns])
    return {
        "episodes_per_second": mine.median,
        "peer_episodes_per_second": other.median,
        "ratio": ratio.median,
        "ratio_least": ratio.least,
        "ratio_most": ratio.most,
        "peer": theirs.versions,
    }


def _ppo_iterations(shape: PpoShape) -> Callable[[int], float]:
    """Runs so many iterations of ours, and returns episodes a second."""
    config = gpt2(shape.layers, shape.width, shape.heads, context_length=shape.prompt_length + shape.response_length)
    model = Transformer(replace(config, vocab_size=shape.vocabulary), dtype=jnp.float32)  # as the peer's, anywhere
    keys = iter(jax.random.split(jax.random.key(0), 5))
    make = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32)))["params"])
    policy, reference, trunk = make(next(keys)), make(next(keys)), make(next(keys))
    rng = random.Random(0)
    lengths = [shape.prompt_length, *(rng.randint(1, shape.prompt_length) for _ in range(8 * shape.batch - 1))]
    rows = [[rng.randrange(shape.vocabulary) for _ in range(length)] for length in lengths]
    learning = PPOConfig(
        steps=1_000_000,
        batch_size=shape.batch,
        epochs=shape.epochs,
        minibatches=shape.minibatches,
        max_tokens=shape.response_length,
        ptx_coefficient=0.0,
    )
    # As in a run, the reward model expects what the policy's reference does.
    reward = init_reward_model(next(keys), trunk, shape.width)._replace(reference=reference)
    # Nothing stops a response, so every one is whole.
    trainer = PPOTrainer(
        model,
        learning,
        PaddedPrompts(rows, shape.batch, seed=0),
        reference,
        reward,
        train_tokenizer(TokenizerConfig(kind="char"), []),
        stop=(),
        seed=0,
    )
    state, number = trainer.initial(policy, init_reward_model(next(keys), trunk, shape.width)), 0

    def run(updates: int) -> float:
        nonlocal state, number
        start = time.perf_counter()
        for _ in range(updates):
            number += 1
            state = trainer.take_step(state, number).state
        jax.block_until_ready(state)
        return updates * shape.batch / (time.perf_counter() - start)

    return run


PPO_UPDATES = 5
STARTUPS = {
    "python": ["-c", "pass"],
    "narrador --help": ["-m", "experiments.cli", "--help"],
    "narrador config show tiny": ["-m", "experiments.cli", "config", "show", "tiny"],
    "narrador run tiny --help": ["-m", "experiments.cli", "run", "tiny", "--help"],
    "import jax": ["-c", "import jax; jax.devices()"],
}


def bench_startup(repeats: int) -> dict[str, Spread]:
    """Seconds from a cold process to its end, for commands that train nothing; bare Python is the floor."""
    found = {}
    for name, arguments in STARTUPS.items():
        run = partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found[name] = Spread.of(seconds_of(run, repeats))
    return found
