"""`narrador cost NAME`: what training a model comes to, each sum with its formula; without a name, all side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.chips import PUE, find_chip
from experiments.cost import (
    CLAIM_FLOPS,
    ESTIMATES,
    SECONDS_PER_YEAR,
    Assumptions,
    assumed,
    computing,
    find_training,
    sums,
)


@dataclass(frozen=True)
class Arguments(Assumptions):
    """Operations, years, chip-hours, dollars and energy of training a model, with every formula and assumption."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A preset, an estimate, depth-N, a YAML file or a run directory. None: all published architectures."""
    tokens: float | None = None
    """Tokens to train on. None: the published budget, or the experiment's own."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> None:
    """Parse, work out, show."""
    arguments = tyro.cli(Arguments, prog="narrador cost", args=list(argv))
    if arguments.name is None:
        _all(arguments)
    else:
        _one(arguments.name, arguments)


def _one(name: str, arguments: Arguments) -> None:
    training = find_training(name, arguments.tokens)
    found, chip = sums(training, arguments), find_chip(arguments.chip)
    if arguments.json:
        print(json.dumps({**found, "assumptions": assumed(arguments)}))
        return
    active = training.active_parameters
    size = in_words(training.parameters) + ("" if active == training.parameters else f" ({in_words(active)} active)")
    energy = "not known" if found["kilowatt_hours"] is None else f"{in_words(found['kilowatt_hours'])} kWh"
    rows = [
        ("parameters", size, "N"),
        ("tokens", in_words(training.tokens), "D"),
        ("training, 6ND", f"{found['six_nd_flops']:.3g} FLOPs", "6 x N x D; of experts only the active ones count"),
        ("training", f"{training.flops:.3g} FLOPs", training.flops_formula),
        ("at 10^9 op/s", duration(training.flops / 1e9), "FLOPs / 10^9 a second"),
        ("reading it all", duration(found["reading_years"] * SECONDS_PER_YEAR), "D x words a token / words a minute"),
        (chip.title, duration(found["gpu_hours"] * 3600, "hours"), "FLOPs / (peak FLOP/s x MFU)"),
        ("rent", f"{in_words(found['dollars'])} dollars", "chip-hours x dollars an hour"),
        ("energy", energy, "chip-hours x board power x PUE"),
    ]
    print(f"{training.name}\n")
    for label, value, formula in rows:
        print(f"{label:<22}{value:>33}   {formula}")
    print(f"\nassumed\n  parameters: {training.parameters_source}\n  tokens: {training.tokens_source}")
    _show_assumptions(arguments)


def _all(arguments: Arguments) -> None:
    from experiments.presets import RECIPES

    found = [sums(find_training(name, arguments.tokens), arguments) for name in (*RECIPES, *ESTIMATES)]
    claim = {"name": "the post's claim", "training_flops": CLAIM_FLOPS, **computing(CLAIM_FLOPS, arguments)}
    if arguments.json:
        print(json.dumps({"presets": found, "claim": claim, "assumptions": assumed(arguments)}))
        return
    print(_line("", [heading for heading, _ in COLUMNS.values()]))
    for row in sorted([*found, claim], key=lambda row: row["training_flops"]):
        print(_line(row["name"], [_cell(row.get(key), key) for key in COLUMNS]))
    published = "as published or estimated; `narrador cost NAME` tells whose"
    tokens = published if arguments.tokens is None else "as told by --tokens"
    print(f"\nM million, B billion, T trillion\n\nassumed\n  tokens: {tokens}")
    _show_assumptions(arguments)


COLUMNS = {
    "parameters": ("N", 8),
    "active_parameters": ("active", 8),
    "tokens": ("tokens", 8),
    "six_nd_flops": ("6ND", 10),
    "training_flops": ("FLOPs", 10),
    "years_at_1e9_ops": ("years at 10^9", 15),
    "reading_years": ("to read", 9),
    "gpu_hours": ("chip-hours", 12),
    "dollars": ("dollars", 9),
    "kilowatt_hours": ("kWh", 9),
}
"""The table's numbers with their headings and widths."""


def _line(name: str, cells: Sequence[str]) -> str:
    widths = [width for _, width in COLUMNS.values()]
    return f"{name:<21}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2e}" if key.endswith("_flops") else in_words(value, (" T", " B", " M"))


def _show_assumptions(arguments: Arguments) -> None:
    chip = find_chip(arguments.chip)
    power = "a power that its maker does not publish" if chip.board_watts is None else f"{chip.board_watts:g} W"
    for line in (
        f"{arguments.words_per_token:g} words a token, read at {arguments.words_per_minute:g} words a minute, "
        "24 hours a day; a year has 365.25 days",
        "a FLOP is one multiplication or addition; weights are those of matrix products, not of the embedding look-up;",
        "  a token attends to itself and those before it; backward costs twice the forward pass, and nothing is",
        "  recomputed (Kaplan et al. 2020, section 2.1)",
        f"{chip.title}: {chip.peak_flops / 1e12:g} TFLOP/s dense in bfloat16 and {power} ({chip.source}),",
        f"  {chip.dollars_per_hour:.2f} dollars an hour ({chip.price_source}, {chip.price_date})",
        f"MFU {arguments.mfu:.0%} of that peak; Llama 3.1 405B reached 38 to 43% (Grattafiori et al. 2024, table 4)",
        f"board power all the time, hosts and network left out; PUE {PUE} (Google's fleet, 2025)",
        "one run, without the trials before it, failures, storage and people",
    ):
        print(f"  {line}")


def in_words(number: float, sizes: Sequence[str] = (" trillion", " billion", " million")) -> str:
    """To three digits, as people say it: 12.3, 4,560, 7.89 million."""
    number = float(f"{number:.3g}")
    for power, word in zip((1e12, 1e9, 1e6), sizes, strict=True):
        if number >= power:
            return f"{number / power:,.10g}{word}"
    return f"{number:,.10g}"


def duration(seconds: float, longest: str = "years") -> str:
    """In the largest unit that fits at least once, and none above `longest`."""
    units = {"years": SECONDS_PER_YEAR, "days": 86_400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
    allowed = list(units)[list(units).index(longest) :]
    unit = next((unit for unit in allowed if seconds >= units[unit]), "seconds")
    return f"{in_words(seconds / units[unit])} {unit}"
