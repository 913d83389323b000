"""The forms on curves whose truth is known: what is fitted, how wide the intervals are, and who foretells best."""

import numpy as np
import pytest

from experiments.scaling_forms import BEST_OF_N, CONSTANT, FORMS, LINE, PPO, Curve, fall, fit, judge, tell

D = np.linspace(0, 3, 13)
TRUTH = {BEST_OF_N.name: (1.2, 0.4), PPO.name: (0.8, 0.5)}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def values(form):
    """What the form with its true coefficients comes to at D."""
    return form.basis(D) @ np.array(TRUTH[form.name])


def curve(gold, rng, prompts=150, noise=1.0):
    """A curve of prompts that differ, each measured with noise."""
    own = rng.normal(size=(prompts, 1)) * D / 3
    measured = gold + noise * (own + rng.normal(size=(prompts, len(D))))
    return Curve(np.arange(len(D)), np.tile(D**2, (prompts, 1)), measured, measured)


def fitted(form, found, rounds=400, seed=0):
    return fit(found.mean(), found.resampled(rounds, seed), form)


@FORM
def test_the_peak_is_where_the_form_is_highest(form):
    alpha, beta = TRUTH[form.name]
    peak = form.peak(np.array([alpha, beta]))
    near = np.array([peak - 0.01, peak, peak + 0.01])
    assert np.argmax(form.basis(near) @ [alpha, beta]) == 1
    assert form.peak(np.array([[1.0, 0.0], [1.0, -2.0]])).tolist() == [np.inf, np.inf]


@FORM
def test_without_noise_the_truth_is_found(form):
    found = fitted(form, curve(values(form), np.random.default_rng(0), noise=0))
    truth = [*TRUTH[form.name], float(form.peak(np.array(TRUTH[form.name])))]
    for estimate, true in zip((found.alpha, found.beta, found.peak), truth, strict=True):
        assert estimate == pytest.approx((true, true, true))
    assert found.turns == float(truth[2] < D[-1])


@FORM
def test_intervals_cover_the_truth(form):
    """Of 95% intervals about 95% hold the true value, of the coefficients and of the peak."""
    rng, truth = np.random.default_rng(1), np.array([*TRUTH[form.name], form.peak(np.array(TRUTH[form.name]))])
    drawn = [fitted(form, curve(values(form), rng), seed=round_) for round_ in range(300)]
    ends = np.array([[(one.low, one.high) for one in (found.alpha, found.beta, found.peak)] for found in drawn])
    covered = np.mean((ends[..., 0] <= truth) & (truth <= ends[..., 1]), axis=0)
    assert np.all(covered > 0.91), covered
    assert np.all(covered < 0.985), covered


@FORM
def test_the_right_form_foretells_best(form):
    rng, others = np.random.default_rng(2), {LINE, CONSTANT, *FORMS} - {form.name}
    judged = [judge(*averaged(curve(values(form), rng, 300, noise=0.2)), form) for _ in range(40)]
    for name in others:
        assert np.mean([one.rmse < one.rmse_others[name] for one in judged]) > 0.9, name
        assert np.mean([one.better[name] for one in judged]) > 0.8, name
    assert {one.fitted + one.held_out for one in judged} == {len(D)}
    assert judged[0].beyond == pytest.approx(2)


def averaged(found, rounds=200):
    return found.mean(), found.resampled(rounds, 0)


def test_a_line_foretells_a_line():
    judged = judge(*averaged(curve(0.5 + 0.7 * D, np.random.default_rng(3), 300, noise=0.02)), PPO)
    assert judged.rmse_others[LINE] < judged.rmse
    assert judged.better[LINE] < 0.1


def test_too_few_points_are_not_judged():
    few = Curve(np.arange(4), *(np.tile(D[:4] ** 2, (20, 1)),) * 3)
    assert judge(*averaged(few), PPO) is None


def test_noise_is_no_fall():
    """The best of many points that are all alike looks better than the last one; that is not told as a fall."""
    rng = np.random.default_rng(4)
    falls = [fall(curve(np.zeros(len(D)), rng), 300, 0) for _ in range(200)]
    assert np.mean([one.high < 0 for one in falls]) < 0.05
    naive = [fall.value for fall in falls]
    assert np.mean(naive) == pytest.approx(0, abs=0.02)


def test_a_fall_is_told():
    gold = values(BEST_OF_N) * 2
    found = fall(curve(gold, np.random.default_rng(5), 400, noise=0.3), 300, 0)
    assert found.low < gold[-1] - gold.max() < found.high < 0


def test_all_there_is_to_tell_of_a_curve():
    gold = values(PPO)
    told = tell(curve(gold, np.random.default_rng(6), noise=0.1), PPO, 300, 0)
    assert [point.strength for point in told.points] == list(range(len(D)))
    assert [point.d.value for point in told.points] == pytest.approx(D)
    assert [point.gold.value for point in told.points] == pytest.approx(gold, abs=0.05)
    assert all(point.gold.low <= point.gold.value <= point.gold.high for point in told.points)
    assert told.held_out is not None
