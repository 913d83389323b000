"""What alignment minimizes, and what goes into it. Pure functions of arrays.

Letters: B episodes, R tokens of a response. `weights` is 1 on real tokens and 0 on padding; all means are over weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Rows = Float[Array | np.ndarray, "B"]
Tokens = Float[Array, "B R"]
Scalar = Float[Array, ""]


# --- choices --------------------------------------------------------------------------------------------------------


class Preferred(NamedTuple):
    """A loss on choices, and the share of them that the model agrees with (a tie counts half)."""

    loss: Scalar
    accuracy: Scalar


def bradley_terry(
    chosen: Rows, rejected: Rows, margin: Rows | float = 0.0, smoothing: float = 0.0, weights: Rows | None = None
) -> Preferred:
    """-log sigma(r_chosen - r_rejected - margin), with labels smoothed towards a half; a weighted mean over pairs.

    Bradley & Terry 1952; Ouyang et al. 2022, equation 1; the margin as in Touvron et al. 2023, section 3.2.2.
    """
    weights = jnp.ones_like(chosen) if weights is None else jnp.asarray(weights)
    difference = chosen - rejected - margin
    losses = -(1 - smoothing) * jax.nn.log_sigmoid(difference) - smoothing * jax.nn.log_sigmoid(-difference)
    agreement = (jnp.sign(chosen - rejected) + 1) / 2
    return Preferred(weighted_mean(losses, weights), weighted_mean(agreement, weights))


# --- rewards --------------------------------------------------------------------------------------------------------


def kl_k1(log_probs: Tokens, reference: Tokens) -> Tokens:
    """log p - log q of the drawn token: unbiased for KL(p || q), of either sign (Schulman 2020, k1)."""
    return log_probs - reference


def kl_k3(log_probs: Tokens, reference: Tokens) -> Tokens:
    """q/p - 1 - log q/p: unbiased too and never negative (Schulman 2020, k3)."""
    log_ratio = reference - log_probs
    return jnp.expm1(log_ratio) - log_ratio


def token_rewards(scores: Rows, kl: Tokens, lengths: Int[Array, "B"], coefficient: float) -> Tokens:
    """-coefficient * kl at each token, and the score at the last real one (Ziegler et al. 2019, equation 2)."""
    places = jnp.arange(kl.shape[1])
    return jnp.where(places < lengths[:, None], -coefficient * kl, 0) + jnp.where(
        places == lengths[:, None] - 1, scores[:, None], 0
    )


def penalize_unstopped(scores: Rows, stopped: Bool[Array, "B"], penalty: float) -> Float[Array, "B"]:
    """A response that did not end as it should scores `penalty` less than 0, the mean, or than its score below that.

    Huang et al. 2024, section 3, give it a fixed -1, which makes a bad one better. TRL subtracts from any score, but
    what a reward model makes of an end that it has never seen may be worth that: here 3 deviations.
    """
    return jnp.where(stopped, scores, jnp.minimum(scores, 0) - penalty)


def whiten(x: Tokens, weights: Tokens, shift_mean: bool = True) -> Tokens:
    """To variance 1 (of the population, 1e-8 added) and mean 0; without `shift_mean` the mean stays as it was.

    Huang et al. 2024, details 17 and 22: rewards keep their mean, advantages do not. Padding becomes 0.
    """
    mean = weighted_mean(x, weights)
    whitened = (x - mean) * jax.lax.rsqrt(weighted_mean(jnp.square(x - mean), weights) + 1e-8)
    return jnp.where(weights > 0, whitened if shift_mean else whitened + mean, 0)


def gae(rewards: Tokens, values: Tokens, weights: Tokens, discount: float, decay: float) -> Tokens:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16): sum over l of (discount * decay)^l delta.

    delta_t = reward_t + discount * value_{t+1} - value_t, and nothing is worth anything after the last real token.
    """
    real = weights > 0
    values = jnp.where(real, values, 0)
    following = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
    deltas = jnp.where(real, rewards + discount * following - values, 0)

    def back(later: Array, delta: Array) -> tuple[Array, Array]:
        advantage = delta + discount * decay * later
        return advantage, advantage

    _, advantages = jax.lax.scan(back, jnp.zeros_like(deltas[:, 0]), deltas.T, reverse=True)
    return jnp.where(real, advantages.T, 0)


def group_advantages(scores: Rows, group: int) -> Float[Array, "B"]:
    """(score - mean) / (std + 1e-4) among the `group` answers to one prompt (Shao et al. 2024, section 4.1.2)."""
    grouped = jnp.asarray(scores).reshape(-1, group)
    centred = grouped - grouped.mean(1, keepdims=True)
    return (centred / (grouped.std(1, keepdims=True) + 1e-4)).reshape(-1)


# --- losses ---------------------------------------------------------------------------------------------------------


class Clipped(NamedTuple):
    """A clipped loss, and the share of tokens where the clipping took hold."""

    loss: Scalar
    clip_fraction: Scalar


def policy_loss(log_probs: Tokens, old: Tokens, advantages: Tokens, weights: Tokens, clip: float) -> Clipped:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), mean over tokens (Schulman et al. 2017, equation 7)."""
    ratio = jnp.exp(log_probs - old)
    plain, clipped = ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages
    # At ratio = 1 both are the same number: the plain branch keeps the whole gradient, a minimum would halve it.
    taken = clipped < plain
    return Clipped(-weighted_mean(jnp.where(taken, clipped, plain), weights), weighted_mean(taken, weights))


def value_loss(values: Tokens, old: Tokens, returns: Tokens, weights: Tokens, clip: float) -> Clipped:
    """Half the larger squared error of the value and of the value kept within `clip` of the old one.

    Huang et al. 2024, detail 19, after OpenAI's baselines.
    """
    plain = jnp.square(values - returns)
    clipped = jnp.square(jnp.clip(values, old - clip, old + clip) - returns)
    taken = clipped > plain
    return Clipped(weighted_mean(jnp.where(taken, clipped, plain), weights) / 2, weighted_mean(taken, weights))


def dpo(chosen: Rows, rejected: Rows, beta: float, weights: Rows | None = None) -> Preferred:
    """Bradley-Terry on the implicit reward beta * log(p / reference) (Rafailov et al. 2023, equation 7).

    Args:
        chosen, rejected: log p - log reference of the whole answer.
    """
    return bradley_terry(beta * chosen, beta * rejected, weights=weights)


# --- measures -------------------------------------------------------------------------------------------------------


def weighted_mean(x: Array, weights: Array) -> Scalar:
    """The mean over weights; 0 where there are none. Where a weight is 0, x may be anything, NaN included."""
    return jnp.sum(jnp.where(weights > 0, x, 0) * weights) / jnp.maximum(jnp.sum(weights), 1e-9)


def explained_variance(values: Tokens, returns: Tokens, weights: Tokens) -> Scalar:
    """1 - var(returns - values) / var(returns): 1 where the critic knows all, 0 where it knows nothing."""

    def variance(x: Tokens) -> Scalar:
        return weighted_mean(jnp.square(x - weighted_mean(x, weights)), weights)

    return 1 - variance(returns - values) / jnp.maximum(variance(returns), 1e-9)
