"""`narrador launch N run NAME ...`: one run in N processes on this machine."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from experiments.machine import COORDINATOR, LAUNCHED, PROCESS
from experiments.workers import Process, how_ended, signals_held, start
from model.errors import UserError

USAGE = """usage: narrador launch N run NAME|FILE ...

Starts N processes of 'narrador run NAME|FILE ...' on this machine, which train together. Process 0 talks as if it
were alone; what the others say goes to stderr behind their number. When one dies all end."""
GRACE = 20  # seconds in which processes that one has left with an error may end by themselves


def main(argv: Sequence[str]) -> int:
    """Start the processes and wait for them; returns the exit code of the first that failed."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if len(argv) < 2 or argv[1] != "run":
        raise UserError(f"say how many processes, and what they run.\n{USAGE}")
    count, command = argv[0], argv[1:]
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"{count!r} processes cannot be; N must be a number from 1 on.")
    processes = _start(int(count), command)
    with signals_held() as pass_on:
        try:
            return _wait(processes, pass_on)
        finally:
            for process in processes:
                process.kill()


def _start(count: int, command: Sequence[str]) -> list[Process]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {COORDINATOR: f"127.0.0.1:{port}", LAUNCHED: str(count)}
    processes = []
    for index in range(count):
        alone = index == 0
        process = start(
            command,
            # A process takes one GPU, where there are any.
            {"JAX_LOCAL_DEVICE_IDS": str(index), **os.environ, **told, PROCESS: str(index)},
            stdout=None if alone else subprocess.PIPE,
            stderr=None if alone else subprocess.STDOUT,
        )
        processes.append(process)
        if process.stdout is not None:
            threading.Thread(target=_pass_on, args=(process.stdout, index), daemon=True).start()
    return processes


def _pass_on(lines: IO[str], index: int) -> None:
    """A process's lines, behind its number; not those of Gloo's, which tell of every group of devices that it meets."""
    for line in lines:
        if not line.startswith("[Gloo]"):
            print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def _wait(processes: Sequence[Process], pass_on: Callable[[Iterable[Process]], bool]) -> int:
    """Wait for all; when one fails end the others. Returns the first failure's exit code, as a shell counts it."""
    running, failed, until = set(range(len(processes))), 0, float("inf")
    while running:
        time.sleep(0.05)
        pass_on(processes)
        for index in sorted(running):
            code = processes[index].poll()
            if code is None:
                continue
            running.remove(index)
            if code == 0 or failed:
                continue
            failed = code if code > 0 else 128 - code
            # The others hear of an error that a process could still tell, and end with it.
            until = time.monotonic() + (GRACE if code > 0 else 0)
            after = "" if code == 2 else " The same command goes on from the last checkpoint."
            said = f"process {index} of {len(processes)} ended with {how_ended(code)}; the others end too.{after}"
            print(f"narrador: {said}", file=sys.stderr, flush=True)
        if time.monotonic() > until:
            for index in running:
                processes[index].kill()
    return failed
