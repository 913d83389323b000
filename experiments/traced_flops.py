"""The FLOPs of a program's matrix products, from its jaxpr: what runs, before any compiler."""

import math
from collections.abc import Iterator
from typing import Any


def traced_flops(jaxpr: Any, trips: bool = True) -> float:
    """FLOPs of the matrix products of a jaxpr, of all devices together.

    Args:
        jaxpr: as in `jax.jit(f).trace(...).jaxpr`.
        trips: a loop's products count as often as it goes round; otherwise once, as XLA's cost analysis has it.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product(equation, parameters["dimension_numbers"][0][0])
        elif name == "ragged_dot_general":
            numbers = parameters["ragged_dot_dimension_numbers"]
            contracted = numbers.dot_dimension_numbers[0][0]
            # Rows belong to one group each; where they are summed over, the groups share them.
            shared = set(numbers.lhs_ragged_dimensions) <= set(contracted)
            total += _product(equation, contracted) / (equation.invars[2].aval.shape[-1] if shared else 1)
        times = parameters["length"] if name == "scan" and trips else 1
        if name == "shard_map":  # the shapes inside are one device's
            times *= math.prod(parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"])
        total += times * sum(traced_flops(inner, trips) for inner in _inside(parameters.values()))
    return total


def _product(equation: Any, contracted: tuple[int, ...]) -> float:
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _inside(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inside(value)
        elif hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)
