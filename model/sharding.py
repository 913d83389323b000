"""Where arrays live: logical axes of parameters and batches mapped to the axes of a device mesh.

Sharding is data. Layers name the axes of what they hold; `ShardingRules` says which mesh axis each name
is split over; everything else follows. The same path runs on one device, where every axis has size one.
"""

from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from model.config import MeshConfig
from model.errors import UserError

MESH_AXES = ("data", "fsdp", "expert", "context", "tensor")
Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class ShardingRules:
    """Logical axis -> mesh axis or axes. None: not split."""

    batch: str | tuple[str, ...] | None = ("data", "fsdp", "expert")
    sequence: str | tuple[str, ...] | None = "context"
    embed: str | tuple[str, ...] | None = "fsdp"
    heads: str | tuple[str, ...] | None = "tensor"
    kv_heads: str | tuple[str, ...] | None = "tensor"
    head_dim: str | tuple[str, ...] | None = None
    mlp: str | tuple[str, ...] | None = "tensor"
    vocab: str | tuple[str, ...] | None = "tensor"
    layers: str | tuple[str, ...] | None = None
    expert: str | tuple[str, ...] | None = "expert"

    def spec(self, axes: Axes) -> PartitionSpec:
        """The `PartitionSpec` of an array whose dimensions are called `axes`.

        Raises:
            UserError: an unknown axis, or two dimensions of the array on one mesh axis.
        """
        known = {field.name for field in fields(self)}
        entries: list[str | tuple[str, ...] | None] = []
        taken: dict[str, str] = {}
        for axis in axes:
            if axis is not None and axis not in known:
                raise UserError(f"unknown logical axis {axis!r}; known: {', '.join(sorted(known))}.")
            entry = getattr(self, axis) if axis else None
            for mesh_axis in (entry,) if isinstance(entry, str) else entry or ():
                if mesh_axis in taken:
                    raise UserError(
                        f"sharding rules put both {taken[mesh_axis]!r} and {axis!r} of an array {axes} "
                        f"on the mesh axis {mesh_axis!r}."
                    )
                taken[mesh_axis] = str(axis)
            entries.append(entry)
        return PartitionSpec(*entries)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh over all devices.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"mesh {config}: sizes are at least 1, and at most one of them may be -1 (the rest).")
    known = 1
    for size in sizes:
        known *= size if size > 0 else 1
    rest, remainder = divmod(len(devices), known)
    sizes = [rest if size == -1 else size for size in sizes]
    if remainder or rest == 0 or (-1 not in vars(config).values() and known != len(devices)):
        raise UserError(
            f"mesh {', '.join(f'{a}={s}' for a, s in vars(config).items())} does not fit {len(devices)} devices."
        )
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def constrain(x: jax.Array, rules: ShardingRules, *axes: str | None) -> jax.Array:
    """Tell the compiler how an activation is split. Without a mesh in context this does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, rules.spec(axes))


def logical_axes(boxed: Any) -> Any:
    """The tree of logical axis names that the layers declared, from an abstract `Transformer.init`."""
    specs = nn.get_partition_spec(boxed)
    return jax.tree.map(tuple, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def state_shardings(mesh: Mesh | AbstractMesh, rules: ShardingRules, axes: Any, state: Any) -> Any:
    """A `NamedSharding` for every array of `state`, which holds parameters or trees shaped like them.

    An optimizer keeps its moments in trees that end in the parameters' own paths; such a leaf is split
    like its parameter. Everything else (counters, scalars) is on every device.
    """
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    by_path = {path_keys(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)}

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        keys = path_keys(path)
        for start in range(len(keys)):
            names = by_path.get(keys[start:])
            if names is not None and len(names) == len(leaf.shape):
                spec = rules.spec(names)
                _check_divides(mesh, spec, names, leaf.shape, keys)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def path_keys(path: Any) -> tuple[str, ...]:
    """The names along a path in a pytree, such as ("layers", "mlp", "up")."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _check_divides(
    mesh: Mesh | AbstractMesh, spec: PartitionSpec, names: Axes, shape: tuple[int, ...], path: Axes
) -> None:
    for name, size, entry in zip(names, shape, spec, strict=True):
        parts = 1
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            parts *= mesh.shape[axis]
        if size % parts:
            raise UserError(
                f"{'.'.join(map(str, path))}: its axis {name!r} of {size} cannot be split over {parts} devices "
                f"({entry}); the nearest sizes that can are {size // parts * parts} and {-(-size // parts) * parts}."
            )
