"""The loop of a stage that is not next-token training: steps with logs and checkpoints, resumed to the bit."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from model.errors import UserError
from train.checkpoint import Checkpoints
from train.loop import Interrupted, StopRequest
from train.metrics import Logs
from train.progress import bar, say
from train.run_directory import StageDirectory


class Step(NamedTuple):
    """What one step came to."""

    state: Any
    metrics: dict[str, float]
    """For metrics.jsonl: only what config and seed determine."""
    samples: dict[str, Any] | None = None
    """For samples.jsonl, where the step has some to show."""
    note: str = ""
    """For the progress bar."""


def run_stage(
    name: str,
    directory: StageDirectory,
    state: Any,
    steps: int,
    take_step: Callable[[Any, int], Step],
    stop: StopRequest,
    checkpoint_every: int,
    log_every: int = 1,
) -> tuple[Any, float]:
    """Take steps 1 to `steps`, from the newest checkpoint if there is one.

    Args:
        state: a named tuple with `step` and `params`, as it is before step 1.
        take_step: the state before step n and n, to what comes of it; a pure function of both.

    Returns:
        The last state, and the seconds spent over all sessions.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        UserError: a metric is not finite; the newest checkpoint is from before.
    """
    checkpoints = Checkpoints(directory.checkpoints, keep=2)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    restored = checkpoints.restore(abstract)
    seconds, done = 0.0, 0
    if restored:
        state, meta = restored
        seconds, done = meta["seconds"], int(state.step)
        say(f"{name}: continuing from step {done} of {steps}.")
    logs = Logs(directory, done if restored else -1, tensorboard=False)
    start = time.perf_counter()

    def save() -> None:
        checkpoints.save(state, {"seconds": seconds + time.perf_counter() - start})

    try:
        with stop.deferred(), bar(name, steps, done=done) as advance:
            for step in range(done + 1, steps + 1):
                begun = time.perf_counter()
                taken = take_step(state, step)
                if wrong := [metric for metric, value in taken.metrics.items() if not math.isfinite(value)]:
                    raise UserError(
                        f"{name}: {', '.join(wrong)} of step {step} are not finite; nothing was kept of it."
                    )
                state = taken.state
                if step % log_every == 0 or step == steps:
                    logs.learned({"step": step, **taken.metrics})
                    logs.speed.write({"step": step, "seconds": time.perf_counter() - begun})
                if taken.samples:
                    logs.samples.write({"step": step, **taken.samples})
                advance(note=taken.note)
                stopping = stop.received
                if stopping or step % checkpoint_every == 0 or step == steps:
                    save()
                if stopping:
                    break
        checkpoints.wait()
        if stop.received:  # in the last step too: what comes after it is for the next time
            raise Interrupted
    finally:
        logs.close()
        checkpoints.close()
    return state, seconds + time.perf_counter() - start
