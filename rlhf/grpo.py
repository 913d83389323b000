"""GRPO: no critic; answers to one prompt are judged against each other (Shao et al. 2024, section 4.1).

Dimension letters: `rlhf.rollout`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from rlhf.config import GRPOConfig
from rlhf.learner import Learner, Metrics
from rlhf.objectives import Rows, Scalar, Tokens, group_advantages, kl_k3, weighted_mean
from rlhf.rollout import Rollout
from rlhf.scorer import RewardModel
from rlhf.trainer import PolicyTrainer


class GroupExperience(NamedTuple):
    """Episodes with what the update needs to know of them."""

    rollout: Rollout
    weights: Tokens
    """1 over the answer's length on real tokens, 0 on padding: every answer counts the same (equation 3)."""
    advantages: Tokens
    """The same for all tokens of an answer (section 4.1.2)."""
    reference: Tokens
    """Log-probabilities under the model that the policy should stay near."""


@dataclass(frozen=True)
class GRPOLearner(Learner):
    """GRPO, whose loss has the KL from the reference beside the clipped objective (equations 3 and 4)."""

    config: GRPOConfig

    def experience(
        self, critic: Any, rollout: Rollout, scores: Rows, reference: Tokens
    ) -> tuple[GroupExperience, Metrics]:
        """Answers to a prompt stand together; how much their scores differ is what there is to learn from."""
        group = self.config.group_size
        weights = rollout.mask.astype(scores.dtype) / rollout.response_lengths[:, None]
        advantages = jnp.where(rollout.mask, group_advantages(scores, group)[:, None], 0)
        spread = jnp.mean(jnp.std(scores.reshape(-1, group), axis=1))
        return GroupExperience(rollout, weights, advantages, reference), {"score_spread": spread}

    def beside(self, critic: Any, log_probs: Tokens, part: GroupExperience) -> tuple[Scalar, Metrics]:
        """The KL from the reference by k3, of which here the gradient counts, weighted."""
        kl = weighted_mean(kl_k3(log_probs, part.reference), part.weights)
        return self.config.kl_coefficient * kl, {"kl_loss": kl}


class GRPOTrainer(PolicyTrainer):
    """Iterations of GRPO on a transformer; its prompts stand in groups."""

    config: GRPOConfig

    def learner_of(self, policy: Callable, text_loss: Callable | None) -> GRPOLearner:
        """Nothing to add."""
        return GRPOLearner(self.config, policy, text_loss=text_loss)

    def critic_of(self, reward: RewardModel) -> tuple[()]:
        """None."""
        return ()
