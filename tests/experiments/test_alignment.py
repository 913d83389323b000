"""What is counted when two models are compared, against counts by hand and simulations with a known truth."""

import numpy as np
import pytest

from experiments.alignment import (
    Answers,
    length_controlled_win_rate,
    outcomes,
    pick_best,
    rates,
    repeat_each,
    win_rate,
    win_rate_interval,
)
from rlhf.rollout import Rollout
from train.narration.checker import Verdict
from train.narration.match import CARRIED_AWAY, CONTAINED
from train.narration.questions import ANSWERABLE, PROVOCATION, UNANSWERABLE, Question
from train.narration.raters import gold_reward


def test_win_rate_by_hand():
    a, b = [3.0, 1.0, 2.0, 0.1 + 0.2, 5.0], [2.0, 4.0, 2.0, 0.3, 1.0]
    assert list(outcomes(a, b)) == [1, 0, 0.5, 0.5, 1]
    assert win_rate(outcomes(a, b)) == pytest.approx(0.6)
    assert win_rate(outcomes(b, a)) == pytest.approx(0.4)


def test_interval_by_hand():
    # 3 wins, 1 loss, 2 ties; with half a win, half a loss and a tie added: 3.5, 1.5 and 3 of 8.
    low, high = win_rate_interval(np.array([1, 1, 1, 0, 0.5, 0.5]))
    mean, variance = (3.5 + 1.5) / 8, (3.5 + 3 / 4) / 8 - (5 / 8) ** 2
    half = 1.96 * np.sqrt(variance / 8)
    assert (low, high) == (pytest.approx(mean - half, abs=1e-4), pytest.approx(min(1, mean + half), abs=1e-4))
    flipped = win_rate_interval(np.array([0, 0, 0, 1, 0.5, 0.5]))
    assert flipped == (pytest.approx(1 - high), pytest.approx(1 - low))


@pytest.mark.parametrize("tie", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("win", [0.5, 0.8])
def test_interval_covers_the_truth(win, tie):
    """`win` is the share of wins where there is no tie."""
    rng, truth, rounds = np.random.default_rng(0), tie / 2 + (1 - tie) * win, 2000
    covered = 0
    for _ in range(rounds):
        difference = np.where(rng.random(100) < tie, 0, np.where(rng.random(100) < win, 1, -1))
        low, high = win_rate_interval((1 + difference) / 2)
        covered += low <= truth <= high
    assert 0.935 < covered / rounds < 0.98


def test_interval_has_a_width_where_all_pairs_agree():
    low, high = win_rate_interval(np.ones(50))
    assert 0.9 < low < 0.99
    assert high == 1
    low, high = win_rate_interval(np.full(50, 0.5))
    assert 0.45 < low < 0.5 < high < 0.55
    assert high < win_rate_interval(np.tile([1.0, 0.0], 25))[1]  # ties are no coin tosses


@pytest.mark.parametrize("intercept", [-1.0, 0.0, 0.5])
def test_length_control_finds_the_intercept(intercept):
    rng = np.random.default_rng(1)
    longer = rng.normal(8, 10, 20_000)
    wins = (rng.random(len(longer)) < 1 / (1 + np.exp(-(intercept + 0.1 * longer)))).astype(float)
    assert wins.mean() > 1 / (1 + np.exp(-intercept)) + 0.05  # being longer won some
    assert length_controlled_win_rate(wins, longer) == pytest.approx(1 / (1 + np.exp(-intercept)), abs=0.015)


def test_length_control_at_the_edges():
    ties = np.array([0.5, 1.0, 0.5, 0.0, 1.0])
    assert length_controlled_win_rate(ties, np.zeros(5)) == pytest.approx(0.6, abs=0.01)
    assert 0.95 < length_controlled_win_rate(np.ones(500), np.arange(500) - 100) < 1
    longer = np.array([-2.0, -1, 1, 2] * 100)
    assert length_controlled_win_rate((longer > 0).astype(float), longer) == pytest.approx(0.5, abs=1e-6)


def numbered_answers(count):
    """Each says its own number, in text and in tokens."""
    number = np.arange(count)
    tokens, ones = number[:, None].repeat(2, axis=1), np.ones(count, int)
    return Answers([str(index) for index in number], Rollout(tokens, ones, ones, ones.astype(float), tokens[:, :1]))


def test_the_best_of_n_by_hand():
    best = pick_best(numbered_answers(6), np.array([0.1, 0.9, 0.9, 2.0, -1.0, 0.0]), 3)
    assert best.texts == ["1", "3"]  # the first of equals
    assert best.rollout.tokens.tolist() == [[1, 1], [3, 3]]
    assert best.rollout.log_probs.tolist() == [[1], [3]]
    assert repeat_each("ab", 3) == list("aaabbb")


@pytest.mark.parametrize("n", [1, 2, 16])
def test_the_best_of_n_is_the_expected_maximum(n):
    """Of n draws from U(0, 1) the highest is n / (n + 1) on average, and beats another draw as often."""
    rng, prompts = np.random.default_rng(2), 4000
    scores, others = rng.random(prompts * n), rng.random(prompts)
    picked = np.array([scores[int(text)] for text in pick_best(numbered_answers(len(scores)), scores, n).texts])
    assert picked.mean() == pytest.approx(n / (n + 1), abs=0.02)
    low, high = win_rate_interval(outcomes(picked, others))
    assert low < n / (n + 1) < high


def verdict(**said):
    told = {"false": False, "correct": False, "declines": False, "unsafe": False, "tone": None, "words": 4}
    return Verdict(claims=(), **{**told, **said})


def test_rates_by_hand():
    kinds = [ANSWERABLE] * 4 + [UNANSWERABLE] * 2 + [PROVOCATION] * 2
    verdicts = [
        verdict(correct=True, tone=CONTAINED),
        verdict(false=True, tone=CARRIED_AWAY),
        verdict(declines=True, words=8),
        verdict(unsafe=True),  # nobody provoked it: not counted as giving in
        verdict(correct=True, declines=True),
        verdict(false=True),
        verdict(correct=True, declines=True),  # a refusal, and no answerable question
        verdict(unsafe=True, tone=CONTAINED),
    ]
    assert rates(verdicts, [Question("", "", kind) for kind in kinds]) == {
        "gold_reward": pytest.approx(np.mean([gold_reward(one) for one in verdicts])),
        "hallucination_rate": 2 / 8,
        "correct_rate": 1 / 4,
        "refusal_rate": 1 / 4,
        "abstention_rate": 1 / 2,
        "unsafe_rate": 1 / 2,
        "contained_rate": 2 / 8,
        "words": 4.5,
    }


def test_rates_of_nothing_are_unknown():
    found = rates([verdict()], [Question("", "", PROVOCATION)])
    assert [found[name] for name in ("correct_rate", "refusal_rate", "abstention_rate")] == [None] * 3
    assert found["unsafe_rate"] == 0
