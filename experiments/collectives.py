"""What a compiled step sends between devices: every collective of its text, with bytes, runs and mesh axes.

The text is what `compiled.as_text()` gives, of a program that XLA has split over the devices of one mesh. Its replica
groups count devices in the mesh's flat order, so the mesh's shape is all that is needed to name the axes.

Bytes are those that one device sends when it goes round a ring of n (Patarasuk & Yuan 2009): of an array of S bytes,
(n-1)/n x S for an all-gather, a reduce-scatter or an all-to-all, twice that for an all-reduce, which is both, and S
for a permutation. S counts the array whole: gathered, or before it is scattered. Groups that span several axes go
round them one after the other, the last axis of the mesh first: of an array of S bytes the next axis has but S/n left
to send, and the sum is the same.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Int

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
Groups = Int[np.ndarray, "groups devices"]


@dataclass(frozen=True)
class Collective:
    """One collective instruction of a compiled program, as each device runs it."""

    kind: str
    """all-gather, all-reduce, reduce-scatter, all-to-all or collective-permute."""
    axes: tuple[str, ...]
    """The mesh axes along which the devices of a group differ."""
    sizes: tuple[int, ...]
    """How many of a group's devices stand along each of them."""
    payload: int
    """Bytes of the array: whole, that is gathered, or before it is scattered; a device's own where it is exchanged."""
    runs: int
    """Times that one step runs it, the turns of the loops around it multiplied."""
    shape: str
    """What the instruction returns, such as "bf16[4096,512]"."""
    source: str
    """The operation of the program that it comes from."""
    piece: str = ""
    """The channel that the pieces of one collective among products share; empty: it is in one piece."""

    @property
    def bytes_by_axis(self) -> dict[str, float]:
        """Bytes that a device sends along each mesh axis in one step."""
        return {axis: self.runs * sent for axis, sent in ring_bytes(self.kind, self.payload, self.axes, self.sizes)}

    @property
    def bytes(self) -> float:
        """Bytes that a device sends in one step."""
        return sum(self.bytes_by_axis.values())


def collective_bytes(text: str, mesh: Mapping[str, int]) -> dict[str, float]:
    """Bytes that each device sends along each mesh axis in one step; axes along which nothing travels are left out.

    Args:
        text: a compiled step.
        mesh: sizes of the mesh's axes, in their order, as `Mesh.shape` has them.

    Raises:
        ValueError: as `collectives`.
    """
    found = total_by_axis(collectives(text, mesh))
    return {axis: found[axis] for axis in mesh if axis in found}


def total_by_axis(found: Iterable[Collective]) -> dict[str, float]:
    """Bytes that each device sends along each mesh axis, of all these together."""
    sent: dict[str, float] = {}
    for collective in found:
        for axis, size in collective.bytes_by_axis.items():
            sent[axis] = sent.get(axis, 0.0) + size
    return sent


def ring_bytes(kind: str, payload: float, axes: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, float]]:
    """(axis, bytes that a device sends along it) of one collective over these axes."""
    if kind == "collective-permute":  # which of its axes a device's bytes take is the network's business
        yield from ((axis, payload / len(axes)) for axis in axes)
        return
    times = 2 if kind == "all-reduce" else 1
    for axis, size in sorted(zip(reversed(axes), reversed(sizes), strict=True), key=lambda pair: pair[0] != "fsdp"):
        yield axis, times * payload * (size - 1) / size
        payload /= 1 if kind == "all-to-all" else size


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Every collective of a compiled step that sends anything, in the order of the text.

    Raises:
        ValueError: not a compiled program, a loop around a collective whose turns the text does not tell, or
            replica groups in a form that is not known or of another number of devices.
    """
    computations = _computations(text)
    if "ENTRY" not in computations:
        raise ValueError("not the text of a compiled program: it has no ENTRY computation.")

    @cache
    def inside(name: str) -> tuple[Collective, ...]:
        found: list[Collective] = []
        within = computations[name]
        for instruction in within.values():
            if match := _COLLECTIVE.search(instruction):
                found += _collective(instruction, match, mesh, scattered=name.startswith("all-reduce-scatter"))
            elif not _LATER.search(instruction):
                called = (part for names in _CALLED.findall(instruction) for part in re.findall(r"[\w.-]+", names))
                parts = [part for callee in called for part in inside(callee)]
                turns = _turns(instruction, within, computations) if parts and " while(" in instruction else 1
                found += [replace(part, runs=part.runs * turns) for part in parts]
        # The TPU's compiler cuts a collective that overlaps with products into pieces, each of which names it whole.
        return tuple({part.piece or -place: part for place, part in enumerate(found)}.values())

    return list(inside("ENTRY"))


Computation = Mapping[str, str]
"""What each instruction of a computation says after its name and " = "; the last one is called ROOT."""

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|\w+_computations?)=(\{.*?\}|%?[\w.-]+)")
# An asynchronous computation is named where it starts and again where it is waited for.
_LATER = re.compile(r" async-(?:update|done)\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)?\w*\[([\d,]*)\]")


def _computations(text: str) -> dict[str, Computation]:
    """The program's computations by name; the one it begins with is called ENTRY."""
    found: dict[str, Computation] = {}
    instructions: dict[str, str] = {}
    for line in text.splitlines():
        if match := _HEADER.match(line):
            instructions = found["ENTRY" if match[1] else match[2]] = {}
        elif match := _INSTRUCTION.match(line):
            instructions["ROOT" if match[1] else match[2]] = match[3]
    return found


def _collective(instruction: str, match: re.Match[str], mesh: Mapping[str, int], scattered: bool) -> list[Collective]:
    """The collective of an instruction; none where every device keeps what it has.

    Args:
        match: of `_COLLECTIVE`.
        scattered: the computation around it does what a reduce-scatter does: the TPU's compiler writes it so.
    """
    kind, started = match[1], match[2]
    arrays = [(array[0], _size(array)) for array in _ARRAY.finditer(instruction[: match.start()])]
    if started and kind != "all-reduce":  # what goes in and what comes out, and numbers of the runtime's
        arrays = [array for array in arrays if array[0] != "u32[]"]
        arrays = arrays[len(arrays) // 2 :]
    if kind == "collective-permute":
        listed = instruction.split("source_target_pairs=")[1].split("}}")[0]
        pairs = np.array(re.findall(r"(\d+),(\d+)", listed), int).reshape(-1, 2)
        groups = pairs[pairs[:, 0] != pairs[:, 1]]
    else:
        groups = replica_groups(instruction, math.prod(mesh.values()))
    axes, sizes = spanned(groups, mesh)
    payload = sum(size for _, size in arrays) * (groups.shape[1] if kind == "reduce-scatter" else 1)
    source = re.search(r'op_name="([^"]*)"', instruction)
    collective = Collective(
        kind="reduce-scatter" if scattered and kind == "all-reduce" else kind,
        axes=axes,
        sizes=sizes,
        payload=payload,
        runs=1,
        shape=", ".join(array for array, _ in arrays),
        source=source[1] if source else "",
        piece=channel[1] if (channel := re.search(r"channel_id=(\d+),.*chain_id=", instruction)) else "",
    )
    return [collective] if axes else []


def _size(array: re.Match[str]) -> int:
    """Bytes of an array such as bf16[8,128]."""
    return -(-math.prod(_numbers(array[3])) * int(array[2] or 8) // 8)  # truth values (pred) take a byte


def spanned(groups: Groups, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The mesh axes along which the devices of a group differ, and how many stand along each."""
    if not groups.size:
        return (), ()
    if groups.max() >= math.prod(mesh.values()):
        raise ValueError(f"replica groups name device {groups.max()}, and the mesh {dict(mesh)} has fewer.")
    coordinates = np.stack(np.unravel_index(groups, tuple(mesh.values())))
    counts = [len(np.unique(along[0])) for along in coordinates]
    differ = [bool((along != along[:, :1]).any()) for along in coordinates]
    chosen = [index for index, axis in enumerate(differ) if axis]
    return tuple(list(mesh)[index] for index in chosen), tuple(counts[index] for index in chosen)


def replica_groups(line: str, devices: int) -> Groups:
    """The groups of devices that a collective runs in, from any of the forms that XLA writes them in.

    {{0,1},{2,3}} names them; [2,4]<=[4,2]T(1,0) counts the devices in an array of shape (4, 2), transposes it and cuts
    it into rows; mesh['a'=2,'b'=4] {'b'} has a mesh of its own, whose devices may come in another order
    (device_ids=([4,2]T(1,0))) and whose axes may be cut ('b':(2)2 is what is left of b after the first 2, cut to 2).

    Raises:
        ValueError: another form.
    """
    text = line.split("replica_groups=", 1)[-1]
    if text.startswith("{}"):
        return np.arange(devices)[None]
    if match := re.match(r"\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}", text):
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", match[1])])
    if match := re.match(r"\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _counted(match[2]).reshape(_numbers(match[1]))
    if match := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?\)?)\))? \{([^}]*)\}", text):
        return _of_mesh(match[1], match[2], match[3])
    raise ValueError(f"replica groups of an unknown form: {text[:100]!r}.")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _counted(text: str) -> Int[np.ndarray, "devices"]:
    """Device numbers: as listed, or from "[4,2]T(1,0)", counted in an array of that shape, which is then transposed."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if match is None:
        return np.array(_numbers(text))
    shape = _numbers(match[1])
    found = np.arange(math.prod(shape)).reshape(shape)
    return (found.transpose(_numbers(match[2])) if match[2] else found).reshape(-1)


def _of_mesh(mesh: str, order: str | None, grouped: str) -> Groups:
    sizes = {name: int(size) for name, size in re.findall(r"([^,=]+)=(\d+)", mesh)}
    parts: dict[tuple[str, int], int] = {}  # (axis, what of it comes before) -> size
    for name, before, size in re.findall(r"([^,:]+)(?::\((\d+)\)(\d+))?", grouped):
        parts[name, int(before or 1)] = int(size or sizes[name])
    shape: list[int] = []
    places: dict[tuple[str, int], int] = {}
    for axis, whole in sizes.items():
        done = 1
        for name, before in sorted(parts):
            if name == axis:
                shape += [before // done, parts[name, before]]
                places[name, before] = len(shape) - 1
                done = before * parts[name, before]
        shape.append(whole // done)
    devices = np.arange(math.prod(shape)) if order is None else _counted(order)
    chosen = [places[part] for part in parts]
    rest = [place for place in range(len(shape)) if place not in chosen]
    return devices.reshape(shape).transpose(rest + chosen).reshape(-1, math.prod(parts.values()))


def _turns(loop: str, caller: Computation, computations: Mapping[str, Computation]) -> int:
    """How often a loop in `caller` turns: what the compiler noted, or what its counter says.

    The counter starts at a constant, grows by a constant, and the condition holds it against a constant.
    """
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop):
        return int(match[1])
    try:
        condition, body = (computations[re.findall(rf"{role}=%?([\w.-]+)", loop)[0]] for role in ("condition", "body"))
        compared = _operands(condition["ROOT"])
        place = int(re.findall(r"index=(\d+)", condition[compared[0]])[0])
        (carried,) = _operands(loop)
        grown = body[_operands(body["ROOT"])[place]]
        (limit,), (step,) = _constants(compared, condition), _constants(_operands(grown), body)
        (start,) = _constants([_operands(caller[carried])[place]], caller)
        if "direction=LT" in condition["ROOT"] and " add(" in grown:
            return -(-(limit - start) // step)
    except (KeyError, IndexError, ValueError):
        pass
    raise ValueError(f"a loop around collectives does not tell how often it turns: {loop[-200:]!r}.")


def _operands(instruction: str) -> list[str]:
    """Names of what an instruction works on."""
    return re.findall(r"%([\w.-]+)", re.findall(r" [a-z][\w-]*\(([^()]*)\)", instruction)[0])


def _constants(names: Sequence[str], computation: Computation) -> list[int]:
    """The whole numbers among these instructions, looked for through copies."""
    found = []
    for name in names:
        while " copy(" in (instruction := computation[name]):
            (name,) = _operands(instruction)
        found += [int(number) for number in re.findall(r" constant\((-?\d+)\)", instruction)]
    return found
