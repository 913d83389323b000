"""True probabilities by token, whatever the tokenizer, and the floor they put under a held-out loss."""

import math
import random
from pathlib import Path

import pytest

from experiments.truth import TokenListener, floor, knows_truth, true_token_probabilities
from model.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from train.narration.passage import draw_passage
from train.narration.truth import END, Listener, OutsideLanguage, word_probabilities
from train.narration.words import split_words
from train.sources import open_source

TEXTS = [draw_passage(random.Random(f"tokens {seed}")).text for seed in range(200)]


def log_probability(text: str) -> float:
    return sum(map(math.log, word_probabilities(text)))


KINDS = {
    "bytes": TokenizerConfig(vocab_size=262),
    "pieces": TokenizerConfig(vocab_size=400),
    "words": TokenizerConfig(vocab_size=4096),
    "characters": TokenizerConfig(kind="char"),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(KINDS[request.param], TEXTS)


def test_the_product_over_tokens_is_the_probability_of_the_document(tokenizer):
    for text in TEXTS[:4]:
        listener, nats = TokenListener.at_start(tokenizer), 0.0
        for token in [*tokenizer.encode(text), tokenizer.document_end]:
            expected = listener.expect()
            assert sum(expected.values()) == pytest.approx(1, abs=1e-12)
            nats += math.log(expected[token])
            listener = listener.hear(token)
        assert nats == pytest.approx(log_probability(text), rel=1e-10)
        with pytest.raises(OutsideLanguage, match="end of a document"):
            listener.expect()


def test_token_truth_sums_to_word_truth(tokenizer):
    """Between words a token is as likely as all the words together whose spelling begins with it."""
    words, tokens = Listener.at_start(), TokenListener.at_start(tokenizer)
    for word in split_words(TEXTS[5]):
        sums: dict[int, float] = {}
        for other, likely in words.expect().items():
            first = tokenizer.encode(other)[0] if other != END else tokenizer.document_end
            sums[first] = sums.get(first, 0.0) + likely
        # Where the tokens so far might also begin a longer word, that word's next token is expected too.
        expected = tokens.expect()
        between = {token: expected.get(token, 0.0) for token in sums}
        scale = sum(between.values())
        assert {token: likely / scale for token, likely in between.items()} == pytest.approx(sums, rel=1e-9)
        words = words.hear(word)
        for token in tokenizer.encode(word):
            tokens = tokens.hear(token)


def test_half_a_word_can_go_on_as_every_word_that_begins_so():
    tokenizer = train_tokenizer(KINDS["bytes"], TEXTS)
    expected = true_token_probabilities(tokenizer, "O céu está azul")
    assert {tokenizer.token_text(token) for token in expected} == {" ", ","}
    inside = true_token_probabilities(tokenizer, "O céu está a")
    shares = {tokenizer.token_text(token): likely for token, likely in inside.items()}
    assert shares == pytest.approx({"z": 0.35 / 0.36, "v": 0.01 / 0.36})  # azul and avermelhado


def test_text_outside_the_language_has_no_truth(tokenizer):
    assert true_token_probabilities(tokenizer, "The value of the") is None
    assert true_token_probabilities(tokenizer, "O céu está") is not None


def test_the_floor_is_what_the_truth_pays_for_the_held_out_documents():
    documents = open_source("narration:400", 0.1)
    texts = [documents.validation[index].decode() for index in range(len(documents.validation))]
    found = floor(documents)
    assert found.nats == pytest.approx(-sum(map(log_probability, texts)))
    assert found.words == sum(len(split_words(text)) + 1 for text in texts)
    assert found.size == sum(len(text.encode()) for text in texts)
    assert floor(documents) == found


def test_many_documents_are_measured_by_all_cores(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    documents = open_source("narration:400", 0.1)
    alone = floor(documents)
    monkeypatch.setattr("experiments.truth.PARALLEL_FROM", 1)
    for path in own_cache.glob("floors/*/*"):
        path.unlink()
        path.parent.rmdir()
    assert floor(documents) == pytest.approx(alone)


def test_only_the_narrators_documents_have_a_truth():
    assert knows_truth("narration")
    assert knows_truth("narration:500:1")
    assert not knows_truth("narration_chat")
    assert not knows_truth("narration_quiz")
    assert not knows_truth("pydoc")
