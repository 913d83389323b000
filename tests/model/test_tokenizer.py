"""What knows the answer: Python's own UTF-8, and text that comes back as it went in, whatever it is."""

from functools import cache, partial

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from model.errors import UserError
from model.tokenizer import DOCUMENT_END, PADDING, SPECIALS, Tokenizer, TokenizerConfig, train_tokenizer

TEXT = "O céu está azul. Gol de Zé, aos 10 minutos! ⚽ A ação foi <|end|> ótima.\n\tO jogo segue, e a torcida canta.\n"

every_kind = pytest.mark.parametrize("kind", ["bpe", "char"])
any_text = st.text() | st.binary().map(partial(bytes.decode, encoding="utf-8", errors="replace"))
quick = settings(max_examples=60, deadline=None, derandomize=True)


@cache
def trained(kind):
    return train_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), [TEXT] * 3)


@every_kind
@quick
@given(any_text)
def test_any_text_comes_back(kind, text):
    tokenizer = trained(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
@quick
@given(any_text)
def test_bytes_of_tokens_are_the_bytes_of_the_text(kind, text):
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes(token) for token in ids) == text.encode()
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@every_kind
@quick
@given(any_text.map(lambda text: text + "."))  # U+FFFD at the very end: see below
def test_streamed_text_is_the_text(kind, text):
    tokenizer = trained(kind)
    assert "".join(tokenizer.decode_stream(tokenizer.encode(text))) == text


@every_kind
@pytest.mark.parametrize("text", ["\ufffd", "gol \ufffd"])
def test_streamed_text_may_end_in_a_replacement_character(kind, text):
    tokenizer = trained(kind)
    assert "".join(tokenizer.decode_stream(tokenizer.encode(text))) == text


@every_kind
@quick
@given(st.data())
def test_any_ids_stream_to_their_text(kind, data):
    # A model in training writes bytes that are no UTF-8: half characters, and at the end of the text too.
    tokenizer = trained(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=12))
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_a_character_in_two_tokens_is_streamed_when_whole():
    tokenizer = trained("char")
    ids = tokenizer.encode("aõb")  # õ is not in the text it was trained on: two bytes
    assert len(ids) == 4
    assert list(tokenizer.decode_stream(ids)) == ["a", "", "õ", "b"]


@every_kind
@pytest.mark.parametrize("name", SPECIALS)
def test_a_special_written_in_a_text_is_plain_text(kind, name):
    tokenizer = trained(kind)
    text = f"O céu {name}{name} está\n{name}"
    for ids in (tokenizer.encode(text), *tokenizer.encode_many([text, name])):
        assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
def test_specials_have_ids_of_their_own_and_no_bytes(kind):
    tokenizer = trained(kind)
    assert set(tokenizer.special_ids) == set(SPECIALS)
    assert len(set(tokenizer.special_ids.values())) == len(SPECIALS)
    assert tokenizer.document_end == tokenizer.special_ids[DOCUMENT_END]
    assert tokenizer.padding == tokenizer.special_ids[PADDING]
    for name, token in tokenizer.special_ids.items():
        assert (tokenizer.token_bytes(token), tokenizer.token_text(token)) == (b"", name)
        assert tokenizer.decode([token]) == name


def test_sizes():
    assert trained("bpe").size == 300
    assert trained("char").size == len(SPECIALS) + 256 + len(set(TEXT))
    for tokenizer in (trained("bpe"), trained("char")):
        assert len(tokenizer.byte_lengths) == tokenizer.size
        assert tokenizer.token_bytes(tokenizer.size) is None
        assert tokenizer.token_text(tokenizer.size) == f"<unused {tokenizer.size}>"


def test_a_tokenizer_that_learnt_nothing_still_spells_every_byte():
    bare = train_tokenizer(TokenizerConfig(kind="bpe", vocab_size=262), [])
    assert bare.decode(bare.encode(TEXT)) == TEXT
    assert bare.byte_lengths.sum() == 256


def test_parts_of_characters_are_shown_as_escapes():
    tokenizer = trained("char")
    assert [tokenizer.token_text(token) for token in tokenizer.encode("aõ")] == ["a", "\\xc3", "\\xb5"]


@every_kind
def test_encode_many_is_encode_many_times(kind):
    tokenizer, texts = trained(kind), ["", "O céu", TEXT, "日本語"]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts]


@every_kind
def test_json_gives_the_same_tokenizer(kind, tmp_path):
    tokenizer, text = trained(kind), TEXT + "日本語 <|end|> \x00"
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    for again in (Tokenizer.from_json(tokenizer.to_json()), Tokenizer.load(path)):
        assert again.encode(text) == tokenizer.encode(text)
        assert (again.size, again.special_ids) == (tokenizer.size, tokenizer.special_ids)
        assert again.to_json() == tokenizer.to_json()
        assert (again.byte_lengths == tokenizer.byte_lengths).all()


# Tokenizers that come from elsewhere, each written as its family writes it.


def gpt2_like():
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_special_tokens(["<|endoftext|>"])
    return inner


def word_level():
    words = ["[UNK]", "[EOS]", "o", "jogo", "segue", "."]
    inner = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def word_level_split_at_spaces():
    inner = word_level()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return inner


def llama2_like():
    """As SentencePiece's are converted: spaces are ▁, unknown characters fall back to bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"o jgse", "og", "▁jogo"]
    merges = [("o", "g")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return inner


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((character, -5.0) for character in "▁ojgse</>")]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["</s>"])
    return inner


def saved(inner, tmp_path):
    path = tmp_path / "tokenizer.json"
    inner.save(str(path))
    return train_tokenizer(TokenizerConfig(kind="file", path=str(path)), [])


FOREIGN = {
    gpt2_like: "<|endoftext|>",
    word_level: "[EOS]",
    word_level_split_at_spaces: "[EOS]",
    llama2_like: "</s>",
    unigram: "</s>",
}


@pytest.mark.parametrize(("build", "end"), FOREIGN.items())
def test_a_given_tokenizer_keeps_its_ids_and_its_end(build, end, tmp_path):
    inner = build()
    before = inner.get_vocab()
    tokenizer = saved(inner, tmp_path)
    assert tokenizer.document_end == before[end]
    assert DOCUMENT_END not in tokenizer.special_ids
    after = tokenizer.inner.get_vocab()
    assert {word: after[word] for word in before} == before
    assert tokenizer.size == len(before) + len(SPECIALS) - 1
    assert tokenizer.encode("o jogo segue")[-1] < len(before)


@pytest.mark.parametrize(
    ("build", "end"),
    [
        (gpt2_like, "<|endoftext|>"),
        (word_level, "[EOS]"),
        (llama2_like, "</s>"),
    ],
)
def test_the_end_of_a_given_tokenizer_written_in_a_text_is_plain_text(build, end, tmp_path):
    tokenizer = saved(build(), tmp_path)
    assert tokenizer.document_end not in tokenizer.encode(f"o jogo {end} segue")


def test_a_byte_level_tokenizer_from_elsewhere_spells_every_text(tmp_path):
    tokenizer = saved(gpt2_like(), tmp_path)
    for text in (TEXT, "日本語 <|endoftext|> \ufffd\x00"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("build", [llama2_like, unigram])
def test_a_space_written_as_a_block_counts_one_byte(build, tmp_path):
    tokenizer = saved(build(), tmp_path)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("o jogo segoso"))) == b" o jogo segoso"


def test_a_given_tokenizer_that_cuts_and_pads_does_neither_here(tmp_path):
    """As files have it that were saved after a call with truncation."""
    inner = gpt2_like()
    inner.enable_truncation(8)
    inner.enable_padding()
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("a" * 100)) == "a" * 100
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_many(["a" * 100, "b"])] == ["a" * 100, "b"]


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "nowhere.json"
    with pytest.raises(UserError, match=r"nowhere\.json"):
        train_tokenizer(TokenizerConfig(kind="file", path=str(path)), [])


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b'{"model": 3}', b"\xff\xfe\x00", b"[]"])
def test_a_file_that_is_no_tokenizer_is_named(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.json.*is not a tokenizer\.json"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kind": "bpe", "vocab_size": 261}, "tokenizer.vocab_size=261"),
        ({"kind": "file"}, "tokenizer.path"),
        ({"kind": "char", "path": "x.json"}, "tokenizer.path"),
    ],
)
def test_a_tokenizer_config_that_cannot_be_names_the_field(values, word):
    with pytest.raises(UserError, match=word):
        TokenizerConfig(**values)
