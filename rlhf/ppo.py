"""PPO against a reward model: rewards by token, a critic and its advantages (Ouyang et al. 2022, section 3.5).

Dimension letters: `rlhf.rollout`. The policy and its critic are separate networks with an optimizer each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from rlhf.config import PPOConfig
from rlhf.learner import Learner, Metrics
from rlhf.objectives import Rows, Scalar, Tokens, explained_variance, gae, kl_k1, token_rewards, value_loss, whiten
from rlhf.rollout import Rollout
from rlhf.scorer import RewardModel, Scorer, score_tokens
from rlhf.trainer import PolicyTrainer


class Experience(NamedTuple):
    """Episodes with what the update needs to know of them."""

    rollout: Rollout
    weights: Tokens
    """1 on real tokens, 0 on padding."""
    values: Tokens
    advantages: Tokens
    returns: Tokens


@dataclass(frozen=True)
class PPOLearner(Learner):
    """PPO, whose loss has the critic's beside the clipped objective. How values come about is left to a function."""

    config: PPOConfig
    critic: Callable[[Any, Rollout], Tokens]
    """What is still to come, before each token of the responses."""

    def experience(self, critic: Any, rollout: Rollout, scores: Rows, reference: Tokens) -> tuple[Experience, Metrics]:
        """Rewards by token and their advantages, and how much the critic knew of them."""
        c, values = self.config, self.critic(critic, rollout)
        weights = rollout.mask.astype(values.dtype)
        kl = kl_k1(rollout.log_probs, reference)
        rewards = token_rewards(scores, kl, rollout.response_lengths, c.kl_coefficient) * weights
        if c.whiten_rewards:
            rewards = whiten(rewards, weights, shift_mean=False)
        advantages = gae(rewards, values, weights, c.discount, c.gae_decay)
        returns = advantages + values * weights
        if c.whiten_advantages:
            advantages = whiten(advantages, weights)
        known = explained_variance(values, returns, weights)
        return Experience(rollout, weights, values, advantages, returns), {"explained_variance": known}

    def beside(self, critic: Any, log_probs: Tokens, part: Experience) -> tuple[Scalar, Metrics]:
        """The critic's clipped loss."""
        values = self.critic(critic, part.rollout)
        value = value_loss(values, part.values, part.returns, part.weights, self.config.value_clip)
        return value.loss, {"value_loss": value.loss, "value_clip_fraction": value.clip_fraction}


class PPOTrainer(PolicyTrainer):
    """Iterations of PPO on a transformer. The critic has the reward model's architecture and trunk."""

    config: PPOConfig

    def learner_of(self, policy: Callable, text_loss: Callable | None) -> PPOLearner:
        """Values are read where each token was drawn from."""

        def values(critic: Scorer, rollout: Rollout) -> Tokens:
            answers = rollout.answers(self.config.group_size)
            return answers.drawn_from(score_tokens(self.judge, critic, answers))[..., 0]

        return PPOLearner(self.config, policy, values, text_loss=text_loss)

    def critic_of(self, reward: RewardModel) -> Scorer:
        """The reward model's trunk under a head of zeros: its own head, taught at last tokens, is noise at others."""
        return Scorer(reward.scorer.trunk, jnp.zeros((self.judge.config.width, 1)), jnp.zeros(1))
