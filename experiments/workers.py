"""Child processes of `narrador` on this machine: many command lines, some at a time, each on its share of the cores.

    with bar("runs", len(commands)) as advance:
        done = run_commands(commands, workers=2, ended=lambda child: advance())
    failed = [child for child in done if child.code]

A command is what stands behind `narrador`, such as ("run", "tiny", "--run-dir", "runs/a"). N workers that share their
work by other means are N times the same command.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from train.progress import say

Process = subprocess.Popen[str]
LINES_KEPT = 20  # of what a child says, shown when it fails
_BY_REQUEST = (130, -signal.SIGINT, -signal.SIGTERM)  # a signal found it before it had anything to save


@dataclass(frozen=True)
class Ended:
    """A child that has ended."""

    command: tuple[str, ...]
    code: int
    """As `subprocess` has it: 0 well, above 0 an error, below 0 the signal that killed it."""
    said: tuple[str, ...]
    """Its last lines on stdout and stderr."""


def run_commands(
    commands: Sequence[Sequence[str]],
    workers: int | None = None,
    ended: Callable[[Ended], None] = lambda child: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Ended]:
    """Run every command in a child process, `workers` at a time, and wait for all.

    What children say is kept back: the caller shows progress. One that fails is reported on stderr, with its last
    lines, and the others go on.

    Args:
        commands: the arguments of `narrador`, for each child.
        workers: how many at a time. None: one for each core.
        ended: called with each child that has ended.
        meanwhile: called some times a second.

    Returns:
        All children in the order in which they ended.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came and was passed on once to each child; all have ended, and no more
            were begun.
    """
    cores = usable_cores()
    count = min(workers or len(cores), len(commands))
    waiting, free = deque(map(tuple, commands)), deque(shares(cores, count))
    running: list[_Child] = []
    done: list[Ended] = []
    with signals_held() as pass_on:
        try:
            stopped = False
            while running or (waiting and not stopped):
                while waiting and free and not stopped:
                    running.append(_Child(waiting.popleft(), free.popleft()))
                time.sleep(0.05)
                stopped = pass_on([child.process for child in running])
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    free.append(child.cores)
                    done.append(child.end())
                    if done[-1].code and not (stopped and done[-1].code in _BY_REQUEST):
                        _report(done[-1])
                    ended(done[-1])
                meanwhile()
        finally:
            for child in running:
                child.process.kill()
    if stopped:
        raise KeyboardInterrupt
    return done


def usable_cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """The cores in `count` shares that differ by one core at most; where there are more shares, one core each."""
    if count > len(cores):
        return [[cores[index % len(cores)]] for index in range(count)]
    return [list(cores[len(cores) * i // count : len(cores) * (i + 1) // count]) for i in range(count)]


def start(command: Sequence[str], environment: Mapping[str, str], **streams: Any) -> Process:
    """Start `narrador COMMAND` apart from the terminal: its signals come to us, and from us to each child once."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        **streams,
    )


@contextmanager
def signals_held() -> Iterator[Callable[[Iterable[Process]], bool]]:
    """Hold Ctrl-C and SIGTERM back while inside.

    Yields `pass_on(children)`, which sends them what came since its last call, and tells whether anything ever did.
    """
    came: list[int] = []
    passed = 0

    def pass_on(children: Iterable[Process]) -> bool:
        nonlocal passed
        new, passed = came[passed:], len(came)
        for child in children:
            for number in new:
                child.send_signal(number)
        return passed > 0

    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield pass_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_ended(code: int) -> str:
    """A failed process's exit code or signal, for people."""
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"


class _Child:
    """A running child, its cores, and the last lines that it said."""

    def __init__(self, command: tuple[str, ...], cores: Sequence[int]) -> None:
        self.command, self.cores = command, list(cores)
        with _on(cores):
            self.process = start(command, _environment(len(cores)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> Ended:
        """What is to say about it once its process has ended."""
        self._reader.join(timeout=5)  # what it started may live on, and hold its stderr open
        return Ended(self.command, self.process.returncode, tuple(self._said))

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._said.extend(line.rstrip("\n") for line in self.process.stdout)


def _environment(threads: int) -> dict[str, str]:
    """What a child is told: XLA's threads, where the system cannot bind it to cores, and that it is not alone."""
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # or the first child would take an accelerator's whole memory
    return {**shared, **os.environ, "PJRT_NPROC": str(threads)}


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Be on these cores while inside, where the system can: children inherit it before they start anything."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _report(child: Ended) -> None:
    lines = "".join(f"\n  | {line}" for line in child.said)
    say(f"narrador: 'narrador {' '.join(child.command)}' ended with {how_ended(child.code)}.{lines}")
