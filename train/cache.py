"""What is computed once and kept: under $NARRADOR_CACHE, else ~/.cache/narrador."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """The folder of everything cached; deleting it loses nothing but time."""
    chosen = os.environ.get("NARRADOR_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "narrador"


def build_once(target: Path, build: Callable[[Path], None]) -> None:
    """Make the folder `target` with `build` unless it exists; it appears whole or not at all.

    Two processes may build the same at once: the first to finish wins, and the other drops its copy.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        build(scratch)
        try:
            os.replace(scratch, target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
