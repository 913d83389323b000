"""What people see while they wait: bars with an ETA on a terminal, plain lines elsewhere. All on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30
console = Console(stderr=True, highlight=False, emoji=False)


def say(line: str) -> None:
    """A line for the user."""
    console.print(line, markup=False, soft_wrap=True)


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar; yields `advance(n, note=None)`. Off a terminal a line every half minute, and at both ends."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=console.quiet or not console.is_terminal,
    )
    if not console.is_terminal:
        say(f"{description} ...")
    told = time.monotonic()
    with progress:
        task = progress.add_task(description, total=total, completed=done, note="")
        state = progress.tasks[0]

        def advance(n: int = 1, note: str | None = None) -> None:
            if note is not None:
                progress.update(task, note=note)
            progress.advance(task, n)
            nonlocal told
            if not console.is_terminal and (state.finished or time.monotonic() - told > SECONDS_BETWEEN_LINES):
                told = time.monotonic()
                say(f"{description}: {state.completed:g} of {total}  {state.fields['note']}".rstrip())

        yield advance
