"""Frozen dataclasses to plain mappings and back, with errors that name the key."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from model.errors import UserError

T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts of YAML's own types."""
    return dataclasses.asdict(config, dict_factory=lambda items: {k: _plain(v) for k, v in items})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """The dataclass `cls` that `mapping` describes; keys that are missing take the defaults.

    Args:
        where: what to call the mapping in errors, such as a file's name.

    Raises:
        UserError: an unknown key (with the nearest known one), a wrong type, or a value that `cls` refuses.
    """
    import pydantic

    _check_keys(cls, mapping, where, ())
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(mapping), strict=False)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {key}={first['input']!r}: {first['msg']}.") from None


def _check_keys(cls: type, mapping: Any, where: str, path: tuple[str, ...]) -> None:
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: {'.'.join(path) or 'the file'} must hold keys and values, not {mapping!r}.")
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
    for key, value in mapping.items():
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f" Did you mean {'.'.join((*path, nearest[0]))!r}?" if nearest else f" Known: {', '.join(fields)}."
            raise UserError(f"{where}: unknown key {'.'.join((*path, str(key)))!r}.{hint}")
        if isinstance(value, bool) and fields[key] is not bool:
            raise UserError(
                f"{where}: {'.'.join((*path, str(key)))}={value!r} is a truth value, which it does not take."
            )
        if dataclasses.is_dataclass(fields[key]):
            _check_keys(fields[key], value, where, (*path, key))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """Keys on which two nested mappings differ, with both values; None stands for a key that one lacks."""
    found = []
    for key in [*a, *(key for key in b if key not in a)]:
        left, right, name = a.get(key), b.get(key), f"{path}{key}"
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{name}.")
        elif left != right:
            found.append((name, left, right))
    return found
