"""A quiz asks different questions about its passage, and each of its answers is right."""

import random

import pytest

from model.tokenizer import TokenizerConfig, train_tokenizer
from train.narration import examples
from train.narration.checker import check
from train.narration.examples import QUIZ_QUESTIONS, QUIZ_WORDS, draw_example, draw_quiz
from train.narration.questions import draw_question, draw_short_passage
from train.narration.words import split_words

TEXTS = [draw_example("narration_quiz", 0, index)["text"] for index in range(300)]


def parse(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The passage, and the questions with their answers."""
    passage, *lines = text.split("\n")
    return passage, list(zip(lines[::2], lines[1::2], strict=True))


@pytest.fixture
def asked(monkeypatch):
    """Passage and question of every question that is drawn, by its text."""
    found = {}

    def remember(passage, rng, evenly):
        question = draw_question(passage, rng, evenly)
        found[question.text] = passage, question
        return question

    monkeypatch.setattr(examples, "draw_question", remember)
    return found


@pytest.mark.parametrize("seed", range(100))
def test_every_answer_is_right_and_all_are_in_one_tone(seed, asked):
    text, pairs = parse(draw_quiz(random.Random(seed))["text"])
    assert text == draw_short_passage(random.Random(seed)).text
    verdicts = [check(*asked[question], answer) for question, answer in pairs]
    assert all(passage.text == text for passage, _ in asked.values())
    assert all(verdict.correct for verdict in verdicts)
    assert len({verdict.tone for verdict in verdicts}) == 1


def test_questions_are_different_and_most_often_nearly_as_many_as_there_may_be():
    questions = [[question for question, _ in parse(text)[1]] for text in TEXTS]
    assert all(len(set(asked)) == len(asked) for asked in questions)
    assert max(map(len, questions)) == QUIZ_QUESTIONS
    assert sum(map(len, questions)) > 0.7 * QUIZ_QUESTIONS * len(questions)


def test_a_quiz_fits_a_row_of_256():
    assert max(len(split_words(text)) for text in TEXTS) <= QUIZ_WORDS
    tokenizer = train_tokenizer(TokenizerConfig("bpe", 2048), TEXTS)
    assert max(len(tokenizer.encode(text)) for text in TEXTS) <= 250


def test_what_is_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(examples, "QUIZ_WORDS", 100)
    for seed in range(30):
        whole, cut = TEXTS[seed], draw_example("narration_quiz", 0, seed)["text"]
        assert whole.startswith(cut)
        assert len(split_words(cut)) <= 100


def test_a_quiz_follows_from_its_seed():
    assert [draw_example("narration_quiz", 0, index)["text"] for index in range(20)] == TEXTS[:20]
    assert len(set(TEXTS)) == len(TEXTS)
