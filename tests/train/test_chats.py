"""Chats to learn from: where they come from, and that the loss counts the assistant's tokens only."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from model.chat import ChatTemplate, Message
from model.errors import UserError
from model.tokenizer import TokenizerConfig, train_tokenizer
from train.batches import PackedRows
from train.chats import open_chats
from train.corpus import tokenize_chats


def turn(role, content):
    return {"role": role, "content": content}


GOOD = {"messages": [turn("user", "Who?"), turn("assistant", "Me.")]}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"jsonl:{path}"


def test_jsonl_chats_are_messages_and_one_in_so_many_is_held_out(tmp_path):
    records = [{"messages": [turn("user", f"{n}?"), turn("assistant", f"{n}!")]} for n in range(25)]
    chats = open_chats(write(tmp_path / "a.jsonl", records), 0.1)
    assert [chat[0].content for chat in chats.validation] == ["9?", "19?"]
    assert len(chats.train) == 23
    assert chats.train[0] == (Message("user", "0?"), Message("assistant", "0!"))
    assert open_chats(write(tmp_path / "a.jsonl", records), 0.1).key == chats.key
    assert open_chats(write(tmp_path / "a.jsonl", records[1:]), 0.1).key != chats.key


def test_the_worlds_chats_are_a_source():
    chats = open_chats("narration_chat:40", 0.05)
    assert (len(chats.train), len(chats.validation)) == (38, 2)
    assert [message.role for message in chats.train[0]] == ["user", "assistant"]


def test_a_prepared_dataset_is_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with tfds.core.registered.skip_registration():

        class Talks(tfds.core.GeneratorBasedBuilder):
            name, VERSION = "talks", tfds.core.Version("1.0.0")

            def _info(self):
                messages = tfds.features.Sequence({"role": tfds.features.Text(), "content": tfds.features.Text()})
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"messages": messages}))

            def _split_generators(self, dl_manager):
                return {"train": ((n, GOOD) for n in range(12))}

            def _generate_examples(self):
                raise NotImplementedError

    Talks(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    chats = open_chats("tfds:talks", 0.1)
    assert chats.validation[0] == (Message("user", "Who?"), Message("assistant", "Me."))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"text": "x"}, "no field 'messages'"),
        ([], "no field 'messages'"),
        ({"messages": []}, "a list with at least one message"),
        ({"messages": [turn("user", "Who?")]}, "no answer by the assistant"),
        ({"messages": [turn("user", "Who?"), turn("assistant", "  ")]}, "no answer by the assistant"),
        ({"messages": [turn("bot", "Who?"), turn("assistant", "x")]}, r"messages\[0\].role is 'bot', not one of"),
        ({"messages": [{"role": "user"}, turn("assistant", "x")]}, r"messages\[0\] needs a text 'content'"),
    ],
)
def test_bad_records_are_counted_and_listed(tmp_path, record, told):
    spec = write(tmp_path / "a.jsonl", [*[GOOD] * 5, record, record])
    with pytest.raises(UserError, match=rf"(?s)2 of 7 records cannot be used.*a.jsonl, line 6: .*{told}"):
        open_chats(spec, 0.1)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("narration", "unknown source of chats 'narration'. Did you mean 'narration_chat'"),
        ("jsonl:nowhere.jsonl", "no file matches"),
        ("narration_chat:5", "at least 10 chats are needed"),
    ],
)
def test_sources_without_chats_are_refused(spec, told):
    with pytest.raises(UserError, match=told):
        open_chats(spec, 0.1)


def test_the_loss_counts_the_assistants_tokens_and_no_others(tmp_path):
    records = [
        {
            "messages": [
                turn("user", f"ask {n}"),
                turn("assistant", "a" * (n % 5 + 1)),
                turn("user", "and?"),
                turn("assistant", "no"),
            ]
        }
        for n in range(40)
    ]
    chats = open_chats(write(tmp_path / "a.jsonl", records), 0.1)
    tokenizer = train_tokenizer(TokenizerConfig(kind="char"), ["ask and? no 0123456789"])
    stream = tokenize_chats(chats, "train", tokenizer, ChatTemplate())
    rows = PackedRows(stream, 64)
    learned, end = 0, tokenizer.special_ids["<|turn_end|>"]
    for index in range(len(rows)):
        row = rows[index]
        targets = row.targets[row.weights > 0]
        learned += len(targets)
        text = tokenizer.decode(targets.tolist())
        assert set(text.replace("<|turn_end|>", "")) <= set("ano")
        assert (targets == end).sum() == text.count("<|turn_end|>")
        # What is read but not learned is there all the same.
        assert (row.segments > 0).sum() > len(targets)
    assert learned == sum(n % 5 + 1 + 1 + 3 for n in range(40) if (n + 1) % 10)
    again = tokenize_chats(chats, "train", tokenizer, ChatTemplate())
    assert np.array_equal(again.tokens, stream.tokens)
    assert np.array_equal(again.learned, stream.learned)
