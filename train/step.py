"""The train state and the one jitted step that moves it. Pure functions; where arrays live comes from the rules."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from model.config import ShardingRules
from model.sharding import constrain, logical_axes, partition_spec, state_shardings
from model.transformer import Transformer
from train.batches import Batch
from train.config import TrainConfig
from train.objective import training_loss

Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """All that a step reads and writes. The step number is also the position in the data."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    skipped: Int[Array, ""]
    """Updates left out because the loss or a gradient was not finite."""
    skipped_in_a_row: Int[Array, ""]


def init_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh, rules: ShardingRules, seed: int
) -> TrainState:
    """A fresh state, made where the rules put it: no array is ever whole on one device of many."""
    make, shardings = _state_maker(model, optimizer, mesh, rules)
    with jax.set_mesh(mesh):
        return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))


def abstract_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh, rules: ShardingRules
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without making it."""
    make, shardings = _state_maker(model, optimizer, mesh, rules)
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _state_maker(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh, rules: ShardingRules
) -> tuple[Callable[[Array], TrainState], Any]:
    tokens = jnp.zeros((1, 1), jnp.int32)

    def make(key: Array) -> TrainState:
        params = nn.unbox(model.init(key, tokens))["params"]
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, optimizer.init(params), zero, zero)

    axes = logical_axes(jax.eval_shape(model.init, jax.random.key(0), tokens))["params"]
    shardings = state_shardings(mesh, rules, axes, jax.eval_shape(make, jax.random.key(0)))
    return make, shardings


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    vocab_chunk: int | None,
) -> tuple[TrainState, Metrics]:
    """One update on one batch.

    The loss is the mean over the batch's real targets, however many parts it is computed in. An update with a
    loss or gradient that is not finite is left out and counted; the step number moves on all the same.

    A mixture's balance statistics are those of each part: its load-balancing loss is the parts' mean.
    """
    count = jnp.maximum(batch.weights.sum(), 1)

    def loss_of(params: Any, part: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        return jax.tree.map(lambda summed: summed / count, training_loss(model, params, part, vocab_chunk))

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
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        skipped=state.skipped + bad,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
    )
    if "expert_load" in found:
        found["largest_load"] = found.pop("expert_load").max()
    metrics = {
        **found,
        "grad_norm": grad_norm,
        "skipped": new_state.skipped,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }
    return new_state, metrics


def jitted_step(
    model: Transformer, optimizer: optax.GradientTransformation, config: TrainConfig, state: TrainState
) -> Any:
    """`train_step`, to be traced or compiled. The given state is used up; the new one lies where it lay."""
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        accumulation=config.accumulation,
        vocab_chunk=config.vocab_chunk,
    )
    places = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))


def compile_step(
    model: Transformer, optimizer: optax.GradientTransformation, config: TrainConfig, state: TrainState, batch: Batch
) -> Any:
    """`jitted_step` compiled for these shapes and places."""
    return jitted_step(model, optimizer, config, state).lower(state, batch).compile()


def batch_sharding(mesh: Mesh, rules: ShardingRules) -> NamedSharding:
    """Where the rows of a batch live."""
    return NamedSharding(mesh, partition_spec(rules, ("batch", "sequence")))


def place(batch: Batch, sharding: NamedSharding) -> Batch:
    """Put a host batch on the mesh; each process hands over only the rows its devices hold."""

    def put(array: np.ndarray) -> Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return Batch(*map(put, map(np.asarray, batch)))
