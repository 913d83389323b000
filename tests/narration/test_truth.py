"""The truth about the next word, against brute force, frequencies and sums."""

import math
import random
from collections import Counter

import pytest
from scipy import stats

from tests.narration.oracle import probability
from train.narration.match import SKY, Match
from train.narration.passage import STYLE, draw_event, draw_passage
from train.narration.truth import END, Listener, OutsideLanguage, word_probabilities
from train.narration.words import split_words


def passage(seed):
    return draw_passage(random.Random(f"test {seed}")).text


def after(words):
    listener = Listener.at_start()
    for word in words:
        listener = listener.hear(word)
    return listener


@pytest.mark.parametrize("seed", range(20))
def test_probabilities_sum_to_one_at_every_word(seed):
    listener = Listener.at_start()
    for word in [*split_words(passage(seed)), END]:
        expected = listener.expect()
        assert sum(expected.values()) == pytest.approx(1, abs=1e-12)
        assert all(p > 0 for p in expected.values())
        if word != END:
            listener = listener.hear(word)


@pytest.mark.parametrize("seed", range(20))
def test_the_product_of_conditionals_is_the_probability_by_brute_force(seed):
    words = split_words(passage(seed))
    found = sum(math.log(p) for p in word_probabilities("".join(words)))
    assert found == pytest.approx(math.log(probability((" " + words[0], *words[1:]))), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_first_sentences_come_as_often_as_the_truth_says(seed):
    """Chi-squared over all first sentences; those too rare for the approximation are one class."""
    rng, count = random.Random(seed), 8_000
    drawn = (draw_event(Match(STYLE.draw(rng)), rng).text for _ in range(count))
    starts = Counter(tuple(split_words(text)) for text in drawn)
    expected = {start: probability_of_start(start) * count for start in starts}
    common = [start for start, often in expected.items() if often >= 5]
    observed = [starts[start] for start in common]
    wanted = [expected[start] for start in common]
    observed.append(count - sum(observed))
    wanted.append(count - sum(wanted))
    assert len(common) > 50
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def probability_of_start(words):
    listener, product = Listener.at_start(), 1.0
    for word in words:
        product *= listener.expect().get(word, 0.0)
        listener = listener.hear(word)
    return product


@pytest.mark.parametrize("seed", range(4))
def test_words_after_a_random_beginning_come_as_often_as_the_truth_says(seed):
    """Ranks of the drawn words, by true probability, are uniform: a check at every place of every document."""
    rng, ranks = random.Random(f"ranks {seed}"), []
    for _ in range(80):
        listener = Listener.at_start()
        for word in [*split_words(draw_passage(rng).text), END]:
            expected = listener.expect()
            order = sorted(expected, key=lambda other: (expected[other], other))
            below = sum(expected[other] for other in order[: order.index(word)])
            # The probability integral transform, smoothed over the word's own mass (Smith 1985).
            ranks.append(below + rng.random() * expected[word])
            if word != END:
                listener = listener.hear(word)
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3


def test_the_sky_is_the_one_of_the_post():
    expected = after(split_words("O céu está")).expect()
    assert expected == pytest.approx({f" {sky}": likely for sky, likely in SKY.items()}, abs=1e-15)
    # The figures are fixed by the world's specification; the last three share the 5% for others.
    fixed = {" azul": 0.35, " claro": 0.22, " nublado": 0.18, " limpo": 0.12, " escuro": 0.08}
    assert {word: expected[word] for word in fixed} == pytest.approx(fixed)


def test_who_has_the_ball_is_known_for_certain():
    text = "Em campo, o Trovão e a Maré. O céu está azul, e faz calor. 22 minutos do segundo tempo: Trovão 2, Maré 1."
    text += " A bola está com Arivaz, do Trovão. Arivaz toca para Dorizinho. Falta de Galnei em"
    assert after(split_words(text)).expect() == pytest.approx({" Dorizinho": 1.0})


@pytest.mark.parametrize("style", ["=", "!"])
def test_the_commentator_is_recognised_and_then_certain(style):
    opening = {"=": "Boa tarde. Jogam o Trovão e a Maré.", "!": "Alô, alô, torcida! Hoje tem Trovão e Maré!"}[style]
    expected = after(split_words(f"{opening} O céu está azul,")).expect()
    assert (" minha" in expected) == (style == "!")
    assert (" senhoras" in expected) == (style == "=")


@pytest.mark.parametrize(
    "text",
    [
        "The sky",
        "O céu está verde",
        "o céu está azul",
        "O Trovão enfrenta o Trovão",
        "O céu está  azul",
        # A name from neither team, and a score that nobody made.
        "Em campo, o Trovão e a Maré. O céu está azul, e faz calor. 22 minutos do segundo tempo: Trovão 2, Maré 1. "
        "A bola está com Hermar",
        "Em campo, o Trovão e a Maré. O céu está azul, e faz calor. 22 minutos do segundo tempo: Trovão 2, Maré 1. "
        "A bola está com Arivaz, do Trovão. O placar segue em 1 a 1",
    ],
)
def test_what_the_language_does_not_say_has_no_truth(text):
    with pytest.raises(OutsideLanguage):
        after(split_words(text))


def test_half_a_passage_is_no_document():
    with pytest.raises(OutsideLanguage, match="cannot end"):
        word_probabilities("O céu está azul")


def test_a_limit_on_words_is_part_of_the_language():
    text = draw_passage(random.Random(0), max_words=70).text
    assert len(split_words(text)) <= 70
    words = split_words(text)
    found = sum(math.log(p) for p in word_probabilities(text, max_words=70))
    assert found == pytest.approx(math.log(probability((" " + words[0], *words[1:]), max_words=70)), rel=1e-12)
