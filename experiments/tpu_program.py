"""What a program of the TPU compiler sends between chips: its text, read for collectives, loops counted.

Peculiar to that compiler: a reduce-scatter is a fusion called all-reduce-scatter around an all-reduce; a collective
that overlaps with products appears in several fusions, with one channel; groups are also written as axes of a mesh.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "s64": 8, "u64": 8, "s16": 2, "u16": 2, "s32": 4, "u32": 4}
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")


@dataclass
class _Computation:
    collectives: dict[str, tuple[str, float, np.ndarray]] = field(default_factory=dict)
    """By channel: kind, bytes of the whole array, a group of device positions (of a permutation: its pairs)."""
    loops: list[tuple[str, str]] = field(default_factory=list)
    """Condition and body of each."""
    calls: list[str] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)


def collective_bytes(text: str, mesh: Mapping[str, int]) -> dict[str, float]:
    """Bytes that a chip receives over each mesh axis in one run of a program.

    n chips receive (n - 1) / n of what is gathered, scattered or exchanged, and twice that of what is all-reduced. Over
    several axes at once the innermost goes first, and what it spares the others do not carry.

    Args:
        text: as `compiled.as_text()` gives it.
        mesh: chips along each axis, in the order of the devices.
    """
    received = dict.fromkeys(mesh, 0.0)
    for times, kind, size, group in _run(text):
        places = np.array(np.unravel_index(group, tuple(mesh.values())))
        varying = [axis for axis, along in zip(mesh, places, strict=True) if _varies(along, kind)]
        for axis in varying[::-1]:
            if kind == "collective-permute":
                received[axis] += times * size
                break
            share = (mesh[axis] - 1) / mesh[axis]
            received[axis] += times * size * share * (2 if kind == "all-reduce" else 1)
            size /= mesh[axis]
    return received


def collective_counts(text: str) -> dict[str, int]:
    """How many collectives of each kind the program runs in one go, loops counted."""
    counts: Counter[str] = Counter()
    for times, kind, _, _ in _run(text):
        counts[kind] += times
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _varies(along: np.ndarray, kind: str) -> bool:
    if kind == "collective-permute":  # pairs: from, to
        return bool((along[..., 0] != along[..., 1]).any())
    return len(np.unique(along)) > 1


def _run(text: str) -> Iterator[tuple[int, str, float, np.ndarray]]:
    """Every collective from the program's entry: how often, kind, bytes of the whole array, one group."""
    computations, entry = _computations(text)

    def inside(name: str, seen: dict[str, tuple[str, float, np.ndarray]], loops: list[tuple[str, str]]) -> None:
        computation = computations[name]
        for channel, found in computation.collectives.items():
            seen.setdefault(channel, found)
        loops += computation.loops
        for called in computation.calls:
            if called in computations:
                inside(called, seen, loops)

    def walk(name: str, times: int) -> Iterator[tuple[int, str, float, np.ndarray]]:
        seen: dict[str, tuple[str, float, np.ndarray]] = {}
        loops: list[tuple[str, str]] = []
        inside(name, seen, loops)
        for kind, size, group in seen.values():
            yield times, kind, size, group
        for condition, body in loops:
            yield from walk(body, times * _trips(computations[condition], condition))

    yield from walk(entry, 1)


def _trips(condition: _Computation, name: str) -> int:
    """JAX's scans count from 0 to a constant."""
    if not condition.constants:
        raise ValueError(f"the loop of {name} has no constant end")
    return max(condition.constants)


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, name, current = "", "", _Computation()
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%([^ ]+) \(.*\{$", line):
            name, current = match[2], _Computation()
            computations[name] = current
            entry = name if match[1] else entry
        elif match := _COLLECTIVE.search(line):
            kind, size = match[2], _size(match[1], bool(match[3]))
            group = _pairs(line) if kind == "collective-permute" else _group(line)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            elif kind == "reduce-scatter":
                size *= len(group)
            channel = re.search(r"channel_id=(\d+)", line)
            current.collectives[channel[1] if channel else line.split(" = ")[0]] = kind, size, group
        elif match := re.search(r"condition=%([^,\s]+), body=%([^,\s]+)", line):
            current.loops.append((match[1], match[2]))
        elif match := re.search(r" = [su]32\[\]\S* constant\((\d+)\)", line):
            current.constants.append(int(match[1]))
        elif match := re.search(r"calls=%([^,\s]+)", line):
            current.calls.append(match[1])
    return computations, entry


def _size(shape: str, starts: bool) -> float:
    """Bytes of a shape or of a tuple of shapes; of what an asynchronous start returns, the largest: its result."""
    sizes = [
        SIZES.get(dtype, 1) * math.prod(int(size) for size in dimensions.split(",") if size)
        for dtype, dimensions in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    ]
    return float(max(sizes) if starts else sum(sizes))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _iota(shape: str, order: str | None) -> np.ndarray:
    devices = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(order)) if order else devices


def _group(line: str) -> np.ndarray:
    """The first group of devices: {{0,1},{2,3}}, [2,2]<=[2,2]T(1,0) or mesh['a'=2,'b'=2] {'a'}."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return np.array(_numbers(match[1]))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return _iota(match[2], match[3]).reshape(_numbers(match[1]))[0]
    pattern = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
    if match := re.search(pattern, line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        axes = re.findall(r"'(\w+)'(?!:)", match[4])
        if ":" not in match[4]:
            devices = _iota(match[2], match[3]) if match[2] else np.arange(math.prod(sizes.values()))
            devices = devices.reshape(tuple(sizes.values()))
            return devices[tuple(slice(None) if axis in axes else 0 for axis in sizes)].ravel()
    raise ValueError(f"groups of devices that are not understood: {line.strip()[:300]}")


def _pairs(line: str) -> np.ndarray:
    match = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    if match is None:
        raise ValueError(f"pairs of devices that are not understood: {line.strip()[:300]}")
    return np.array(_numbers(match[1])).reshape(-1, 2)
