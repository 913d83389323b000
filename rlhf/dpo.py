"""DPO: choices move the policy directly, which is its own reward model (Rafailov et al. 2023)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from model.transformer import Transformer
from rlhf.config import DPOConfig
from rlhf.learner import scheduled_adam
from rlhf.objectives import dpo, weighted_mean
from rlhf.reward import Comparer, Comparisons
from rlhf.scorer import log_likelihoods
from rlhf.stage import Step

Metrics = dict[str, Float[Array, ""]]


class DPOState(NamedTuple):
    """All that a step reads and writes."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def preference_loss(
    params: Any, reference: Any, batch: Comparisons, model: Transformer, beta: float
) -> tuple[Float[Array, ""], Metrics]:
    """The loss on a batch, a mean over its pairs; with how often the implicit reward agrees, and its mean margin."""
    moved = log_likelihoods(model, params, batch.answers) - log_likelihoods(model, reference, batch.answers)
    chosen, rejected = moved[batch.chosen], moved[batch.rejected]
    found = dpo(chosen, rejected, beta, batch.weights)
    margin = weighted_mean(beta * (chosen - rejected), jnp.asarray(batch.weights))
    return found.loss, {"loss": found.loss, "accuracy": found.accuracy, "margin": margin}


class DPOTrainer:
    """What the stage needs beside its state."""

    def __init__(self, model: Transformer, config: DPOConfig, comparer: Comparer, reference: Any) -> None:
        """Prepare; `reference` are the parameters that the policy begins with and is kept near."""
        self.config, self.comparer, self.reference = config, comparer, reference
        self.optimizer = scheduled_adam(config.learning_rate, config.steps, config.epsilon)
        self._loss = partial(preference_loss, model=model, beta=config.beta)
        self._measure, self._update = jax.jit(self._loss), jax.jit(self._step, donate_argnums=0)

    def initial(self, policy: Any) -> DPOState:
        """The state before the first step."""
        own = jax.tree.map(jnp.copy, policy)  # a step uses up what it is given
        return DPOState(jnp.zeros((), jnp.int32), own, self.optimizer.init(own))

    def take_step(self, state: DPOState, number: int) -> Step:
        """One update."""
        state, measured = self._update(state, self.reference, self.comparer.batch(number - 1))
        found = {name: float(value) for name, value in measured.items()}
        return Step(state, found, note=f"loss {found['loss']:.3f}  accuracy {found['accuracy']:.0%}")

    def _step(self, state: DPOState, reference: Any, batch: Comparisons) -> tuple[DPOState, Metrics]:
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.params, reference, batch)
        moves, opt_state = self.optimizer.update(grads, state.opt_state)
        return DPOState(state.step + 1, optax.apply_updates(state.params, moves), opt_state), metrics

    def evaluate(self, params: Any, held_out: Comparer) -> dict[str, float]:
        """`pairs`, and over all of them what `preference_loss` measures, on choices that nothing was learned from."""
        parts = [batch for _, batch in held_out.parts(range(len(held_out.groups)))]
        pairs = [part.weights.sum() for part in parts]
        found = [self._measure(params, self.reference, part)[1] for part in parts]
        means = {name: float(np.average([row[name] for row in found], weights=pairs)) for name in found[0]}
        return {"pairs": int(sum(pairs)), **means}
