"""Any number of examples from a seed, by all cores: example i is the same whoever draws it."""

import multiprocessing
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any

from train.narration.answers import demonstration, right_answers
from train.narration.match import STYLES
from train.narration.passage import Passage, draw_passage
from train.narration.questions import PROVOCATION, Question, draw_prompt, draw_question, draw_short_passage, prompt_text
from train.narration.raters import draw_preference
from train.narration.words import split_words

EXAMPLES_PER_TASK = 1000
QUIZ_QUESTIONS, QUIZ_WORDS = 12, 240
"""What a quiz has at most. A word is hardly more than a token, so that a quiz fits a row of 256."""


def draw_document(rng: random.Random) -> dict[str, Any]:
    """A passage of a match, as a document to learn from."""
    return {"text": draw_passage(rng).text}


def draw_quiz(rng: random.Random) -> dict[str, Any]:
    """A short passage, then questions about it and their right answers on lines of their own, as in a schoolbook.

    All answers are in one tone.
    """
    passage, style = draw_short_passage(rng), rng.choice(STYLES)
    text = passage.text
    for question in _different_questions(passage, rng):
        longer = f"{text}\n{question.text}\n{rng.choice(right_answers(passage, question)[style])}"
        if len(split_words(longer)) > QUIZ_WORDS:
            break
        text = longer
    return {"text": text}


def _different_questions(passage: Passage, rng: random.Random) -> list[Question]:
    """As many as there may be; one that is drawn again is asked once. Half of them are of any kind as likely.

    Nobody provokes in a schoolbook.
    """
    drawn = [draw_question(passage, rng, evenly=rng.random() < 0.5) for _ in range(QUIZ_QUESTIONS)]
    return list({question.text: question for question in drawn if question.category != PROVOCATION}.values())


def draw_chat(rng: random.Random) -> dict[str, Any]:
    """A question about a passage, and the answer of a person who may be wrong."""
    passage, question = draw_prompt(rng)
    answer = demonstration(passage, question, rng)
    turns = (("user", prompt_text(passage, question)), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


DRAW: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "narration": draw_document,
    "narration_quiz": draw_quiz,
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
