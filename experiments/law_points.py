"""Points for a law from a table of runs (CSV): which column holds what, and numbers that can be fitted."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.scaling_law import FEWEST_POINTS, FEWEST_VALUES, FLOPS_PER_WEIGHT, Points, distinct
from model.errors import UserError, unknown

ROLES = ("N", "D", "C", "loss")


def read_points(path: Path, columns: str | None, drop_worst: int) -> Points:
    """The points of a table, without the highest losses.

    Args:
        columns: as in N=params,D=tokens,loss=loss; None: those that are called N, D or C, and loss.

    Raises:
        UserError: the file, a column or a cell is not there or no positive number, or no law can be told from them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            names = _named(columns, header) if columns else _default(path, header)
            found = {
                role: np.array([_number(path, line, name, row[name]) for line, row in rows])
                for rows in [[(reader.line_num, row) for row in reader]]
                for role, name in names.items()
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read as a CSV file ({error}).") from None
    if "C" in found:
        found["D"] = found["C"] / FLOPS_PER_WEIGHT / found["N"]
    points = Points(found["N"], found["D"], found["loss"])
    if not 0 <= drop_worst <= len(points.N):
        raise UserError(
            f"--drop-worst {drop_worst} must lie between 0 and the {len(points.N)} points of {str(path)!r}."
        )
    points = points.without_worst(drop_worst)
    check_enough(points, {**names, "D": names.get("D", f"{names.get('C')} / 6 N")})
    return points


def check_enough(points: Points, names: Mapping[str, str]) -> None:
    """Refuse points from which no law can be told.

    Args:
        names: what N and D are called where they come from.

    Raises:
        UserError: there are too few, or N or D hardly varies.
    """
    for role in ("N", "D"):
        if 0 < (values := distinct(getattr(points, role))) < FEWEST_VALUES and len(points.N) >= FEWEST_POINTS:
            raise UserError(
                f"{names[role]!r} has only {values} different {'values' if values > 1 else 'value'}; at least "
                f"{FEWEST_VALUES} are needed to tell a factor from an exponent."
            )
    if (count := distinct(*points)) < FEWEST_POINTS:
        raise UserError(
            f"{count} different points are too few: the law has {FEWEST_POINTS - 1} parameters, and their intervals "
            f"need at least {FEWEST_POINTS} points."
        )


def _named(columns: str, header: Sequence[str]) -> dict[str, str]:
    """Column by role, as the user says."""
    found: dict[str, str] = {}
    for part in columns.split(","):
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UserError(f"--columns {columns!r}: {part!r} must be ROLE=COLUMN, such as N=params.")
        if role not in ROLES:
            raise unknown("role in --columns", role, ROLES)
        if role in found:
            raise UserError(f"--columns {columns!r} names {role} twice.")
        if name not in header:
            raise unknown("column", name, header)
        found[role] = name
    missing = [role for role in ("N", "loss") if role not in found]
    if missing or ("D" in found) == ("C" in found):
        raise UserError(f"--columns {columns!r} must name N, loss, and one of D (tokens) and C (training FLOPs).")
    return found


def _default(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Columns that are called what they hold."""
    for roles in (("N", "D", "loss"), ("N", "C", "loss")):
        if set(roles) <= set(header):
            return {role: role for role in roles}
    raise UserError(
        f"{str(path)!r} has no columns N, D and loss; say which they are with --columns N=…,D=…,loss=… "
        f"(or C=… for training FLOPs). It has: {', '.join(header)}."
    )


def _number(path: Path, line: int, name: str, cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{str(path)!r} line {line}, column {name!r}: {cell!r} must be a positive number.")
    return value
