"""Questions ask what can be read, or what cannot, and know which."""

import random
from collections import Counter

import pytest

from model.tokenizer import TokenizerConfig, train_tokenizer
from tests.narration.test_checker import FAROL, GOAL, MARE, NO_GOAL
from train.narration.events import KINDS
from train.narration.passage import Passage, draw_passage
from train.narration.questions import (
    ACTS,
    ANSWERABLE,
    BALL_ASIDES,
    CATEGORY,
    HOLDS,
    PROVOCATION,
    UNANSWERABLE,
    WHO,
    WORDINGS,
    Asking,
    answerable,
    draw_prompt,
    prompt_text,
    sure,
    unanswerable,
)
from train.narration.words import split_words

PROMPTS = [draw_prompt(random.Random(f"questions {seed}")) for seed in range(250)]
LONG = [draw_passage(random.Random(f"questions {seed}")) for seed in range(250)]


def _offered(passage: Passage) -> dict[tuple[str, ...], object]:
    return {(kind, *about): answer for _, kind, about, answer in answerable(passage)}


def test_every_kind_of_event_that_is_asked_about_exists():
    kinds = {kind for act in ACTS.values() for kind in (*act.kinds, *act.like)}
    assert kinds | {*HOLDS, *BALL_ASIDES} <= set(KINDS)


def test_what_a_passage_answers():
    offered = _offered(GOAL)
    expected = {
        ("who", "goal"): "Xancino",
        ("who", "card"): "Galnei",
        ("who", "foul"): "Galnei",
        ("who", "fouled"): "Erodino",
        ("team", "goal"): FAROL,
        ("colour", "card"): "amarelo",
        ("happened", "card"): True,
        ("happened", "sent off"): False,
        ("count", "goal"): 1,
        ("before", "goal", "card"): False,
        ("first", "goal", "card"): "card",
        ("score",): (2, 1),
        ("leader",): FAROL,
        ("ball",): "Arilico",
        ("teams",): (FAROL, MARE),
        ("minute",): 39,
    }
    assert {key: offered.get(key) for key in expected} == expected


def test_what_a_passage_leaves_open():
    offered = _offered(NO_GOAL)
    assert ("who", "goal") not in offered  # two goals before it, and one that is disallowed
    assert offered["happened", "goal"] is False
    assert ("ball",) not in offered  # the ball is out
    assert ("weather",) not in offered  # it was said, and has changed
    assert offered["rain",] is False
    assert ("count", "shot") not in offered  # who knows whether the disallowed goal was a shot
    left_open = {about for _, kind, about, _ in unanswerable(NO_GOAL)}
    assert {("goal",), ("card",), ("referee",)} <= left_open
    assert ("shot",) not in left_open


def test_of_several_goals_the_first_and_the_last_are_asked_about():
    passage = next(passage for passage in LONG if len(sure(passage, "goal")) > 1)
    offered = _offered(passage)
    assert {("who", "goal", "primeiro"), ("who", "goal", "último")} <= set(offered)
    assert ("who", "goal") not in offered


def test_what_is_answerable_is_said():
    for passage, question in PROMPTS:
        if question.category == ANSWERABLE and isinstance(question.answer, str) and question.kind != "first":
            assert question.answer.lower() in passage.text.lower()
        if question.kind == "minute":
            assert f"{question.answer} minutos" in passage.text
        if question.category == UNANSWERABLE and question.kind == "who":
            assert not sure(passage, question.about[0])
        assert (question.answer is None) == (question.category != ANSWERABLE)


def test_categories_come_in_their_shares():
    counts = Counter(question.category for _, question in PROMPTS)
    for category, share in CATEGORY.items():
        assert abs(counts[category] / len(PROMPTS) - share) < 4 * (share * (1 - share) / len(PROMPTS)) ** 0.5


def test_every_kind_of_question_can_come_up():
    offers = [(kind, *about[:1]) for passage in LONG for _, kind, about, _ in answerable(passage)]
    assert {kind for kind, *_ in offers} == {"who", *WORDINGS} - {"who of several"}
    assert {about[0] for kind, *about in offers if kind == "who"} == set(WHO)
    asked = {(question.category, question.kind) for _, question in PROMPTS}
    assert asked >= {(UNANSWERABLE, "who"), (UNANSWERABLE, "never told"), (PROVOCATION, "provocation")}


def test_eventful_passages_are_frequent():
    eventful = sum(bool(sure(passage, "goal") or sure(passage, "card")) for passage, _ in PROMPTS)
    assert 0.5 * len(PROMPTS) < eventful < 0.8 * len(PROMPTS)


def test_questions_read_as_portuguese():
    for _, question in PROMPTS:
        assert question.text[0].isupper()
        assert question.text[-1] in "?!"
        assert not set("{}()|") & set(question.text)
        assert " do a " not in question.text
        assert "  " not in question.text


def test_a_prompt_follows_from_its_seed():
    assert draw_prompt(random.Random(5)) == draw_prompt(random.Random(5))


@pytest.mark.parametrize("passage", [passage for passage, _ in PROMPTS[:10]])
def test_questions_about_one_passage_are_those_that_each_would_be_alone(passage):
    one, rngs = Asking(passage), [random.Random(1), random.Random(1)]
    for number in range(20):
        practice = number % 3 == 0
        assert one.draw(rngs[0], practice) == Asking(passage).draw(rngs[1], practice)


def test_a_prompt_is_the_passage_and_a_line_with_the_question():
    for passage, question in PROMPTS[:100]:
        text, asked = prompt_text(passage, question).split("\n")
        assert (text, asked) == (passage.text, question.text)


@pytest.fixture(scope="module")
def tokenizer():
    passages = (draw_passage(random.Random(f"tokenizer {seed}")).text for seed in range(2000))
    return train_tokenizer(TokenizerConfig("bpe", 2048), list(passages))


def test_a_prompt_has_at_most_96_tokens(tokenizer):
    lengths = [len(tokenizer.encode(prompt_text(*prompt))) for prompt in PROMPTS]
    assert max(lengths) <= 96
    # What the longest passage and the longest question would have together.
    questions = max(len(tokenizer.encode(f"\n{question.text}")) for _, question in PROMPTS)
    passages = max(len(tokenizer.encode(passage.text)) for passage, _ in PROMPTS)
    assert questions + passages <= 96
    assert max(len(split_words(passage.text)) for passage, _ in PROMPTS) <= 72
