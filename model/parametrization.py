"""How initial weights, multipliers and AdamW's numbers depend on a model's width and depth: standard, or CompleteP.

CompleteP (Dey et al. 2025, arXiv 2505.01618, table 1 with alpha = 1) is muP in width (Yang et al. 2022, Tensor
Programs V, table 8) with a rule for depth, so that numbers tuned for a small model, the base, suit a wide and deep one.
With m = width / base_width, d = layers / base_layers and s = init_std:

                                    standard                    CompleteP
    initial std, embeddings         s                           s
    initial std, hidden matrices    s                           s / sqrt(m)
      those that write to the
      residual stream               s / sqrt(2 layers)          s / sqrt(2 base_layers m)
    initial std, head of its own    s                           0
    residual stream                 x + f(norm(x))              x + f(norm(x)) / d
    logits                          x W                         x W / m
    AdamW's learning rate, hidden matrices
                                    1                           1 / m
      embeddings, head, norms, biases
                                    1                           1 (of depth d^(alpha - 1), which is 1)
    AdamW's epsilon, in the layers  1                           1 / (m d)
      embeddings, head, last norm   1                           1 / m
    AdamW's weight decay, hidden matrices
                                    1                           m: learning rate x decay stays the same

So a base model is the standard one, but for a head that starts at zero (Yang et al. 2022, appendix D.2), where it is
not tied. A tied head follows the embedding, whose row of the table is the same but for that. Heads keep their
dimensions H when the width grows, so that scores are divided by sqrt(H) as ever: dividing by H instead (definition 4.1
there) would matter to heads that grow. GPT-2's smaller projections into the residual stream are taken at the base's
depth: the deeper ones are the multiplier's affair.
"""

import math
from typing import Literal

from model.config import ModelConfig

Kind = Literal["embedding", "hidden", "residual", "head", "vector"]
"""What a parameter is to the rules: a table looked up by token or position, a matrix of a layer, one of those that
write to the residual stream, the head, a bias or a norm's scale."""
KINDS: dict[str, Kind] = {
    "embedding": "embedding",
    "position_embedding": "embedding",
    "query": "hidden",
    "key": "hidden",
    "value": "hidden",
    "output": "residual",
    "up": "hidden",
    "gate": "hidden",
    "down": "residual",
    "head": "head",
    "scale": "vector",
}


def width_ratio(config: ModelConfig) -> float:
    """m of the table; 1 in standard parametrization."""
    return 1.0 if config.base_width is None else config.width / config.base_width


def depth_ratio(config: ModelConfig) -> float:
    """d of the table; 1 in standard parametrization."""
    return 1.0 if config.base_layers is None else config.layers / config.base_layers


def kind_of(path: tuple[str, ...]) -> Kind:
    """What the parameter at a path is.

    Raises:
        KeyError: the table has no row for it.
    """
    return "vector" if path[-1].endswith("bias") else KINDS[path[-1]]


def init_std(config: ModelConfig, kind: Kind) -> float:
    """Standard deviation of a matrix's initial weights."""
    std = config.init_std
    if kind in ("hidden", "residual"):
        std /= math.sqrt(width_ratio(config))
    if kind == "residual":  # Radford et al. 2019, section 2.3
        std /= math.sqrt(2 * (config.base_layers or config.layers))
    if kind == "head" and config.parametrization == "completep":
        return 0.0
    return std


def residual_scale(config: ModelConfig) -> float:
    """What a sublayer's output is multiplied with before it is added to the residual stream."""
    return 1 / depth_ratio(config)


def logit_scale(config: ModelConfig) -> float:
    """What the output projection is multiplied with."""
    return 1 / width_ratio(config)


def embedding_scale(config: ModelConfig) -> float:
    """What the embedding is multiplied with beside sinusoids, to come up to their size (Vaswani et al. 2017, 3.4)."""
    return float(config.base_width or config.width) ** 0.5


def learning_rate_scale(config: ModelConfig, path: tuple[str, ...]) -> float:
    """Factor of AdamW's learning rate for the parameter at a path; its weight decay has the inverse one."""
    return 1 / width_ratio(config) if kind_of(path) in ("hidden", "residual") else 1.0


def epsilon_scale(config: ModelConfig, path: tuple[str, ...]) -> float:
    """Factor of AdamW's epsilon for the parameter at a path: as its gradients shrink (Dey et al. 2025, equation 40)."""
    return 1 / (width_ratio(config) * (depth_ratio(config) if "layers" in path else 1.0))
