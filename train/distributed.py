"""Several processes as one run: they join, work in turn where only one may, and end together.

All run the same program, each on its own devices; what they compute together passes between them inside compiled
programs. Everything else that they tell each other goes through the coordination service of `jax.distributed`, which
process 0 holds. What people read is written by process 0 alone.
"""

import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn, TypeVar

from model.errors import UserError
from train.mapping import differences
from train.progress import console

HEARTBEAT = 30  # seconds without a sign of life until a process counts as dead
PATIENCE = 24 * 60 * 60 * 1000  # milliseconds to wait for a process that lives: it may be tokenizing a large corpus
GRACE = 2  # seconds in which a process may still end by itself, for the reason that another has already told
ENDED = "narrador/ended"
T = TypeVar("T")


class _Group(NamedTuple):
    client: Any  # of the coordination service
    index: int
    count: int


_group = _Group(None, 0, 1)
_turns = itertools.count()  # all processes meet in the same order, so that a number names a meeting
_ending = threading.Lock()


def process_index() -> int:
    """The number of this process among `process_count`; unlike JAX's own this touches no device."""
    return _group.index


def process_count() -> int:
    """How many processes work on the run."""
    return _group.count


def is_first() -> bool:
    """Whether this is process 0, which writes what people read."""
    return _group.index == 0


@contextmanager
def joined(coordinator: str | None, processes: int | None, process: int | None, wait: int) -> Iterator[None]:
    """Be one of several processes while inside; call before anything touches a device.

    However one of them ends, all end, with its exit code: an error inside is told to the others, and a process that
    dies without a word is missed after `HEARTBEAT` seconds.

    Args:
        coordinator: HOST:PORT where process 0 listens. None, as the others: as the cluster says (SLURM, Open MPI,
            Cloud TPU, GKE).
        processes: how many there are.
        process: the number of this one.
        wait: seconds until all must have come.

    Raises:
        UserError: there is no cluster to ask, or process 0 cannot listen.
    """
    global _group
    import jax
    from jax._src.distributed import global_state  # the client has no public name; Orbax takes it from here too

    jax.config.update("jax_enable_preemption_service", False)  # signals are `StopRequest`'s
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    by_hand = None not in (coordinator, processes, process)

    def give_up() -> None:
        address = global_state.coordinator_address or coordinator or "the cluster's coordinator"
        count = global_state.num_processes if process == 0 or not by_hand else processes
        print(
            f"narrador: after {wait} s not all of the {count} processes have met at {address}. Is process 0 running, "
            "can its address be reached from here, and have all others been started?",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    late = threading.Timer(wait, give_up)  # JAX's own time limit ends the process with a stack trace
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method="deactivate" if by_hand else None,
            initialization_timeout=wait + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed finds no cluster here ({error}) Give --coordinator HOST:PORT --processes N --process I, "
            "or start all processes on this machine with 'narrador launch N run ...'."
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {process} cannot join the others at {coordinator} ({reason}).") from None
    finally:
        late.cancel()
    _group = _Group(global_state.client, global_state.process_id, global_state.num_processes)
    console.quiet = not is_first()
    threading.Thread(target=_watch, daemon=True).start()
    try:
        yield
        barrier()
    except UserError as error:
        print(f"narrador: {error}", file=sys.stderr, flush=True)
        end_all(2, str(error))
    except KeyboardInterrupt:
        end_all(130, "it was stopped.")
    except BaseException as error:
        traceback.print_exc()
        end_all(1, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    with _ending:
        jax.distributed.shutdown()
        _group = _Group(None, 0, 1)


def end_all(code: int, reason: str) -> NoReturn:
    """End every process with this exit code; the others say that it is for this one's reason."""
    with _ending:
        _end(code, reason)


def _end(code: int, reason: str) -> NoReturn:
    with suppress(Exception):  # another has told its reason before
        _group.client.key_value_set(ENDED, json.dumps([_group.index, code, reason]))
    with suppress(Exception):  # some may be dead
        _group.client.wait_at_barrier("narrador/end", 10_000)
    if is_first():
        time.sleep(1)  # the others would take an end of the service for a crash
    sys.stdout.flush()
    sys.stderr.flush()
    # What an orderly exit waits for, the others' shutdown and their part in collectives, does not come any more.
    os._exit(code)


def _watch() -> None:
    """End this process when another has told that it ends: the main thread may wait for it in a collective."""
    while (client := _group.client) is not None:
        time.sleep(0.5)
        with suppress(Exception):  # not found: all is well
            process, code, reason = json.loads(client.key_value_try_get(ENDED))
            time.sleep(GRACE)
            with _ending:
                print(f"narrador: process {process} ended: {reason}", file=sys.stderr, flush=True)
                _end(code, reason)


def barrier() -> None:
    """Wait until all processes are here."""
    if _group.client is not None:
        _group.client.wait_at_barrier(f"narrador/{next(_turns)}", PATIENCE)


@contextmanager
def in_turn() -> Iterator[None]:
    """Inside, process 0 works first and the others after it: what it prepared on the shared disk, they find."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in process 0, in all processes; something that JSON can say."""
    if _group.client is None:
        return make()
    key = f"narrador/{next(_turns)}"
    if is_first():
        value = make()
        _group.client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(_group.client.blocking_key_value_get(key, PATIENCE))


def check_same(what: Mapping[str, Any]) -> None:
    """Refuse to work together if `what`, which JSON can say, is not the same in all processes.

    Raises:
        UserError: in every process; it names the processes and what differs.
    """
    own = json.loads(json.dumps(what))
    first = from_first(lambda: own)
    if _group.client is None:
        return
    place = f"narrador/{next(_turns)}/"
    if changed := differences(first, own):
        lines = [f"  {key}: {old!r} in process 0, {new!r} in process {_group.index}" for key, old, new in changed]
        _group.client.key_value_set(f"{place}{_group.index}", "\n".join(lines))
    barrier()
    if told := _group.client.key_value_dir_get(place):
        lines = "\n".join(text for _, text in told).splitlines()
        raise UserError("the processes differ; nothing was changed.\n" + "\n".join(lines[:20]))
