"""The folder that holds everything about a run, and how it is read.

RUN/config.yaml          the whole config          RUN/report.md, report.html, pictures/
RUN/environment.json     versions, revision        RUN/tokenizer.json, chat_template.jinja (once a chat is learned)
RUN/STAGE/metrics.jsonl  what was learned: a function of config and seed alone
RUN/STAGE/speed.jsonl    how fast: another on every machine
RUN/STAGE/samples.jsonl, checkpoints/, result.json (once the stage is complete)
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml

from model.errors import UserError
from train.distributed import from_first, is_first, process_index
from train.mapping import differences

STAGE_BEFORE = {
    "pretrain": None,
    "sft": "pretrain",
    "reward": "sft",
    "ppo": "reward",
    "grpo": "reward",
    "dpo": "sft",
    "compare": "ppo",
}
"""What each stage begins with."""
STAGE_NAMES = tuple(STAGE_BEFORE)
_WHERE = re.compile(r"(mesh|sharding)\..*|(sft\.)?train\.cpu_devices")  # where a run works, not what it learns
Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class InUse(UserError):
    """Another process holds the folder."""


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
        try:
            return json.loads(self._result.read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # cut short by a power failure: as good as none
            return None

    def complete(self, result: Mapping[str, Any]) -> None:
        """Mark the stage complete."""
        self.path.mkdir(parents=True, exist_ok=True)  # a stage that trains nothing has written nothing so far
        write_atomically(self._result, json.dumps(dict(result), indent=2) + "\n")


class RunDirectory:
    """A run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.tokenizer_path = path / "tokenizer.json"
        self.chat_template_path = path / "chat_template.jinja"
        self.data_path = path / "data.json"
        self.rankings_path = path / "rankings.jsonl"
        self.environment_path = path / "environment.json"

    def stage(self, name: str) -> StageDirectory:
        """The folder of one stage."""
        return StageDirectory(self.path / name)

    def stages(self) -> list[str]:
        """Names of the stages that have begun, in their order."""
        return [name for name in STAGE_NAMES if (self.path / name / "metrics.jsonl").exists()]

    def completed(self, name: str) -> dict[str, Any]:
        """What a complete stage came to.

        Raises:
            UserError: it is not complete, or the folder holds no run.
        """
        self.config()
        if (result := self.stage(name).result) is None:
            raise UserError(f"stage {name!r} of {str(self.path)!r} is not complete.")
        return result

    def config(self) -> dict[str, Any]:
        """The config as a mapping.

        Raises:
            UserError: the folder holds no run.
        """
        if not self.config_path.exists():
            raise UserError(f"{str(self.path)!r} holds no run (no {self.config_path.name} in it).")
        config = None
        with suppress(yaml.YAMLError, ValueError):
            config = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise UserError(f"{str(self.config_path)!r} is damaged: it holds no config.")
        return config

    def claim(self, config: Mapping[str, Any], complete: Complete = dict) -> None:
        """Take the folder for `config`, or find that it already holds a run of the same one.

        A folder in which no stage has begun holds nothing to lose, and is taken anew. The devices that a run works on
        may change from one session to the next.

        Args:
            complete: gives a config of an older version the fields that it does not know, at their defaults.

        Raises:
            UserError: it holds a run of another config; the differences are shown.
        """
        if self.stages():
            found = differences(complete(self.config()), config)
            if changed := [difference for difference in found if not _WHERE.fullmatch(difference[0])]:
                lines = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in changed)
                raise UserError(
                    f"{str(self.path)!r} holds a run with another config; nothing was changed.\n{lines}\n"
                    "Choose another folder with --run-dir, or delete that one."
                )
            if not found:
                return
        elif is_first():
            for path in (self.tokenizer_path, self.chat_template_path, self.data_path, self.rankings_path):
                path.unlink(missing_ok=True)
        write_atomically(self.config_path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def claim_data(self, keys: Mapping[str, str]) -> None:
        """Note which text the run learns from, or find that it is still the same.

        Args:
            keys: by source, a key that changes with its text.

        Raises:
            UserError: a source's text has changed since the run began.
        """
        if not self.data_path.exists():
            write_atomically(self.data_path, json.dumps(dict(keys), indent=2) + "\n")
            return
        before = json.loads(self.data_path.read_text())
        changed = [spec for spec, key in keys.items() if before.get(spec, key) != key]
        if changed:
            raise UserError(
                f"{str(self.path)!r} was begun on other text: {', '.join(changed)} changed since. Nothing was changed; "
                "bring the text back, or begin another run with --run-dir."
            )
        if not keys.keys() <= before.keys():  # a later stage reads more
            write_atomically(self.data_path, json.dumps({**before, **keys}, indent=2) + "\n")

    def add_session(self, session: Mapping[str, Any]) -> None:
        """Add to environment.json how this process came to work on the run."""
        sessions = self.sessions() if self.stages() else []
        write_atomically(self.environment_path, json.dumps([*sessions, dict(session)], indent=2) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """How each process that trained came to: versions, revision, devices, command."""
        return json.loads(self.environment_path.read_text()) if self.environment_path.exists() else []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other runs; the system lets go when the process ends, however it ends.

        Of several processes the first holds it for all.

        Raises:
            InUse: another run holds it.
            UserError: it is no folder for a run, or the processes do not see the same one.
        """
        with self._held() if is_first() else nullcontext():
            if (owner := from_first(self._owner)) != self._owner():
                raise UserError(
                    f"process {process_index()} sees another {str(self.path)!r} than process 0 (pid {owner}); a run of "
                    "several processes needs a folder on a disk that all of them share."
                )
            yield

    def _owner(self) -> str:
        """The process that holds the folder, or held it last."""
        lock = self.path / ".lock"
        return lock.read_text().strip() if lock.exists() else ""

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{str(self.path)!r} is a file, not a folder for a run.") from None
        strangers = [] if self.config_path.exists() else sorted(child.name for child in self.path.iterdir())
        if any(name != ".lock" and not name.startswith(f".{self.config_path.name}.") for name in strangers):
            raise UserError(f"{str(self.path)!r} is not empty and holds no run: {', '.join(strangers[:5])}.")
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = self._owner() or "unknown"
                raise InUse(f"{str(self.path)!r} is in use by another process (pid {owner}).") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            os.fsync(file.fileno())  # for other machines to read
            yield


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is either the old one or the new one at every moment; text as UTF-8.

    Of several processes only the first writes: the others would write the same.
    """
    if not is_first():
        return
    raw = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def whole_lines(path: Path) -> list[str]:
    """The lines of a log, none if there is no file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    return lines


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, parsed."""
    return [json.loads(line) for line in whole_lines(path)]
