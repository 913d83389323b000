"""Sources of documents by name, each a TFDS dataset on disk (ArrayRecord; no TensorFlow to read or write it)."""

import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from model.errors import UserError, unknown
from train.cache import build_once, cache_root
from train.files import decode, hash_files, hash_text, paths_of, tell_invalid, text_lines
from train.narration.examples import draw_example
from train.prepared import open_prepared
from train.progress import bar

WORLD = ("narration", "narration_quiz", "narration_chat", "narration_conversation", "narration_preferences")
KINDS = (*WORLD, "pydoc", "text:GLOB", "jsonl:GLOB#FIELD", "tfds:NAME[/CONFIG]")  # WORLD's may add :EXAMPLES[:SEED]
WORLD_EXAMPLES = 30_000
FEWEST_HELD_OUT = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Documents:
    """A source's documents: UTF-8 bytes with random access, by split. `key` changes whenever the text does."""

    spec: str
    key: str
    train: Sequence[bytes]
    validation: Sequence[bytes]


def open_source(spec: str, validation_fraction: float) -> Documents:
    """The documents of one source, written to the cache on first use.

    Args:
        spec: one of `KINDS`.
        validation_fraction: what is held out where the source has no split of its own for it.

    Raises:
        UserError: an unknown kind, or files or records that cannot be used.
    """
    kind, _, rest = spec.partition(":")
    if kind == "tfds" and rest:
        return _tfds(spec, rest, validation_fraction)
    if kind in WORLD:
        return _world(spec, validation_fraction)
    if spec == "pydoc":
        # The reference is Python's own, so its text is known by Python's version.
        documents, content = _pydoc(), sys.version
    elif kind == "text" and rest:
        paths = paths_of(spec, rest)
        documents, content = _text(paths), hash_files(paths)
    elif kind == "jsonl" and rest:
        pattern, _, name = rest.rpartition("#")
        if not pattern or not name:
            raise UserError(f"source {spec!r} does not say which field holds the text; write jsonl:GLOB#FIELD.")
        paths = paths_of(spec, pattern)
        documents, content = _jsonl(paths, name), f"{name} {hash_files(paths)}"
    else:
        raise unknown("source", spec, KINDS)
    directory = cache_root() / "documents" / hash_text(f"{kind} {content}")
    build_once(directory, lambda target: _write_dataset(spec, target, documents))
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(directory / "documents" / "1.0.0").as_data_source(split="train")
    train, validation = hold_out(Field(source, "text"), validation_fraction)
    return Documents(spec, hash_text(f"{directory.name} {validation_fraction}"), train, validation)


def hold_out(documents: Sequence[bytes], fraction: float) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Hold out whole documents, one in every 1/fraction; where that makes fewer than ten, the end of each one."""
    stride = round(1 / fraction)
    if len(documents) < FEWEST_HELD_OUT * stride:
        return TextCut(documents, fraction, held_out=False), TextCut(documents, fraction, held_out=True)
    return EveryNth(documents, stride, held_out=False), EveryNth(documents, stride, held_out=True)


@dataclass(frozen=True)
class Field(Sequence[bytes]):
    """One feature of the records of a TFDS data source."""

    source: Any
    name: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.source[index][self.name]


@dataclass(frozen=True)
class Turns(Sequence[bytes]):
    """Chats, or prompts with the answer that was chosen, as text: one turn after the other, on lines of their own."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        record = self.source[index]
        turns = record["messages"]["content"] if "messages" in record else (record["prompt"], record["chosen"])
        return b"\n".join(turns)


@dataclass(frozen=True)
class EveryNth(Sequence[T]):
    """Items stride - 1, 2 x stride - 1, ... (held out), or all the others."""

    inner: Sequence[T]
    stride: int
    held_out: bool

    def __len__(self) -> int:
        held_out = len(self.inner) // self.stride
        return held_out if self.held_out else len(self.inner) - held_out

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.held_out:
            return self.inner[(index + 1) * self.stride - 1]
        return self.inner[index + index // (self.stride - 1)]


@dataclass(frozen=True)
class TextCut(Sequence[bytes]):
    """The last `fraction` of each document's characters (held out), or what comes before."""

    inner: Sequence[bytes]
    fraction: float
    held_out: bool

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: Any) -> Any:
        text = self.inner[index].decode(errors="replace")
        cut = int(len(text) * (1 - self.fraction))
        return (text[cut:] if self.held_out else text[:cut]).encode()


def _pydoc() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _text(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        text, invalid = decode(path.read_bytes())
        tell_invalid(path, invalid)
        yield text


def _jsonl(paths: list[Path], name: str) -> Iterator[str]:
    for where, line in text_lines(paths):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}).") from None
        if not isinstance(record, dict) or not isinstance(record.get(name), str):
            holds = ", ".join(record) if isinstance(record, dict) else f"a {type(record).__name__}"
            raise UserError(f"{where}: no text field {name!r}; the record has: {holds}.")
        # A lone surrogate is legal in JSON and has no UTF-8.
        yield record[name].encode("utf-8", errors="replace").decode()


def _tfds(spec: str, name: str, fraction: float) -> Documents:
    import tensorflow_datasets as tfds

    key, splits, features = open_prepared(spec, name)
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    if not texts or "train" not in splits:
        raise UserError(
            f"source {spec!r} needs a split 'train' with a text feature; it has the splits "
            f"{', '.join(splits)} and the features {', '.join(features)}."
        )
    field = "text" if "text" in texts else texts[0]
    held_out = next((split for split in ("validation", "test") if split in splits), None)
    train: Sequence[bytes] = Field(splits["train"], field)
    if held_out is None:
        train, validation = hold_out(train, fraction)
    else:
        validation = Field(splits[held_out], field)
    return Documents(spec, hash_text(f"{field} {held_out or fraction} {key}"), train, validation)


def _world(spec: str, fraction: float) -> Documents:
    """Examples of the narrator's world as text. A chat's text is its turns, a choice's what was chosen."""
    key, records = open_world(spec)
    texts = Field(records, "text") if "text" in records[0] else Turns(records)
    # Whole documents only: the end of one alone has no true probability.
    stride = round(1 / fraction)
    if len(texts) < stride:
        raise UserError(f"source {spec!r}: to hold out one in {stride}, at least {stride} examples are needed.")
    train, validation = EveryNth(texts, stride, held_out=False), EveryNth(texts, stride, held_out=True)
    return Documents(spec, hash_text(f"{key} {fraction}"), train, validation)


def read_world(spec: str, examples: int = WORLD_EXAMPLES) -> tuple[str, int, int]:
    """What NAME[:EXAMPLES[:SEED]] says: the name, how many `examples`, and the seed, which is 0 unless told.

    Raises:
        UserError: what follows the name is no number, or there are no examples.
    """
    name, *numbers = spec.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise UserError(f"source {spec!r}: write {name}[:EXAMPLES[:SEED]], such as {name}:{examples}:0.")
    examples, seed = (*map(int, numbers), *(examples, 0)[len(numbers) :])
    if not examples:
        raise UserError(f"source {spec!r}: {name} needs at least 1 example.")
    return name, examples, seed


def open_world(spec: str) -> tuple[str, Sequence[dict[str, Any]]]:
    """The records of NAME[:EXAMPLES[:SEED]] of the narrator's world, drawn on first use, and a key to their content.

    Raises:
        UserError: as `read_world`.
    """
    name, examples, seed = read_world(spec)
    # The first examples tell one version of the world from another.
    first = [draw_example(name, seed, index) for index in range(min(examples, 300))]
    key = hash_text(f"{name} {examples} {seed} {first}")
    from train.narration.datasets import write_world

    def build(target: Path) -> None:
        with bar(f"drawing {name}", examples) as advance:
            write_world(name, examples, seed, target, advance)

    build_once(cache_root() / "documents" / key, build)
    return key, write_world(name, examples, seed, cache_root() / "documents" / key)


def _write_dataset(spec: str, directory: Path, documents: Iterator[str]) -> None:
    """Write documents as a TFDS dataset with one feature, `text`; blank ones are left out."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    texts = ({"text": text} for text in documents if text.strip())
    first = list(itertools.islice(texts, 1))
    if not first:
        raise UserError(f"source {spec!r} holds no text.")

    # A dataset of the user's, not one for TFDS's list of names.
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = "documents"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, dl_manager: Any) -> Any:
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
                return enumerate(itertools.chain(first, texts))

    with redirect_stdout(io.StringIO()):  # TFDS prints where it writes
        Builder(data_dir=str(directory), file_format="array_record").download_and_prepare()
