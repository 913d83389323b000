"""Prompts without answers: what a model is asked, by a person who rates it or by its own training; as text and ids."""

from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import Int

from model.chat import ChatTemplate
from model.errors import UserError, unknown
from model.tokenizer import Tokenizer
from rlhf.records import Prompt, read_prompt
from train.reading import read_dataset, read_files
from train.sources import open_world

PROMPT_KINDS = ("narration_chat[:EXAMPLES[:SEED]]", "jsonl:GLOB")


def open_prompts(spec: str) -> list[Prompt]:
    """All prompts of one source, in its order.

    Args:
        spec: one of `PROMPT_KINDS`. A record has "prompt" (text or messages), or "messages": a chat, of which the
            answer that ends it is left out.

    Raises:
        UserError: an unknown kind, no records, or records that cannot be used.
    """
    kind, _, rest = spec.partition(":")
    if kind == "narration_chat":
        return read_dataset(spec, spec, open_world(spec)[1], lambda record: [read_prompt(record)])
    if kind == "jsonl" and rest:
        return read_files(spec, rest, lambda record: [read_prompt(record)])
    raise unknown("source of prompts", spec, PROMPT_KINDS)


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, template: ChatTemplate, room: int
) -> list[list[int]]:
    """The ids of prompts, to where the answer begins.

    Raises:
        UserError: one has more than `room` tokens.
    """
    rows = [[tokenizer.document_end, *template.encode(tokenizer, asked, answer=True).tokens] for asked in prompts]
    for index, row in enumerate(rows):
        if len(row) > room:
            raise UserError(f"prompt {index} has {len(row)} tokens; beside an answer the context has room for {room}.")
    return rows


def stop_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[int, ...]:
    """What ends an answer: the end of its turn, as it should, and after that the end of the document, which cuts it."""
    return tuple(dict.fromkeys((template.stop_token(tokenizer), tokenizer.document_end)))


def pad(rows: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "N P"], Int[np.ndarray, "N"]]:
    """Rows made as long as the longest, with zeros on the right; and how long they were."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


class PaddedPrompts:
    """Prompts as padded ids; batch n is a pure function of the seed and n."""

    def __init__(self, rows: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.tokens, self.lengths = pad(rows)
        self.batch_size = batch_size
        self._order = grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat()

    def batch(self, number: int) -> Int[np.ndarray, "B"]:
        """Which prompts batch `number` takes, from 0."""
        start = number * self.batch_size
        return np.array([self._order[start + place] for place in range(self.batch_size)])
