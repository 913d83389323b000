"""Two models' answers to the same prompts, judged by their scores: the gold reward, or a reward model's."""

import random
from collections.abc import Sequence
from statistics import fmean as mean
from typing import Any, NamedTuple

from experiments.alignment import (
    Answers,
    divergence,
    draw_answers,
    encode_prompts,
    pick_best,
    rates,
    repeat_each,
)
from experiments.best_of_n import best_of_n_kl
from experiments.judging import judge_by_scores
from experiments.text_scorer import TextScorer
from model.chat import Message
from rlhf.prompts import open_prompts
from rlhf.records import Prompt
from train.narration.checker import Verdict, check
from train.narration.passage import Passage
from train.narration.questions import Question, draw_prompt, prompt_text
from train.narration.raters import gold_reward
from train.trained import Trained


class Asked(NamedTuple):
    """Prompts, and where the narrator's world asks, what each of them is about: the truth is known there alone."""

    prompts: list[Prompt]
    world: list[tuple[Passage, Question]]
    """Empty for other prompts."""


class Drawing(NamedTuple):
    """How answers are drawn."""

    temperature: float
    """Above 0; it divides the logits."""
    max_tokens: int
    """Where an answer is cut that has not ended by then."""
    seed: int
    best_of: int
    """Answers of the first model to each prompt, of which the reward model of its own run picks one."""


def ask_world(count: int, seed: int) -> Asked:
    """Questions of the narrator's world that no model was trained on."""
    world = [draw_prompt(random.Random(f"compare {seed} {index}")) for index in range(count)]
    return Asked([(Message("user", prompt_text(*about)),) for about in world], world)


def ask_source(spec: str, count: int, seed: int) -> Asked:
    """Distinct prompts of a source as `open_prompts` knows them, drawn at random; all where it has no more."""
    distinct = list(dict.fromkeys(open_prompts(spec)))
    return Asked(random.Random(seed).sample(distinct, min(count, len(distinct))), [])


def compare_answers(
    models: Sequence[Trained], asked: Asked, judge: TextScorer | None, drawing: Drawing
) -> dict[str, Any]:
    """Let two models answer, and judge.

    Args:
        judge: None for the gold reward, which takes prompts of the narrator's world.

    Returns:
        Win rate and KL; `reward_score` where a reward model judges; the rates of both in the narrator's world.

    Raises:
        UserError: a model that knows no turns, a prompt too long for one, or no reward model to pick the best by.
    """
    answers = draw_both(models, asked.prompts, drawing)
    texts_a, texts_b = (said.texts for said in answers)
    verdicts = [_verdicts(asked, texts) for texts in (texts_a, texts_b)]
    if judge is None:
        scores_a, scores_b = ([gold_reward(verdict) for verdict in side] for side in verdicts)
    else:
        scores_a, scores_b = (judge.scores(asked.prompts, texts).tolist() for texts in (texts_a, texts_b))
    kl = divergence(answers[0], *models)
    found: dict[str, Any] = {
        "prompts": len(asked.prompts),
        "best_of": drawing.best_of,
        **judge_by_scores(texts_a, texts_b, scores_a, scores_b).summary(),
        # What picking the best of n adds is no more than this, and 0 for n = 1 (Beirami et al. 2024, arXiv 2401.01879).
        "kl": None if kl is None else kl + best_of_n_kl(drawing.best_of),
        "kl_is_bound": drawing.best_of > 1,
    }
    if judge is not None:
        found["reward_score"] = {"a": mean(scores_a), "b": mean(scores_b)}
    if asked.world:
        questions = [question for _, question in asked.world]
        rates_a, rates_b = (rates(side, questions) for side in verdicts)
        found |= {name: {"a": rates_a[name], "b": rates_b[name]} for name in rates_a}
    return found


def draw_both(models: Sequence[Trained], prompts: Sequence[Prompt], drawing: Drawing) -> list[Answers]:
    """The answers of two models to each prompt, the first's the best of as many as `drawing` says."""
    n = drawing.best_of
    picking = TextScorer(models[0].run) if n > 1 else None
    rows = [encode_prompts(trained, prompts, drawing.max_tokens) for trained in models]  # refuse before either answers
    # Each draws from a seed of its own: the win rate is that of independent answers.
    a, b = (
        draw_answers(trained, own, drawing.temperature, drawing.max_tokens, 2 * drawing.seed + side, answers)
        for side, (trained, own, answers) in enumerate(zip(models, rows, (n, 1), strict=True))
    )
    if picking is not None:
        a = pick_best(a, picking.scores(repeat_each(prompts, n), a.texts), n)
    return [a, b]


def _verdicts(asked: Asked, answers: Sequence[str]) -> list[Verdict]:
    """What the world's checker says of each answer; none for other prompts."""
    return [check(*about, text) for about, text in zip(asked.world, answers, strict=True)] if asked.world else []
