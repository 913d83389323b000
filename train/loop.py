"""The loop: batches through the step, with all that touches disk, clock, signals and screen."""

import math
import operator
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from model.config import MeshConfig, ShardingRules
from model.errors import UserError
from model.sharding import check_used, devices_along, make_mesh, nearest_multiples
from model.transformer import Transformer
from train.batches import Batch, prefetch
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.distributed import process_count
from train.evaluation import evaluate
from train.objective import next_token_loss
from train.optimizer import hyperparameters, learning_rate
from train.progress import bar, say
from train.record import Counts, Diverged, Record, Workbench
from train.step import (
    RUNS,
    TrainState,
    abstract_state,
    as_given,
    batch_sharding,
    compile_step,
    init_state,
    place,
)

WHOLE = ShardingRules(**{axis: () for axis in vars(ShardingRules())})  # nothing is split
# Traced once for all runs of a shape; of runs that train together mapped over their parameters.
_nats = jax.jit(next_token_loss, static_argnames=("model", "vocab_chunk"))


@partial(jax.jit, static_argnames=("model", "vocab_chunk"))
def _nats_of_each(model: Transformer, params: Any, batch: Batch, vocab_chunk: int | None) -> Float[Array, "runs"]:
    loss = partial(next_token_loss, model, batch=batch, vocab_chunk=vocab_chunk)
    return jax.vmap(lambda params: loss(params=params), spmd_axis_name=RUNS)(params)


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
        UserError: the state does not fit, or a checkpoint could not be read or written.
    """
    (outcome,) = fit_together([bench], stop)
    if isinstance(outcome, Diverged):
        raise outcome
    return outcome


def fit_together(benches: Sequence[Workbench], stop: StopRequest) -> list[dict[str, Any] | Diverged]:
    """Train runs that differ in nothing but numbers, seed and directory, each as `fit` does alone.

    Those that stand at the same step train in one program, mapped over their parameters and numbers. Each lies whole on
    one device: the runs are spread over the devices, whatever a bench's mesh says. One that diverges rests from then on
    and leaves the others alone; it is given back as what `fit` would raise.
    """
    if len(benches) > 1:
        benches = [replace(bench, mesh=alone(), rules=WHOLE, model=bench.model.clone(rules=WHOLE)) for bench in benches]
    records, waiting = [], defaultdict(list)
    try:
        for bench in benches:
            record, state = _begin(bench)
            records.append(record)
            waiting[record.counts.step].append((record, state if len(benches) == 1 else jax.device_get(state)))
        for group in waiting.values():
            session = _Session([record for record, _ in group])
            session.run(session.gather([state for _, state in group]), stop)
        return [_outcome(record) for record in records]
    finally:
        for record in records:
            record.close()


def _begin(bench: Workbench) -> tuple[Record, TrainState]:
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


def _outcome(record: Record) -> dict[str, Any] | Diverged:
    try:
        return record.result() if record.diverged is None else record.diverged
    except Diverged as diverged:
        return diverged


def _stack(trees: Sequence[Any]) -> Any:
    """Trees of arrays on the host as one, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class _Session:
    """One process's turn at a stage of one run, or of several at the same step."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records, lead, count = records, records[0].bench, len(records)
        self.config, self.model, self.validation = lead.config, as_given(lead.model), lead.validation
        self.together = count > 1
        self.mesh = lead.mesh
        if self.together:
            spread = max(n for n in range(1, jax.local_device_count() + 1) if count % n == 0)
            self.mesh = make_mesh(MeshConfig(), jax.local_devices()[:spread])
        self.along = NamedSharding(self.mesh, PartitionSpec(*((RUNS,) if self.together else ())))
        self.shared = batch_sharding(self.mesh, lead.rules)
        numbers = [hyperparameters(record.bench.config) for record in records]
        self.numbers = _stack(numbers) if self.together else numbers[0]
        self.schedule = learning_rate(self.config, self.numbers, self.numbers.learning_rate)
        self.loss_of = partial(_nats_of_each if self.together else _nats, self.model)
        self.clock = time.perf_counter()

    def gather(self, states: list[TrainState]) -> TrainState:
        """The runs' states as the step takes them."""
        return place(_stack(states), self.along) if self.together else states[0]

    def scatter(self, tree: Any) -> list[Any]:
        """A tree of what all runs have, for each run."""
        if not self.together:
            return [tree]
        tree, count = jax.device_get(tree), len(self.records)
        return [jax.tree.map(operator.itemgetter(index), tree) for index in range(count)]

    def run(self, state: TrainState, stop: StopRequest) -> None:
        """All that is left to do."""
        with jax.set_mesh(self.mesh):
            if all(record.fresh for record in self.records):
                self.look(state)
            if self.records[0].counts.step < self.config.steps:
                with stop.deferred(), suppress(Diverged):  # noted of every run that did
                    self.train(state, stop)
            for record in self.records:
                record.checkpoints.wait()

    def train(self, state: TrainState, stop: StopRequest) -> None:
        """All steps that are left."""
        config, begun = self.config, self.records[0].counts.step
        batches, numbers = self._batches(begun), place(self.numbers, self.along)
        say("compiling the training step ...")
        first = self._place([record.bench.training[0] for record in self.records])
        run_step = compile_step(self.model, config, state, first)
        with bar("training", config.steps, done=begun) as advance:
            window_start = self._tick()
            metrics: Mapping[str, Array] | None = None
            for step in range(begun + 1, config.steps + 1):
                own = next(batches)
                before, asked = metrics, stop.agreed(self.mesh)
                state, metrics = run_step(state, self._place(own), numbers)
                self._check_healthy(before)  # waits for the step before, while this one is under way
                stopping = asked()
                if stopping and not stop.received:
                    say("another process was told to stop; the state will be saved ...")
                for record, rows in zip(self.records, own, strict=True):
                    record.stepped(step, rows)
                last = step == config.steps
                if not (last or stopping or any(step % every == 0 for every in self._intervals())):
                    advance()
                    continue
                self._check_healthy(metrics)
                found, notes = self.scatter(metrics), []
                # Updates that were skipped do not move the optimizer's own count.
                rates = np.atleast_1d(self.schedule(step - 1 - np.asarray(metrics["skipped"])))
                window = self._tick() - window_start
                for index, record in self._running():
                    write = last or step % config.log_every == 0
                    note = record.log(found[index], own[index], float(rates[index]), write)
                    notes.append(f"{note}  {record.log_speed(window)}")
                advance(note=notes[0] + (f"  (of {len(notes)} runs the first)" if self.together else ""))
                self.look(state, last)
                if last or stopping or step % config.checkpoint_every == 0:
                    self._tick()
                    states = self.scatter(state)
                    for index, record in self._running():
                        # While updates fail nothing is saved: what is on disk are the last good checkpoints.
                        if last or stopping or found[index]["skipped_in_a_row"].item() == 0:
                            record.save(jax.device_put(states[index]) if self.together else states[index])
                if stopping and not last:
                    for record in self.records:
                        record.checkpoints.wait()
                    raise Interrupted
                window_start = self._tick()

    def look(self, state: TrainState, last: bool = False) -> None:
        """Evaluate and write a sample where they are due."""
        config, step, lead = self.config, self.records[0].counts.step, self.records[0]
        if last or step % config.eval_every == 0:
            of_all = evaluate(
                partial(self.loss_of, vocab_chunk=config.vocab_chunk),
                state.params,
                self.validation,
                self.shared,
                lead.byte_lengths,
                config.eval_batches,
            )
            found = self.scatter(of_all)
            for index, record in self._running():
                record.evaluated(found[index])
        if last or step % config.sample_every == 0:
            params = self.scatter(state.params)
            for index, record in self._running():
                record.sample(jax.device_put(params[index]) if self.together else params[index])

    def _batches(self, start: int) -> Iterator[list[Batch]]:
        """Each step's batch for each run; those of the same seed have the same one."""
        seeds = [record.bench.config.seed for record in self.records]
        streams = {
            seed: prefetch(record.bench.training, start) for seed, record in zip(seeds, self.records, strict=True)
        }
        while True:
            drawn = {seed: next(stream) for seed, stream in streams.items()}
            yield [drawn[seed] for seed in seeds]

    def _place(self, own: Sequence[Batch]) -> Batch:
        """The step's batch on the mesh: one for all, or along the axis of runs."""
        if len({record.bench.config.seed for record in self.records}) == 1:
            return place(own[0], self.shared)
        return place(_stack(own), self.along)

    def _running(self) -> list[tuple[int, Record]]:
        return [(index, record) for index, record in enumerate(self.records) if record.diverged is None]

    def _intervals(self) -> tuple[int, ...]:
        config = self.config
        return config.log_every, config.eval_every, config.sample_every, config.checkpoint_every

    def _check_healthy(self, metrics: Mapping[str, Array] | None) -> None:
        """Let the runs rest whose updates keep failing.

        Raises:
            Diverged: none is left.
        """
        if metrics is not None:
            in_a_row = np.atleast_1d(metrics["skipped_in_a_row"])
            for index, record in self._running():
                record.check_healthy(int(in_a_row[index]))
            if not self._running() and self.records[0].diverged is not None:
                raise self.records[0].diverged

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


def alone() -> Mesh:
    """A mesh of one device of this process."""
    return make_mesh(MeshConfig(), jax.local_devices()[:1])


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
