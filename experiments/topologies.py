"""Machines by name, such as v5p:16x16x8 or h100:8x64: their chips, and how fast each axis of a mesh talks on them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from experiments.chips import CHIPS, Chip, find_chip
from model.errors import UserError

COMPILED = ("v5e", "v5p", "v6e")
"""Chips that the TPU compiler knows as one device each (a v4 has two)."""
SMALL = {2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"), 3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4")}
"""The slices that a cloud rents of a torus, by its axes; of three also every one whose axes are multiples of 4."""


@dataclass(frozen=True)
class Topology:
    """Chips and the way they are linked."""

    name: str
    kind: str
    """The chip's name in `experiments.chips`."""
    shape: tuple[int, ...]
    """TPUs: chips along each axis of the torus. GPUs: chips in a node, nodes."""

    @property
    def chip(self) -> Chip:
        """What stands at each place."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def compiled(self) -> bool:
        """Whether the TPU compiler can compile for it."""
        return self.kind in COMPILED

    def bandwidths(self, mesh: Mapping[str, int]) -> dict[str, float]:
        """Bytes a second that a chip receives along each axis of a mesh, when only that axis talks.

        The innermost axis, the last, is placed first, where links are best. An axis of GPUs has the node's
        interconnect, or the network times its chips in a node, whose pieces the node passes on. An axis of TPUs has the
        links of the torus' axes that it covers: both ways round a ring, else one, since a line's ends have one
        neighbour.
        """
        found, free, inside = {}, list(self.shape), 1
        for axis, size in list(mesh.items())[::-1]:
            if self.chip.torus:
                found[axis] = sum(self._along(piece, self.shape[index]) for index, piece in _take(free, size))
                continue
            reach = min(size, max(1, self.shape[0] // inside))
            network = math.inf if reach == size else self.chip.network_bandwidth * reach
            found[axis], inside = min(self.chip.interconnect_bandwidth, network), inside * size
        return found

    def _along(self, chips: int, axis: int) -> float:
        """Of so many chips of a torus' axis: both ways round it where they are all of it."""
        link = self.chip.interconnect_bandwidth / (2 * len(self.shape))
        return link * (2 if chips == axis and chips % self.chip.ring == 0 else 1)


def _take(free: list[int], size: int) -> list[tuple[int, int]]:
    """The torus' axes that a mesh axis covers, and how much of each, taken off `free`: whole ones where some multiply
    to it."""
    for count in range(len(free), 0, -1):
        for picked in combinations(range(len(free)), count):
            if size > 1 and math.prod(free[index] for index in picked) == size and 1 not in (free[i] for i in picked):
                pieces = [(index, free[index]) for index in picked]
                for index in picked:
                    free[index] = 1
                return pieces
    pieces = []
    for index in sorted(range(len(free)), key=lambda index: -free[index]):
        piece = math.gcd(free[index], size)
        if piece > 1:
            free[index], size = free[index] // piece, size // piece
            pieces.append((index, piece))
    return pieces


def find_topology(name: str) -> Topology:
    """The machine called `name`: TPU:AxB or TPU:AxBxC, chips along each axis, or GPU:PERxNODES.

    Raises:
        UserError: no such chip, or no such arrangement of it; those known are listed.
    """
    kind, _, dimensions = name.partition(":")
    chip = find_chip(kind)
    known = _known(chip)
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", dimensions):
        raise UserError(f"topology {name!r} is not a chip and its arrangement, such as {kind}:{known[-1]}.")
    shape = tuple(map(int, dimensions.split("x")))
    if chip.torus:
        large = len(chip.torus) == 3 == len(shape) and all(size % 4 == 0 for size in shape)
        fits = all(size <= most for size, most in zip(sorted(shape), sorted(chip.torus), strict=False))
        if not (dimensions in known or (large and fits)):
            most = "x".join(map(str, chip.torus))
            more = f" and multiples of 4 along each axis, up to {most}" if len(chip.torus) == 3 else ""
            raise UserError(f"unknown topology {name!r}. Known of {kind}: {', '.join(known)}{more}.")
    elif len(shape) != 2 or shape[0] > chip.node:
        raise UserError(
            f"unknown topology {name!r}. Known of {kind}: PERxNODES, at most {chip.node} in a node, as {kind}:8x64."
        )
    return Topology(name, kind, shape)


def _known(chip: Chip) -> tuple[str, ...]:
    return SMALL[len(chip.torus)] if chip.torus else ("1x1", "8x1", "8x64")
