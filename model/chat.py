"""Chats as token ids, by a template that is data: Jinja, as tokenizers on the hubs carry it.

What people write never turns into special tokens: the template is rendered with a placeholder for each message, and
only what the template itself says is read for specials.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import UserError
from model.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|turn_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")  # private use: no text of a template


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


class ChatTokens(NamedTuple):
    """A chat as ids, and which of them the assistant wrote: its words and the token that ends its turn."""

    tokens: list[int]
    by_assistant: list[bool]


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become text: the Jinja of a tokenizer's `chat_template`."""

    text: str = TEMPLATE

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message], answer: bool = False) -> ChatTokens:
        """The ids of a chat.

        Args:
            answer: end where the assistant's next turn begins.

        Raises:
            UserError: an unknown role, or a template that cannot be rendered or drops a message.
        """
        tokens: list[int] = []
        by_assistant: list[bool] = []
        seen: list[int] = []
        ends_turn = False
        for index, piece in enumerate(_PLACEHOLDER.split(self._render(tokenizer, messages, answer))):
            if index % 2:
                message = messages[int(piece)]
                seen.append(int(piece))
                ids = tokenizer.encode(message.content)
                ends_turn = message.role == "assistant"
                tokens += ids
                by_assistant += [ends_turn] * len(ids)
            else:
                marked, specials = _encode_marked(tokenizer, piece)
                tokens += marked
                # Up to the first special token, which ends the turn; up to the first token where there is none.
                last = specials[0] if specials else 0
                by_assistant += [ends_turn and place <= last for place in range(len(marked))]
        if seen != list(range(len(messages))):
            raise UserError("the chat template does not say every message once and in order.")
        return ChatTokens(tokens, by_assistant)

    def stop_token(self, tokenizer: Tokenizer) -> int:
        """The id that ends the assistant's turn.

        Raises:
            UserError: the template ends it with nothing.
        """
        found = self.encode(tokenizer, [Message("user", ""), Message("assistant", "")])
        if not any(found.by_assistant):
            raise UserError("the chat template has no token that ends the assistant's turn.")
        return found.tokens[len(found.by_assistant) - 1 - found.by_assistant[::-1].index(True)]

    def _render(self, tokenizer: Tokenizer, messages: Sequence[Message], answer: bool) -> str:
        for message in messages:
            if message.role not in ROLES:
                raise UserError(f"a message has the role {message.role!r}; roles are {', '.join(ROLES)}.")
        marked = [{"role": m.role, "content": f"\ue000{index}\ue001"} for index, m in enumerate(messages)]
        try:
            return _compiled(self.text).render(
                messages=marked,
                add_generation_prompt=answer,
                bos_token="",  # every document begins with its own
                eos_token=tokenizer.inner.id_to_token(tokenizer.document_end),
            )
        except Exception as error:  # a template is a program: it can fail in any way
            raise UserError(f"the chat template cannot be rendered: {error}") from None

    @classmethod
    def load(cls, path: Path) -> "ChatTemplate":
        """The template in a file, as `chat_template.jinja` on the hubs.

        Raises:
            UserError: it is not UTF-8.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"the chat template {str(path)!r} is not UTF-8: {error}") from None


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)


@functools.lru_cache(maxsize=64)
def _encode_marked(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a template's own text, special tokens by their names, and the places of those."""
    names = {token.content: index for index, token in tokenizer.inner.get_added_tokens_decoder().items()}
    pieces = re.split("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")", text)
    ids: list[int] = []
    specials: list[int] = []
    for piece in pieces:
        if piece in names:
            specials.append(len(ids))
        ids += [names[piece]] if piece in names else tokenizer.encode(piece)
    return tuple(ids), tuple(specials)
