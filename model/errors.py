"""Mistakes in what the user gave. The command line shows them as one message and exits with code 2."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something the user can put right. The message names the thing, its value and what is allowed."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = list(allowed)
    nearest = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(names)}.")


def check_numbers(section: str, config: Any, positive: str = "", not_negative: str = "", share: str = "") -> None:
    """Refuse numbers of a config that are out of range.

    Args:
        section: what the config is called in its experiment.
        positive, not_negative, share: names of fields, by spaces: above 0, at least 0, and from 0 to 1.

    Raises:
        UserError: names the field, its value and the range.
    """
    for names, fits, allowed in (
        (positive, lambda value: value > 0, "be a positive number"),
        (not_negative, lambda value: value >= 0, "be 0 or a positive number"),
        (share, lambda value: 0 <= value <= 1, "lie between 0 and 1"),
    ):
        for name in names.split():
            if not (math.isfinite(value := getattr(config, name)) and fits(value)):
                raise UserError(f"{section}.{name}={value} must {allowed}.")
