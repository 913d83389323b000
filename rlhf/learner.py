"""How a policy learns from scored answers, whatever the method: epochs of minibatches, in parts where memory is short.

Letters: `rlhf.rollout`. A method's experience is a named tuple over episodes of at least `rollout`, `weights` and
`advantages`; what is estimated is always a mean over the weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from rlhf.config import PolicyConfig
from rlhf.objectives import Rows, Scalar, Tokens, kl_k3, policy_loss, weighted_mean
from rlhf.rollout import Rollout
from train.batches import Batch

Metrics = dict[str, Array]


class PolicyState(NamedTuple):
    """All that an iteration reads and writes; prompts, text and randomness follow from the step."""

    step: Int[Array, ""]
    params: Any
    critic: Any
    """An empty tuple where the method has none."""
    opt_state: Any


@dataclass(frozen=True)
class Learner(ABC):
    """What an update needs beside its state. How the policy comes to its numbers is left to a function."""

    config: PolicyConfig
    policy: Callable[[Any, Rollout], tuple[Tokens, Tokens]]
    """Log-probabilities of the responses' tokens, and entropies."""
    text_loss: Callable[[Any, Batch], Scalar] | None = field(default=None, kw_only=True)
    """Nats per token of a batch of pre-training text; None: there is none to mix in."""

    @abstractmethod
    def experience(self, critic: Any, rollout: Rollout, scores: Rows, reference: Tokens) -> tuple[Any, Metrics]:
        """What the update has to know of scored episodes, and what is worth watching of them.

        Args:
            scores: of whole answers.
            reference: log-probabilities under the model that the policy should stay near.
        """

    @abstractmethod
    def beside(self, critic: Any, log_probs: Tokens, part: Any) -> tuple[Scalar, Metrics]:
        """What the method's loss has beside the clipped objective."""

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of the policy and the critic, each with a rate of its own."""
        c = self.config
        updates = c.steps * c.epochs * c.minibatches
        rules = {name: scheduled_adam(rate, updates, c.epsilon) for name, rate in c.rates.items()}

        def whose(networks: tuple[Any, Any]) -> Any:
            return jax.tree.map(lambda name, own: jax.tree.map(lambda _: name, own), ("policy", "critic"), networks)

        return optax.partition(rules, whose)

    def initial(self, policy: Any, critic: Any = ()) -> PolicyState:
        """The state before the first iteration."""
        policy, critic = jax.tree.map(jnp.copy, (policy, critic))  # an update uses up what it is given
        return PolicyState(jnp.zeros((), jnp.int32), policy, critic, self.optimizer.init((policy, critic)))

    def loss(self, networks: tuple[Any, Any], part: Any) -> tuple[Scalar, Metrics]:
        """The method's loss on episodes, without text: no parameter is in both networks."""
        policy, critic = networks
        log_probs, entropy = self.policy(policy, part.rollout)
        old = part.rollout.log_probs
        actor = policy_loss(log_probs, old, part.advantages, part.weights, self.config.clip)
        beside, metrics = self.beside(critic, log_probs, part)
        return actor.loss + beside, {
            "policy_loss": actor.loss,
            "clip_fraction": actor.clip_fraction,
            **metrics,
            "entropy": weighted_mean(entropy, part.weights),
            "update_kl": weighted_mean(kl_k3(old, log_probs), part.weights),
        }

    def gradient(self, networks: tuple[Any, Any], episodes: Any, text: Batch | None = None) -> tuple[Any, Metrics]:
        """The gradient on a minibatch, computed in `accumulation` parts, and PPO-ptx's share of it on text.

        Each part counts by its share of the weights, so that the sum of the parts' means is the mean over all.
        """
        c, total = self.config, jnp.sum(episodes.weights)
        slopes = jax.grad(self.loss, has_aux=True)
        parts = jax.tree.map(lambda x: x.reshape(c.accumulation, -1, *x.shape[1:]), episodes)

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            share = jnp.sum(part.weights) / total
            return jax.tree.map(lambda x, y: x + share * y, sums, slopes(networks, part)), None

        shapes = jax.eval_shape(slopes, networks, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        ((policy, critic), metrics), _ = jax.lax.scan(add, zeros, parts)
        if self.text_loss is not None and text is not None:
            metrics["text_loss"], of_text = jax.value_and_grad(self.text_loss)(networks[0], text)
            policy = jax.tree.map(lambda x, y: x + c.ptx_coefficient * y, policy, of_text)
        return (policy, critic), metrics

    def update(
        self, state: PolicyState, experience: Any, key: PRNGKeyArray, texts: Batch | None = None
    ) -> tuple[PolicyState, Metrics]:
        """`epochs` times over the episodes in `minibatches`, each in an order of its own; answers to one prompt stay
        together.

        Args:
            texts: of every minibatch of every epoch one batch of text, stacked.

        Returns:
            The state one step on, and metrics averaged over the minibatches.
        """
        c = self.config
        groups = experience.weights.shape[0] // c.group_size
        orders = jax.vmap(partial(jax.random.permutation, x=groups))(jax.random.split(key, c.epochs))
        rows = orders[..., None] * c.group_size + jnp.arange(c.group_size)

        def step(state: PolicyState, minibatch: tuple[Array, Batch | None]) -> tuple[PolicyState, Metrics]:
            rows, text = minibatch
            networks = (state.params, state.critic)
            grads, metrics = self.gradient(networks, jax.tree.map(lambda x: x[rows], experience), text)
            moves, opt_state = self.optimizer.update(grads, state.opt_state)
            params, critic = optax.apply_updates(networks, moves)
            return PolicyState(state.step, params, critic, opt_state), metrics

        state, metrics = jax.lax.scan(step, state, (rows.reshape(c.epochs * c.minibatches, -1), texts))
        return state._replace(step=state.step + 1), jax.tree.map(jnp.mean, metrics)


def scheduled_adam(rate: float, updates: int, epsilon: float) -> optax.GradientTransformation:
    """Adam on gradients clipped to length 1; in the first tenth of updates its rate rises from a tenth, then it falls.

    Ouyang et al. 2022, appendix C.4, let it rise over ten iterations: Adam's first steps, long whatever the gradient,
    would make the policy forget how an answer ends, for text that is mixed in has no turns.
    """
    rising = updates // 10
    up, down = optax.linear_schedule(rate / 10, rate, rising), optax.linear_schedule(rate, rate / 10, updates - rising)
    adam = optax.adam(optax.join_schedules([up, down], [rising]), eps=epsilon)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def of_answers(x: Tokens, rollout: Rollout) -> Rows:
    """The sum over each answer's tokens; padding may hold anything."""
    return jnp.sum(jnp.where(rollout.mask, x, 0), axis=1)
