"""The bytes that one training step must send along each axis of a mesh: formulas to hold a compiled step against.

    fsdp      parameters gathered forward and again backward, gradients scattered as they are summed
              (Rajbhandari et al. 2020, section 7.2.2)
    data      what is left of the gradients there, summed on all
    context   keys and values gathered, their gradients scattered as they are summed; gradients of parameters as data
    expert    of a mixture, tokens gathered and results scattered as they are summed, and backward the other way round;
              gradients of what is not the experts' as data
    tensor    activations gathered before attention and feed-forward and scattered as they are summed after, in both
              directions; so too at the two ends of the model, and three numbers a token for the logits' normalizer
              (Korthikanti et al. 2022, section 4.2.2)

Numbers that do not grow with the model (norms of gradients, the loss) are left out.
"""

import math
from collections.abc import Iterator, Mapping

import jax

from experiments.collectives import ring_bytes
from model.config import ModelConfig, ShardingRules
from model.sharding import path_keys
from model.transformer import named_shapes


def least_bytes(
    config: ModelConfig,
    mesh: Mapping[str, int],
    rows: int,
    length: int,
    accumulation: int = 1,
    itemsize: int = 4,
    rules: ShardingRules | None = None,
    scatters: bool = True,
) -> dict[str, float]:
    """Bytes that each device must send along each mesh axis in one training step, by rings.

    Args:
        config: the model; a mixture's experts are split along the axis of that name.
        mesh: sizes of the mesh's axes, as `Mesh.shape` has them.
        rows: of the whole batch.
        length: tokens of a row.
        accumulation: parts that the batch is computed in; each gathers parameters and sums gradients anew.
        itemsize: bytes of a number as products are computed; parameters are cast before they travel, but for those
            of norms, routers and biases, whose gradients, and those of the model's two ends, are of 4 bytes at least.
        rules: where arrays live.
        scatters: whether the compiler scatters sums. Without (on CPU) it sums them whole on every device, twice the
            bytes, and then takes a part; and what several products hand back to one input it sums one by one.
    """
    scatter = "reduce-scatter" if scatters else "all-reduce"
    sent = dict.fromkeys(mesh, 0.0)

    def send(times: float, kind: str, payload: float, *axes: str) -> None:
        used = [axis for axis in mesh if axis in axes and mesh[axis] > 1]
        for axis, size in ring_bytes(kind, payload, used, [mesh[axis] for axis in used]):
            sent[axis] += times * size

    for keys, shard, split, gathered in _parameters(config, mesh, rules or ShardingRules()):
        norm, own = any("norm" in key for key in keys), keys[-1]
        wide = norm or own == "router" or own.endswith("bias")
        end = own in ("embedding", "position_embedding", "head")  # whose gradients add up in float32
        payload = shard * (max(itemsize, 4) if wide else itemsize)
        gradient = shard * (max(itemsize, 4) if wide or end else itemsize)
        devices = math.prod(mesh[axis] for axis in gathered)
        # What the layers gather is dropped until backward; the ends of the model go straight from one to the other.
        send(accumulation * (2 if "layers" in keys else 1), "all-gather", payload * devices, *gathered)
        twice = keys == ("embedding",) and config.tied_head and not scatters
        scattered = "reduce-scatter" if "expert" in split else scatter
        send(accumulation * (1 + twice), scattered, gradient * devices, *gathered)
        # All but the tensor axis have tokens of their own, and there too norms, between which sequences are split.
        send(accumulation, "all-reduce", gradient, *({*mesh} - split - (set() if norm else {"tensor"})))

    tokens = rows * length * mesh["tensor"] / math.prod(mesh.values())  # those that a device works on
    activations = tokens * config.width * itemsize
    regathers = config.layers * (config.remat != "none")
    products = 2 if scatters else 3 + (2 if config.activation == "swiglu" else 1)  # that read a block's inputs
    sums = config.layers * (2 + products + (config.remat == "full")) + 2
    send(4 * config.layers + 2 + 2 * regathers, "all-gather", activations, "tensor")
    send(sums, scatter, activations, "tensor")
    send(3, "all-reduce", tokens * 4, "tensor")

    if config.experts is not None:
        together, routed = mesh["expert"], config.experts_per_token * 8  # whom a token meets and how much, 4 bytes each
        send(2 * config.layers + regathers, "all-gather", together * activations, "expert")
        send(config.layers + regathers, "all-gather", together * tokens * routed, "expert")
        send(2 * config.layers, "reduce-scatter", together * activations, "expert")

    cached = 2 * config.key_value_heads * config.head_dim * itemsize / mesh["tensor"]  # keys and values of a token
    send(config.layers + regathers, "all-gather", tokens * mesh["context"] * cached, "context")
    send(config.layers, scatter, tokens * mesh["context"] * cached, "context")
    return {axis: size for axis, size in sent.items() if size}


def _parameters(
    config: ModelConfig, mesh: Mapping[str, int], rules: ShardingRules
) -> Iterator[tuple[tuple[str, ...], float, set[str], tuple[str, ...]]]:
    """Of each array its path, how many numbers of it a device holds, the axes that split it, and those among them
    along which it is gathered for use."""
    axes, shapes = named_shapes(config)
    arrays = jax.tree_util.tree_leaves_with_path(shapes)
    names = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for (path, array), axes in zip(arrays, names, strict=True):
        split = {axis for entry in rules.split(axes) for axis in entry}
        gathered = rules.embed if "embed" in axes else ()
        yield path_keys(path), array.size / math.prod(mesh[axis] for axis in split), split, gathered
