"""Several processes as one run: where they meet, and what only one of them does.

All run the same program, each on its own devices; what they compute together passes between them inside compiled
programs. All else that they tell each other goes through the coordination service of `jax.distributed`, which process 0
holds. What people read is written by process 0 alone. `experiments.processes` joins them.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

PATIENCE = 24 * 60 * 60 * 1000  # milliseconds to wait for a process that lives: it may be tokenizing a large corpus
T = TypeVar("T")


class Group(NamedTuple):
    """The processes of a run, as one of them sees them."""

    client: Any = None
    """Speaks to the coordination service; None: this process is alone."""
    process: int = 0
    processes: int = 1


_group = Group()
_turns = itertools.count()  # all processes meet in the same order, so that a number names a meeting


def join(group: Group) -> None:
    """Be one of `group` from now on; call where all processes do."""
    global _group
    _group = group


def group() -> Group:
    """The processes that this one has joined, or itself alone."""
    return _group


def process_index() -> int:
    """The number of this process among `process_count`; unlike JAX's own this touches no device."""
    return _group.process


def process_count() -> int:
    """How many processes work on the run."""
    return _group.processes


def is_first() -> bool:
    """Whether this is process 0, which writes what people read."""
    return _group.process == 0


def meeting() -> str:
    """A name that all processes give to this moment, and to no other."""
    return f"narrador/{next(_turns)}"


def barrier() -> None:
    """Wait until all processes are here."""
    if _group.client is not None:
        _group.client.wait_at_barrier(meeting(), PATIENCE)


@contextmanager
def in_turn() -> Iterator[None]:
    """Inside, process 0 works first and the others after it: what it prepared on the shared disk, they find."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in process 0, in all processes; something that JSON can say."""
    if _group.client is None:
        return make()
    key = meeting()
    if is_first():
        value = make()
        _group.client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(_group.client.blocking_key_value_get(key, PATIENCE))
