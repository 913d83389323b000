"""Mistakes in what the user gave. The command line shows them as one message and exits with code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message names the thing, its value and what is allowed."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = list(allowed)
    nearest = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(names)}.")
