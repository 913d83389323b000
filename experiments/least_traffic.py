"""The bytes that one training step must send along each axis of a mesh: formulas to hold a compiled step against.

    fsdp      parameters gathered forward and again backward, gradients scattered as they are summed
              (Rajbhandari et al. 2020, section 7.2.2)
    data      what is left of the gradients there, summed on all
    tensor    activations gathered before attention and feed-forward and scattered as they are summed after, in both
              directions; so too at the two ends of the model, and three numbers a token for the logits' normalizer
              (Korthikanti et al. 2022, section 4.2.2)
    context   keys and values gathered, their gradients scattered as they are summed; gradients of parameters as data

Embeddings, of which a few rows are looked up, go to where the tokens are, or the tokens to them, whichever
is less. Numbers that do not grow with the model (norms of gradients, the loss) are left out.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.collectives import ring_bytes
from model.config import ModelConfig
from model.sharding import ShardingRules, logical_axes, path_keys
from model.transformer import Transformer

TOKEN_BYTES = 4
REPEATED = {"none": 0, "dots": 1, "full": 1}
"""How often backward gathers anew what a block gathered, by remat policy; `full` sums attention once more too."""


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
        config: a dense model.
        mesh: sizes of the mesh's axes, as `Mesh.shape` has them.
        rows: of the whole batch.
        length: tokens of a row.
        accumulation: parts that the batch is computed in; each gathers parameters and sums gradients anew.
        itemsize: bytes of a number as products are computed; parameters are cast before they travel.
        rules: where arrays live.
        scatters: whether the compiler scatters sums. Without (on CPU) it sums them whole on every device, twice the
            bytes, and then takes a part.
    """
    rules, scatter = rules or ShardingRules(), "reduce-scatter" if scatters else "all-reduce"

    def send(kind: str, payload: float, *axes: str) -> Counter[str]:
        used = [axis for axis in mesh if axis in axes and mesh[axis] > 1]
        return Counter(dict(ring_bytes(kind, payload, used, [mesh[axis] for axis in used])))

    tokens = rows * length * mesh["tensor"] / math.prod(mesh.values())  # those that a device works on
    sent: Counter[str] = Counter()
    for keys, count, split in _parameters(config, mesh, rules):
        norm = any("norm" in key for key in keys)
        shard = count * (max(itemsize, 4) if norm else itemsize)
        whole = shard * mesh["fsdp"] if "fsdp" in split else 0  # what it has of the array once it is gathered
        gathers = accumulation * (2 if "layers" in keys else 1)  # the ends of the model pass from forward to backward
        travel = _times(gathers, send("all-gather", whole, "fsdp")) + _times(accumulation, send(scatter, whole, "fsdp"))
        if keys == ("embedding",) and not config.tied_head:
            moved = send("all-gather", tokens * mesh["fsdp"] * TOKEN_BYTES, "fsdp")
            moved += _times(2, send("all-to-all", tokens * config.width * itemsize, "fsdp"))
            travel = min(travel, moved, key=Counter.total)
        # All but the tensor axis have tokens of their own, and there too norms, which are split along the sequence.
        alike = {axis for axis in mesh if axis not in split and (norm or axis != "tensor")}
        sent += travel + _times(accumulation, send("all-reduce", shard, *alike))

    activations = tokens * config.width * itemsize
    gathered, scattered = send("all-gather", activations, "tensor"), send(scatter, activations, "tensor")
    again = REPEATED[config.remat]
    sent += _times(4 * config.layers + 2, gathered + scattered)
    sent += _times(2 * again * config.layers, gathered) + _times((config.remat == "full") * config.layers, scattered)
    sent += _times(3, send("all-reduce", tokens * 4, "tensor"))

    cached = 2 * config.key_value_heads * config.head_dim * itemsize / mesh["tensor"]  # keys and values of a token
    sequences = tokens * mesh["context"]
    sent += _times((1 + again) * config.layers, send("all-gather", sequences * cached, "context"))
    sent += _times(config.layers, send(scatter, sequences * cached, "context"))
    return {axis: float(sent[axis]) for axis in mesh if sent[axis]}


def _times(number: float, sent: Counter[str]) -> Counter[str]:
    return Counter({axis: number * size for axis, size in sent.items()})


def _parameters(
    config: ModelConfig, mesh: Mapping[str, int], rules: ShardingRules
) -> Iterator[tuple[tuple[str, ...], float, set[str]]]:
    """Of each array its path, the numbers of it that a device holds, and the mesh axes that it is split over."""
    boxed = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    axes, arrays = logical_axes(boxed)["params"], nn.unbox(boxed)["params"]
    names = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for (path, array), name in zip(jax.tree_util.tree_leaves_with_path(arrays), names, strict=True):
        spec = [(entry,) if isinstance(entry, str) else entry or () for entry in rules.spec(name)]
        split = {axis for entry in spec for axis in entry}
        yield path_keys(path), array.size / math.prod(mesh[axis] for axis in split), split
