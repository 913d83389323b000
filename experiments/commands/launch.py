"""`narrador launch N run NAME ...`: one run in N processes on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from experiments.machine import COORDINATOR, LAUNCHED, PROCESS
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

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(count: int, command: Sequence[str]) -> list[subprocess.Popen[str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {COORDINATOR: f"127.0.0.1:{port}", LAUNCHED: str(count)}
    processes = []
    for index in range(count):
        alone = index == 0
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.cli", *command],
            # A process takes one GPU, where there are any.
            env={"JAX_LOCAL_DEVICE_IDS": str(index), **os.environ, **told, PROCESS: str(index)},
            stdin=subprocess.DEVNULL,
            stdout=None if alone else subprocess.PIPE,
            stderr=None if alone else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C on the terminal comes to us, and from us to each of them once
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


def _wait(processes: Sequence[subprocess.Popen[str]]) -> int:
    """Wait for all; when one fails end the others. Returns the first failure's exit code, as a shell counts it."""
    running, failed, until = set(range(len(processes))), 0, float("inf")
    while running:
        time.sleep(0.05)
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
            how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            after = "" if code == 2 else " The same command goes on from the last checkpoint."
            print(
                f"narrador: process {index} of {len(processes)} ended with {how}; the others end too.{after}",
                file=sys.stderr,
                flush=True,
            )
        if time.monotonic() > until:
            for index in running:
                processes[index].kill()
    return failed
