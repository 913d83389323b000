"""Running the command as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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


def narrador(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `narrador ARGUMENTS` in `cwd` to its end."""
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=200, env={**os.environ, **environment}
    )


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kill_when_logged(*arguments: str, cwd: Path, log: str, lines: int) -> None:
    """Run `narrador ARGUMENTS` and kill it (-9) once a log has so many lines."""
    process = subprocess.Popen(command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (cwd / log).exists() or len((cwd / log).read_text().splitlines()) < lines:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()


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
