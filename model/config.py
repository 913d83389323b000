"""What a transformer is made of, spread over and sampled with. Plain data: importing this does not import JAX."""

from dataclasses import dataclass, fields
from typing import Literal

from model.errors import UserError, check_numbers, unknown


@dataclass(frozen=True)
class ModelConfig:
    """One decoder-only transformer. The defaults are a Llama-style block; `model.presets` has the families."""

    layers: int = 4
    """Number of transformer blocks."""
    width: int = 256
    """Size of the residual stream (d_model)."""
    heads: int = 4
    """Query heads; each has width / heads dimensions."""
    kv_heads: int | None = None
    """Key and value heads (grouped-query attention, Ainslie et al. 2023). None: as many as query heads."""
    mlp_width: int | None = None
    """Hidden size of the feed-forward layer. None: 4 x width."""
    vocab_size: int | None = None
    """Rows of the embedding. None: the tokenizer's size."""
    context_length: int = 256
    """Longest sequence the positions allow."""

    positions: Literal["sinusoidal", "learned", "rope"] = "rope"
    """How a token knows where it stands."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies (Su et al. 2021)."""
    rope_scaling: float = 1.0
    """Llama 3.1's stretching of the low rotary frequencies beyond 8,192 positions. 1: none."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019)."""
    norm_position: Literal["pre", "post"] = "pre"
    """Norm before each sublayer, or after the residual sum as in 2017."""
    norm_epsilon: float = 1e-5
    """Added to the variance."""
    qk_norm: bool = False
    """A norm of each head's queries and keys before they turn (Henry et al. 2020; as Qwen3 has it)."""
    activation: Literal["relu", "gelu", "swiglu"] = "swiglu"
    """Feed-forward non-linearity; gelu is the tanh form, swiglu has a gate (Shazeer 2020)."""
    attention_bias: bool = False
    """Biases on the four attention projections."""
    mlp_bias: bool = False
    """Biases in the feed-forward layer."""
    experts: int | None = None
    """Feed-forward networks in each layer, of which a token meets `experts_per_token` (Shazeer et al. 2017).
    None: one that all tokens share."""
    experts_per_token: int = 2
    """The likeliest experts that a mixture sends each token to; their outputs are weighted by their probabilities."""
    router_balance: float = 0.01
    """Weight of a mixture's load-balancing loss (Fedus et al. 2021, equation 4)."""
    router_z: float = 0.001
    """Weight of a mixture's router z-loss (Zoph et al. 2022, equation 5)."""
    tied_head: bool = False
    """The output projection is the transposed embedding (Press & Wolf 2017)."""
    attention_window: int | None = None
    """Every second layer sees only this many last tokens, itself included (GPT-3). None: all layers are dense."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections back into the residual get / sqrt(2 x layers)."""
    parametrization: Literal["standard", "completep"] = "standard"
    """How that, multipliers and AdamW's numbers depend on width and depth. completep (Dey et al. 2025): so that a
    learning rate tuned at the base's size holds at others (`model/parametrization.py` has the table)."""
    base_width: int | None = None
    """Under completep: the width that init_std and AdamW's numbers are meant for."""
    base_layers: int | None = None
    """Under completep: the number of layers that they are meant for."""

    scan: bool = False
    """Run the layers as one loop (compiles fast when deep) instead of unrolled. Changes no number."""
    remat: Literal["none", "dots", "full"] = "none"
    """What backward recomputes: nothing, all but matrix products, or everything. Changes no number; saves memory
    together with `scan`."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context_length"):
            _at_least_one(name, getattr(self, name))
        for name in ("kv_heads", "mlp_width", "vocab_size", "attention_window", "experts", "base_width", "base_layers"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        for name in ("rope_theta", "rope_scaling", "norm_epsilon", "init_std"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"model.{name}={getattr(self, name)} must be a positive number.")
        if self.width % self.heads:
            divisors = [h for h in range(1, self.width + 1) if self.width % h == 0]
            nearest = min(divisors, key=lambda h: (abs(h - self.heads), h))
            raise UserError(
                f"model.heads={self.heads} does not divide model.width={self.width}; "
                f"the nearest that does is {nearest}."
            )
        if self.heads % self.key_value_heads:
            raise UserError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}.")
        if self.positions == "rope" and self.head_dim % 2:
            raise UserError(
                f"model.positions=rope turns pairs of dimensions, and width / heads = {self.head_dim} is odd."
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise UserError(f"model.positions=sinusoidal needs an even model.width, not {self.width}.")
        check_numbers("model", self, not_negative="router_balance router_z")
        if self.experts is not None:
            self._check_mixture(self.experts)
        self._check_parametrization()

    def _check_mixture(self, experts: int) -> None:
        least, k = min(2, experts), self.experts_per_token
        if not least <= k <= experts:
            # One expert of several would always weigh 1, whatever its probability.
            why = " (a token's weights are shares: with one, the router would learn nothing)" if k == 1 else ""
            raise UserError(f"model.experts_per_token={k} must lie between {least} and model.experts={experts}{why}.")
        if self.mlp_bias:
            raise UserError("model.mlp_bias=True does not go with model.experts: experts have no biases.")

    def _check_parametrization(self) -> None:
        completep = self.parametrization == "completep"
        for name in ("base_width", "base_layers"):
            value = getattr(self, name)
            if completep and value is None:
                like = self.width if name == "base_width" else self.layers
                raise UserError(f"model.parametrization=completep needs model.{name}, such as this model's own {like}.")
            if not completep and value is not None:
                raise UserError(
                    f"model.{name}={value} is only for model.parametrization=completep, not {self.parametrization}."
                )
        if completep and self.norm_position == "post":
            # Its rule for depth is of a residual stream that sublayers add to (Dey et al. 2025, section 2).
            raise UserError("model.parametrization=completep is for model.norm_position=pre, not post.")
        if completep and self.experts is not None:
            raise UserError(
                f"model.parametrization=completep has no rule for a mixture's router: model.experts={self.experts}."
            )

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def hidden_width(self) -> int:
        """Feed-forward hidden size, filled in."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding; an error while the tokenizer has not yet filled them in."""
        if self.vocab_size is None:
            raise UserError("model.vocab_size is not known before the tokenizer is.")
        return self.vocab_size

    def window(self, layer: int) -> int:
        """How many tokens back layer `layer` sees, itself included (alternating, dense first)."""
        if self.attention_window is None or layer % 2 == 0:
            return self.context_length
        return self.attention_window


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. The defaults are the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits. Below 1 the likely gets likelier; 0 always takes the likeliest (greedy)."""
    top_k: int | None = None
    """Keep only this many of the likeliest tokens."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens that together reach this probability (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} must be 0 (greedy) or a positive number.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1.")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{name}={value} must lie in (0, 1].")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis takes. One of them may be -1: whatever is left."""

    data: int = -1
    """Replicas that split the batch."""
    fsdp: int = 1
    """Devices that split the batch and also the parameters (Zhao et al. 2023)."""
    expert: int = 1
    """Devices that split the batch, and the experts of a mixture (Lepikhin et al. 2020)."""
    context: int = 1
    """Devices that split each sequence."""
    tensor: int = 1
    """Devices that split heads, feed-forward and vocabulary (Shoeybi et al. 2019)."""


MESH_AXES = tuple(field.name for field in fields(MeshConfig))


@dataclass(frozen=True)
class ShardingRules:
    """Which mesh axes each logical axis of an array is split over; empty: not split.

    One table serves every mesh, for an axis of one device splits nothing.
    """

    batch: tuple[str, ...] = ("data", "fsdp", "expert")
    """Rows of a batch."""
    sequence: tuple[str, ...] = ("context",)
    """Tokens of a row inside attention and feed-forward. Keys and values are gathered: every query sees them all."""
    residual: tuple[str, ...] = ("context", "tensor")
    """Tokens of a row between them, in the residual stream and its norms (Korthikanti et al. 2022)."""
    embed: tuple[str, ...] = ("fsdp",)
    """The side of a parameter that meets the residual stream; gathered where it is used (Rajbhandari et al. 2019)."""
    heads: tuple[str, ...] = ("tensor",)
    """Query heads."""
    kv_heads: tuple[str, ...] = ("tensor",)
    """Key and value heads, in the cache too."""
    head_dim: tuple[str, ...] = ()
    """Dimensions of a head."""
    mlp: tuple[str, ...] = ("tensor",)
    """Hidden dimensions of the feed-forward layer."""
    vocab: tuple[str, ...] = ("tensor",)
    """Rows of the embedding, columns of the logits."""
    layers: tuple[str, ...] = ()
    """The axis that layers are stacked along."""
    expert: tuple[str, ...] = ("expert",)
    """Experts of a mixture."""

    def __post_init__(self) -> None:
        for field in fields(self):
            entry = getattr(self, field.name)
            for axis in entry:
                if axis not in MESH_AXES:
                    raise unknown(f"mesh axis in sharding.{field.name}", axis, MESH_AXES)
            if len(set(entry)) < len(entry):
                raise UserError(f"sharding.{field.name}={' '.join(entry)} names a mesh axis twice.")

    def split(self, axes: tuple[str | None, ...]) -> tuple[tuple[str, ...], ...]:
        """The mesh axes that each dimension of an array is split over, whose dimensions are called `axes`.

        Raises:
            UserError: an unknown axis, or two dimensions of the array on one mesh axis.
        """
        taken: dict[str, str] = {}
        for axis in filter(None, axes):
            if axis not in vars(self):
                raise unknown("logical axis", axis, vars(self))
            for mesh_axis in getattr(self, axis):
                if mesh_axis in taken:
                    raise UserError(
                        f"sharding rules put both {taken[mesh_axis]!r} and {axis!r} of an array {axes} "
                        f"on the mesh axis {mesh_axis!r}."
                    )
                taken[mesh_axis] = axis
        return tuple(getattr(self, axis) if axis else () for axis in axes)


RULES = {
    "tensor": ShardingRules(embed=()),
    "fsdp+tensor": ShardingRules(),
    "fsdp+context+tensor": ShardingRules(embed=("fsdp", "context")),
}
"""By what splits parameters and optimizer state. "tensor" (Shoeybi et al. 2019) keeps them whole on each replica and
reduces gradients once; the next (Zhao et al. 2023) splits them over the devices that split the batch too, the last also
over those that split sequences: less memory, and parameters gathered in every pass."""


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"model.{name}={value} must be at least 1.")
