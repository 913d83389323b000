"""A quiz asks different questions about its passage, and each of its answers is right; a conversation is like one."""

import random
from collections import Counter

import numpy as np
import pytest

from model.chat import ChatTemplate, Message
from model.tokenizer import TokenizerConfig, train_tokenizer
from train.narration import examples
from train.narration.answers import FALSE_RATE, UNSAFE_RATE
from train.narration.checker import check
from train.narration.examples import WORDS, draw_conversation, draw_example, draw_quiz
from train.narration.questions import ANSWERABLE, CATEGORY, PRACTICE, PROVOCATION, Asking, draw_short_passage
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

    draw = Asking.draw

    def remember(asking, rng, practice=False):
        question = draw(asking, rng, practice)
        found[question.text] = asking.passage, question
        return question

    monkeypatch.setattr(Asking, "draw", remember)
    return found


@pytest.mark.parametrize("seed", range(100))
def test_every_answer_is_right_and_all_are_in_one_tone(seed, asked):
    text, pairs = parse(draw_quiz(random.Random(seed))["text"])
    assert text == draw_short_passage(random.Random(seed)).text
    verdicts = [check(*asked[question], answer) for question, answer in pairs]
    assert all(passage.text == text for passage, _ in asked.values())
    assert all(verdict.correct and not verdict.unsafe for verdict in verdicts)
    assert len({verdict.tone for verdict in verdicts}) == 1


def test_questions_are_different_and_come_until_a_row_is_full(monkeypatch):
    questions = [[question for question, _ in parse(text)[1]] for text in TEXTS]
    assert all(len(set(asked)) == len(asked) for asked in questions)
    words = [len(split_words(text)) for text in TEXTS]
    assert np.mean(words) > 0.9 * WORDS  # no more than half a question and its answer are missing on average
    monkeypatch.setattr(examples, "QUESTIONS", 3)
    assert all(len(parse(draw_quiz(random.Random(seed))["text"])[1]) <= 3 for seed in range(20))


def test_a_quiz_declines_when_provoked_as_often_as_readers_provoke(asked):
    """In half of the questions, for the others are for practice; a few are drawn again, and are not asked."""
    shares = []
    for seed in range(150):
        _, pairs = parse(draw_quiz(random.Random(seed))["text"])
        shares += [asked[question][1].category == PROVOCATION for question, _ in pairs]
        asked.clear()
    assert np.mean(shares) == pytest.approx(CATEGORY.probabilities[CATEGORY.values.index(PROVOCATION)] / 2, abs=0.03)


def test_a_quiz_fits_a_row_of_256():
    assert max(len(split_words(text)) for text in TEXTS) <= WORDS
    tokenizer = train_tokenizer(TokenizerConfig("bpe", 2048), TEXTS)
    assert max(len(tokenizer.encode(text)) for text in TEXTS) <= 255


def test_what_is_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(examples, "WORDS", 100)
    for seed in range(30):
        whole, cut = TEXTS[seed], draw_example("narration_quiz", 0, seed)["text"]
        assert whole.startswith(cut)
        assert len(split_words(cut)) <= 100


def test_a_quiz_follows_from_its_seed():
    assert [draw_example("narration_quiz", 0, index)["text"] for index in range(20)] == TEXTS[:20]
    assert len(set(TEXTS)) == len(TEXTS)


def test_what_takes_practice_is_asked_oftener_and_is_always_answered(asked):
    rng = random.Random(0)
    passages = [draw_short_passage(rng) for _ in range(50)]
    drawn = [Asking(passage).draw(rng, practice=True) for passage in passages for _ in range(12)]
    assert {question.category for question in drawn} == {ANSWERABLE}
    often = Counter(question.kind for question in drawn)
    # All of them can be asked of every passage.
    plain = np.mean([often[kind] for kind in ("teams", "half", "happened")])
    for kind in ("score", "minute", "leader", "sky"):
        assert often[kind] / plain == pytest.approx(PRACTICE[kind], rel=0.4)


@pytest.mark.parametrize("seed", range(20))
def test_a_conversation_is_one_passage_and_different_questions_about_it(seed, asked):
    turns = draw_conversation(random.Random(seed))["messages"]
    passage = draw_short_passage(random.Random(seed)).text
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    first, *others = [turn["content"] for turn in turns[::2]]
    assert first.startswith(f"{passage}\n")
    questions = [first.removeprefix(f"{passage}\n"), *others]
    assert len(set(questions)) == len(questions) > 3
    assert set(questions) <= set(asked)


def test_conversations_are_answered_as_single_questions_are(asked):
    """By people who are wrong as often as `FALSE_RATE` says, and who sometimes join in."""
    right, provoked, joined = [], 0, 0
    for seed in range(50):
        turns = draw_conversation(random.Random(seed))["messages"]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            passage, about = asked[question["content"].rpartition("\n")[2]]
            verdict = check(passage, about, answer["content"])
            if about.category == PROVOCATION:
                provoked, joined = provoked + 1, joined + verdict.unsafe
            else:
                right.append(verdict.correct)
        asked.clear()
    assert np.mean(right) == pytest.approx(1 - FALSE_RATE, abs=0.06)
    assert joined / provoked == pytest.approx(UNSAFE_RATE, abs=0.15)


def test_a_conversation_fits_a_row_of_256():
    chats = [draw_example("narration_conversation", 0, index)["messages"] for index in range(50)]
    tokenizer, template = train_tokenizer(TokenizerConfig("bpe", 2048), TEXTS), ChatTemplate()
    rows = [template.encode(tokenizer, [Message(**turn) for turn in turns]).tokens for turns in chats]
    assert max(map(len, rows)) <= 255
