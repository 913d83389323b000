"""The law of a ladder's losses: fitted three ways of counting N, held against the largest run, and what to doubt."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.intervals import estimate
from experiments.ladder import Cell, Ladder
from experiments.ladder_run import STAGE
from experiments.law_points import check_enough
from experiments.law_report import law_of, tell
from experiments.scaling_law import FLOPS_PER_WEIGHT, Points, enough, fit_with_bootstrap

COUNTS = {
    "flops": "training FLOPs per token / 6",
    "total": "all parameters",
    "non_embedding": "parameters but for the embedding",
}
"""Ways to count N; under the first C = 6 N D to the letter, where D are tokens of text: padding of rows is left out."""
FEW = 4  # sizes or budgets, under which E and the exponents are hardly told apart
LOUD = 0.2  # of what twice the tokens bring: noise between seeds that is too large
Run = tuple[Cell, Mapping[str, Any]]


def finished(ladder: Ladder, folder: Path) -> list[Run]:
    """Cells whose runs are complete, and what these came to."""
    found = [(cell, ladder.run(folder, cell).stage(STAGE).result) for cell in ladder.cells]
    return [(cell, result) for cell, result in found if result is not None]


def points_of(ladder: Ladder, runs: Sequence[Run], count: str) -> Points:
    """N in one of the `COUNTS`, tokens and held-out loss of runs."""
    sizes = [ladder.size(cell.size) for cell, _ in runs]
    N = [size.flops_per_token / FLOPS_PER_WEIGHT if count == "flops" else getattr(size, count) for size in sizes]
    # How much text a budget's rows hold differs a little from seed to seed; as budgets they are one.
    seen = {cell.place: result["tokens"] for cell, result in averaged(runs)}
    D, loss = [seen[cell.place] for cell, _ in runs], [result["validation_loss"] for _, result in runs]
    return Points(*(np.array(column, float) for column in (N, D, loss)))


def findings(ladder: Ladder, folder: Path, rounds: int, seed: int, advance: Callable[[], None]) -> dict[str, Any]:
    """All there is to say about a ladder.

    Args:
        rounds: of each bootstrap; there is one for each of the `COUNTS`, and one for the run held out.
        advance: called after each round.

    Raises:
        UserError: there are too few runs for a law.
    """
    runs = finished(ladder, folder)
    check_enough(points_of(ladder, runs, "flops"), {"N": "the ladder's sizes", "D": "the ladder's budgets"})
    laws = {count: tell(points_of(ladder, runs, count), rounds, seed, advance) for count in COUNTS}
    slices = isoflop_slices(points_of(ladder, averaged(runs), "flops"), laws["flops"])
    noise = seed_noise(runs)
    floors = {result["floor_loss"] for _, result in runs if "floor_loss" in result}
    found = {
        "runs": [_row(ladder, cell, result) for cell, result in runs],
        "planned": len(ladder.cells),
        "laws": laws,
        "held_out": held_out(ladder, runs, rounds, seed, advance),
        "floor": floors.pop() if len(floors) == 1 else None,
        "seed_noise": noise,
        "isoflop": slices,
        "seconds": sum(result["seconds"] * ladder.own_steps(cell) / cell.steps for cell, result in runs),
    }
    return {**found, "warnings": warnings(ladder, found)}


def _row(ladder: Ladder, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    size = ladder.size(cell.size)
    return {
        "run": cell.name,
        "size": cell.size,
        "seed": cell.seed,
        "steps": cell.steps,
        "total": size.total,
        "non_embedding": size.non_embedding,
        "tokens": result["tokens"],
        "flops": size.flops_per_token * result["tokens"],
        "epochs": result["tokens"] / ladder.data_tokens,
        "loss": result["validation_loss"],
    }


def held_out(
    ladder: Ladder, runs: Sequence[Run], rounds: int, seed: int, advance: Callable[[], None]
) -> dict[str, Any] | None:
    """What the most compute comes to, the mean of its seeds, as a law of all other runs foretells it.

    None where too few are left for a law.
    """
    most = max(runs, key=lambda run: ladder.flops(run[0]))[0]
    largest = points_of(ladder, [run for run in runs if run[0].place == most.place], "flops")
    rest = [run for run in runs if run[0].place != most.place]
    others = points_of(ladder, rest, "flops")
    if not enough(others):
        return None
    law, drawn = fit_with_bootstrap(others, rounds, seed, advance)
    N, D, loss = (float(column.mean()) for column in largest)
    foretold = estimate(law.loss(N, D), drawn.loss(N, D))
    return {
        "size": most.size,
        "steps": most.steps,
        "flops": FLOPS_PER_WEIGHT * N * D,
        "seeds": len(largest.N),
        "loss": loss,
        "predicted": foretold.value,
        "predicted_interval": [foretold.low, foretold.high],
        "error": foretold.value / loss - 1,
        "fitted": len(others.N),
        "times_the_compute": ladder.flops(most) / max(ladder.flops(cell) for cell, _ in rest),
    }


def by_place(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in the seed together."""
    places: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        places.setdefault(run[0].place, []).append(run)
    return list(places.values())


def averaged(runs: Sequence[Run]) -> list[Run]:
    """One for each place: the mean over its seeds."""
    return [
        (seeds[0][0], {name: fmean(result[name] for _, result in seeds) for name in ("tokens", "validation_loss")})
        for seeds in by_place(runs)
    ]


def seed_noise(runs: Sequence[Run]) -> dict[str, Any] | None:
    """How far runs that differ only in the seed are apart, over all of them; None where there are none.

    Beside it what the longest budget brings over the one before, on average over sizes.
    """
    losses = [[result["validation_loss"] for _, result in seeds] for seeds in by_place(runs) if len(seeds) > 1]
    if not losses:
        return None
    means = {cell.place: result["validation_loss"] for cell, result in averaged(runs)}
    *_, before, longest = [0, *sorted({steps for _, steps in means})]
    gains = [
        means[size, before] - means[size, longest]
        for size, steps in means
        if steps == longest and (size, before) in means
    ]
    squares = sum((len(seeds) - 1) * variance(seeds) for seeds in losses)
    return {
        "places": len(losses),
        "runs": sum(map(len, losses)),
        "deviation": sqrt(squares / sum(len(seeds) - 1 for seeds in losses)),
        "gain": fmean(gains) if gains else None,
    }


def isoflop_slices(points: Points, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Losses at the same compute, wherever three neighbouring sizes saw it, and where a parabola in log N is lowest.

    Only to look at: such parabolas are biased even without noise (arXiv 2603.22339). Between a size's budgets its loss
    is read off a line in the logarithms.
    """
    sizes = sorted(set(points.N.tolist()))
    curves = {}
    for N in sizes:
        mine = points.take(points.N == N)
        order = np.argsort(mine.D, kind="stable")
        C = FLOPS_PER_WEIGHT * mine.N[order] * mine.D[order]
        curves[N] = (np.log(C), np.log(mine.loss[order]))
    found = []
    for three in zip(sizes, sizes[1:], sizes[2:], strict=False):
        low, high = (pick(curves[N][0][end] for N in three) for pick, end in ((max, 0), (min, -1)))
        if low >= high:
            continue
        budget = (low + high) / 2
        inside = [
            (N, np.interp(budget, *curve)) for N, curve in curves.items() if curve[0][0] <= budget <= curve[0][-1]
        ]
        N, loss = np.array(inside).T
        found.append(
            {
                "C": float(np.exp(budget)),
                "N": N.tolist(),
                "loss": np.exp(loss).tolist(),
                "interior": bool(0 < np.argmin(loss) < len(loss) - 1),
                "parabola_N": _lowest(np.log(N), np.exp(loss)),
                "law_N": float(law_of(told).optimum(np.exp(budget))[0]),
            }
        )
    return found


def _lowest(x: Float[np.ndarray, "M"], y: Float[np.ndarray, "M"]) -> float | None:
    """Where the parabola through the points is lowest, e to that power; None where it opens downwards."""
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(-b / (2 * a))) if a > 0 else None


def warnings(ladder: Ladder, found: Mapping[str, Any]) -> list[str]:
    """What to doubt."""
    lines = []
    missing = found["planned"] - len(found["runs"])
    if missing:
        lines.append(f"{missing} of {found['planned']} runs are not done; the law is of the others.")
    for what, key in (("sizes", "size"), ("budgets", "steps")):
        count = len({row[key] for row in found["runs"]})
        if count < FEW:
            lines.append(f"Only {count} {what}: fewer than {FEW} hardly tell E from the exponents.")
    if not found["isoflop"]:
        lines.append("No compute at which three sizes were seen, so that it is open whether their best is among them.")
    for end in [one for one in found["isoflop"] if not one["interior"]]:
        lines.append(
            f"At {end['C']:.2g} FLOPs the best size is the {'smallest' if _falls(end) else 'largest'} of those seen: "
            "no minimum inside, N* is foretold from outside."
        )
    noise = found["seed_noise"]
    if noise is None:
        lines.append("No run was done with a second seed: the noise between seeds is not known.")
    elif noise["gain"] is not None and noise["deviation"] > LOUD * noise["gain"]:
        lines.append(
            f"Seeds differ by {noise['deviation']:.4f} nats (standard deviation), more than a fifth of the "
            f"{noise['gain']:.4f} that the longest budget brings over the one before."
        )
    if (epochs := max(row["epochs"] for row in found["runs"])) > 1:
        lines.append(f"The longest runs see their data {epochs:.1f} times; the law counts every token as a new one.")
    return lines


def _falls(one: Mapping[str, Any]) -> bool:
    return int(np.argmin(one["loss"])) == 0
