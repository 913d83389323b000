"""Records of what people chose, in the conventions of the data sets there are, each read as `Preference`s.

{"prompt", "chosen", "rejected"}            text, or lists of {"role", "content"}; a prompt of text is one user message
{"chosen", "rejected"}                      whole chats that share their prompt: lists of messages, or transcripts
{"prompt", "ranking": [best, ..., worst]}   as many choices as there are pairs

A transcript is text such as "\\n\\nHuman: ...\\n\\nAssistant: ..." (Bai et al. 2022, arXiv 2204.05862). A record may
also say "margin" (how much better, at least 0), "rater" and "seconds". Null is as good as missing; other fields are
not read.
"""

import itertools
import math
import re
import reprlib
from dataclasses import dataclass
from typing import Any

from model.chat import ROLES, Message
from train.reading import BadRecord

Prompt = tuple[Message, ...]
"""Messages of which the last is the user's."""

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, and which was chosen."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    """How much better the chosen one is; what is added to the difference that a reward model has to reach."""
    rater: str | None = None
    seconds: float | None = None
    """How long the choice took."""


def read_preferences(record: Any) -> list[Preference]:
    """The choices in one record: one, or every pair of a ranking.

    Raises:
        BadRecord: fields that are missing, contradict each other or cannot be used.
    """
    fields = _fields(record)
    if "ranking" in fields:
        also = [name for name in ("chosen", "rejected", "margin") if name in fields]
        if also:
            raise BadRecord(f"field 'ranking' stands together with {also[0]!r}; a record has one or the other")
        values = fields["ranking"]
        if not isinstance(values, list) or len(values) < 2:
            raise BadRecord(f"field 'ranking' is {reprlib.repr(values)}, not a list of at least two answers")
        named = {f"ranking[{place}]": value for place, value in enumerate(values)}
    else:
        for name in ("chosen", "rejected"):
            if name not in fields:
                raise BadRecord(f"field {name!r} is missing; the record has: {', '.join(fields) or 'none'}")
        named = {name: fields[name] for name in ("chosen", "rejected")}
    chats = {name: _chat(value, name) for name, value in named.items()}
    prompt = _shared_prompt(fields, chats)
    answers = {name: chat[-1].content for name, chat in chats.items()}
    for (one, a), (other, b) in itertools.combinations(answers.items(), 2):
        if a == b:
            raise BadRecord(f"fields {one!r} and {other!r} are the same answer, {reprlib.repr(a)}")
    rater = _text(fields["rater"], "rater") if "rater" in fields else None
    seconds = _amount(fields["seconds"], "seconds") if "seconds" in fields else None
    margin = _amount(fields.get("margin", 0.0), "margin")
    return [
        Preference(prompt, chosen, rejected, margin, rater or None, seconds)
        for chosen, rejected in itertools.combinations(answers.values(), 2)
    ]


def read_prompt(record: Any) -> Prompt:
    """The prompt in a record of {"prompt"} or {"messages"}; of a chat, what comes before the answer that ends it.

    Raises:
        BadRecord: neither or both are there, or it cannot be used.
    """
    fields = _fields(record)
    if ("prompt" in fields) == ("messages" in fields):
        raise BadRecord(f"one of 'prompt' and 'messages' is needed; the record has: {', '.join(fields) or 'none'}")
    if "prompt" in fields:
        return _prompt(fields["prompt"], "prompt")
    messages = _messages(fields["messages"], "messages")
    answered = bool(messages) and messages[-1].role == "assistant"
    return _ends_with_user(messages[:-1] if answered else messages, "messages")


def to_record(preference: Preference) -> dict[str, Any]:
    """The record that reads as this preference, as lists of messages: no text in those is taken for a transcript."""
    record: dict[str, Any] = {
        "prompt": [message._asdict() for message in preference.prompt],
        "chosen": [{"role": "assistant", "content": preference.chosen}],
        "rejected": [{"role": "assistant", "content": preference.rejected}],
    }
    if preference.margin:
        record["margin"] = preference.margin
    extras = {"rater": preference.rater, "seconds": preference.seconds}
    return record | {name: value for name, value in extras.items() if value is not None}


def _fields(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise BadRecord(f"a record is an object with fields, not {reprlib.repr(record)}")
    return {name: value for name, value in record.items() if value is not None}


def _shared_prompt(fields: dict[str, Any], chats: dict[str, Prompt]) -> Prompt:
    """The prompt that a record states, or that its chats carry; all that is there has to agree."""
    stated = _prompt(fields["prompt"], "prompt") if "prompt" in fields else None
    shared, source = stated, "prompt"
    for name, chat in chats.items():
        carried = chat[:-1]
        if not carried and stated is None:
            raise BadRecord(f"field 'prompt' is missing, and {name!r} is an answer without one")
        if shared is None:
            shared, source = _ends_with_user(carried, name), name
        elif carried and carried != shared:
            raise BadRecord(f"field {name!r} begins with another prompt than {source!r}")
    assert shared is not None
    return shared


def _chat(value: Any, name: str) -> tuple[Message, ...]:
    """An answer, alone or after its prompt."""
    if isinstance(value, str):
        text = _text(value, name)
        chat = _transcript(text) if _TURN.match(text) else (Message("assistant", text),)
    else:
        chat = _messages(value, name)
    if not chat or chat[-1].role != "assistant":
        raise BadRecord(f"field {name!r} does not end with the assistant's answer")
    if not chat[-1].content.strip():
        raise BadRecord(f"field {name!r} is an empty answer")
    return chat


def _prompt(value: Any, name: str) -> Prompt:
    if not isinstance(value, str):
        return _ends_with_user(_messages(value, name), name)
    text = _text(value, name)
    if not _TURN.match(text):
        return _ends_with_user((Message("user", text),), name)
    turns = _transcript(text)
    return _ends_with_user(turns[:-1] if turns[-1] == ("assistant", "") else turns, name)


def _ends_with_user(messages: tuple[Message, ...], name: str) -> Prompt:
    if not messages or messages[-1].role != "user":
        last = messages[-1].role if messages else "nobody"
        raise BadRecord(f"field {name!r}: the prompt's last message is by {last}, and has to be by the user")
    if not messages[-1].content.strip():
        raise BadRecord(f"field {name!r}: the prompt's last message is empty")
    return messages


def _transcript(text: str) -> tuple[Message, ...]:
    _, *pieces = _TURN.split(text)
    return tuple(Message(_ROLE[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True))


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise BadRecord(f"field {name!r} is {reprlib.repr(value)}, not text or a list of messages")
    messages = []
    for place, item in enumerate(value):
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise BadRecord(f"field '{name}[{place}]' is {reprlib.repr(item)}, not a message with role and content")
        if item["role"] not in ROLES:
            role = reprlib.repr(item["role"])
            raise BadRecord(f"field '{name}[{place}].role' is {role}; roles are {', '.join(ROLES)}")
        messages.append(Message(item["role"], _text(item["content"], f"{name}[{place}].content")))
    return tuple(messages)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"field {name!r} is {reprlib.repr(value)}, not text")
    # A lone surrogate is legal in JSON and has no UTF-8.
    return value.encode("utf-8", errors="replace").decode()


def _amount(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise BadRecord(f"field {name!r} is {reprlib.repr(value)}, not a number of at least 0")
    return number
