"""Optimizers and learning-rate schedules, assembled from optax, with all their numbers in one place."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from optax.contrib import MuonDimensionNumbers, muon

from model.config import ModelConfig
from model.parametrization import epsilon_scale, learning_rate_scale
from model.sharding import path_keys
from train.config import TrainConfig, check_rule

Scalar: TypeAlias = Float[np.ndarray | Array, "*runs"]  # of one run; along a leading axis of many


class Hyperparameters(NamedTuple):
    """The numbers of an optimizer, as a compiled step is given them: runs that differ in nothing else share it."""

    learning_rate: Scalar
    muon_learning_rate: Scalar
    final_learning_rate: Scalar
    """A share of the peak."""
    beta1: Scalar
    beta2: Scalar
    epsilon: Scalar
    weight_decay: Scalar
    clip_norm: Scalar
    steps: Scalar
    warmup_steps: Scalar
    decay_steps: Scalar
    """Over which the learning rate falls, at the end."""


def hyperparameters(config: TrainConfig) -> Hyperparameters:
    """The numbers of a config; a warm-up or decay longer than the run ends with it."""
    warmup = min(config.warmup_steps, config.steps)
    share = 1.0 if config.schedule == "cosine" else config.decay_fraction
    decay = min(round(config.steps * share), config.steps - warmup)
    numbers = {**vars(config), "warmup_steps": warmup, "decay_steps": decay}
    return Hyperparameters(*(np.asarray(numbers[name], np.float32) for name in Hyperparameters._fields))


def learning_rate(config: TrainConfig, numbers: Hyperparameters, peak: Scalar) -> optax.Schedule:
    """Learning rate of each update: linear warm-up, then cosine, or a plateau with a linear end.

    The first update already has a share of the peak, and the last one exactly the final rate.
    """

    def rate(update: Any) -> Scalar:
        step = update + 1
        begun = step - (numbers.steps - numbers.decay_steps)
        progress = jnp.clip(begun / jnp.maximum(numbers.decay_steps, 1), 0, 1)
        left = (1 + jnp.cos(jnp.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
        falling = numbers.final_learning_rate + (1 - numbers.final_learning_rate) * left
        return peak * jnp.where(step < numbers.warmup_steps, step / jnp.maximum(numbers.warmup_steps, 1), falling)

    return rate


def make_optimizer(
    config: TrainConfig, model: ModelConfig, numbers: Hyperparameters | None = None
) -> optax.GradientTransformation:
    """Clip, then AdamW or Muon; weight decay on matrices only.

    Args:
        numbers: taken in place of the config's own.

    Raises:
        UserError: the model's parametrization has no rule for the optimizer.
    """
    check_rule(config, model)
    numbers = hyperparameters(config) if numbers is None else numbers
    clip, rate = optax.clip_by_global_norm(numbers.clip_norm), learning_rate(config, numbers, numbers.learning_rate)
    if model.parametrization == "completep":
        return optax.chain(clip, completep_adamw(model, numbers, rate))
    decay = {"weight_decay": numbers.weight_decay}
    adamw = optax.adamw(rate, numbers.beta1, numbers.beta2, numbers.epsilon, mask=is_matrix, **decay)
    if config.optimizer == "adamw":
        return optax.chain(clip, adamw)
    matrix_rate = learning_rate(config, numbers, numbers.muon_learning_rate)
    matrices = muon(matrix_rate, muon_weight_dimension_numbers=muon_dimensions, **decay)
    return optax.chain(clip, optax.partition({"adamw": adamw, "muon": matrices}, _rule))


def completep_adamw(
    model: ModelConfig, numbers: Hyperparameters, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """AdamW with each parameter's own learning rate, weight decay and epsilon (`model.parametrization` has the table).

    Gradients divided by a factor are, to Adam, its epsilon multiplied by it. The decay has the inverse factor of the
    learning rate: it is added where the one is already in and the other need not be.
    """
    return optax.chain(
        _scale_each(lambda path: 1 / epsilon_scale(model, path)),
        optax.scale_by_adam(numbers.beta1, numbers.beta2, numbers.epsilon),
        _scale_each(lambda path: learning_rate_scale(model, path)),
        optax.add_decayed_weights(numbers.weight_decay, is_matrix),
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
