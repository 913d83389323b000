"""Tables of plain text, for terminals."""

from collections.abc import Sequence


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: bool = False) -> None:
    """Print rows under their head, columns as wide as what is in them; `left`: cells begin where their column does."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) if left else cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
