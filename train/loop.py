"""The loop: batches through the step, with all that touches disk, clock, signals and screen."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from model.config import SamplingConfig, ShardingRules
from model.decode import stream
from model.errors import UserError
from model.sharding import check_used, devices_along, nearest_multiples
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from train.batches import Batch, Batches, prefetch
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.distributed import from_first, process_count
from train.evaluation import bits_per_byte, evaluate, text_bytes
from train.flops import peak_flops, train_flops_per_token
from train.metrics import Logs
from train.objective import next_token_loss
from train.optimizer import hyperparameters, learning_rate
from train.progress import bar, say
from train.run_directory import StageDirectory
from train.step import (
    Metrics,
    TrainState,
    abstract_state,
    as_given,
    batch_sharding,
    compile_step,
    init_state,
    place,
)

SKIPPED_LIMIT = 10
Watch = Callable[[int, Mapping[str, Any]], None]
"""Told the step and what `evaluate` found."""
_nats = jax.jit(next_token_loss, static_argnames=("model", "vocab_chunk"))  # traced once for all runs of a shape


class Interrupted(Exception):
    """The run was asked to stop, and what it had is saved."""


class Diverged(UserError):
    """Training came to numbers that are not finite, and nothing more can be learned from it."""


class StopRequest:
    """SIGTERM and Ctrl-C: `Interrupted` at once, or in a deferred block noted for the loop to find.

    A second signal acts as it always does.
    """

    def __init__(self) -> None:
        self.received = False
        self._deferred = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over while inside."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            self.received = True
            for known, handler in before.items():
                signal.signal(known, handler)
            if not self._deferred:
                raise Interrupted
            say("stopping after this step; the state will be saved ...")

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal while inside."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def agreed(self, mesh: Mesh) -> Callable[[], bool]:
        """Ask all processes whether one was told to stop; what comes back waits for their answer, the same in all.

        Each must ask at the same place between its compiled programs.
        """
        if process_count() == 1:
            return lambda: self.received
        # A flag for each device, so that whoever holds the devices together can tell.
        place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        flag = np.full(1, self.received, np.int32)
        told = jnp.max(jax.make_array_from_callback((mesh.size,), place, lambda _: flag))
        return lambda: bool(told)


@dataclass(frozen=True)
class Workbench:
    """What a stage trains with: everything but the state."""

    model: Transformer
    config: TrainConfig
    mesh: Mesh
    rules: ShardingRules
    tokenizer: Tokenizer
    training: Batches  # endless
    validation: Mapping[str, Batches]
    """By source."""
    directory: StageDirectory
    prompt: Sequence[int]
    """What samples continue."""
    ends: Set[int]
    """Tokens that end a sample."""
    initial: Callable[[Any], Any] | None = None
    """Gives the parameters to begin with, laid out as told; None: fresh ones from the seed."""
    watch: Watch | None = None
    """Called with each evaluation; what it raises stops the run, and its checkpoints stay."""


def fit(bench: Workbench, stop: StopRequest) -> dict[str, Any]:
    """Train to the last step, continuing from the newest checkpoint.

    All logs of a step are written before its checkpoint, so that a process killed at any moment leaves no checkpoint
    without its lines.

    Returns:
        steps, tokens, seconds, what `evaluate` found last, tokens_per_second, mfu.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        Diverged: updates or the held-out loss stayed not finite.
        UserError: the state does not fit, or a checkpoint could not be read or written.
    """
    config = bench.config
    abstract = abstract_state(bench.model, config, bench.mesh, bench.rules)
    check_fits(abstract)
    checkpoints = Checkpoints(bench.directory.checkpoints, keep=config.checkpoints_kept)
    restored = checkpoints.restore(abstract)
    if restored:
        state, counts = restored[0], Counts(**restored[1])
        say(f"continuing from step {counts.step} of {config.steps}.")
    else:
        given = bench.initial(abstract.params) if bench.initial else None
        state, counts = init_state(bench.model, config, bench.mesh, bench.rules), Counts()
        if given is not None:
            state = state._replace(params=given)
    logs = Logs(bench.directory, counts.step if restored else -1, config.tensorboard)
    try:
        with jax.set_mesh(bench.mesh):
            session = _Session(bench, checkpoints, logs, counts)
            if not restored:
                session.look(state)
            if counts.step < config.steps:
                with stop.deferred():
                    state = session.train(state, stop)
            checkpoints.wait()
    finally:
        logs.close()
        checkpoints.close()
    evaluated = from_first(lambda: [row for row in bench.directory.rows("metrics") if "validation_loss" in row][-1])
    if evaluated["validation_loss"] is None:
        raise Diverged(
            f"the held-out loss after step {counts.step} is not finite; nothing more can be learned from it."
        )
    rate = counts.training_tokens / max(counts.training_seconds, 1e-9)
    return {
        "steps": counts.step,
        "tokens": counts.tokens,
        "seconds": round(counts.seconds, 3),
        **{name: value for name, value in evaluated.items() if name.startswith("validation")},
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
        self.model, self.numbers = as_given(bench.model), hyperparameters(bench.config)
        self.loss_of = partial(_nats, self.model, vocab_chunk=bench.config.vocab_chunk)
        self.schedule = learning_rate(bench.config, self.numbers, self.numbers.learning_rate)
        self.length = bench.training[0].tokens.shape[1]
        self.peak = peak_flops()
        self.clock = time.perf_counter()

    def train(self, state: TrainState, stop: StopRequest) -> TrainState:
        """All steps that are left."""
        config, counts = self.bench.config, self.counts
        batches = prefetch(self.bench.training, counts.step)
        say("compiling the training step ...")
        first = place(self.bench.training[0], self.sharding)
        run_step = compile_step(self.model, config, state, first)
        numbers = place(self.numbers, NamedSharding(self.bench.mesh, PartitionSpec()))
        with bar("training", config.steps, done=counts.step) as advance:
            window_tokens, window_start = 0, self._tick()
            metrics: Metrics | None = None
            for step in range(counts.step + 1, config.steps + 1):
                batch = next(batches)
                tokens = int((batch.segments > 0).sum())
                before, asked = metrics, stop.agreed(self.bench.mesh)
                state, metrics = run_step(state, place(batch, self.sharding), numbers)
                self._check_healthy(before)  # waits for the step before, while this one is under way
                stopping = asked()
                if stopping and not stop.received:
                    say("another process was told to stop; the state will be saved ...")
                counts.step, counts.tokens = step, counts.tokens + tokens
                window_tokens += tokens
                last = step == config.steps
                if not (last or stopping or any(step % every == 0 for every in self._intervals())):
                    advance()
                    continue
                self._check_healthy(metrics)
                note = self._log(step, metrics, batch, write=last or step % config.log_every == 0)
                elapsed = self._tick() - window_start
                counts.training_tokens += window_tokens
                counts.training_seconds += elapsed
                rate = window_tokens / elapsed
                self.logs.speed.write(
                    {"step": step, "seconds": counts.seconds, "tokens_per_second": rate, "mfu": self.mfu(rate)}
                )
                advance(note=f"{note}  {rate:,.0f} tokens/s  MFU {self.mfu(rate):.0%}")
                self.look(state, last)
                # While updates fail nothing is saved: what is on disk are the last good checkpoints.
                healthy = metrics["skipped_in_a_row"].item() == 0
                if last or stopping or (healthy and step % config.checkpoint_every == 0):
                    self._tick()
                    self.checkpoints.save(state, vars(counts))
                if stopping and not last:
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
            self.logs.learned({"step": step, "tokens": self.counts.tokens, **found})
            if self.bench.watch:
                self.bench.watch(step, found)
        if last or step % config.sample_every == 0:
            prompt = self.bench.tokenizer.decode(self.bench.prompt[1:])  # without the start of the document
            self.logs.samples.write({"step": step, "prompt": prompt, "text": self._sample(state)})

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization (Chowdhery et al. 2022, appendix B): FLOPs a second over the machine's peak."""
        return tokens_per_second * train_flops_per_token(self.bench.model.config, self.length) / self.peak

    def _intervals(self) -> tuple[int, ...]:
        config = self.bench.config
        return config.log_every, config.eval_every, config.sample_every, config.checkpoint_every

    def _check_healthy(self, metrics: Metrics | None) -> None:
        """Stop where updates keep failing; they change nothing, so the checkpoints stay good."""
        if metrics is not None and (in_a_row := metrics["skipped_in_a_row"].item()) >= SKIPPED_LIMIT:
            raise Diverged(
                f"{in_a_row} updates in a row had a loss or gradient that is not finite; training stopped near step "
                f"{self.counts.step}. The checkpoints under {str(self.bench.directory.checkpoints)!r} are intact. "
                f"Try a lower train.learning_rate than {self.bench.config.learning_rate:g} in another --run-dir."
            )

    def _log(self, step: int, metrics: Metrics, batch: Batch, write: bool) -> str:
        """Write the step's line; returns what the progress bar shows."""
        row = {name: value.item() for name, value in metrics.items() if name != "skipped_in_a_row"}
        nats = row["loss"] * float(batch.weights.sum())
        row["bits_per_byte"] = bits_per_byte(nats, text_bytes(batch, self.byte_lengths))
        # Updates that were skipped do not move the optimizer's own count.
        row["learning_rate"] = float(self.schedule(step - 1 - row["skipped"]))
        if write:
            self.logs.learned({"step": step, "tokens": self.counts.tokens, **row})
        skipped = f"  {row['skipped']} skipped" if row["skipped"] else ""
        return f"loss {row['loss']:.3f}  {row['bits_per_byte']:.2f} bits/byte{skipped}"

    def _sample(self, state: TrainState) -> str:
        """What the model writes now, at temperature 1; the same for the same seed and step."""
        bench, config = self.bench, self.bench.config
        key = jax.random.fold_in(jax.random.key(config.seed), self.counts.step)
        drawn = stream(self.model, state.params, bench.prompt, SamplingConfig(), key, config.sample_tokens, bench.ends)
        return bench.tokenizer.decode(token for token, _ in drawn if token not in bench.ends)

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


def check_batch_divides(config: TrainConfig, length: int, mesh: Mesh | AbstractMesh, rules: ShardingRules) -> None:
    """Refuse rows of `length` tokens that cannot be split evenly over the devices, and devices with nothing to do."""
    check_used(mesh, rules)
    size, parts = config.batch_size, config.accumulation
    for what, value, pieces, entry in (
        (f"train.batch_size={size} in train.accumulation={parts} parts", size, parts, rules.batch),
        (f"data.sequence_length={length}", length, 1, rules.sequence),
        (f"data.sequence_length={length}", length, 1, rules.residual),
    ):
        devices = devices_along(mesh, entry)
        if value % (pieces * devices):
            raise UserError(
                f"{what} cannot be split over {devices} devices ({' x '.join(entry)}); "
                f"{nearest_multiples(value, pieces * devices)}."
            )


def check_fits(state: TrainState) -> None:
    """Refuse a state that one device cannot hold, before anything is allocated."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.local_devices())
    else:
        available = (device.memory_stats() or {}).get("bytes_limit", 0)
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(state)]
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shards)
    if available and needed > available:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:,.1f} GiB on each device, which has "
            f"{available / 2**30:,.1f} GiB. Take a smaller preset, or split them over more devices with --mesh.fsdp."
        )
