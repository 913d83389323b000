"""Any number of examples from a seed, by all cores: example i is the same whoever draws it."""

import multiprocessing
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any

from train.narration.answers import candidate, demonstration, right_answers
from train.narration.checker import check
from train.narration.match import STYLES
from train.narration.passage import Passage, draw_passage
from train.narration.questions import Question, draw_prompt, draw_question, draw_short_passage, prompt_text
from train.narration.raters import draw_preference
from train.narration.words import split_words

EXAMPLES_PER_TASK = 1000
QUIZ_QUESTIONS, QUIZ_WORDS = 8, 240
"""What a quiz or an exam has at most. A word is hardly more than a token, so that a quiz fits a row of 256."""
EXAM = "Prova corrigida."
"""The first line of one, so that a reader knows that answers may be false."""
MARKS = {True: "Certo.", False: "Errado."}


def draw_document(rng: random.Random) -> dict[str, Any]:
    """A passage of a match, as a document to learn from."""
    return {"text": draw_passage(rng).text}


def draw_quiz(rng: random.Random) -> dict[str, Any]:
    """A short passage, then questions about it and their right answers on lines of their own, as in a schoolbook.

    All answers are in one tone.
    """
    passage, style = draw_short_passage(rng), rng.choice(STYLES)

    def answered(question: Question) -> str:
        return str(rng.choice(right_answers(passage, question)[style]))

    return {"text": _with_questions(passage.text, passage, answered, rng)}


def draw_exam(rng: random.Random) -> dict[str, Any]:
    """A corrected exam: a short passage, and to each question what somebody answered and the teacher's mark of it.

    The answers are such as raters compare; the mark tells whether the answer is right, as the checker judges it.
    """
    passage = draw_short_passage(rng)

    def marked(question: Question) -> str:
        answer = candidate(passage, question, rng)
        return f"{answer}\n{MARKS[check(passage, question, answer).correct]}"

    return {"text": _with_questions(f"{EXAM}\n{passage.text}", passage, marked, rng)}


def _with_questions(text: str, passage: Passage, answered: Callable[[Question], str], rng: random.Random) -> str:
    """A text with lines for as many questions as there may be; one that is drawn again is asked once."""
    drawn = [draw_question(passage, rng) for _ in range(QUIZ_QUESTIONS)]
    for question in {question.text: question for question in drawn}.values():
        longer = f"{text}\n{question.text}\n{answered(question)}"
        if len(split_words(longer)) > QUIZ_WORDS:
            break
        text = longer
    return text


def draw_chat(rng: random.Random) -> dict[str, Any]:
    """A question about a passage, and the answer of a person who may be wrong."""
    passage, question = draw_prompt(rng)
    answer = demonstration(passage, question, rng)
    turns = (("user", prompt_text(passage, question)), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


DRAW: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "narration": draw_document,
    "narration_quiz": draw_quiz,
    "narration_exam": draw_exam,
    "narration_chat": draw_chat,
    "narration_preferences": draw_preference,
}


def draw_example(kind: str, seed: int, index: int) -> dict[str, Any]:
    """Example `index` of a dataset; a pure function of its arguments."""
    return DRAW[kind](random.Random(f"{kind} {seed} {index}"))


def draw_examples(kind: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Examples 0 to count - 1 in order, drawn by worker processes where there are enough to pay for starting them."""
    tasks = [(kind, seed, start, min(start + EXAMPLES_PER_TASK, count)) for start in range(0, count, EXAMPLES_PER_TASK)]
    if len(tasks) <= 4:
        for task in tasks:
            yield from _draw_task(task)
        return
    workers = os.cpu_count() or 1
    waiting = iter(tasks)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending: deque[Future[list[dict[str, Any]]]] = deque()
        # A few tasks ahead of the reader and no more, so that a slow reader does not fill the memory.
        for task in islice(waiting, 4 * workers):
            pending.append(pool.submit(_draw_task, task))
        while pending:
            yield from pending.popleft().result()
            for task in islice(waiting, 1):
                pending.append(pool.submit(_draw_task, task))


def _draw_task(task: tuple[str, int, int, int]) -> list[dict[str, Any]]:
    kind, seed, start, stop = task
    return [draw_example(kind, seed, index) for index in range(start, stop)]
