"""A model at other widths and depths, under either parametrization. Importing this does not import JAX."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from model.config import ModelConfig
from model.errors import UserError

TITLES = {"standard": "standard", "completep": "CompleteP"}
PARAMETRIZATIONS = tuple(TITLES)


def resized(model: ModelConfig, width: int, layers: int | None = None) -> ModelConfig:
    """The model at a width, and at a depth if one is given.

    Heads keep their dimensions and grow in number; the feed-forward layer keeps its proportion.

    Raises:
        UserError: the width is not a whole number of heads, or something else would not come out whole.
    """
    parts = {"heads": model.heads, "kv_heads": model.kv_heads, "mlp_width": model.mlp_width}
    changed: dict[str, Any] = {}
    for name, size in parts.items():
        if size is not None and size * width % model.width:
            raise UserError(
                f"--widths {width}: model.{name}={size} at model.width={model.width} does not come out whole there."
            )
        changed[name] = None if size is None else size * width // model.width
    return replace(model, width=width, layers=layers or model.layers, **changed)


def parametrized(model: ModelConfig, parametrization: str, base: ModelConfig) -> ModelConfig:
    """The model under a parametrization, with the base's width and depth where it is relative to them."""
    if parametrization == "standard":
        return replace(model, parametrization="standard", base_width=None, base_layers=None)
    return replace(model, parametrization="completep", base_width=base.width, base_layers=base.layers)


def check_sizes(option: str, sizes: Sequence[int]) -> list[int]:
    """The sizes in order, each once.

    Raises:
        UserError: fewer than two, or one below 1.
    """
    found = sorted(set(sizes))
    if len(found) < 2 or found[0] < 1:
        raise UserError(f"--{option} {' '.join(map(str, sizes))} must be at least two different sizes above 0.")
    return found
