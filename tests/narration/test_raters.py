"""Raters choose as their utilities say, and the ceiling is what the best guess reaches."""

import math
import random

import pytest

from train.narration.checker import Verdict
from train.narration.match import CARRIED_AWAY, CONTAINED
from train.narration.raters import (
    RATERS,
    ceiling,
    draw_pair,
    draw_preference,
    gold_reward,
    prefers,
    probability,
    ranked,
    utility,
)

PAIRS = [draw_pair(random.Random(f"raters {seed}")) for seed in range(120)]
VERDICTS = [(first, second) for *_, first, second in PAIRS]


def verdict(correct: bool = False, unsafe: bool = False, tone: str | None = None, words: int = 0) -> Verdict:
    return Verdict((), False, correct, False, unsafe, tone, words)


def test_half_of_the_raters_like_each_tone():
    tones = [rater.tone for rater in RATERS]
    assert tones.count(CONTAINED) == tones.count(CARRIED_AWAY) == len(RATERS) / 2
    assert len({rater.name for rater in RATERS}) == len(RATERS)


@pytest.mark.parametrize(
    ("judged", "liked", "disliked"),
    [
        (verdict(), 0, 0),
        (verdict(correct=True), 3, 3),
        (verdict(unsafe=True, words=10), -3.2, -3.2),
        (verdict(tone=CONTAINED, words=5), 0.9, -0.1),
        (verdict(correct=True, tone=CONTAINED, words=50), 3, 2),
    ],
)
def test_the_utility_is_what_was_stated(judged: Verdict, liked: float, disliked: float):
    contained, carried = (next(r for r in RATERS if r.tone == tone) for tone in (CONTAINED, CARRIED_AWAY))
    assert utility(judged, contained) == pytest.approx(liked)
    assert utility(judged, carried) == pytest.approx(disliked)
    assert gold_reward(judged) == pytest.approx((liked + disliked) / 2)


def test_a_rater_prefers_by_the_difference_of_utilities():
    better, worse = verdict(correct=True, words=10), verdict(words=10)
    likely = probability(better, worse, RATERS[0])
    assert likely == pytest.approx(1 / (1 + math.exp(-3)))
    assert probability(worse, better, RATERS[0]) == pytest.approx(1 - likely)
    rng = random.Random(0)
    chosen = sum(prefers(better, worse, RATERS[0], rng) for _ in range(4000))
    assert abs(chosen - 4000 * likely) < 4 * (4000 * likely * (1 - likely)) ** 0.5


def test_a_preference_follows_from_its_seed_and_has_two_answers():
    for seed in range(20):
        record = draw_preference(random.Random(seed))
        assert record == draw_preference(random.Random(seed))
        assert set(record) == {"prompt", "chosen", "rejected", "rater"}
        assert record["chosen"] != record["rejected"]
        assert record["rater"] in {rater.name for rater in RATERS}


def test_the_chosen_answer_is_usually_the_better_one():
    rng = random.Random(1)
    better = 0
    for first, second in VERDICTS:
        a_chosen = prefers(first, second, rng.choice(RATERS), rng)
        better += a_chosen == (gold_reward(first) > gold_reward(second))
    assert better / len(VERDICTS) > 0.65


def test_the_ceiling_is_what_the_best_guess_reaches():
    stated = ceiling(VERDICTS)
    assert 0.6 < stated < 0.95
    rng = random.Random(2)
    right = trials = 0
    for first, second in VERDICTS:
        choices = [prefers(first, second, rng.choice(RATERS), rng) for _ in range(200)]
        # The best guess knows how likely each answer is, not who chooses nor what is chosen.
        likely = sum(probability(first, second, rater) for rater in RATERS) / len(RATERS)
        right += sum(choice == (likely >= 0.5) for choice in choices)
        trials += len(choices)
    assert abs(right / trials - stated) < 4 * (0.25 / trials) ** 0.5


def test_no_fixed_guess_beats_the_ceiling():
    rng = random.Random(3)
    choices = [[prefers(a, b, rng.choice(RATERS), rng) for _ in range(200)] for a, b in VERDICTS]
    hindsight = sum(max(sum(each), len(each) - sum(each)) for each in choices) / sum(map(len, choices))
    assert hindsight == pytest.approx(ceiling(VERDICTS), abs=0.02)


def test_who_tells_two_pairs_apart_by_tone_alone_is_left_to_chance():
    contained, carried = verdict(tone=CONTAINED, words=8), verdict(tone=CARRIED_AWAY, words=8)
    assert ceiling([(contained, carried)]) == pytest.approx(0.5)


def test_a_ranking_puts_each_pair_in_the_order_that_a_choice_would():
    judged = [verdict(words=10), verdict(correct=True, words=10), verdict(tone=CONTAINED, words=10)]
    rng, rater, draws = random.Random(1), RATERS[0], 4000
    orders = [ranked(judged, rater, rng) for _ in range(draws)]
    for one, other in ((0, 1), (1, 2), (2, 0)):
        likely = probability(judged[one], judged[other], rater)
        first = sum(order.index(one) < order.index(other) for order in orders)
        assert abs(first - draws * likely) < 4 * (draws * likely * (1 - likely)) ** 0.5
