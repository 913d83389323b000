"""A transformer with a scalar head: what the reward model and the critic that starts from it are made of."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from model.attention import pick
from model.transformer import Transformer
from rlhf.answers import Answers, AnyArray
from train.objective import cross_entropy

VOCAB_CHUNK = 16_384  # columns of the logits that exist at once


class Scorer(NamedTuple):
    """Parameters: the trunk's, and K heads on its last hidden state."""

    trunk: Any
    kernel: Float[Array, "D K"]
    bias: Float[Array, "K"]


def init_scorer(key: PRNGKeyArray, trunk: Any, width: int, heads: int = 1) -> Scorer:
    """Heads drawn from N(0, 1/(d + 1)) on a given trunk (Stiennon et al. 2020; Huang et al. 2024, detail 2)."""
    kernel = jax.random.normal(key, (width, heads)) * (width + 1) ** -0.5
    return Scorer(trunk, kernel, jnp.zeros(heads))


def score_tokens(model: Transformer, params: Scorer, answers: Answers) -> Float[Array, "B W K"]:
    """What each head makes of each row up to each of its wanted places."""
    return answers.read(model, params.trunk).astype(params.kernel.dtype) @ params.kernel + params.bias


class RewardModel(NamedTuple):
    """Parameters of a reward model: a scorer, and how much its trunk's own expectations count.

    To tell a false answer from a right one by the last hidden state, a trunk would have to compare what it reads with
    what it knows, in layers that it has not got to spare. What it expects to read it says already: its probabilities.
    So what counts beside the heads is how much likelier the answer is to the trunk than it was to the fine-tuned model
    that it began as, which Rafailov et al. 2023, equation 5, show to be a reward. Up to `MOST_LIKELIER`: what people
    chose hardly ever gets beyond, but a policy finds absurd answers that are less absurd to the trunk, without end.
    """

    scorer: Scorer
    reference: Any
    """The fine-tuned model's parameters, never trained."""
    weight: Float[Array, "K"]
    """Reward for each nat that the answer has become likelier."""


EXPECTATION = 0.3  # what `weight` begins as
MOST_LIKELIER = 1.0  # nats


def init_reward_model(key: PRNGKeyArray, trunk: Any, width: int, heads: int = 1) -> RewardModel:
    """A reward model that begins as the fine-tuned model whose parameters `trunk` are, with fresh heads."""
    return RewardModel(init_scorer(key, trunk, width, heads), trunk, jnp.zeros(heads) + EXPECTATION)


def score(
    model: Transformer, params: RewardModel, answers: Answers, expected: Float[AnyArray, "N"] | None = None
) -> Float[Array, "N K"]:
    """What each head makes of each answer. `expected`, their `log_likelihoods` under the reference, may be known."""
    scorer, hidden = params.scorer, answers.read(model, params.scorer.trunk)
    last = jnp.max(jnp.where(answers.inside, answers.places, 0), axis=1)
    if expected is None:
        expected = log_likelihoods(model, params.reference, answers)
    likelier = jnp.minimum(log_likelihoods(model, scorer.trunk, answers, hidden) - expected, MOST_LIKELIER)
    final = hidden[answers.rows, last].astype(scorer.kernel.dtype)
    return final @ scorer.kernel + scorer.bias + likelier[:, None] * params.weight


def log_likelihoods(
    model: Transformer, params: Any, answers: Answers, hidden: Float[Array, "B W D"] | None = None
) -> Float[Array, "N"]:
    """Nats of each answer under a model, given its prompt.

    Args:
        hidden: the model's, where it has been computed already.
    """
    hidden = answers.read(model, params) if hidden is None else hidden
    unembedding = model.apply({"params": params}, method="unembedding")
    said, before = answers.said()
    losses = cross_entropy(pick(hidden, before), unembedding, said, VOCAB_CHUNK)  # not of every answer's padding
    return -jnp.sum(answers.of_answers(losses), axis=1)


def combined(scores: Float[Array, "*B K"], how: Literal["mean", "min"]) -> Float[Array, "*B"]:
    """One score of K heads: their mean, or the least, which no head thinks too good (Coste et al. 2023)."""
    return scores.mean(axis=-1) if how == "mean" else scores.min(axis=-1)


def normalized(params: RewardModel, scores: Float[np.ndarray, "N K"]) -> RewardModel:
    """The same model on the scale where `scores`, its own of reference answers, have mean 0 and std 1 by head."""
    mean, std = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-6)
    scorer = params.scorer
    moved = scorer._replace(kernel=scorer.kernel / std, bias=(scorer.bias - mean) / std)
    return params._replace(scorer=moved, weight=params.weight / std)
