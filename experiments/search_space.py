"""What a sweep varies: paths of an experiment's config, and the values that each may take.

    train.learning-rate=log:1e-4:1e-2       between the two, evenly in the logarithm
    train.weight-decay=lin:0:0.2            between the two, evenly
    model.width=int:64:256:64               every 64th whole number; without the last part every one
    train.schedule=choice:cosine,wsd        one of them, by commas

A grid needs points: log:1e-4:1e-2:5 and lin:0:0.2:5 are five, both ends included.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args, get_origin

from experiments.config import Experiment
from model.errors import UserError, unknown
from train.mapping import from_mapping, to_mapping

KINDS = ("log", "lin", "int", "choice")
GRID_LIMIT = 100_000  # cells
# What the held-out losses of all trials are measured on stays the same, or they could not be compared.
FIXED = ("data.sources", "data.weights", "data.validation_fraction", "train.eval_batches")
Value = float | int | str | bool | None


class Range(NamedTuple):
    """The values that one parameter may take."""

    kind: Literal["log", "lin", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    step: int = 1
    """Of `int`."""
    points: int | None = None
    """Of `log` and `lin` on a grid."""
    choices: tuple[Value, ...] = ()

    def __str__(self) -> str:
        """As the command line takes it."""
        if self.kind == "choice":
            return "choice:" + ",".join("none" if value is None else str(value) for value in self.choices)
        last = {"int": self.step if self.step > 1 else None}.get(self.kind, self.points)
        return ":".join([self.kind, str(self.low), str(self.high), *([str(last)] if last else [])])

    def cells(self) -> list[Value]:
        """All values, where they can be counted."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "int":
            return list(range(int(self.low), int(self.high) + 1, self.step))
        assert self.points is not None
        shares = [index / (self.points - 1) for index in range(self.points)] if self.points > 1 else [0.0]
        if self.kind == "lin":
            between = [self.low + share * (self.high - self.low) for share in shares]
        else:
            between = [self.low * (self.high / self.low) ** share for share in shares]
        return [min(max(value, self.low), self.high) for value in between]  # rounding may pass an end


Space = Mapping[str, Range]
"""By the parameter's path, such as train.learning_rate."""


def parse_space(params: Sequence[str], sampler: str) -> dict[str, Range]:
    """The ranges of --param PATH=RANGE.

    Raises:
        UserError: no such parameter, one that is named twice, or a range that cannot be.
    """
    if not params:
        raise UserError("a sweep needs something to vary, such as --param train.learning-rate=log:1e-4:1e-2.")
    space: dict[str, Range] = {}
    for param in params:
        written, found, text = param.partition("=")
        if not found:
            raise UserError(f"--param {param!r} must be PATH=RANGE, such as train.learning-rate=log:1e-4:1e-2.")
        path = written.strip().replace("-", "_")
        kind = _field_type(path)
        if path in space:
            raise UserError(f"--param {path} is given twice.")
        space[path] = _parse_range(f"--param {param}", path, text.strip(), kind, sampler)
    if sampler == "grid" and (count := math.prod(len(values.cells()) for values in space.values())) > GRID_LIMIT:
        raise UserError(f"the grid has {count:,} cells; more than {GRID_LIMIT:,} are too many to list.")
    return space


def grid(space: Space) -> list[dict[str, Value]]:
    """Every cell of a grid."""
    return [dict(zip(space, cell, strict=True)) for cell in itertools.product(*(r.cells() for r in space.values()))]


def with_values(experiment: Experiment, values: Mapping[str, Value], where: str) -> Experiment:
    """The experiment with other values at these paths.

    Raises:
        UserError: it cannot be.
    """
    mapping = to_mapping(experiment)
    for path, value in values.items():
        section, name = path.split(".")
        mapping[section][name] = value
    changed = from_mapping(Experiment, mapping, where)
    if changed.train.eval_batches is not None:
        # As many tokens as before, or losses of other batches would be of other text.
        batches = changed.train.eval_batches * _batch_tokens(experiment) / _batch_tokens(changed)
        changed = replace(changed, train=replace(changed.train, eval_batches=max(1, round(batches))))
    changed.check()
    return changed


def _batch_tokens(experiment: Experiment) -> int:
    return experiment.train.batch_size * experiment.data.sequence_length


def _paths() -> dict[str, Any]:
    """The type of every field that may be swept."""
    sections = {field.name: field.type for field in dataclasses.fields(Experiment)}
    return {
        f"{section}.{field.name}": field.type
        for section in ("model", "data", "train")
        for field in dataclasses.fields(sections[section])  # type: ignore[arg-type]
        if f"{section}.{field.name}" not in FIXED
    }


def _field_type(path: str) -> Any:
    paths = _paths()
    if path in paths:
        return paths[path]
    section, _, name = path.partition(".")
    if path in FIXED or section == "tokenizer":
        raise UserError(
            f"--param {path}: held-out losses measured on other text or tokens could not be compared. "
            "Give it as an override, the same for all trials."
        )
    everything = {field.name: field.type for field in dataclasses.fields(Experiment)}
    kind = everything.get(section)
    if dataclasses.is_dataclass(kind) and section not in ("model", "data", "train"):
        known = {field.name for field in dataclasses.fields(kind)}
        if name in known:
            raise UserError(f"--param {path}: the held-out loss of pre-training does not depend on it.")
    nearest = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
    siblings = [known for known in paths if known.startswith(f"{section}.")] or ["model.…", "data.…", "train.…"]
    raise unknown("parameter", path, dict.fromkeys([*nearest, *siblings]))


def _parse_range(where: str, path: str, text: str, kind: Any, sampler: str) -> Range:
    name, _, rest = text.partition(":")
    if name not in KINDS:
        raise unknown(f"kind of range in {where}:", name, KINDS)
    if name == "choice":
        return Range("choice", choices=_parse_choices(where, path, rest, kind))
    numeric = _numeric(kind)
    if numeric is None:
        raise UserError(f"{where}: {path} is no number; give its values as choice:A,B.")
    parts = rest.split(":")
    if len(parts) not in (2, 3):
        third = "STEP" if name == "int" else "POINTS"
        raise UserError(f"{where}: the range must be {name}:LOW:HIGH or {name}:LOW:HIGH:{third}.")
    if name == "int":
        first, last, step = (_whole(where, part) for part in (*parts, "1")[:3])
        if step < 1:
            raise UserError(f"{where}: the step {step} must be at least 1.")
        _check_ends(where, first, last)
        return Range("int", first, last, step)
    if numeric is int:
        raise UserError(f"{where}: {path} is a whole number; give its range as int:LOW:HIGH or its values as choice:.")
    low, high = (_number(where, part) for part in parts[:2])
    _check_ends(where, low, high)
    if name == "log" and low <= 0:
        raise UserError(f"{where}: a logarithmic range must lie above 0, and begins at {low:g}; lin: may hold 0.")
    points = _whole(where, parts[2]) if len(parts) == 3 else None
    if points is not None and points < 2:
        raise UserError(f"{where}: {points} points cannot hold both ends; take at least 2.")
    if sampler == "grid" and points is None:
        raise UserError(f"{where}: a grid needs to know how many points, such as {text}:5.")
    if sampler != "grid" and points is not None:
        raise UserError(
            f"{where}: the number of points is for --sampler grid; --sampler {sampler} draws from the whole range."
        )
    return Range(name, low, high, points=points)  # type: ignore[arg-type]


def _check_ends(where: str, low: float, high: float) -> None:
    if low > high:
        raise UserError(f"{where}: the range is reversed, from {low:g} down to {high:g}.")
    if low == high:
        raise UserError(f"{where}: the range is empty, from {low:g} to {high:g}; give a fixed value as an override.")


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number.") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: {text!r} is not finite.")
    return value


def _whole(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a whole number.") from None


def _numeric(kind: Any) -> type | None:
    """int or float, where a field holds one, or one or None."""
    found = [part for part in (kind, *get_args(kind)) if part in (int, float)]
    return found[0] if found else None


def _parse_choices(where: str, path: str, text: str, kind: Any) -> tuple[Value, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{where}: the choices are empty; give them as choice:A,B.")
    values = tuple(_parse_value(where, path, word, kind) for word in words)
    if len(set(values)) < len(values):
        raise UserError(f"{where}: a choice is given twice.")
    return values


def _parse_value(where: str, path: str, word: str, kind: Any) -> Value:
    kinds = get_args(kind) if get_origin(kind) is not Literal else (kind,)
    kinds = kinds or (kind,)
    if type(None) in kinds and word.lower() == "none":
        return None
    if kind is bool:
        if word.lower() not in ("true", "false"):
            raise UserError(f"{where}: {path} is true or false, not {word!r}.")
        return word.lower() == "true"
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise unknown(f"value of {path}", word, get_args(kind))
        return word
    if (numeric := _numeric(kind)) is not None:
        return _whole(where, word) if numeric is int else _number(where, word)
    if str in kinds and get_origin(kind) is not tuple:
        return word
    raise UserError(f"{where}: {path} is a list, which a sweep cannot vary.")
