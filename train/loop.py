"""The loop: batches through the step, with all that touches disk, clock, signals and screen."""

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from model.config import SamplingConfig
from model.decode import stream
from model.errors import UserError
from model.sharding import ShardingRules
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from train.batches import Batch, prefetch
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.evaluation import bits_per_byte, evaluate, text_bytes
from train.flops import peak_flops, train_flops_per_token
from train.metrics import Logs
from train.objective import next_token_loss
from train.optimizer import learning_rate, make_optimizer
from train.progress import bar, say
from train.run_directory import StageDirectory
from train.step import Metrics, TrainState, abstract_state, batch_sharding, init_state, place, train_step

SKIPPED_LIMIT = 10


class Interrupted(Exception):
    """Training was asked to stop, and everything is saved."""


@dataclass(frozen=True)
class Workbench:
    """What a stage trains with: everything but the state."""

    model: Transformer
    config: TrainConfig
    mesh: Mesh
    rules: ShardingRules
    tokenizer: Tokenizer
    training: Any  # endless grain.MapDataset[Batch]
    validation: Sequence[Batch]
    directory: StageDirectory


def fit(bench: Workbench) -> dict[str, Any]:
    """Train to the last step, continuing from the newest checkpoint.

    All logs of a step are written before its checkpoint, so a checkpoint never lacks a line that belongs to it.

    Returns:
        steps, tokens, seconds, validation_loss (nats per token), validation_bits_per_byte, tokens_per_second, mfu.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        UserError: the state does not fit, training diverged, or a checkpoint could not be written.
    """
    config, model = bench.config, bench.model
    optimizer = make_optimizer(config)
    abstract = abstract_state(model, optimizer, bench.mesh, bench.rules)
    _check_fits(abstract)
    checkpoints = Checkpoints(bench.directory.checkpoints, keep=config.checkpoints_kept)
    restored = checkpoints.restore(abstract)
    if restored:
        state, counts = restored[0], Counts(**restored[1])
        say(f"continuing from step {counts.step} of {config.steps}.")
    else:
        state, counts = init_state(model, optimizer, bench.mesh, bench.rules, config.seed), Counts()
    logs = Logs(bench.directory, counts.step if restored else -1, config.tensorboard)
    try:
        with jax.set_mesh(bench.mesh), _stop_on_signal() as stop:
            session = _Session(bench, checkpoints, logs, counts)
            if not restored:
                session.look(state)
            if counts.step < config.steps:
                state = session.train(state, stop)
            checkpoints.wait()
    finally:
        logs.close()
        checkpoints.close()
    evaluations = [row for row in bench.directory.rows("metrics") if "validation_loss" in row]
    rate = counts.training_tokens / max(counts.training_seconds, 1e-9)
    return {
        "steps": counts.step,
        "tokens": counts.tokens,
        "seconds": round(counts.seconds, 3),
        "validation_loss": evaluations[-1]["validation_loss"],
        "validation_bits_per_byte": evaluations[-1]["validation_bits_per_byte"],
        "tokens_per_second": rate,
        "mfu": session.mfu(rate),
    }


@dataclass
class Counts:
    """What the loop counts on the host; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    """Real tokens trained on."""
    seconds: float = 0.0
    """Wall time of the stage, over all its sessions."""
    training_tokens: int = 0
    """Tokens whose time was taken: compilation, evaluation, samples and checkpoints left out."""
    training_seconds: float = 0.0


class _Session:
    """One process's turn at a stage."""

    def __init__(self, bench: Workbench, checkpoints: Checkpoints, logs: Logs, counts: Counts) -> None:
        self.bench, self.checkpoints, self.logs, self.counts = bench, checkpoints, logs, counts
        self.sharding = batch_sharding(bench.mesh, bench.rules)
        self.byte_lengths = bench.tokenizer.byte_lengths
        self.loss_of = jax.jit(partial(next_token_loss, bench.model, vocab_chunk=bench.config.vocab_chunk))
        self.schedule = learning_rate(bench.config, bench.config.learning_rate)
        self.length = bench.training[0].tokens.shape[1]
        self.peak = peak_flops()
        self.clock = time.perf_counter()

    def train(self, state: TrainState, stop: list[int]) -> TrainState:
        """All steps that are left."""
        config, counts = self.bench.config, self.counts
        batches = prefetch(self.bench.training, counts.step)
        run_step = self._compile(state)
        with bar("training", config.steps, done=counts.step) as advance:
            window_tokens, window_start = 0, self._tick()
            metrics: Metrics | None = None
            for step in range(counts.step + 1, config.steps + 1):
                batch = next(batches)
                tokens = int(batch.weights.sum())
                before = metrics
                state, metrics = run_step(state, place(batch, self.sharding))
                self._check_healthy(before)  # waits for the step before, while this one is under way
                counts.step, counts.tokens = step, counts.tokens + tokens
                window_tokens += tokens
                last = step == config.steps
                if not (last or stop or any(step % every == 0 for every in self._intervals())):
                    advance()
                    continue
                self._check_healthy(metrics)
                note = self._log(step, metrics, batch, tokens, write=last or step % config.log_every == 0)
                elapsed = self._tick() - window_start
                counts.training_tokens += window_tokens
                counts.training_seconds += elapsed
                rate = window_tokens / elapsed
                self.logs.speed.write(
                    {"step": step, "seconds": counts.seconds, "tokens_per_second": rate, "mfu": self.mfu(rate)}
                )
                advance(note=f"{note}  {rate:,.0f} tokens/s  MFU {self.mfu(rate):.0%}")
                self.look(state, last)
                if last or stop or step % config.checkpoint_every == 0:
                    self._tick()
                    self.checkpoints.save(state, vars(counts))
                if stop and not last:
                    self.checkpoints.wait()
                    raise Interrupted
                window_tokens, window_start = 0, self._tick()
        return state

    def look(self, state: TrainState, last: bool = False) -> None:
        """Evaluate and write a sample where they are due."""
        config, step = self.bench.config, self.counts.step
        if last or step % config.eval_every == 0:
            found = evaluate(
                self.loss_of,
                state.params,
                self.bench.validation,
                self.sharding,
                self.byte_lengths,
                config.eval_batches,
            )
            row = {"validation_loss": found.loss, "validation_bits_per_byte": found.bits_per_byte}
            self.logs.learned({"step": step, "tokens": self.counts.tokens, **row})
        if last or step % config.sample_every == 0:
            self.logs.samples.write({"step": step, "prompt": config.sample_prompt, "text": self._sample(state)})

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization (Chowdhery et al. 2022, appendix B): FLOPs a second over the machine's peak."""
        return tokens_per_second * train_flops_per_token(self.bench.model.config, self.length) / self.peak

    def _intervals(self) -> tuple[int, ...]:
        config = self.bench.config
        return config.log_every, config.eval_every, config.sample_every, config.checkpoint_every

    def _compile(self, state: TrainState) -> Any:
        """The step for these shapes, compiled before any time is taken."""
        config = self.bench.config
        step = partial(
            train_step,
            model=self.bench.model,
            optimizer=make_optimizer(config),
            accumulation=config.accumulation,
            vocab_chunk=config.vocab_chunk,
        )
        batch = place(self.bench.training[0], self.sharding)
        say("compiling the training step ...")
        return jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def _check_healthy(self, metrics: Metrics | None) -> None:
        """Stop where updates keep failing; they change nothing, so the checkpoints stay good."""
        if metrics is not None and (in_a_row := metrics["skipped_in_a_row"].item()) >= SKIPPED_LIMIT:
            raise UserError(
                f"{in_a_row} updates in a row had a loss or gradient that is not finite; training stopped near step "
                f"{self.counts.step}. The checkpoints under {str(self.bench.directory.checkpoints)!r} are intact. "
                f"Try a lower train.learning_rate than {self.bench.config.learning_rate:g}."
            )

    def _log(self, step: int, metrics: Metrics, batch: Batch, tokens: int, write: bool) -> str:
        """Write the step's line; returns what the progress bar shows."""
        row = {name: value.item() for name, value in metrics.items() if name != "skipped_in_a_row"}
        row["bits_per_byte"] = bits_per_byte(row["loss"] * tokens, text_bytes(batch, self.byte_lengths))
        row["learning_rate"] = float(self.schedule(step - 1))
        if write:
            self.logs.learned({"step": step, "tokens": self.counts.tokens, **row})
        skipped = f"  {row['skipped']} skipped" if row["skipped"] else ""
        return f"loss {row['loss']:.3f}  {row['bits_per_byte']:.2f} bits/byte{skipped}"

    def _sample(self, state: TrainState) -> str:
        """What the model writes now, at temperature 1; the same for the same seed and step."""
        bench, config = self.bench, self.bench.config
        prompt = [bench.tokenizer.document_end, *bench.tokenizer.encode(config.sample_prompt)]
        key = jax.random.fold_in(jax.random.key(config.seed), self.counts.step)
        pieces = stream(bench.model, state.params, prompt, SamplingConfig(), key, config.sample_tokens, {prompt[0]})
        return bench.tokenizer.decode(token for token, _ in pieces if token != prompt[0])

    def _tick(self) -> float:
        """Add the time since the last tick to the stage's; returns the time now."""
        now = time.perf_counter()
        self.counts.seconds += now - self.clock
        self.clock = now
        return now


def compute_dtype(precision: str) -> Any:
    """The dtype that products are computed in on this machine."""
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(precision)


def _check_fits(state: TrainState) -> None:
    """Refuse a state that one device cannot hold, before anything is allocated."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.devices())
    else:
        available = (device.memory_stats() or {}).get("bytes_limit", 0)
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(state)]
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shards)
    if available and needed > available:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:,.1f} GiB on each device, which has "
            f"{available / 2**30:,.1f} GiB. Take a smaller preset, or split them over more devices with --mesh.fsdp."
        )


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """A list that is empty until SIGTERM or Ctrl-C comes; a second signal acts as it always does."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        say("stopping after this step; the state will be saved ...")
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
