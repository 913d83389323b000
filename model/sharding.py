"""Where arrays live: logical axes of parameters and batches mapped to the axes of a device mesh.

Sharding is data. Layers name the axes of what they hold; `ShardingRules` says which mesh axis each name
is split over; everything else follows. The same path runs on one device, where every axis has size one.
"""

import math
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from model.config import MESH_AXES, MeshConfig, ShardingRules
from model.errors import UserError

Axes = tuple[str | None, ...]


def partition_spec(rules: ShardingRules, axes: Axes) -> PartitionSpec:
    """The `PartitionSpec` of an array whose dimensions are called `axes`; errors as in `ShardingRules.split`."""
    return PartitionSpec(*rules.split(axes))


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
    # On a pod an axis of the mesh may take a part of an axis of the torus.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def check_used(mesh: Mesh | AbstractMesh, rules: ShardingRules) -> None:
    """Refuse a mesh with an axis of many devices that no rule names: each would do the others' work again."""
    used = {axis for entry in vars(rules).values() for axis in entry}
    for axis, size in mesh.shape.items():
        if size > 1 and axis not in used:
            raise UserError(f"mesh.{axis}={size}, but no sharding rule splits anything over {axis!r}.")


def constrain(x: jax.Array, rules: ShardingRules, *axes: str | None) -> jax.Array:
    """Tell the compiler how an activation is split. Without a mesh in context this does nothing.

    A dimension that does not divide stays whole: decoding has one row, or one token a row.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    sizes = zip(x.shape, rules.split(axes), strict=True)
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*(entry if size % devices_along(mesh, entry) == 0 else () for size, entry in sizes))
    )


def as_rows(x: jax.Array) -> jax.Array:
    """`[B, T, D]` as `[B x T, D]`, where no mesh splits the sequences too: such pieces do not lie end to end.

    A plain matrix product, which a CPU's backward pass does in half the time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.shape.get("context", 1) > 1 else x.reshape(-1, x.shape[-1])


def logical_axes(boxed: Any) -> Any:
    """The tree of logical axis names that the layers declared, from an abstract `Transformer.init`."""
    return jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


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
                _check_divides(mesh, rules, names, leaf.shape, keys)
                return NamedSharding(mesh, partition_spec(rules, names))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def path_keys(path: Any) -> tuple[str, ...]:
    """The names along a path in a pytree, such as ("layers", "mlp", "up")."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _check_divides(
    mesh: Mesh | AbstractMesh, rules: ShardingRules, names: Axes, shape: tuple[int, ...], path: Axes
) -> None:
    for name, size, entry in zip(names, shape, rules.split(names), strict=True):
        parts = devices_along(mesh, entry)
        if size % parts:
            raise UserError(
                f"{'.'.join(map(str, path))}: its axis {name!r} of {size} cannot be split over {parts} devices "
                f"({' x '.join(entry)}); {nearest_multiples(size, parts)}."
            )


def nearest_multiples(size: int, parts: int) -> str:
    """For an error: the sizes next to `size` that `parts` divides."""
    below, above = size // parts * parts, -(-size // parts) * parts
    return f"the nearest sizes that can are {below} and {above}" if below else f"the nearest size that can is {above}"


def devices_along(mesh: Mesh | AbstractMesh, entry: tuple[str, ...]) -> int:
    """How many pieces the axes of a rule make."""
    return math.prod(mesh.shape[axis] for axis in entry)
