"""Joining the processes of a run: they meet, are found to be the same, and end together."""

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from experiments.cli import is_the_systems
from model.errors import UserError
from train.distributed import Group, barrier, from_first, group, is_first, join, meeting
from train.mapping import differences
from train.progress import console

HEARTBEAT = 30  # seconds without a sign of life until a process counts as dead
GRACE = 2  # seconds in which a process may still end by itself, for the reason that another has already told
ENDED = "narrador/ended"
_LOST = re.compile("Gloo|NCCL|[Cc]oordination ?[Ss]ervice")  # who speaks when a collective breaks off
_ending = threading.Lock()


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
    import jax
    from jax._src.distributed import global_state  # the client has no public name; Orbax takes it from here too

    jax.config.update("jax_enable_preemption_service", False)  # signals are `StopRequest`'s
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    by_hand = None not in (coordinator, processes, process)

    def give_up() -> None:
        address = global_state.coordinator_address or coordinator or "the cluster's coordinator"
        print(
            f"narrador: after {wait} s the processes have not all met at {address}. Is process 0 running, can its "
            "address be reached from here, and have the others been started?",
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
            shutdown_timeout_seconds=2 * HEARTBEAT,
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
    join(Group(global_state.client, global_state.process_id, global_state.num_processes))
    console.quiet = not is_first()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
        barrier()
    except KeyboardInterrupt:
        end_all(130, "it was stopped.")
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if _LOST.search(f"{error} {error.__cause__}"):
            told = (
                f"process {group().process} lost another in the middle of a computation ({told}). Start all of them "
                "again to go on from the last checkpoint."
            )
        elif isinstance(error, UserError) or is_the_systems(error):
            told = str(error)
        else:
            traceback.print_exc()
        print(f"narrador: {told}", file=sys.stderr, flush=True)
        end_all(2 if told == str(error) else 1, told)
    done.set()
    watcher.join()  # one that is inside the service's client when Python ends would abort the process
    with _ending:
        jax.distributed.shutdown()


def end_all(code: int, reason: str) -> NoReturn:
    """End every process with this exit code; the others say that it is for this one's reason."""
    with _ending:
        _end(code, reason)


def _end(code: int, reason: str) -> NoReturn:
    client, process, _ = group()
    with suppress(Exception):  # another has told its reason before
        client.key_value_set(ENDED, json.dumps([process, code, reason]))
    with suppress(Exception):  # some may be dead
        client.wait_at_barrier("narrador/end", 10_000)
    if is_first():
        time.sleep(1)  # the others would take an end of the service for a crash
    sys.stdout.flush()
    sys.stderr.flush()
    # What an orderly exit waits for, the others' shutdown and their part in collectives, does not come any more.
    os._exit(code)


def _watch(done: threading.Event) -> None:
    """End this process when another has told that it ends: the main thread may wait for it in a collective."""
    while not done.wait(0.5):
        with suppress(Exception):  # not found: all is well
            process, code, reason = json.loads(group().client.key_value_try_get(ENDED))
            time.sleep(GRACE)
            with _ending:
                print(f"narrador: process {process} ended: {reason}", file=sys.stderr, flush=True)
                _end(code, reason)


def check_same(what: Mapping[str, Any]) -> None:
    """Refuse to work together if `what`, which JSON can say, is not the same in all processes.

    Raises:
        UserError: in every process; it names the processes and what differs.
    """
    client, process, _ = group()
    own = json.loads(json.dumps(what))
    changed, place = differences(from_first(lambda: own), own), f"{meeting()}/"
    if changed:
        lines = [f"  {key}: {old!r} in process 0, {new!r} in process {process}" for key, old, new in changed]
        client.key_value_set(f"{place}{process}", "\n".join(lines))
    barrier()
    if told := client.key_value_dir_get(place):
        lines = "\n".join(text for _, text in told).splitlines()
        raise UserError("the processes differ; nothing was changed.\n" + "\n".join(lines[:20]))
