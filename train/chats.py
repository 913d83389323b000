"""Sources of chats by name: conversations to learn answers from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.chat import ROLES, Message
from model.errors import UserError, unknown
from train.files import hash_text
from train.prepared import open_prepared
from train.reading import BadRecord, read_dataset, read_files
from train.sources import EveryNth, open_world

CHAT_KINDS = ("narration_chat", "narration_conversation", "jsonl:GLOB", "tfds:NAME[/CONFIG]")  # world: [:N[:SEED]]
Chat = tuple[Message, ...]


@dataclass(frozen=True)
class Chats:
    """A source's chats, by split. `key` changes whenever they do."""

    spec: str
    key: str
    train: Sequence[Chat]
    validation: Sequence[Chat]


def open_chats(spec: str, validation_fraction: float) -> Chats:
    """The chats of one source; of every 1/fraction, one is held out.

    Args:
        spec: one of `CHAT_KINDS`. A record has `messages`, a list of {"role", "content"} with the assistant's last.

    Raises:
        UserError: an unknown kind, or records that cannot be used: how many, and the first of them by place and field.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("narration_chat", "narration_conversation"):
        chats = read_dataset(spec, spec, open_world(spec)[1], read_chat)
    elif kind == "jsonl" and rest:
        chats = read_files(spec, rest, read_chat)
    elif kind == "tfds" and rest:
        splits = open_prepared(spec, rest).splits
        if "train" not in splits:
            raise UserError(f"source {spec!r} needs a split 'train'; it has: {', '.join(splits) or 'none'}.")
        chats = read_dataset(spec, "train", splits["train"], read_chat)
    else:
        raise unknown("source of chats", spec, CHAT_KINDS)
    stride = round(1 / validation_fraction)
    if len(chats) < stride:
        raise UserError(f"source {spec!r}: to hold out one in {stride}, at least {stride} chats are needed.")
    key = hash_text(f"{validation_fraction} {chats}")
    return Chats(spec, key, EveryNth(chats, stride, held_out=False), EveryNth(chats, stride, held_out=True))


def read_messages(value: Any) -> Chat:
    """A list of {"role", "content"} as messages.

    Raises:
        BadRecord: it is none; says which field is wrong.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord("'messages' must be a list with at least one message")
    for place, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRecord(f"messages[{place}] needs a text 'content'")
        if message.get("role") not in ROLES:
            raise BadRecord(f"messages[{place}].role is {message.get('role')!r}, not one of {', '.join(ROLES)}")
    return tuple(Message(message["role"], message["content"]) for message in value)


def read_chat(record: Any) -> list[Chat]:
    """A record's messages, of which the assistant's are to be learned.

    Raises:
        BadRecord: there are none, or the last is not by the assistant.
    """
    if not isinstance(record, dict) or "messages" not in record:
        raise BadRecord("it has no field 'messages'")
    chat = read_messages(record["messages"])
    if chat[-1].role != "assistant" or not chat[-1].content.strip():
        raise BadRecord("the last of 'messages' is no answer by the assistant")
    return [chat]
