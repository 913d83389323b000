"""Text to token ids and back, without loss: byte-level BPE, characters with a byte fallback, or any tokenizer.json.

The work is done by the `tokenizers` library. Text does not turn into special tokens by accident: what looks like
one in a document is read as plain text, and specials enter only by their ids. (A loaded tokenizer of whole words,
whose model itself knows a special's name as a word, cannot keep that promise.)
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.errors import UserError

DOCUMENT_END = "<|end|>"
PADDING = "<|pad|>"
CHAT_TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|turn_end|>")
SPECIALS = (DOCUMENT_END, PADDING, *CHAT_TURNS)

# What other families call the end of a document, so that a loaded tokenizer keeps its own.
FOREIGN_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run uses. `bpe` and `char` are trained on the run's own training split."""

    kind: Literal["bpe", "char", "file"] = "bpe"
    """Byte-level BPE, single characters, or a given tokenizer.json."""
    vocab_size: int = 2048
    """Tokens of a trained BPE, specials and the 256 bytes included; fewer where the text has no more to merge."""
    path: str | None = None
    """The tokenizer.json, for kind=file."""

    def __post_init__(self) -> None:
        least = 256 + len(SPECIALS)
        if self.kind == "bpe" and self.vocab_size < least:
            raise UserError(
                f"tokenizer.vocab_size={self.vocab_size} must be at least {least} (256 bytes and the specials)."
            )
        if (self.kind == "file") != (self.path is not None):
            raise UserError("tokenizer.path names the tokenizer.json of tokenizer.kind=file, and only of that kind.")


class Tokenizer:
    """A `tokenizers.Tokenizer` with the special tokens that training needs."""

    def __init__(self, inner: Any) -> None:
        """Wrap a `tokenizers.Tokenizer`, adding the specials that it lacks at the end of its vocabulary."""
        from tokenizers import AddedToken

        self.inner = inner
        inner.no_truncation()  # a given file may ask for either, and text is to come back whole
        inner.no_padding()
        present = inner.get_vocab(with_added_tokens=True)
        end = next((name for name in (DOCUMENT_END, *FOREIGN_DOCUMENT_ENDS) if name in present), DOCUMENT_END)
        names = [end, *SPECIALS[1:]]
        inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        inner.encode_special_tokens = True
        self.document_end: int = inner.token_to_id(end)
        self.padding: int = inner.token_to_id(PADDING)
        self.special_ids: dict[str, int] = {name: inner.token_to_id(name) for name in names}

    @property
    def size(self) -> int:
        """Number of ids: one more than the highest."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of plain text. A lone surrogate (from a command line that is no UTF-8) becomes a question mark."""
        return self.inner.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text, in the library's threads."""
        return [encoding.ids for encoding in self.inner.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, specials spelled out. Bytes that are no UTF-8 come back as U+FFFD."""
        if not self._is_bytewise:
            return self.inner.decode(list(ids), skip_special_tokens=False)
        pieces = (self.token_bytes(token) or self.token_text(token).encode() for token in ids)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Pieces of the text as ids arrive; a character whose bytes span tokens comes when it is whole."""
        seen: list[int] = []
        shown = 0
        for token in ids:
            seen.append(token)
            whole = self.decode(seen).rstrip("\ufffd")  # what ends so may only be incomplete yet
            yield whole[shown:]
            shown = max(shown, len(whole))
        if rest := self.decode(seen)[shown:]:
            yield rest

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes a token stands for; empty for specials, None for an id that the vocabulary does not use."""
        return self._bytes[token] if token < len(self._bytes) else None

    def token_text(self, token: int) -> str:
        """One token for people to read: its text, or escapes such as \\xc3 for part of a character."""
        data = self.token_bytes(token)
        if data is None:
            return f"<unused {token}>"
        if not data:
            return self.inner.id_to_token(token)
        return data.decode("utf-8", errors="backslashreplace")

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """Int32[V]: how many bytes of text each id stands for, so that loss per byte is exact."""
        return np.array([len(data or b"") for data in self._bytes], np.int32)

    @functools.cached_property
    def _is_bytewise(self) -> bool:
        """Whether text is nothing but the tokens' bytes in a row, as with both kinds trained here."""
        decoder = json.loads(self.inner.to_str())["decoder"] or {}
        types = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
        return types in ({"ByteLevel"}, {"ByteFallback", "Fuse"})

    @functools.cached_property
    def _bytes(self) -> list[bytes | None]:
        spec = json.loads(self.inner.to_str())
        decoder = json.dumps(spec["decoder"], ensure_ascii=False)
        added = {entry["id"] for entry in spec["added_tokens"] if entry["special"]}
        pieces: list[bytes | None] = [None] * self.size
        for token, index in self.inner.get_vocab(with_added_tokens=True).items():
            if index in added:
                pieces[index] = b""
            elif '"ByteLevel"' in decoder and all(char in _BYTE_OF_CHAR for char in token):
                pieces[index] = bytes(_BYTE_OF_CHAR[char] for char in token)
            elif '"ByteFallback"' in decoder and _is_byte_token(token):
                pieces[index] = bytes([int(token[3:5], 16)])
            else:
                pieces[index] = token.replace("\u2581", " ").encode() if "\u2581" in decoder else token.encode()
        return pieces

    def to_json(self) -> str:
        """The tokenizer.json that `from_json` reads."""
        return self.inner.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """A tokenizer from the text of a tokenizer.json."""
        import tokenizers

        return cls(tokenizers.Tokenizer.from_str(text))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """A tokenizer from a tokenizer.json.

        Raises:
            UserError: the file is missing or is no tokenizer.json.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"there is no tokenizer file {str(path)!r}.") from None
        except Exception as error:  # the library raises plain Exception on a file it cannot read
            raise UserError(f"{str(path)!r} is not a tokenizer.json: {error}") from None


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config` asks for, trained on `texts` unless it is a given file."""
    if config.kind == "file":
        return Tokenizer.load(Path(str(config.path)))
    return _train_bpe(config.vocab_size, texts) if config.kind == "bpe" else _train_char(texts)


def _train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2)."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


def _train_char(texts: Iterable[str]) -> Tokenizer:
    """One token a character of the text; any other character falls back to its UTF-8 bytes."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models

    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    names = [*SPECIALS, *sorted(characters), *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {name: index for index, name in enumerate(names)}
    inner = Inner(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(inner)


def _is_byte_token(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: itself, or one from U+0100 on where it has none."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTE_OF_CHAR = _byte_of_char()
