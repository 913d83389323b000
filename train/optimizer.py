"""Optimizers and learning-rate schedules, assembled from optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from model.config import ModelConfig
from model.parametrization import epsilon_scale, learning_rate_scale
from model.sharding import path_keys
from train.config import TrainConfig, check_rule


def learning_rate(config: TrainConfig, peak: float) -> optax.Schedule:
    """Learning rate of each update, the first being 0: linear warm-up, then cosine, or a plateau with a linear end.

    The first update already has a share of the peak, and the last one exactly the final rate.
    """
    warmup = min(config.warmup_steps, config.steps)
    end = peak * config.final_learning_rate
    if config.schedule == "cosine":
        by_step = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(config.steps, warmup + 1), end)
        return lambda update: by_step(update + 1)
    decay = min(round(config.steps * config.decay_fraction), config.steps - warmup)
    parts = [
        optax.linear_schedule(0.0, peak, warmup),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, end, decay),
    ]
    by_step = optax.join_schedules(parts, [warmup, config.steps - decay])
    return lambda update: by_step(update + 1)


def make_optimizer(config: TrainConfig, model: ModelConfig) -> optax.GradientTransformation:
    """Clip, then AdamW or Muon; weight decay on matrices only.

    Raises:
        UserError: the model's parametrization has no rule for the optimizer.
    """
    check_rule(config, model)
    clip = optax.clip_by_global_norm(config.clip_norm)
    rate = learning_rate(config, config.learning_rate)
    if model.parametrization == "completep":
        return optax.chain(clip, completep_adamw(config, model, rate))
    adamw = optax.adamw(
        rate, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay, mask=is_matrix
    )
    if config.optimizer == "adamw":
        return optax.chain(clip, adamw)
    matrices = muon(
        learning_rate(config, config.muon_learning_rate),
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=muon_dimensions,
    )
    return optax.chain(clip, optax.partition({"adamw": adamw, "muon": matrices}, _rule))


def completep_adamw(
    config: TrainConfig, model: ModelConfig, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """AdamW with each parameter's own learning rate, weight decay and epsilon (`model.parametrization` has the table).

    Gradients divided by a factor are, to Adam, its epsilon multiplied by it. The decay has the inverse factor of the
    learning rate: it is added where the one is already in and the other need not be.
    """
    return optax.chain(
        _scale_each(lambda path: 1 / epsilon_scale(model, path)),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        _scale_each(lambda path: learning_rate_scale(model, path)),
        optax.add_decayed_weights(config.weight_decay, is_matrix),
        optax.scale_by_learning_rate(rate),
    )


def _scale_each(factor: Callable[[tuple[str, ...]], float]) -> optax.GradientTransformation:
    """Multiply the update of each parameter with a factor by its path."""
    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(lambda path, x: factor(path_keys(path)) * x, updates)
    )


def _rule(params: Any) -> Any:
    """Which of the two rules of Muon's runs moves each parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: "adamw" if _dimensions(path, leaf) is None else "muon", params
    )


def is_matrix(params: Any) -> Any:
    """A tree of booleans: everything but biases and norm scales, whatever their stacked shape."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path_keys(path)[-1]), params)


def muon_dimensions(params: Any) -> Any:
    """How each stacked weight of the layers is a matrix to Muon; None where AdamW takes over.

    Query, key, value, up and gate read from the width, the axis after the layers; output and down write to it,
    their last axis. Each expert of a mixture has matrices of its own; a router is a head, and left to AdamW.
    """
    return jax.tree_util.tree_map_with_path(_dimensions, params)


def _dimensions(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
    keys = path_keys(path)
    name = keys[-1]
    if not _is_matrix(name) or "layers" not in keys or name == "router":
        return None
    experts = name in ("up", "gate", "down") and leaf.ndim == 4
    axes = tuple(range(2 if experts else 1, leaf.ndim))
    if name in ("output", "down"):
        return MuonDimensionNumbers(reduction_axis=axes[:-1], output_axis=axes[-1:])
    return MuonDimensionNumbers(reduction_axis=axes[:1], output_axis=axes[1:])


def _is_matrix(name: str) -> bool:
    return name != "scale" and not name.endswith("bias")
