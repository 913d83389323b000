"""Files of a user's: found by pattern, decoded, told apart by content."""

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path

from model.errors import UserError
from train.progress import say


def paths_of(spec: str, pattern: str) -> list[Path]:
    """The text files that match a pattern, in order.

    Raises:
        UserError: there is none, or one is empty or binary.
    """
    matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
    paths = [path for path in map(Path, matches) if path.is_file()]
    if not paths:
        raise UserError(f"source {spec!r}: no file matches {pattern!r}.")
    for path in paths:
        if path.stat().st_size == 0:
            raise UserError(f"source {spec!r}: {str(path)!r} is empty.")
        with path.open("rb") as file:
            if b"\0" in file.read(1 << 16):
                raise UserError(f"source {spec!r}: {str(path)!r} is binary (it holds NUL bytes), not text.")
    return paths


def decode(data: bytes) -> tuple[str, int]:
    """Text without a byte-order mark, and how many bytes were no UTF-8 and became U+FFFD."""
    try:
        return data.decode("utf-8-sig"), 0
    except UnicodeDecodeError:
        escaped = data.decode("utf-8", errors="surrogateescape")
        return data.decode("utf-8-sig", errors="replace"), sum("\udc80" <= char <= "\udcff" for char in escaped)


def tell_invalid(path: Path, count: int) -> None:
    """Tell of bytes that were replaced."""
    if count:
        say(f"{path}: {count} bytes are not UTF-8; they are replaced by U+FFFD.")


def hash_files(paths: list[Path]) -> str:
    """What changes whenever the content of one of the files does."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def hash_text(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def text_lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """The lines of text files that are not blank, each with the place it stands at."""
    for path in paths:
        invalid = 0
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                line, replaced = decode(data)
                invalid += replaced
                if line.strip():
                    yield f"{path}, line {number}", line
        tell_invalid(path, invalid)
