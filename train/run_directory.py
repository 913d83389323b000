"""The folder that holds everything about a run, and how it is read.

RUN/config.yaml          the whole config          RUN/report.md, report.html, pictures/
RUN/environment.json     versions, revision        RUN/tokenizer.json
RUN/STAGE/metrics.jsonl  what was learned: a function of config and seed alone
RUN/STAGE/speed.jsonl    how fast: another on every machine
RUN/STAGE/samples.jsonl, checkpoints/, result.json (once the stage is complete)
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from model.errors import UserError
from train.mapping import differences


class StageDirectory:
    """One stage's part of a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._result = path / "result.json"

    def log(self, name: str) -> Path:
        """The path of `metrics`, `speed` or `samples`."""
        return self.path / f"{name}.jsonl"

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All whole lines of a log."""
        return read_jsonl(self.log(name))

    @property
    def result(self) -> dict[str, Any] | None:
        """What the stage came to, or None while it is not complete."""
        return json.loads(self._result.read_text()) if self._result.exists() else None

    def complete(self, result: Mapping[str, Any]) -> None:
        """Mark the stage complete."""
        write_atomically(self._result, json.dumps(dict(result), indent=2) + "\n")


class RunDirectory:
    """A run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.tokenizer_path = path / "tokenizer.json"
        self.environment_path = path / "environment.json"

    def stage(self, name: str) -> StageDirectory:
        """The folder of one stage."""
        return StageDirectory(self.path / name)

    def stages(self) -> list[str]:
        """Names of the stages that have begun, oldest first."""
        found = [child for child in self.path.iterdir() if (child / "metrics.jsonl").exists()]
        return [child.name for child in sorted(found, key=lambda child: child.stat().st_ctime)]

    def config(self) -> dict[str, Any]:
        """The config as a mapping.

        Raises:
            UserError: the folder holds no run.
        """
        if not self.config_path.exists():
            raise UserError(f"{str(self.path)!r} holds no run (no {self.config_path.name} in it).")
        return yaml.safe_load(self.config_path.read_text())

    def claim(self, config: Mapping[str, Any]) -> None:
        """Take an empty folder for `config`, or find that it already holds the same one.

        Raises:
            UserError: it holds another config (the differences are shown), or things that are no run.
        """
        if self.config_path.exists():
            changed = differences(self.config(), config)
            if changed:
                lines = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in changed)
                raise UserError(
                    f"{str(self.path)!r} holds a run with another config; nothing was changed.\n{lines}\n"
                    "Choose another folder with --run-dir, or delete that one."
                )
            return
        strangers = [child.name for child in self.path.iterdir() if not child.name.startswith(".")]
        if strangers:
            raise UserError(f"{str(self.path)!r} is not empty and holds no run: {', '.join(sorted(strangers)[:5])}.")
        write_atomically(self.config_path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other processes; the system lets go when the process ends, however it ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{str(self.path)!r} is a file, not a folder for a run.") from None
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise UserError(f"{str(self.path)!r} is in use by another process (pid {owner}).") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one at every moment."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]
