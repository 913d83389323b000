"""PPO against a reward model: rollout, score, advantages, epochs of minibatches (Ouyang et al. 2022, section 3.5).

Dimension letters: `rlhf.rollout`. The policy and its critic are separate networks with an optimizer each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from model.chat import ChatTemplate
from model.errors import UserError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from rlhf.config import PPOConfig
from rlhf.objectives import (
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    penalize_unstopped,
    policy_loss,
    token_rewards,
    value_loss,
    weighted_mean,
    whiten,
)
from rlhf.records import Prompt
from rlhf.rollout import Rollout, before_responses, generate, response_log_probs
from rlhf.scorer import Scorer, score, score_tokens
from rlhf.stage import Step
from train.batches import Batch, Batches
from train.objective import next_token_loss

SAMPLES = 4  # episodes that samples.jsonl shows of an iteration
Tokens = Float[Array, "B R"]
Metrics = dict[str, Array]


class PPOState(NamedTuple):
    """All that an iteration reads and writes; prompts, text and randomness follow from the step."""

    step: Int[Array, ""]
    params: Any
    critic: Any
    opt_state: Any
    critic_opt_state: Any


class Experience(NamedTuple):
    """Episodes with what the update needs to know of them."""

    rollout: Rollout
    weights: Tokens
    """1 on real tokens, 0 on padding."""
    values: Tokens
    advantages: Tokens
    returns: Tokens


@dataclass(frozen=True)
class Learner:
    """What an update needs beside its state. How policy and critic come to their numbers is left to functions."""

    config: PPOConfig
    policy: Callable[[Any, Rollout], tuple[Tokens, Tokens]]
    """Log-probabilities of the responses' tokens, and entropies."""
    critic: Callable[[Any, Rollout], Tokens]
    """What is still to come, before each token of the responses."""
    text_loss: Callable[[Any, Batch], Float[Array, ""]] | None = None
    """Nats per token of a batch of pre-training text; None: there is none to mix in."""

    @cached_property
    def optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        """Adam for the policy and for the critic, their rates falling to a tenth, gradients clipped to length 1."""
        c = self.config
        updates = c.steps * c.epochs * c.minibatches

        def adam(rate: float) -> optax.GradientTransformation:
            falling = optax.linear_schedule(rate, rate / 10, updates)
            return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(falling, eps=c.epsilon))

        return adam(c.learning_rate), adam(c.critic_learning_rate)

    def initial(self, policy: Any, critic: Any) -> PPOState:
        """The state before the first iteration."""
        policy, critic = jax.tree.map(jnp.copy, (policy, critic))  # an update uses up what it is given
        of_policy, of_critic = self.optimizers
        return PPOState(jnp.zeros((), jnp.int32), policy, critic, of_policy.init(policy), of_critic.init(critic))

    def loss(self, networks: tuple[Any, Any], part: Experience, text: Batch | None) -> tuple[Float[Array, ""], Metrics]:
        """The policy's clipped loss, PPO-ptx's share of text, and the critic's loss: no parameter is in two of them."""
        c, (policy, critic) = self.config, networks
        log_probs, entropy = self.policy(policy, part.rollout)
        old = part.rollout.log_probs
        actor = policy_loss(log_probs, old, part.advantages, part.weights, c.clip)
        value = value_loss(self.critic(critic, part.rollout), part.values, part.returns, part.weights, c.value_clip)
        total = actor.loss + value.loss
        metrics = {
            "policy_loss": actor.loss,
            "clip_fraction": actor.clip_fraction,
            "value_loss": value.loss,
            "value_clip_fraction": value.clip_fraction,
            "entropy": weighted_mean(entropy, part.weights),
            "update_kl": weighted_mean(kl_k3(old, log_probs), part.weights),
        }
        if self.text_loss is not None and text is not None:
            metrics["text_loss"] = self.text_loss(policy, text)
            total = total + c.ptx_coefficient * metrics["text_loss"]
        return total, metrics

    def update(
        self, state: PPOState, experience: Experience, key: PRNGKeyArray, texts: Batch | None = None
    ) -> tuple[PPOState, Metrics]:
        """`epochs` times over the episodes in `minibatches`, each in an order of its own.

        Args:
            texts: of every minibatch of every epoch one batch of text, stacked.

        Returns:
            The state one step on, and metrics averaged over the minibatches.
        """
        c, (of_policy, of_critic) = self.config, self.optimizers
        episodes = experience.weights.shape[0]
        orders = jax.vmap(partial(jax.random.permutation, x=episodes))(jax.random.split(key, c.epochs))

        def step(state: PPOState, minibatch: tuple[Array, Batch | None]) -> tuple[PPOState, Metrics]:
            rows, text = minibatch
            part = jax.tree.map(lambda x: x[rows], experience)
            networks = (state.params, state.critic)
            (_, metrics), (grads, critic_grads) = jax.value_and_grad(self.loss, has_aux=True)(networks, part, text)
            moves, opt_state = of_policy.update(grads, state.opt_state)
            critic_moves, critic_opt_state = of_critic.update(critic_grads, state.critic_opt_state)
            params, critic = optax.apply_updates(networks, (moves, critic_moves))
            return PPOState(state.step, params, critic, opt_state, critic_opt_state), metrics

        state, metrics = jax.lax.scan(step, state, (orders.reshape(c.epochs * c.minibatches, -1), texts))
        return state._replace(step=state.step + 1), jax.tree.map(jnp.mean, metrics)


def experience_of(
    config: PPOConfig, rollout: Rollout, scores: Float[Array, "B"], reference: Tokens, values: Tokens
) -> tuple[Experience, Metrics]:
    """Rewards and advantages of scored episodes, and what is worth watching of them.

    Args:
        scores: of whole answers.
        reference: log-probabilities under the model that the policy should stay near.
        values: the critic's, before each token.
    """
    weights = rollout.mask.astype(values.dtype)
    kl = kl_k1(rollout.log_probs, reference)
    rewards = token_rewards(scores, kl, rollout.response_lengths, config.kl_coefficient) * weights
    if config.whiten_rewards:
        rewards = whiten(rewards, weights, shift_mean=False)
    advantages = gae(rewards, values, weights, config.discount, config.gae_decay)
    returns = advantages + values * weights
    if config.whiten_advantages:
        advantages = whiten(advantages, weights)

    def per_episode(x: Tokens) -> Array:
        return jnp.mean(jnp.sum(jnp.where(weights > 0, x, 0), axis=1))

    measured = {
        "reward": jnp.mean(scores),
        "kl": per_episode(kl),
        "kl_k3": per_episode(kl_k3(rollout.log_probs, reference)),
        "explained_variance": explained_variance(values, returns, weights),
        "response_length": jnp.mean(rollout.response_lengths.astype(values.dtype)),
    }
    return Experience(rollout, weights, values, advantages, returns), measured


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, template: ChatTemplate, room: int
) -> list[list[int]]:
    """The ids of prompts, to where the answer begins.

    Raises:
        UserError: one has more than `room` tokens.
    """
    rows = [[tokenizer.document_end, *template.encode(tokenizer, p, answer=True).tokens] for p in prompts]
    for index, row in enumerate(rows):
        if len(row) > room:
            raise UserError(f"prompt {index} has {len(row)} tokens; beside an answer the context has room for {room}.")
    return rows


class PaddedPrompts:
    """Prompts as padded ids; batch n is a pure function of the seed and n."""

    def __init__(self, rows: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.lengths = np.array([len(row) for row in rows], np.int32)
        self.tokens = np.zeros((len(rows), self.lengths.max()), np.int32)
        for index, row in enumerate(rows):
            self.tokens[index, : len(row)] = row
        self.batch_size = batch_size
        self._order = grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat()

    def batch(self, number: int) -> Int[np.ndarray, "B"]:
        """Which prompts batch `number` takes, from 0."""
        return np.array([self._order[number * self.batch_size + place] for place in range(self.batch_size)])


class PPOTrainer:
    """Iterations of PPO on a transformer."""

    def __init__(
        self,
        model: Transformer,
        config: PPOConfig,
        prompts: PaddedPrompts,
        reference: Any,
        reward: Scorer,
        tokenizer: Tokenizer,
        stop: tuple[int, ...],
        seed: int,
        texts: Batches | None = None,
        gold: Callable[[int, str], float] | None = None,
    ) -> None:
        """Prepare.

        Args:
            reference: the parameters that the policy begins with and is kept near.
            texts: endless batches of pre-training text, of which each minibatch takes one.
            gold: the true reward of a text as an answer to a prompt, where it is known; only ever logged.
        """
        self.config, self.prompts, self.tokenizer, self.texts, self.gold = config, prompts, tokenizer, texts, gold
        self.key = jax.random.key(seed)

        def values(critic: Scorer, rollout: Rollout) -> Tokens:
            return before_responses(score_tokens(model, critic, rollout.tokens), rollout)[..., 0]

        def text_loss(params: Any, batch: Batch) -> Float[Array, ""]:
            return next_token_loss(model, params, batch) / jnp.maximum(batch.weights.sum(), 1)

        policy = partial(response_log_probs, model)
        self.learner = Learner(config, policy, values, text_loss if texts is not None else None)

        def prepare(critic: Scorer, rollout: Rollout) -> tuple[Experience, Metrics]:
            scores = score(model, reward, rollout.tokens, rollout.lengths).mean(axis=1)
            last = jnp.take_along_axis(rollout.tokens, rollout.lengths[:, None] - 1, axis=1)[:, 0]
            stopped = jnp.isin(last, jnp.asarray(stop))
            scores = penalize_unstopped(scores, stopped, config.unstopped_penalty)
            found = experience_of(config, rollout, scores, policy(reference, rollout)[0], values(critic, rollout))
            return found[0], {**found[1], "stop_rate": jnp.mean(stopped.astype(scores.dtype))}

        self._prepare, self._update = jax.jit(prepare), jax.jit(self.learner.update, donate_argnums=0)
        self._generate = partial(generate, model, max_tokens=config.max_tokens, stop=stop)

    def initial(self, policy: Any, reward: Scorer) -> PPOState:
        """The state before the first iteration: the critic begins as the reward model, an ensemble's heads averaged."""
        kernel, bias = reward.kernel.mean(axis=1, keepdims=True), reward.bias.mean(keepdims=True)
        return self.learner.initial(policy, Scorer(reward.trunk, kernel, bias))

    def rollout(self, params: Any, number: int) -> Rollout:
        """The episodes of iteration `number`, from 1."""
        places = self.prompts.batch(number - 1)
        temperature = np.full(len(places), self.config.temperature, np.float32)
        key = jax.random.fold_in(self.key, 2 * number)
        return self._generate(params, key, self.prompts.tokens[places], self.prompts.lengths[places], temperature)

    def take_step(self, state: PPOState, number: int) -> Step:
        """One iteration.

        Raises:
            UserError: the reward model's scores are not finite.
        """
        c = self.config
        rollout = self.rollout(state.params, number)
        experience, measured = self._prepare(state.critic, rollout)
        if not np.isfinite(measured["reward"]):
            raise UserError(
                f"iteration {number}: the reward model's scores are not finite; nothing was learned from them."
            )
        updates = c.epochs * c.minibatches
        texts = None
        if self.texts is not None:
            drawn = [self.texts[(number - 1) * updates + index] for index in range(updates)]
            texts = jax.tree.map(lambda *x: np.stack(x), *drawn)
        key = jax.random.fold_in(self.key, 2 * number + 1)
        state, learned = self._update(state, experience, key, texts)
        metrics = {name: float(value) for name, value in {**measured, **learned}.items()}
        answers = self.answers(rollout)
        places = self.prompts.batch(number - 1)
        if self.gold is not None:
            metrics["gold_reward"] = float(
                np.mean([self.gold(int(i), a) for i, a in zip(places, answers, strict=True)])
            )
        asked = [self.prompts.tokens[i, 1 : self.prompts.lengths[i]].tolist() for i in places[:SAMPLES]]
        prompts = [self.tokenizer.decode(ids) for ids in asked]
        shown = [{"prompt": p, "text": a} for p, a in zip(prompts, answers[:SAMPLES], strict=True)]
        note = f"reward {metrics['reward']:.2f}  KL {metrics['kl']:.2f}"
        if "gold_reward" in metrics:
            note += f"  gold {metrics['gold_reward']:.2f}"
        return Step(state, metrics, {"episodes": shown}, note)

    def answers(self, rollout: Rollout) -> list[str]:
        """The responses as text, without what stopped them."""
        special = set(self.tokenizer.special_ids.values())
        rows = zip(np.asarray(rollout.responses()), np.asarray(rollout.response_lengths), strict=True)
        return [
            self.tokenizer.decode(t for t in row[:length].tolist() if t not in special).strip() for row, length in rows
        ]
