"""Logs of a stage: JSON lines always, TensorBoard on request."""

import json
import math
import os
from pathlib import Path
from typing import Any

from model.errors import UserError
from train.distributed import is_first
from train.run_directory import StageDirectory, whole_lines, write_atomically


class Log:
    """Appends to one JSONL file; on resuming, lines past the checkpoint are cut first. Only process 0 writes it."""

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = [line + "\n" for line in whole_lines(path) if json.loads(line)["step"] <= resume_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(kept))
        self._file = (path if is_first() else Path(os.devnull)).open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """One line, on disk for whoever reads along. JSON has no NaN or infinity: they become null."""
        strict = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps(strict, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Logs:
    """The logs that a training stage writes."""

    def __init__(self, directory: StageDirectory, resume_step: int, tensorboard: bool) -> None:
        self.metrics = Log(directory.log("metrics"), resume_step)
        self.speed = Log(directory.log("speed"), resume_step)
        self.samples = Log(directory.log("samples"), resume_step)
        self._board = _tensorboard(directory.path, resume_step) if tensorboard and is_first() else None

    def learned(self, row: dict[str, Any]) -> None:
        """A line of metrics.jsonl: only what config and seed determine."""
        self.metrics.write(row)
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close every log."""
        for log in (self.metrics, self.speed, self.samples):
            log.close()
        if self._board:
            self._board.close()


def _tensorboard(path: Path, resume_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard needs tensorboardX: pip install 'narrador[tensorboard]'.") from None
    return SummaryWriter(str(path / "tensorboard"), purge_step=resume_step + 1)
