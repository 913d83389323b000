"""A finite distribution: what the simulation draws from and the truth sums over."""

import random
from bisect import bisect
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple


class Distribution(NamedTuple):
    """Values with their probabilities, which sum to one."""

    values: tuple[Any, ...]
    probabilities: tuple[float, ...]
    cumulative: tuple[float, ...]

    def draw(self, rng: random.Random) -> Any:
        """One value."""
        if len(self.values) == 1:
            return self.values[0]
        # Rounding may leave the last sum a little below one.
        return self.values[min(bisect(self.cumulative, rng.random()), len(self.values) - 1)]

    def items(self) -> Iterable[tuple[Any, float]]:
        """Pairs of value and probability."""
        return zip(self.values, self.probabilities, strict=True)


def weighted(weights: Mapping[Any, float]) -> Distribution:
    """Values in proportion to their weights; those of weight zero are left out."""
    kept = {value: weight for value, weight in weights.items() if weight > 0}
    total = sum(kept.values())
    probabilities = tuple(weight / total for weight in kept.values())
    return Distribution(tuple(kept), probabilities, tuple(accumulate(probabilities)))


def certain(value: Any) -> Distribution:
    """One value."""
    return Distribution((value,), (1.0,), (1.0,))
