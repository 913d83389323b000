"""Sources of documents. What knows the answer: files and datasets that the tests write, and Python's own topics."""

import importlib.util
import json
from pydoc_data.topics import topics

import numpy as np
import pytest
import tensorflow_datasets as tfds

import train.progress
from model.errors import UserError
from train.sources import FEWEST_HELD_OUT, hold_out, open_source


def texts(sequence):
    return [sequence[index].decode() for index in range(len(sequence))]


def whole(documents):
    """Each document put together again from the part to learn from and the part held out."""
    return [a + b for a, b in zip(texts(documents.train), texts(documents.validation), strict=True)]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return f"jsonl:{path}#text"


def test_pydoc_is_pythons_reference_cut_into_two_parts():
    documents = open_source("pydoc", 0.1)
    assert whole(documents) == [topics[name] for name in sorted(topics) if topics[name].strip()]
    assert all(isinstance(documents.train[index], bytes) for index in range(3))


def test_one_text_file_loses_its_last_tenth_by_characters(tmp_path):
    text = "".join(f"à noite, {index} — ção. " for index in range(101))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    documents = open_source(f"text:{tmp_path / 'a.txt'}", 0.1)
    cut = int(len(text) * 0.9)
    assert texts(documents.train) == [text[:cut]]
    assert texts(documents.validation) == [text[cut:]]


def test_a_glob_takes_files_in_order_of_their_names(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "other.md"):
        (tmp_path / name).write_text(f"the text of {name}")
    assert whole(open_source(f"text:{tmp_path}/*.txt", 0.1)) == ["the text of a.txt", "the text of b.txt"]
    assert len(open_source(f"text:{tmp_path}/**/*.txt", 0.1).train) == 3


def test_jsonl_reads_its_field_and_skips_blank_lines_and_blank_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one é", "n": 1}\n\n   \n{"text": "  "}\n{"n": 2, "text": "two\\nlines"}')
    assert whole(open_source(f"jsonl:{path}#text", 0.1)) == ["one é", "two\nlines"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 3: not JSON"),
        ('{"body": "x", "title": "y"}', "line 3: no text field 'text'; the record has: body, title"),
        ('{"text": 5}', "line 3: no text field 'text'"),
        ("[1]", "line 3: no text field 'text'; the record has: a list"),
    ],
)
def test_a_bad_record_is_named_and_leaves_nothing_behind(tmp_path, own_cache, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"jsonl:{path}#text", 0.1)
    assert str(path) in str(caught.value)
    assert [file for file in own_cache.rglob("*") if file.is_file()] == []
    path.write_text('{"text": "fine"}\n{"text": "mended"}\n')
    assert whole(open_source(f"jsonl:{path}#text", 0.1)) == ["fine", "mended"]


def test_a_lone_surrogate_in_json_becomes_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "before \\ud800 after"}\n')
    assert whole(open_source(f"jsonl:{path}#text", 0.1)) == ["before ? after"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "no file matches"), (b"", "is empty"), (b"ELF\0\1\2", "is binary"), (b" \n\t\n", "holds no text")],
)
@pytest.mark.parametrize("spec", ["text:{}", "jsonl:{}#text"])
def test_files_without_text_are_refused(tmp_path, data, message, spec):
    path = tmp_path / "x"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_source(spec.format(path), 0.1)


def test_a_folder_is_no_text_file(tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        open_source(f"text:{tmp_path}", 0.1)


def test_bytes_that_are_no_utf8_are_replaced_counted_and_told(tmp_path, capsys):
    path = tmp_path / "latin.txt"
    path.write_bytes("ação e reação".encode("latin-1"))
    documents = open_source(f"text:{path}", 0.1)
    assert whole(documents) == ["a\ufffd\ufffdo e rea\ufffd\ufffdo"]
    told = capsys.readouterr().err
    assert str(path) in told
    assert "4 bytes are not UTF-8" in told


def test_what_is_told_is_told_letter_for_letter(capsys):
    train.progress.say("text:a/[red]*.txt:key: :smile:")
    assert capsys.readouterr().err == "text:a/[red]*.txt:key: :smile:\n"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pydocs", r"unknown source 'pydocs'.*'pydoc'.*Known: .*pydoc, text:GLOB"),
        ("narratoin", r"unknown source 'narratoin'. Did you mean 'narration"),
        ("narration:many", r"write narration\[:EXAMPLES\[:SEED\]\], such as narration:30000:0"),
        ("narration:10:0:1", r"write narration"),
        ("narration_chat:1", r"at least 10 examples are needed"),
        ("jsnl:x#text", r"unknown source 'jsnl:x#text'.*Known:"),
        ("tfds:", r"unknown source 'tfds:'"),
        ("text:", r"unknown source 'text:'"),
        ("", r"unknown source ''"),
        ("jsonl:x.jsonl", r"which field.*jsonl:GLOB#FIELD"),
    ],
)
def test_unknown_sources_are_refused_with_a_hint(spec, message):
    with pytest.raises(UserError, match=message):
        open_source(spec, 0.1)


def test_of_many_documents_every_tenth_is_held_out_whole(tmp_path):
    everything = [f"document {index} é" for index in range(105)]
    documents = open_source(write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in everything]), 0.1)
    held_out, learned = texts(documents.validation), texts(documents.train)
    assert held_out == everything[9::10]
    assert learned == [text for text in everything if text not in held_out]


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.1, 0.03])
@pytest.mark.parametrize("more", [0, 1, 7])
def test_holding_out_takes_each_document_once(fraction, more):
    documents = [str(index).encode() for index in range(FEWEST_HELD_OUT * round(1 / fraction) + more)]
    learned, held_out = hold_out(documents, fraction)
    assert sorted([*learned, *held_out], key=int) == documents
    assert len(held_out) >= FEWEST_HELD_OUT
    assert len(held_out) / len(documents) == pytest.approx(fraction, rel=0.1)


def test_the_key_changes_with_the_text_and_only_with_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first text")
    spec = f"text:{path}"
    first = open_source(spec, 0.1)
    assert open_source(spec, 0.1).key == first.key
    path.touch()
    assert open_source(spec, 0.1).key == first.key
    path.write_text("other text")
    other = open_source(spec, 0.1)
    assert other.key != first.key
    assert whole(other) == ["other text"]
    assert open_source(spec, 0.2).key != other.key
    path.write_text("first text")
    assert open_source(spec, 0.1).key == first.key


def test_the_second_opening_writes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("written once")
    open_source(f"text:{path}", 0.1)
    monkeypatch.setattr(train.sources, "_write_dataset", None)
    assert whole(open_source(f"text:{path}", 0.1)) == ["written once"]


def prepare(root, splits, name="tiny_texts", **features):
    """A TFDS dataset on disk, of `splits` with lists of records; the features are Text where not said otherwise."""
    features = features or {"text": tfds.features.Text()}
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {split: enumerate(records) for split, records in splits.items()}

            def _generate_examples(self):
                raise AssertionError("the splits are given whole")

    Builder.name = name
    Builder(data_dir=str(root), file_format="array_record").download_and_prepare()
    return f"tfds:{name}"


@pytest.fixture
def tfds_root(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def records(prefix, count):
    return [{"text": f"{prefix} {index} é"} for index in range(count)]


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_a_prepared_dataset_keeps_its_own_held_out_split(tfds_root, held_out):
    spec = prepare(tfds_root, {"train": records("learn", 5), held_out: records("hold", 3)})
    documents = open_source(spec, 0.1)
    assert texts(documents.train) == [record["text"] for record in records("learn", 5)]
    assert texts(documents.validation) == [record["text"] for record in records("hold", 3)]


def test_a_prepared_dataset_without_one_is_cut_like_any_other(tfds_root):
    spec = prepare(tfds_root, {"train": records("learn", 5)})
    assert whole(open_source(spec, 0.1)) == [record["text"] for record in records("learn", 5)]
    assert open_source(spec, 0.1).key == open_source(spec, 0.1).key
    assert open_source(spec, 0.1).key != open_source(spec, 0.2).key


def test_the_text_of_a_dataset_is_found_by_its_type(tfds_root):
    kinds = {"score": tfds.features.Scalar(np.int32), "body": tfds.features.Text()}
    spec = prepare(tfds_root, {"train": [{"score": 1, "body": "found"}]}, **kinds)
    assert whole(open_source(spec, 0.1)) == ["found"]


@pytest.mark.parametrize(
    ("splits", "features"),
    [
        ({"train": [{"score": 1}]}, {"score": tfds.features.Scalar(np.int32)}),
        ({"other": [{"text": "x"}]}, {"text": tfds.features.Text()}),
    ],
)
def test_a_dataset_without_text_to_learn_from_tells_what_it_has(tfds_root, splits, features):
    spec = prepare(tfds_root, splits, **features)
    with pytest.raises(UserError, match=f"the splits {next(iter(splits))} and the features {next(iter(features))}"):
        open_source(spec, 0.1)


def test_a_dataset_in_another_format_is_refused(tfds_root):
    spec = prepare(tfds_root, {"train": records("learn", 2)})
    info = tfds_root / "tiny_texts/1.0.0/dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="not in ArrayRecord"):
        open_source(spec, 0.1)


def test_the_key_of_a_dataset_changes_with_its_text(tmp_path, monkeypatch):
    keys = set()
    for folder, text in (("one", "aaa"), ("two", "bbb")):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / folder))
        keys.add(open_source(prepare(tmp_path / folder, {"train": [{"text": text}]}), 0.1).key)
    assert len(keys) == 2


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="with TensorFlow it would be prepared")
def test_an_unprepared_dataset_names_the_extra_before_any_download(tfds_root, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("went for the network before noticing that TensorFlow is missing")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(UserError, match="tfds-prepare"):
        open_source("tfds:tiny_shakespeare", 0.1)


@pytest.mark.parametrize("name", ["no_such_dataset", "bad name!", "tiny_shakespeare:9.9.9", "tiny_shakespeare/nope"])
def test_a_dataset_that_does_not_exist_is_the_users_mistake(tfds_root, name):
    with pytest.raises(UserError, match="tfds:"):
        open_source(f"tfds:{name}", 0.1)
