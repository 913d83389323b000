"""Two models held against each other: answers drawn from both, whose are better, and in which ways.

A comparison is one prompt, answered by both; who judges it is told in `judging.py`. Rates are of the narrator's world,
and None where no prompt is of the kind that they are about.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from model.errors import UserError
from rlhf.prompts import encode_prompts as encode
from rlhf.prompts import pad, stop_tokens
from rlhf.records import Prompt
from rlhf.rollout import Rollout, generate, response_log_probs, response_texts
from train.narration.checker import Verdict
from train.narration.match import CONTAINED
from train.narration.questions import ANSWERABLE, PROVOCATION, UNANSWERABLE, Question
from train.narration.raters import gold_reward
from train.narration.words import split_words
from train.progress import bar
from train.trained import Trained

BATCH, AT_ONCE = 256, 2
Z = 1.959964  # 97.5% of a normal distribution lies below
RIDGE = 0.1
NEWTON_STEPS = 25
Pairs = Float[np.ndarray, "N"]
T = TypeVar("T")


def batches(count: int, most: int) -> Iterator[Int[np.ndarray, "B"]]:
    """Indices of rows, always as many, so that one compiled program serves all; the last ones begin again at 0."""
    size = min(most, count)
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count


def over_batches(
    of_batch: Callable[[Int[np.ndarray, "B"]], Any],
    count: int,
    advance: Any = lambda n: None,
    each: int = 1,
    most: int = BATCH,
) -> Any:
    """What a function makes of all rows, in batches.

    On a single CPU device `AT_ONCE` of them are under way: decoding is small operations, for which cores wait.

    Args:
        of_batch: from indices of rows to arrays with `each` rows for each.
        advance: told how many rows more are done.
        most: rows of what it makes in a batch.
    """
    first, *others = batches(count, max(1, most // each))
    mesh = jax.sharding.get_mesh()  # of this thread; another has none

    def made(which: Int[np.ndarray, "B"]) -> Any:
        with jax.set_mesh(mesh):
            return jax.device_get(of_batch(which))

    parts = [made(first)]  # before the others, which take the program that it compiles
    advance(each * len(first))
    # Of two programs on the same devices each may wait for the other's part of a sum; an accelerator is busy with one.
    workers = AT_ONCE if jax.devices()[0].platform == "cpu" and mesh.size <= 1 else 1
    with ThreadPoolExecutor(workers) as pool:
        for which, part in zip(others, pool.map(made, others), strict=True):
            advance(each * min(len(which), count - len(first) * len(parts)))
            parts.append(part)
    return jax.tree.map(lambda *fields: np.concatenate(fields)[: count * each], *parts)


class Answers(NamedTuple):
    """What a model said to each prompt."""

    texts: list[str]
    rollout: Rollout
    """The same as tokens: a row for each prompt."""


def model_name(trained: Trained) -> str:
    """DIR:STAGE, as a store of choices calls it too."""
    return f"{trained.run.path}:{trained.stage}"


def encode_prompts(trained: Trained, prompts: Sequence[Prompt], max_tokens: int) -> list[list[int]]:
    """What the model reads before it answers each prompt, through its chat template.

    Raises:
        UserError: a stage that knows no turns, or a prompt that leaves no room for `max_tokens`.
    """
    name = model_name(trained)
    if trained.stage == "pretrain":
        raise UserError(f"{name!r} has not learned to take turns; name a later stage, such as sft.")
    rows = encode(prompts, trained.tokenizer, trained.template, room=sys.maxsize)
    longest, context = max(map(len, rows)), trained.model.config.context_length
    if longest + max_tokens > context:
        raise UserError(
            f"{name!r} has a context of {context} tokens; the longest prompt takes {longest}, and the answer up to "
            f"{max_tokens} (--tokens)."
        )
    return rows


def draw_answers(
    trained: Trained,
    rows: Sequence[Sequence[int]],
    temperature: float,
    max_tokens: int,
    seed: int,
    answers: int = 1,
) -> Answers:
    """Draw answers to each prompt.

    Args:
        rows: the prompts as `encode_prompts` has them.
        temperature: above 0; it divides the logits.
        max_tokens: where an answer is cut that has not ended by then.
        answers: to each prompt, one after the other.
    """
    (tokens, lengths), ends = pad(rows), stop_tokens(trained.tokenizer, trained.template)
    key = jax.random.key(seed)

    def of_batch(which: Int[np.ndarray, "B"]) -> Rollout:
        own, heat = jax.random.fold_in(key, which[0] // len(which)), np.full(len(which), temperature, np.float32)
        asked = tokens[which], lengths[which], heat
        return generate(trained.model, trained.params, own, *asked, max_tokens, ends, answers)

    with bar(f"answers of {model_name(trained)}", len(rows) * answers) as advance:
        rollout = over_batches(of_batch, len(rows), advance, answers)
    return Answers(response_texts(rollout, trained.tokenizer, ends), rollout)


def repeat_each(items: Sequence[T], n: int) -> list[T]:
    """Every item n times in a row."""
    return [item for item in items for _ in range(n)]


def pick_best(answers: Answers, scores: Float[np.ndarray, "N"], n: int) -> Answers:
    """Of each n answers in a row the one that scores highest: best-of-n sampling (Stiennon et al. 2020).

    The first of them where several score as high.
    """
    best = np.arange(0, len(scores), n) + scores.reshape(-1, n).argmax(axis=1)
    return Answers([answers.texts[place] for place in best], jax.tree.map(itemgetter(best), answers.rollout))


def divergence(answers: Answers, of: Trained, other: Trained) -> float | None:
    """KL(of || other) in nats per answer, estimated on answers of the first at the temperature they were drawn at.

    None where the two do not read and write the same tokens, so that an answer is not one event of both.
    """
    if (of.tokenizer.to_json(), of.template, of.model.config.vocab_size) != (
        other.tokenizer.to_json(),
        other.template,
        other.model.config.vocab_size,
    ):
        return None
    log_probs = jax.jit(partial(response_log_probs, other.model))

    def of_batch(which: Int[np.ndarray, "B"]) -> Float[Array, "B"]:
        part: Rollout = jax.tree.map(itemgetter(which), answers.rollout)
        return jnp.where(part.mask, part.log_probs - log_probs(other.params, part)[0], 0).sum(axis=1)

    # Logits of all tokens of a batch are held, and of so many batches.
    found = float(over_batches(of_batch, len(answers.texts), most=BATCH // AT_ONCE).astype(np.float64).mean())
    return found if np.isfinite(found) else None


def count_words(text: str) -> int:
    """Words of an answer, marks not counted: as the world's checker counts them."""
    return sum(any(char.isalnum() for char in word) for word in split_words(text))


def outcomes(a: Sequence[float], b: Sequence[float]) -> Pairs:
    """1 where the reward of a is the higher one, 0 where it is the lower, 1/2 where there is nothing between them."""
    return (1 + np.sign(np.round(np.subtract(a, b), 9))) / 2  # sums of the same terms may differ in their last bits


def win_rate(outcome: Pairs) -> float:
    """The share of comparisons that a wins; a tie counts half."""
    return float(outcome.mean())


def win_rate_interval(outcome: Pairs) -> tuple[float, float]:
    """95% interval of the win rate, by Agresti and Min (2005).

    Wald's on the pairs, with half a win, half a loss and a tie added to either side of it. Ties narrow it as they
    should (Wilson's would take each for a coin toss), and unlike a bootstrap's it has a width where all pairs agree.
    """
    padded = np.concatenate([outcome, [0.0, 0.5, 0.5, 1.0]])
    weights = np.concatenate([np.ones(len(outcome)), np.full(4, 0.5)])
    mean = np.average(padded, weights=weights)
    half = Z * np.sqrt(np.average((padded - mean) ** 2, weights=weights) / weights.sum())
    return float(max(0.0, mean - half)), float(min(1.0, mean + half))


def length_controlled_win_rate(outcome: Pairs, longer: Sequence[float] | Pairs) -> float:
    """The win rate that would be, were both answers equally long (the idea of AlpacaEval 2; Dubois et al. 2024).

    A logistic regression of the outcome on how much longer a's answer is: the probability at a difference of zero. A
    slight ridge keeps it finite where all pairs agree, or lengths tell them apart.
    """
    difference = np.asarray(longer, np.float64)
    x = np.stack([np.ones(len(difference)), difference / (difference.std() or 1.0)], axis=1)
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(2)
        weights = weights + np.linalg.solve(hessian, x.T @ (outcome - p) - RIDGE * weights)
    return float(1 / (1 + np.exp(-weights[0])))


def rates(verdicts: Sequence[Verdict], questions: Sequence[Question]) -> dict[str, float | None]:
    """What a model's answers are like, by name."""
    of: dict[str, list[Verdict]] = {ANSWERABLE: [], UNANSWERABLE: [], PROVOCATION: []}
    for verdict, question in zip(verdicts, questions, strict=True):
        of[question.category].append(verdict)
    return {
        "gold_reward": _mean(map(gold_reward, verdicts)),
        "hallucination_rate": _mean(verdict.false for verdict in verdicts),
        "correct_rate": _mean(verdict.correct for verdict in of[ANSWERABLE]),
        "refusal_rate": _mean(verdict.declines for verdict in of[ANSWERABLE]),
        "abstention_rate": _mean(verdict.correct for verdict in of[UNANSWERABLE]),
        "unsafe_rate": _mean(verdict.unsafe for verdict in of[PROVOCATION]),
        "contained_rate": _mean(verdict.tone == CONTAINED for verdict in verdicts),
        "words": _mean(verdict.words for verdict in verdicts),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None
