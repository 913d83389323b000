"""What a training step takes on a machine that is not there: memory, arithmetic, traffic and time, by sums.

The sums know the shapes and the sharding rules, not the compiler: `experiments.plan_compile` asks that. Sizes are one
chip's, bytes and FLOPs those of one step. B, T, D and the other letters: `model.layers`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import jax
from jax.sharding import AbstractMesh

from experiments.config import Experiment
from experiments.least_traffic import least_bytes
from experiments.topologies import Topology
from model.config import MESH_AXES, MeshConfig, ModelConfig, ShardingRules
from model.errors import UserError
from model.sharding import check_used, nearest_multiples, state_shardings
from model.transformer import count_parameters, named_shapes
from train.flops import matmul_parameters, train_flops_per_token

COMPUTE = 2
"""Bytes of a number that products are computed with: bfloat16."""
STORED = 4
"""Bytes of a parameter, a gradient and each of AdamW's two moments: float32."""
SCORE_BYTES = 20
"""Memory of one attention score at its peak in backward: float32 scores and their gradient, bfloat16 weights and
theirs, and what the softmax holds. Measured of the TPU compiler: 13 in gpt2-124m, 20 in llama3.1-405b."""
MIXTURE_COPIES = 4
"""Times that backward holds a mixture's sorted rows and hidden values, and their gradients, at its peak.
Measured of the TPU compiler in gpt4-estimate on fsdp=16, expert=8, tensor=8: 82 GB of temporaries."""
SCORE_TRAFFIC = 36
"""Bytes that one attention score is read and written as: float32 in and out of the softmax and bfloat16 weights, 12
each forward, when computed again, and in backward."""


@dataclass(frozen=True)
class Layout:
    """An experiment spread over a machine. The batch and the parts it is computed in are those of its `train`."""

    experiment: Experiment
    topology: Topology

    @cached_property
    def mesh(self) -> dict[str, int]:
        """Chips along each mesh axis."""
        return {axis: getattr(self.experiment.mesh, axis) for axis in MESH_AXES}

    @property
    def tokens_per_step(self) -> int:
        """Of the whole batch."""
        return self.experiment.train.batch_size * self.experiment.data.sequence_length

    def chips_along(self, axis: str) -> int:
        """Pieces that the rules cut a logical axis into."""
        return math.prod(self.mesh[name] for name in getattr(self.experiment.sharding, axis))

    @property
    def rows(self) -> int:
        """Of one part of the batch."""
        return self.experiment.train.batch_size // self.experiment.train.accumulation // self.chips_along("batch")

    @property
    def length(self) -> int:
        """Tokens of each of those rows."""
        return self.experiment.data.sequence_length // self.chips_along("sequence")

    @cached_property
    def parameters(self) -> tuple[float, float]:
        """How many a chip keeps, and how many it holds in a step, were all gathered over the axes of `embed`.

        Raises:
            UserError: an axis does not divide one of them.
        """
        return _parameters(self.experiment.model, self.experiment.mesh, self.experiment.sharding)


@cache
def _parameters(config: ModelConfig, mesh: MeshConfig, rules: ShardingRules) -> tuple[float, float]:
    axes, shapes = named_shapes(config)
    abstract = AbstractMesh(tuple(getattr(mesh, axis) for axis in MESH_AXES), MESH_AXES)

    check_used(abstract, rules)

    def held(rules: ShardingRules) -> float:
        placed = state_shardings(abstract, rules, axes, shapes)
        sizes = jax.tree.map(lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)), shapes, placed)
        return float(sum(jax.tree.leaves(sizes)))

    return held(rules), held(replace(rules, embed=()))


def lay_out(experiment: Experiment, topology: Topology, mesh: Mapping[str, int] | None) -> Layout:
    """The experiment on the machine.

    Args:
        mesh: chips along each axis, 1 where it is not named.

    Raises:
        UserError: sizes do not multiply to the number of chips, or one does not divide the batch or an array.
    """
    sizes = dict.fromkeys(MESH_AXES, 1) | dict(mesh or {})
    product = math.prod(sizes.values())
    if product != topology.chips:
        told = ",".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "1"
        raise UserError(
            f"mesh {told}: {product:,} devices, but {topology.name} has {topology.chips:,} chips; "
            f"{_nearest_mesh(sizes, topology.chips)}"
        )
    layout = Layout(replace(experiment, mesh=MeshConfig(**sizes)), topology)
    train, length = experiment.train, experiment.data.sequence_length
    parts = layout.chips_along("batch") * train.accumulation
    if train.batch_size % parts:
        over = " x ".join(experiment.sharding.batch)
        raise UserError(
            f"--batch: {train.batch_size} rows cannot be split over {over} = {layout.chips_along('batch')} chips, in "
            f"{train.accumulation} parts; {nearest_multiples(train.batch_size, parts)}."
        )
    for axis in ("sequence", "residual"):
        if length % (pieces := layout.chips_along(axis)):
            over = " x ".join(getattr(experiment.sharding, axis))
            raise UserError(f"rows of {length} tokens cannot be split over {over} = {pieces} chips.")
    layout.parameters  # noqa: B018  the check that all divides
    return layout


def _nearest_mesh(sizes: Mapping[str, int], chips: int) -> str:
    for axis in ("fsdp", *sizes):
        rest = math.prod(size for name, size in sizes.items() if name != axis)
        if chips % rest == 0:
            return f"{axis}={chips // rest} would do."
    return "no one axis can put that right."


def memory(layout: Layout) -> dict[str, float]:
    """Bytes that a chip needs: `arguments` (state and batch), `temporaries`, `total`; and `available` of its memory.

    Temporaries are gradients (twice, when a batch is computed in parts), what is kept for backward, and the largest
    working set: scores, hidden values and gathered weights of a layer, or the loss' logits.
    """
    config, train = layout.experiment.model, layout.experiment.train
    kept, gathered = layout.parameters
    tokens, tensor = layout.rows * layout.length, layout.mesh["tensor"]
    arguments = 3 * STORED * kept + 5 * 4 * tokens * train.accumulation
    gradients = STORED * kept * (1 if train.accumulation == 1 else 2)
    vocabulary = config.vocabulary / (tensor if config.vocabulary % tensor == 0 else 1)
    logits = 3 * STORED * tokens * min(vocabulary, train.vocab_chunk or vocabulary)
    weights = 3 * COMPUTE * _layer_share(config) * gathered / config.layers
    working = max(weights + _scores(layout) * SCORE_BYTES + COMPUTE * 2 * _feed_forward(layout), logits)
    temporaries = gradients + COMPUTE * tokens * _kept_for_backward(layout) * config.layers + working
    total = arguments + temporaries
    available = layout.topology.chip.hbm_bytes
    return {"arguments": arguments, "temporaries": temporaries, "total": total, "available": available}


def _layer_share(config: ModelConfig) -> float:
    """Share of the parameters that are the layers'."""
    return 1 - config.width * config.vocabulary * (1 if config.tied_head else 2) / count_parameters(config)


def _scores(layout: Layout) -> float:
    """Attention scores of one layer of one part: B x N x T x S, masked ones too."""
    heads = layout.experiment.model.heads / layout.mesh["tensor"]
    return layout.rows * heads * layout.length * layout.experiment.data.sequence_length


def _met(config: ModelConfig) -> int:
    """Feed-forward networks of a layer that a token meets."""
    return 1 if config.experts is None else config.experts_per_token


def _hidden(config: ModelConfig) -> int:
    """Numbers of a token in a feed-forward layer: up, and gate where there is one, of each network it meets."""
    return config.hidden_width * (2 if config.activation == "swiglu" else 1) * _met(config)


def _feed_forward(layout: Layout) -> float:
    """Numbers that a feed-forward layer holds at once; a mixture has room for all tokens that it gathers, sorted."""
    config, tokens = layout.experiment.model, layout.rows * layout.length
    hidden = _hidden(config) / layout.mesh["tensor"]
    if config.experts is None:
        return tokens * hidden
    rows = tokens * layout.mesh["expert"]
    return MIXTURE_COPIES * rows * (hidden + 2 * config.experts_per_token * config.width)


def _kept_for_backward(layout: Layout) -> float:
    """Numbers that a layer keeps of each token: its input; with "dots" what products made; with "none" all of it."""
    config, tensor = layout.experiment.model, layout.mesh["tensor"]
    kept = config.width * layout.chips_along("sequence") / layout.chips_along("residual")
    if config.remat != "full":
        heads = (2 * config.heads + 2 * config.key_value_heads) * config.head_dim
        # Products of experts are ragged, and "dots" keeps plain ones only.
        hidden = 0 if config.remat == "dots" and config.experts else _hidden(config)
        kept += 2 * config.width + (heads + hidden) / tensor
    if config.remat == "none":
        kept += 2 * config.width + 2 * _hidden(config) / tensor
        kept += 4 * config.heads / tensor * layout.experiment.data.sequence_length
    return kept


def flops(layout: Layout) -> dict[str, float]:
    """FLOPs of one step of all chips: the `formula`'s (train.flops) and those `executed`.

    What is executed counts masked scores too, since attention computes them, and what remat and the loss' chunks
    compute a second time: of a whole layer not its last product, which backward does not need but to tell how much each
    expert should count; with "dots" also the products of experts.
    """
    config, train, length = layout.experiment.model, layout.experiment.train, layout.experiment.data.sequence_length
    head = config.width * config.vocabulary
    scores = 4 * config.width * length * config.layers
    layers = 2 * (matmul_parameters(config) - head) + scores
    down = 2 * config.layers * config.width * config.hidden_width if config.norm_position == "pre" else 0
    if config.experts is None:
        again = {"none": 0.0, "dots": scores, "full": layers - down}[config.remat]
    else:
        experts = 2 * config.layers * config.width * (_hidden(config) + config.hidden_width * _met(config))
        again = {"none": 0.0, "dots": scores + experts, "full": layers}[config.remat]
    chunked = train.vocab_chunk is not None and train.vocab_chunk < config.vocabulary
    executed = 3 * layers + again + 2 * head * (4 if chunked else 3)
    formula = train_flops_per_token(config, length)
    return {"formula": formula * layout.tokens_per_step, "executed": executed * layout.tokens_per_step}


def collective_bytes(layout: Layout) -> dict[str, float]:
    """Bytes that a chip sends over each mesh axis: the least that the rules ask for (`experiments.least_traffic`)."""
    experiment = layout.experiment
    least = least_bytes(
        experiment.model,
        layout.mesh,
        experiment.train.batch_size,
        experiment.data.sequence_length,
        experiment.train.accumulation,
        COMPUTE,
        experiment.sharding,
    )
    return dict.fromkeys(MESH_AXES, 0.0) | least


def memory_traffic(layout: Layout) -> float:
    """Bytes between memory and chip: the least that parameters, optimizer and activations ask for.

    AdamW reads four numbers for each parameter and writes four; each pass reads the weights it gathered; each layer
    reads and writes what its products take and make; scores go by `SCORE_TRAFFIC`.
    """
    config, parts = layout.experiment.model, layout.experiment.train.accumulation
    kept, gathered = layout.parameters
    again = 1 if config.remat == "full" else 0
    per_token = 6 * config.width + (4 * config.width + 3 * _hidden(config)) / layout.mesh["tensor"]
    activations = COMPUTE * layout.rows * layout.length * per_token * (3 + again) * config.layers
    scores = _scores(layout) * SCORE_TRAFFIC * config.layers
    return 8 * STORED * kept + parts * ((3 + again) * COMPUTE * gathered + activations + scores)


def roofline(layout: Layout, moved: Mapping[str, float] | None = None, executed: float | None = None) -> dict[str, Any]:
    """The least time that a step can take, were compute, memory and interconnect each perfect and all at once.

    Args:
        moved: bytes that a chip sends over each mesh axis; those of `collective_bytes` unless told.
        executed: FLOPs of all chips; those of `flops` unless told.
    """
    chip, chips = layout.topology.chip, layout.topology.chips
    moved = collective_bytes(layout) if moved is None else moved
    speeds, counted = layout.topology.bandwidths(layout.mesh), flops(layout)
    seconds = {
        "compute": (executed or counted["executed"]) / (chip.peak_flops * chips),
        "memory": memory_traffic(layout) / chip.hbm_bandwidth,
        "interconnect": sum(moved.get(axis, 0.0) / speeds[axis] for axis in MESH_AXES if layout.mesh[axis] > 1),
    }
    bound_by = max(seconds, key=lambda kind: seconds[kind])
    longest = seconds[bound_by]
    return {
        "seconds": seconds,
        "seconds_per_step": longest,
        "bound_by": bound_by,
        "mfu_bound": counted["formula"] / (chip.peak_flops * chips * longest),
    }


def bill(layout: Layout, seconds_per_step: float, tokens: float) -> dict[str, float]:
    """Days and dollars of training on `tokens`."""
    days = tokens / layout.tokens_per_step * seconds_per_step / 86_400
    return {"days": days, "dollars": days * 24 * layout.topology.chips * layout.topology.chip.dollars_per_hour}


def parts_that_fit(layout: Layout, room: float = 0.9) -> Layout:
    """The same batch in the fewest parts that leave a tenth of the memory free; in as many as it has rows, if none do.

    Raises:
        UserError: the batch has too few rows for the mesh.
    """
    rows = layout.experiment.train.batch_size // layout.chips_along("batch")
    for parts in (parts for parts in range(1, rows + 1) if rows % parts == 0):
        train = replace(layout.experiment.train, accumulation=parts)
        tried = Layout(replace(layout.experiment, train=train), layout.topology)
        if (found := memory(tried))["total"] <= room * found["available"]:
            break
    return tried


def advice(layout: Layout) -> str:
    """Which knob helps a plan that does not fit."""
    config, found = layout.experiment.model, memory(layout)
    if layout.rows > 1:
        rows = layout.experiment.train.batch_size // layout.chips_along("batch")
        return f"--accumulation {rows} computes one row of each chip at a time, or a smaller --batch"
    if config.remat != "full":
        return "--remat full keeps one number of each layer's input for backward, and computes the rest again"
    if found["arguments"] + STORED * layout.parameters[0] > found["available"]:
        return "parameters and optimizer take it: more fsdp (or tensor) chips share them"
    return "activations of one row take it: more tensor or context chips share them"
