"""Prompts without answers: what a model is asked, by a person who rates it or by its own training."""

from model.errors import unknown
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
