"""Every record of a source, or an error that counts and lists the bad ones: nothing is dropped in silence."""

import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from model.errors import UserError
from train.files import paths_of, text_lines

R = TypeVar("R")
T = TypeVar("T")
LISTED = 5


class BadRecord(Exception):
    """Why a record cannot be used: the field, its value and what is allowed."""


def read_files(spec: str, pattern: str, read: Callable[[Any], list[T]]) -> list[T]:
    """What `read` makes of the JSON on each line of the files that match; blank lines are left out.

    Raises:
        UserError: no file matches, one is empty or binary, there are no records, or `read` raised BadRecord for some.
    """
    return _collect(spec, text_lines(paths_of(spec, pattern)), lambda line: read(_parse(line)))


def read_dataset(spec: str, name: str, records: Sequence[Mapping[str, Any]], read: Callable[[Any], list[T]]) -> list[T]:
    """What `read` makes of each record of a TFDS data source, as JSON would have it.

    So bytes are text, arrays are lists, and a sequence of messages, which TFDS keeps by columns, is a list of them.

    Args:
        name: what to call the data source in errors.

    Raises:
        UserError: there are no records, or `read` raised BadRecord for some.
    """
    numbered = ((f"{name}, record {index}", records[index]) for index in range(len(records)))
    return _collect(spec, numbered, lambda record: read({key: _plain(value, key) for key, value in record.items()}))


def _collect(spec: str, records: Iterable[tuple[str, R]], read: Callable[[R], list[T]]) -> list[T]:
    found: list[T] = []
    bad: list[str] = []
    count = 0
    for where, record in records:
        count += 1
        try:
            found += read(record)
        except BadRecord as error:
            bad.append(f"{where}: {error}")
    if bad:
        listed = "\n".join(f"  {line}" for line in bad[:LISTED])
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise UserError(f"source {spec!r}: {len(bad)} of {count} records cannot be used.\n{listed}{more}")
    if not count:
        raise UserError(f"source {spec!r} holds no records.")
    return found


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON ({error})") from None


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRecord(f"field {name!r} is {reprlib.repr(value)}, not UTF-8") from None
    if isinstance(value, dict):
        columns = {key: _plain(column, name) for key, column in value.items()}
        if not all(isinstance(column, list) for column in columns.values()):
            return columns
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(value, list):
        return [_plain(item, name) for item in value]
    return _plain(value.tolist(), name) if hasattr(value, "tolist") else value
