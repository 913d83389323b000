"""Running the command as a user does: in a process of its own.

Most are forked from one that has imported everything and begun nothing: imports are half of what a short run takes.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["experiments.commands.run", "experiments.report", "experiments.stages.alignment"])

# A run of seconds on any machine. The text is a pattern that a model of this size can learn.
TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(40) for b in range(40))
SMALL = """
base: char
model: {layers: 2, width: 32, heads: 2, mlp_width: 64, context_length: 32}
data: {sequence_length: 32}
train: {steps: 40, batch_size: 4, log_every: 5, eval_every: 20, eval_batches: 2, sample_every: 20, sample_tokens: 8,
        checkpoint_every: 10, warmup_steps: 5}
"""


def command(*arguments: str) -> list[str]:
    """The command line of `narrador ARGUMENTS`."""
    return [sys.executable, "-m", "experiments.cli", *arguments]


def narrador(*arguments: str, cwd: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `narrador ARGUMENTS` in `cwd` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("in", "out", "err")]
        streams[0].write_text(stdin)
        process = begin(arguments, cwd, streams, environment)
        process.join(timeout=200)
        if process.exitcode is None:
            process.kill()
            process.join()
        said = [stream.read_text() if stream.exists() else "" for stream in streams[1:]]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


NOWHERE = [Path(os.devnull)] * 3


def begin(arguments: Sequence[str], cwd: Path, streams: Sequence[Path], environment: Mapping[str, str] = {}) -> Any:
    """Start it, with files as its standard streams; a process as `multiprocessing` has it."""
    process = FORKS.Process(target=_become, args=(arguments, cwd, streams, {**os.environ, **environment}))
    process.start()
    return process


def _become(arguments: Sequence[str], cwd: Path, streams: Sequence[Path], environment: dict[str, str]) -> None:
    """Be `narrador ARGUMENTS`, in a process that was just forked."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = ["narrador", *arguments]
    from experiments import cli

    sys.exit(cli.main(arguments))


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kill_when_logged(*arguments: str, cwd: Path, log: str, lines: int) -> None:
    """Run `narrador ARGUMENTS` and kill it (-9) once a log has so many lines."""
    process = begin(arguments, cwd, NOWHERE)
    deadline = time.monotonic() + 200
    while not (cwd / log).exists() or len((cwd / log).read_text().splitlines()) < lines:
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()


def write_small(folder: Path) -> None:
    """Put small.yaml and text.txt there."""
    (folder / "small.yaml").write_text(SMALL)
    (folder / "text.txt").write_text(TEXT)


# Where only what is done with many runs is looked at.
LEAST = """
base: char
model: {layers: 1, width: 16, heads: 1, mlp_width: 32, context_length: 32}
tokenizer: {kind: char}
data: {sources: ["text:text.txt"], sequence_length: 32}
train: {steps: 4, batch_size: 4, log_every: 5, eval_every: 20, eval_batches: 1, sample_tokens: 0, warmup_steps: 2}
"""


RUN = ("run", "small.yaml", "--data", "text:text.txt")
