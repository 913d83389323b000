"""Any number of examples from a seed, by all cores: example i is the same whoever draws it."""

import multiprocessing
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any

from train.narration.answers import demonstration, right_answers
from train.narration.match import STYLES
from train.narration.passage import Passage, draw_passage
from train.narration.questions import Asking, Question, draw_prompt, draw_short_passage, prompt_text
from train.narration.raters import draw_preference
from train.narration.words import split_words

EXAMPLES_PER_TASK = 1000
QUESTIONS, WORDS = 24, 240
"""What a quiz or a conversation has at most. A word is hardly more than a token, so that they fit a row of 256, and
hardly anything else does beside them."""
TURN_WORDS = 6  # as which the marks of a question's turn and its answer's count


def draw_document(rng: random.Random) -> dict[str, Any]:
    """A passage of a match, as a document to learn from."""
    return {"text": draw_passage(rng).text}


def draw_quiz(rng: random.Random) -> dict[str, Any]:
    """A short passage, then questions about it and their right answers on lines of their own, as in a schoolbook.

    All answers are in one tone. Some questions provoke, and the answer declines: else its words would be new later on.
    """
    passage, style = draw_short_passage(rng), rng.choice(STYLES)
    text = passage.text
    words = len(split_words(text))
    for question in _different_questions(passage, rng):
        line = f"\n{question.text}\n{rng.choice(right_answers(passage, question)[style])}"
        words += len(split_words(line))
        if words > WORDS:
            break
        text += line
    return {"text": text}


def draw_chat(rng: random.Random) -> dict[str, Any]:
    """A question about a passage, and the answer of a person who may be wrong."""
    passage, question = draw_prompt(rng)
    return _chat([(prompt_text(passage, question), demonstration(passage, question, rng))])


def draw_conversation(rng: random.Random) -> dict[str, Any]:
    """Several questions about one passage, one after the other, answered likewise."""
    passage = draw_short_passage(rng)
    said: list[tuple[str, str]] = []
    words = len(split_words(passage.text))
    for question in _different_questions(passage, rng):
        asked, answer = question.text if said else prompt_text(passage, question), demonstration(passage, question, rng)
        words += len(split_words(f"{question.text} {answer}")) + TURN_WORDS
        if words > WORDS:
            break
        said.append((asked, answer))
    return _chat(said)


def _chat(said: Sequence[tuple[str, str]]) -> dict[str, Any]:
    turns = [turn for asked, answer in said for turn in (("user", asked), ("assistant", answer))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _different_questions(passage: Passage, rng: random.Random) -> Iterator[Question]:
    """As many as there may be, half of them for practice; one that is drawn again is asked once."""
    asking, asked = Asking(passage), set()
    for _ in range(QUESTIONS):
        question = asking.draw(rng, practice=rng.random() < 0.5)
        if question.text not in asked:
            asked.add(question.text)
            yield question


DRAW: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "narration": draw_document,
    "narration_quiz": draw_quiz,
    "narration_chat": draw_chat,
    "narration_conversation": draw_conversation,
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
