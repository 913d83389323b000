"""The train state and the one jitted step that moves it. Pure functions; where arrays live comes from the rules."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from model.config import ModelConfig, ShardingRules
from model.sharding import constrain, partition_spec, state_shardings
from model.transformer import Transformer, named_shapes
from train.batches import Batch
from train.config import TrainConfig
from train.objective import training_loss
from train.optimizer import Hyperparameters, learning_rate, make_optimizer

Metrics = dict[str, Float[Array, ""]]
Arrays = TypeVar("Arrays")  # a tree of them
RUNS = "data"  # the mesh axis along which runs that train together lie


class TrainState(NamedTuple):
    """All that a step reads and writes. The step number is also the position in the data."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    skipped: Int[Array, ""]
    """Updates left out because the loss or a gradient was not finite."""
    skipped_in_a_row: Int[Array, ""]


def fresh_state(model: Transformer, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """A state before its first step."""
    return _state(optimizer, nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32)))["params"])


def _state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.init(params), zero, zero)


def init_state(model: Transformer, config: TrainConfig, mesh: Mesh, rules: ShardingRules) -> TrainState:
    """A fresh state, made where the rules put it: no array is ever whole on one device of many."""
    make, _, _ = _state_maker(model, _program(config), mesh, rules)
    with jax.set_mesh(mesh):
        return make(jax.random.key(config.seed))


def abstract_state(model: Transformer, config: TrainConfig, mesh: Mesh, rules: ShardingRules) -> TrainState:
    """Shapes, dtypes and shardings of the state, without making it."""
    _, shapes, shardings = _state_maker(model, _program(config), mesh, rules)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


@lru_cache(maxsize=8)
def _state_maker(
    model: Transformer, config: TrainConfig, mesh: Mesh, rules: ShardingRules
) -> tuple[Callable[[Array], TrainState], Any, Any]:
    """What makes a state from a key, traced once for runs alike; the shapes of its arrays, and where they lie."""
    optimizer = make_optimizer(config, model.config)
    axes, params = named_shapes(model.config)
    shapes = jax.eval_shape(partial(_state, optimizer), params)
    shardings = state_shardings(mesh, rules, axes, shapes)
    return jax.jit(partial(fresh_state, model, optimizer), out_shardings=shardings), shapes, shardings


def train_step(
    state: TrainState, batch: Batch, numbers: Hyperparameters, *, model: Transformer, config: TrainConfig
) -> tuple[TrainState, Metrics]:
    """One update on one batch, by the config's rule with these numbers.

    The loss is the mean over the batch's real targets, however many parts it is computed in. An update with a
    loss or gradient that is not finite is left out and counted; the step number moves on all the same.

    A mixture's balance statistics are those of each part: its load-balancing loss is the parts' mean.
    """
    count, accumulation = jnp.maximum(batch.weights.sum(), 1), config.accumulation
    optimizer = make_optimizer(config, model.config, numbers)

    def loss_of(params: Any, part: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        return jax.tree.map(lambda summed: summed / count, training_loss(model, params, part, config.vocab_chunk))

    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
    if accumulation == 1:
        (total, found), grads = value_and_grad(state.params, batch)
    else:

        def add(carry: Any, part: Batch) -> tuple[Any, None]:
            part = Batch(*(constrain(jnp.asarray(x), model.rules, "batch", "sequence") for x in part))
            return jax.tree.map(jnp.add, carry, value_and_grad(state.params, part)), None

        # Every part takes rows from every device: a row stays where it is.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)
        losses = jax.eval_shape(lambda parts: loss_of(state.params, jax.tree.map(lambda x: x[0], parts)), parts)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (losses, state.params))
        ((total, found), grads), _ = jax.lax.scan(add, zeros, parts)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
    )
    bad = 1 - finite.astype(jnp.int32)
    skipped, in_a_row = state.skipped + bad, (state.skipped_in_a_row + 1) * bad
    new_state = TrainState(state.step + 1, params, opt_state, skipped, in_a_row)
    if "expert_load" in found:
        found["largest_load"] = found.pop("expert_load").max()
    metrics = {
        **found,
        "grad_norm": grad_norm,
        # Updates that are left out do not move the optimizer's own count.
        "learning_rate": learning_rate(config, numbers, numbers.learning_rate)(state.step - state.skipped),
        "skipped": skipped,
        "skipped_in_a_row": in_a_row,
    }
    return new_state, metrics


def step_of_each(
    state: TrainState, batch: Batch, numbers: Hyperparameters, *, model: Transformer, config: TrainConfig
) -> tuple[TrainState, dict[str, Array]]:
    """`train_step`; of many runs, where state and numbers have a leading axis of them, and the batch too unless all
    learn from the same one."""
    step = partial(train_step, model=model, config=config)
    if state.step.ndim == 0:
        return step(state, batch, numbers)
    own = 0 if batch.tokens.ndim == 3 else None
    return jax.vmap(step, in_axes=(0, own, 0), spmd_axis_name=RUNS)(state, batch, numbers)


def jitted_step(model: Transformer, config: TrainConfig, state: TrainState) -> Any:
    """`step_of_each`, to be traced or compiled. The given state is used up; the new one lies where it lay."""
    places = jax.tree.map(lambda x: x.sharding, state)
    step = partial(step_of_each, model=as_given(model), config=_program(config))
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))


def compile_step(model: Transformer, config: TrainConfig, state: TrainState, batch: Batch) -> Any:
    """`jitted_step` compiled for these shapes and places; the same one for runs that differ in numbers alone."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, batch))
    leaves, tree = jax.tree.flatten(shapes)
    return _compiled(as_given(model), _program(config), tuple(leaves), tree)


@lru_cache(maxsize=8)
def _compiled(model: Transformer, config: TrainConfig, leaves: tuple[jax.ShapeDtypeStruct, ...], tree: Any) -> Any:
    state, batch = jax.tree.unflatten(tree, leaves)
    number: Any = jax.ShapeDtypeStruct(state.step.shape, np.float32, sharding=state.step.sharding)
    numbers = Hyperparameters(*(number for _ in Hyperparameters._fields))
    return jitted_step(model, config, state).lower(state, batch, numbers).compile()


def _program(config: TrainConfig) -> TrainConfig:
    """What of a config a compiled program depends on; all else at its default."""
    fixed = ("optimizer", "schedule", "batch_size", "accumulation", "vocab_chunk")
    return TrainConfig(**{name: getattr(config, name) for name in fixed})


def as_given(model: Transformer) -> Transformer:
    """The model to a program that is given its weights: the same however they began."""
    return model.clone(config=replace(model.config, init_std=ModelConfig.init_std))


def batch_sharding(mesh: Mesh, rules: ShardingRules) -> NamedSharding:
    """Where the rows of a batch live."""
    return NamedSharding(mesh, partition_spec(rules, ("batch", "sequence")))


def place(arrays: Arrays, sharding: NamedSharding) -> Arrays:
    """Put what lies on the host, such as a batch, on the mesh; each process hands over only what its devices hold."""

    def put(array: np.ndarray) -> Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(lambda x: put(np.asarray(x)), arrays)
