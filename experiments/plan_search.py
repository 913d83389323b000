"""Which mesh, remat policy and parts of the batch train fastest on a machine: all that fit, ranked by sums."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args

from experiments.config import Experiment
from experiments.plan import Layout, advice, lay_out, memory, parts_that_fit, roofline
from experiments.topologies import Topology
from model.config import MESH_AXES
from model.errors import UserError, unknown

Remat = Literal["none", "dots", "full"]
MOST_TENSOR = 16
"""More chips than that on one layer's products do too little each."""
MOST_CONTEXT = 16
"""And on one row."""


def search(
    experiment: Experiment,
    topology: Topology,
    batches: tuple[int, ...] = (),
    remat: str | None = None,
    accumulation: int | None = None,
) -> list[Layout]:
    """The layouts that fit, the least time for a token first, each mesh and policy once; by sums alone.

    Args:
        batches: rows to try. None given: the experiment's own, the power of two next to it, its half and its quarter.
        remat: the policy. None: all are tried.
        accumulation: parts of a batch. None: the fewest that fit.

    Raises:
        UserError: nothing fits; says what comes nearest.
    """
    rows = experiment.train.batch_size
    power = 2 ** round(math.log2(rows))
    batches = batches or tuple(dict.fromkeys((rows, power, max(1, power // 2), max(1, power // 4))))
    found: dict[tuple[str, str], Layout] = {}
    nearest = None
    for mesh in meshes(experiment, topology.chips):
        for policy in (remat,) if remat else get_args(Remat):
            for batch in batches:
                model = replace(experiment.model, remat=policy)
                train = replace(experiment.train, batch_size=batch, accumulation=accumulation or 1)
                try:
                    layout = lay_out(replace(experiment, model=model, train=train), topology, mesh)
                except UserError:  # an axis does not divide an array or the batch
                    continue
                layout = layout if accumulation else parts_that_fit(layout)
                if memory(layout)["total"] <= memory(layout)["available"]:
                    key = mesh_text(layout), policy
                    found[key] = min(found.get(key, layout), layout, key=lambda one: _cost(one, rows))
                elif nearest is None or memory(layout)["total"] < memory(nearest)["total"]:
                    nearest = layout
    if not found and nearest is None:
        raise UserError(
            f"no mesh of {topology.chips:,} chips divides {rows} rows (--batch) and the parameters' dimensions."
        )
    if not found and nearest is not None:
        total, available = memory(nearest)["total"], memory(nearest)["available"]
        raise UserError(
            f"nothing fits on {topology.name}: the nearest, {mesh_text(nearest)}, takes {total / 1e9:.3g} GB of a "
            f"chip's {available / 1e9:.3g}; {advice(nearest)}, or more chips."
        )
    return sorted(found.values(), key=lambda one: _cost(one, rows))


def _cost(layout: Layout, rows: int) -> tuple[float, float]:
    """Microseconds for a token, then how far the batch is from the experiment's own.

    Nothing overlaps perfectly: a tenth of what the bound hides is taken to show.
    """
    times = roofline(layout)
    seconds = times["seconds_per_step"] + 0.1 * sum(times["seconds"].values())
    away = abs(math.log2(layout.experiment.train.batch_size / rows))
    return float(f"{seconds / layout.tokens_per_step * 1e6:.3g}"), away


def meshes(experiment: Experiment, chips: int) -> Iterator[dict[str, int]]:
    """Every way of sharing chips out among the axes, within what the batch and the model can use."""
    experts = experiment.model.experts or 1
    for tensor in _divisors(chips, MOST_TENSOR):
        for context in _divisors(chips // tensor, MOST_CONTEXT):
            for expert in _divisors(chips // tensor // context, experts):
                if experts % expert:
                    continue
                rest = chips // tensor // context // expert
                # Replicas beside shards: few, for each holds everything.
                for data in {size for size in (1, 2, 4, 8, 16, rest) if rest % size == 0}:
                    yield dict(zip(MESH_AXES, (data, rest // data, expert, context, tensor), strict=True))


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]


def mesh_text(layout: Layout) -> str:
    """As `--mesh` takes it, axes of one chip left out."""
    return ",".join(f"{axis}={size}" for axis, size in layout.mesh.items() if size > 1) or "data=1"


def parse_mesh(text: str) -> dict[str, int]:
    """`fsdp=256,tensor=8` as sizes by axis.

    Raises:
        UserError: not such a text, an axis that there is not, or one named twice.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in MESH_AXES:
            raise unknown("mesh axis", axis, MESH_AXES)
        if axis in sizes or not size.isdecimal() or not 0 < int(size) <= math.prod((10,) * 6):
            raise UserError(f"--mesh {text}: {part.strip()!r} is not an axis and its chips, each once, as fsdp=256.")
        sizes[axis] = int(size)
    return sizes
