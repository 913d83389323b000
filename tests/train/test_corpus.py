"""Documents as tokens, made once. What knows the answer: the documents, decoded again, and one process alone."""

import json
import multiprocessing
from collections.abc import Sequence

import numpy as np
import pytest

import train.corpus
from model.errors import UserError
from model.tokenizer import TokenizerConfig
from train.cache import build_once
from train.corpus import tokenize, train_tokenizer_once
from train.sources import Documents, open_source

TEXTS = ["Olá, mundo.\n", "a second one, with <|end|> in it", "三つ目 🙂", "x"]
CHAR, BPE = TokenizerConfig(kind="char"), TokenizerConfig(vocab_size=300)

pytestmark = pytest.mark.usefixtures("own_cache")


def documents(learned=TEXTS, held_out=("held out",), key="key"):
    return Documents("memory", key, [text.encode() for text in learned], [text.encode() for text in held_out])


def decoded(stream, tokenizer):
    """The documents of a stream, without the document end that opens each."""
    bounds = zip(stream.starts[:-1], stream.starts[1:], strict=True)
    return [tokenizer.decode(stream.tokens[start + 1 : stop].tolist()) for start, stop in bounds]


class Counted(Sequence):
    """Documents that tell which of them were read."""

    def __init__(self, inner):
        self.inner, self.read = inner, []

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        self.read.append(index)
        return self.inner[index]


class Broken(bytes):
    """A document that cannot be read to its end."""

    def decode(self, *arguments, **options):
        raise OSError("the disk is gone")


@pytest.mark.parametrize("config", [CHAR, BPE])
def test_a_stream_decodes_to_its_documents(config):
    source = documents()
    tokenizer = train_tokenizer_once(config, [source])
    for split, texts in (("train", TEXTS), ("validation", ["held out"])):
        stream = tokenize(source, split, tokenizer)
        assert decoded(stream, tokenizer) == texts
        assert stream.starts[0] == 0
        assert stream.starts[-1] == len(stream.tokens) - 1
        assert np.flatnonzero(stream.tokens == tokenizer.document_end).tolist() == stream.starts.tolist()


def test_a_large_vocabulary_takes_wider_ids():
    text = "".join(chr(0x20000 + index) for index in range(0x10100))
    source = documents(learned=[text])
    tokenizer = train_tokenizer_once(CHAR, [source])
    stream = tokenize(source, "train", tokenizer)
    assert tokenizer.size > 1 << 16
    assert stream.tokens.max() >= 1 << 16
    assert decoded(stream, tokenizer) == [text]


def test_the_second_time_nothing_is_tokenized_or_trained(monkeypatch):
    source = documents()
    tokenizer = train_tokenizer_once(BPE, [source])
    first = tokenize(source, "train", tokenizer)
    monkeypatch.setattr(train.corpus, "_tokenized", None)
    monkeypatch.setattr(train.corpus, "train_tokenizer", None)
    again = tokenize(source, "train", train_tokenizer_once(BPE, [source]))
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.starts, again.starts)


def test_splits_tokenizers_and_texts_have_streams_of_their_own():
    source, other = documents(), documents(learned=["another text"], key="other")
    char, bpe = (train_tokenizer_once(config, [source]) for config in (CHAR, BPE))
    tokenize(source, "train", char)
    assert decoded(tokenize(source, "validation", char), char) == ["held out"]
    assert decoded(tokenize(source, "train", bpe), bpe) == TEXTS
    assert decoded(tokenize(other, "train", char), char) == ["another text"]


def test_processes_make_the_same_stream_as_one_alone(tmp_path, monkeypatch):
    path = tmp_path / "many.jsonl"
    everything = [f"documento {index}: " + "ção " * (index % 7) for index in range(300)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in everything))
    source = open_source(f"jsonl:{path}#text", 0.1)
    tokenizer = train_tokenizer_once(BPE, [source])
    alone = tokenize(source, "train", tokenizer)
    monkeypatch.setenv("NARRADOR_CACHE", str(tmp_path / "other-cache"))
    monkeypatch.setattr(train.corpus, "PARALLEL_FROM_BYTES", 0)
    monkeypatch.setattr(train.corpus.os, "cpu_count", lambda: 2)
    used = []
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: used.append(kind) or context)
    together = tokenize(source, "train", tokenizer)
    assert used == ["spawn"]
    assert np.array_equal(alone.tokens, together.tokens)
    assert np.array_equal(alone.starts, together.starts)
    assert decoded(together, tokenizer) == [text for index, text in enumerate(everything) if index % 10 != 9]


def test_tokenizing_that_fails_leaves_nothing_and_the_next_time_works(own_cache):
    source = documents()
    tokenizer = train_tokenizer_once(CHAR, [source])
    texts = [*source.train[:2], Broken(b"..."), *source.train[3:]]
    broken = Documents("memory", "key", texts, source.validation)
    with pytest.raises(OSError, match="the disk is gone"):
        tokenize(broken, "train", tokenizer)
    assert list((own_cache / "tokens").iterdir()) == []
    assert decoded(tokenize(source, "train", tokenizer), tokenizer) == TEXTS


@pytest.mark.parametrize("held_out", [(), ("",), ("", "")])
def test_a_held_out_split_without_text_is_refused(held_out):
    source = documents(held_out=held_out)
    tokenizer = train_tokenizer_once(CHAR, [source])
    for _ in range(2):  # whether made just now or found in the cache
        with pytest.raises(UserError, match="'memory' is too small for a held-out split: its validation part"):
            tokenize(source, "validation", tokenizer)


def test_the_tokenizer_knows_the_training_split_only():
    source = documents(learned=["abc"], held_out=["abcŊ"])
    tokenizer = train_tokenizer_once(CHAR, [source])
    assert tokenizer.inner.token_to_id("a") is not None
    assert tokenizer.inner.token_to_id("Ŋ") is None
    assert decoded(tokenize(source, "validation", tokenizer), tokenizer) == ["abcŊ"]


def test_the_tokenizer_is_another_for_another_config_or_text():
    sizes = {train_tokenizer_once(TokenizerConfig(vocab_size=size), [documents()]).size for size in (262, 270)}
    assert sizes == {262, 270}
    other = train_tokenizer_once(CHAR, [documents(learned=["Ŋ"], key="other")])
    assert other.inner.token_to_id("Ŋ") is not None


def test_the_tokenizer_takes_an_equal_share_of_each_source(monkeypatch):
    monkeypatch.setattr(train.corpus, "TOKENIZER_TRAINING_BYTES", 8)
    sources = [documents(learned=["abcdefgh"]), documents(learned=["ij", "klé"])]
    tokenizer = train_tokenizer_once(CHAR, sources)
    known = {char for char in "abcdefghijklé" if tokenizer.inner.token_to_id(char) is not None}
    assert known == set("abcdijkl")


def test_training_the_tokenizer_reads_no_more_than_it_uses(monkeypatch):
    monkeypatch.setattr(train.corpus, "TOKENIZER_TRAINING_BYTES", 20)
    counted = Counted([b"0123456789"] * 50)
    source = Documents("memory", "key", counted, [])
    counted.read.clear()  # checking types, the tests look into it
    train_tokenizer_once(CHAR, [source])
    assert len(counted.read) <= 3


def test_a_build_that_fails_leaves_nothing_and_the_next_one_works(tmp_path):
    target = tmp_path / "cache/thing"

    def fail(scratch):
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(target, fail)
    assert list(target.parent.iterdir()) == []
    build_once(target, lambda scratch: (scratch / "whole").write_text("whole"))
    assert [path.name for path in target.parent.rglob("*")] == ["thing", "whole"]
    build_once(target, fail)  # it is there, so nothing is built


def test_of_two_builders_the_first_to_finish_wins(tmp_path):
    target = tmp_path / "thing"

    def slow(scratch):
        (scratch / "by").write_text("slow")
        build_once(target, lambda other: (other / "by").write_text("quick"))

    build_once(target, slow)
    assert (target / "by").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [target]
