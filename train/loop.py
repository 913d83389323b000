"""The loop: batches through the step, with all that touches disk, clock, signals and screen."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from model.config import ShardingRules
from model.errors import UserError
from model.sharding import check_used, devices_along, nearest_multiples
from train.batches import Batch, prefetch
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.distributed import process_count
from train.evaluation import evaluate
from train.objective import next_token_loss
from train.optimizer import hyperparameters
from train.progress import bar, say
from train.record import Counts, Diverged, Enough, Record, Workbench
from train.step import TrainState, abstract_state, as_given, batch_sharding, compile_step, init_state, place

# Traced once for all runs of a shape.
_nats = jax.jit(next_token_loss, static_argnames=("model", "vocab_chunk"))


class Interrupted(Exception):
    """The run was asked to stop, and what it had is saved."""


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


def fit(bench: Workbench, stop: StopRequest) -> dict[str, Any]:
    """Train to the last step, continuing from the newest checkpoint.

    All logs of a step are written before its checkpoint, so that a process killed at any moment leaves no checkpoint
    without its lines.

    Returns:
        steps, tokens, seconds, what `evaluate` found last, tokens_per_second, mfu.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        Diverged: updates or the held-out loss stayed not finite.
        Enough: by who watches.
        UserError: the state does not fit, or a checkpoint could not be read or written.
    """
    record, state = begin(bench)
    try:
        Session([record], bench.mesh).run(state, stop)
        return record.result()
    finally:
        record.close()


def begin(bench: Workbench) -> tuple[Record, TrainState]:
    """A run at its newest checkpoint, or before its first step."""
    config = bench.config
    abstract = abstract_state(bench.model, config, bench.mesh, bench.rules)
    check_fits(abstract)
    checkpoints = Checkpoints(bench.directory.checkpoints, keep=config.checkpoints_kept)
    restored = checkpoints.restore(abstract)
    if restored:
        say(f"continuing from step {restored[1]['step']} of {config.steps}.")
        return Record(bench, checkpoints, Counts(**restored[1])), restored[0]
    given = bench.initial(abstract.params) if bench.initial else None
    state = init_state(bench.model, config, bench.mesh, bench.rules)
    if given is not None:
        state = state._replace(params=given)
    return Record(bench, checkpoints, None), state


class Session:
    """One process's turn at a stage of a run. `experiments.lanes` has one of many runs, whose state it lays side by
    side: what a run counts and writes is in a record of its own."""

    def __init__(self, records: Sequence[Record], mesh: Mesh) -> None:
        lead = records[0].bench
        self.records, self.mesh, self.config, self.model = records, mesh, lead.config, as_given(lead.model)
        self.validation, self.sharding = lead.validation, batch_sharding(mesh, lead.rules)
        self.numbers, self.along = hyperparameters(lead.config), NamedSharding(mesh, PartitionSpec())
        self.clock = time.perf_counter()

    def of_each(self, tree: Any) -> list[Any]:
        """A tree of what all runs have, for each run."""
        return [tree]

    def batches(self, start: int) -> Iterator[list[Batch]]:
        """Each step's batch for each run."""
        return ([batch] for batch in prefetch(self.records[0].bench.training, start))

    def place(self, own: Sequence[Batch]) -> Batch:
        """The runs' batches on the mesh."""
        return place(own[0], self.sharding)

    def nats(self, params: Any, batch: Batch) -> Array:
        """Held-out loss, summed over a batch that all runs share."""
        return _nats(self.model, params, batch, vocab_chunk=self.config.vocab_chunk)

    def sample(self, params: Any) -> None:
        """Write each run's sample."""
        for _, record in self._running():
            record.sample(record.say(params))

    def run(self, state: TrainState, stop: StopRequest) -> None:
        """All that is left to do."""
        with jax.set_mesh(self.mesh), suppress(Diverged, Enough):  # noted of every run
            if self.records[0].fresh:
                self.look(state)
            if self.records[0].counts.step < self.config.steps:
                with stop.deferred():
                    self.train(state, stop)
        for record in self.records:
            record.checkpoints.wait()

    def train(self, state: TrainState, stop: StopRequest) -> None:
        """All steps that are left."""
        config, begun = self.config, self.records[0].counts.step
        batches, numbers = self.batches(begun), place(self.numbers, self.along)
        intervals = config.log_every, config.eval_every, config.sample_every, config.checkpoint_every
        say("compiling the training step ...")
        first = self.place([record.bench.training[0] for record in self.records])
        run_step = compile_step(self.model, config, state, first)
        with bar("training", config.steps, done=begun) as advance:
            window_start = self._tick()
            metrics: Mapping[str, Array] | None = None
            for step in range(begun + 1, config.steps + 1):
                own = next(batches)
                before, asked = metrics, stop.agreed(self.mesh)
                state, metrics = run_step(state, self.place(own), numbers)
                self._check_healthy(before)  # waits for the step before, while this one is under way
                stopping = asked()
                if stopping and not stop.received:
                    say("another process was told to stop; the state will be saved ...")
                for record, rows in zip(self.records, own, strict=True):
                    record.stepped(step, rows)
                last = step == config.steps
                if not (last or stopping or any(step % every == 0 for every in intervals)):
                    advance()
                    continue
                self._check_healthy(metrics)
                found, notes = self.of_each(jax.device_get(metrics)), []
                window = self._tick() - window_start
                for index, record in self._running():
                    note = record.log(found[index], own[index], write=last or step % config.log_every == 0)
                    notes.append(f"{note}  {record.log_speed(window)}")
                advance(note=notes[0] + (f"  (of {len(notes)} runs the first)" if notes[1:] else ""))
                self.look(state, last)
                if last or stopping or step % config.checkpoint_every == 0:
                    self._tick()
                    states = self.of_each(state)
                    for index, record in self._running():
                        # While updates fail nothing is saved: what is on disk are the last good checkpoints.
                        if last or stopping or found[index]["skipped_in_a_row"].item() == 0:
                            record.checkpoints.save(states[index], vars(record.counts))
                if stopping and not last:
                    for record in self.records:
                        record.checkpoints.wait()
                    raise Interrupted
                window_start = self._tick()

    def look(self, state: TrainState, last: bool = False) -> None:
        """Evaluate and write a sample where they are due."""
        config, step, sizes = self.config, self.records[0].counts.step, self.records[0].byte_lengths
        if last or step % config.eval_every == 0:
            limit = config.eval_batches and config.eval_batches * config.accumulation  # of parts of batches
            found = self.of_each(evaluate(self.nats, state.params, self.validation, self.sharding, sizes, limit))
            for index, record in self._running():
                record.evaluated(found[index])
        if last or step % config.sample_every == 0:
            self.sample(state.params)

    def _running(self) -> list[tuple[int, Record]]:
        """The runs that go on, with their places; where none does, why not is raised."""
        running = [(index, record) for index, record in enumerate(self.records) if record.over is None]
        if not running and (why := self.records[0].over) is not None:
            raise why
        return running

    def _check_healthy(self, metrics: Mapping[str, Array] | None) -> None:
        """Let the runs rest whose updates keep failing."""
        if metrics is not None:
            in_a_row = np.atleast_1d(metrics["skipped_in_a_row"])
            for index, record in self._running():
                record.check_healthy(int(in_a_row[index]))
        self._running()

    def _tick(self) -> float:
        """Add the time since the last tick to the stage's; returns the time now."""
        now = time.perf_counter()
        for _, record in self._running():
            record.counts.seconds += now - self.clock
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


def memory_of_device() -> int:
    """Bytes that each device may hold; 0 where it does not tell."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.local_devices())
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def check_fits(state: TrainState) -> None:
    """Refuse a state that one device cannot hold, before anything is allocated."""
    available = memory_of_device()
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(state)]
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shards)
    if available and needed > available:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:,.1f} GiB on each device, which has "
            f"{available / 2**30:,.1f} GiB. Take a smaller preset, or split them over more devices with --mesh.fsdp."
        )
