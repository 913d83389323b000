"""Choices read in every convention; what cannot be used is counted and named. The records are written by the tests."""

import itertools
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from model.chat import Message
from model.errors import UserError
from rlhf.preferences import Pair, group_by_prompt, hold_out_prompts, open_preferences
from rlhf.prompts import open_prompts
from rlhf.records import Preference, read_preferences, read_prompt, to_record
from tests.train.test_sources import prepare, tfds_root  # noqa: F401  a fixture is found by its name
from train.narration.examples import draw_example
from train.reading import BadRecord

ASKED = (Message("user", "Quem marcou?"),)
LONGER = (Message("user", "Oi"), Message("assistant", "Olá"), Message("user", "Quem marcou?"))


def turns(*messages):
    """Messages as JSON has them: turns("user", "Oi", "assistant", "Olá")."""
    return [{"role": role, "content": content} for role, content in zip(messages[::2], messages[1::2], strict=True)]


GREETING = turns("user", "Oi", "assistant", "Olá", "user", "Quem marcou?")
HUMAN = "\n\nHuman: Oi\n\nAssistant: Olá\n\nHuman: Quem marcou?\n\nAssistant:"


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return f"jsonl:{path}"


def simple(index, **fields):
    return {"prompt": f"question {index}", "chosen": "yes", "rejected": "no", **fields}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "Quem marcou?", "chosen": "Dado", "rejected": "Zoca"}, ASKED),
        ({"prompt": turns("user", "Quem marcou?"), "chosen": "Dado", "rejected": "Zoca"}, ASKED),
        ({"prompt": GREETING, "chosen": turns("assistant", "Dado"), "rejected": turns("assistant", "Zoca")}, LONGER),
        ({"prompt": "Quem marcou?", "chosen": turns("assistant", "Dado"), "rejected": "Zoca"}, ASKED),
        (
            {
                "prompt": "Quem marcou?",
                "chosen": turns("user", "Quem marcou?", "assistant", "Dado"),
                "rejected": turns("user", "Quem marcou?", "assistant", "Zoca"),
            },
            ASKED,
        ),
        (
            {"chosen": GREETING + turns("assistant", "Dado"), "rejected": GREETING + turns("assistant", "Zoca")},
            LONGER,
        ),
        ({"chosen": f"{HUMAN} Dado", "rejected": f"{HUMAN} Zoca"}, LONGER),
        ({"prompt": HUMAN, "chosen": "Dado", "rejected": "\n\nAssistant: Zoca"}, LONGER),
        ({"prompt": HUMAN, "chosen": f"{HUMAN} Dado", "rejected": f"{HUMAN} Zoca", "score": 3}, LONGER),
        ({"prompt": "Quem marcou?", "ranking": ["Dado", "Zoca"], "chosen": None}, ASKED),
    ],
)
def test_one_choice_in_every_convention(record, prompt):
    assert read_preferences(record) == [Preference(prompt, "Dado", "Zoca")]


def test_what_is_known_besides_comes_along():
    extras = {"margin": 2, "rater": "Ana", "seconds": 4.5}
    [read] = read_preferences(simple(0, **extras))
    assert (read.margin, read.rater, read.seconds) == (2.0, "Ana", 4.5)


def test_a_ranking_is_every_pair_of_it_the_better_one_chosen():
    answers = ["best", turns("assistant", "good"), "fair", "worst"]
    read = read_preferences({"prompt": "x", "ranking": answers, "rater": "Ana"})
    expected = [*itertools.combinations(("best", "good", "fair", "worst"), 2)]
    assert [(choice.chosen, choice.rejected) for choice in read] == expected
    assert {choice.rater for choice in read} == {"Ana"}


def test_what_is_written_reads_the_same_whatever_the_words_look_like():
    odd = "\n\nHuman: x\n\nAssistant: y"
    for choice in (
        Preference(LONGER, odd, "Zoca", 0.5, "Ana", 1.25),
        Preference((Message("system", ""), Message("user", odd)), "a", odd),
    ):
        assert read_preferences(json.loads(json.dumps(to_record(choice)))) == [choice]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ([1], "a record is an object with fields, not [1]"),
        ({}, "field 'chosen' is missing; the record has: none"),
        (
            {"prompt": "x", "chosen": "a", "rejected": None},
            "field 'rejected' is missing; the record has: prompt, chosen",
        ),
        ({"chosen": "a", "rejected": "b"}, "field 'prompt' is missing, and 'chosen' is an answer without one"),
        ({"chosen": f"{HUMAN} a", "rejected": "b"}, "field 'prompt' is missing, and 'rejected' is an answer without"),
        (simple(0, rejected="yes"), "fields 'chosen' and 'rejected' are the same answer, 'yes'"),
        (simple(0, rejected=turns("assistant", "yes")), "are the same answer"),
        (simple(0, chosen=" \n"), "field 'chosen' is an empty answer"),
        ({"chosen": HUMAN, "rejected": f"{HUMAN} b"}, "field 'chosen' is an empty answer"),
        (simple(0, chosen=5), "field 'chosen' is 5, not text or a list of messages"),
        (simple(0, chosen=[]), "field 'chosen' does not end with the assistant's answer"),
        (simple(0, chosen=turns("user", "a")), "field 'chosen' does not end with the assistant's answer"),
        (simple(0, chosen=["a"]), "field 'chosen[0]' is 'a', not a message with role and content"),
        (simple(0, chosen=turns("assistant", 5)), "field 'chosen[0].content' is 5, not text"),
        (simple(0, prompt=turns("robot", "a")), "field 'prompt[0].role' is 'robot'; roles are system, user, assistant"),
        (simple(0, prompt=turns([], "a")), "field 'prompt[0].role' is []"),
        (simple(0, prompt=7), "field 'prompt' is 7, not text or a list of messages"),
        (simple(0, prompt=""), "field 'prompt': the prompt's last message is empty"),
        (simple(0, prompt=[]), "field 'prompt': the prompt's last message is by nobody"),
        (simple(0, prompt=GREETING[:2]), "field 'prompt': the prompt's last message is by assistant"),
        (simple(0, chosen=f"{HUMAN} a"), "field 'chosen' begins with another prompt than 'prompt'"),
        (
            {"chosen": f"{HUMAN} a", "rejected": f"{HUMAN.replace('Oi', 'Hi')} b"},
            "field 'rejected' begins with another prompt than 'chosen'",
        ),
        (
            {"chosen": GREETING[:1] + turns("assistant", "a"), "rejected": GREETING + turns("assistant", "b")},
            "field 'rejected' begins with another prompt than 'chosen'",
        ),
        (simple(0, ranking=["a", "b"]), "field 'ranking' stands together with 'chosen'"),
        ({"prompt": "x", "ranking": ["a", "b"], "margin": 1}, "field 'ranking' stands together with 'margin'"),
        ({"prompt": "x", "ranking": ["a"]}, "field 'ranking' is ['a'], not a list of at least two answers"),
        ({"prompt": "x", "ranking": "ab"}, "field 'ranking' is 'ab', not a list"),
        ({"prompt": "x", "ranking": ["a", "b", "a"]}, "fields 'ranking[0]' and 'ranking[2]' are the same answer, 'a'"),
        ({"prompt": "x", "ranking": ["a", ""]}, "field 'ranking[1]' is an empty answer"),
        (simple(0, margin=float("nan")), "field 'margin' is nan, not a number of at least 0"),
        (simple(0, margin="much"), "field 'margin' is 'much'"),
        (simple(0, margin=10**400), "field 'margin' is 1000"),
        (simple(0, seconds=-1), "field 'seconds' is -1, not a number of at least 0"),
        (simple(0, seconds=True), "field 'seconds' is True"),
        (simple(0, rater=3), "field 'rater' is 3, not text"),
    ],
)
def test_a_record_that_cannot_be_used_names_its_field(record, told):
    with pytest.raises(BadRecord, match=re.escape(told)):
        read_preferences(record)


def test_all_bad_records_are_counted_and_the_first_five_listed(tmp_path):
    lines = [json.dumps(simple(index)) for index in range(20)]
    lines[2], lines[4] = "{oops", json.dumps(simple(4, rejected="yes"))
    for index in range(10, 15):
        lines[index] = json.dumps(simple(index, seconds=-index))
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n" + "\n".join(lines))
    with pytest.raises(UserError) as caught:
        open_preferences(f"jsonl:{path}", 0.1)
    first, *listed = str(caught.value).splitlines()
    assert "7 of 20 records cannot be used" in first
    assert len(listed) == 6
    expected = ("line 5: not JSON", "line 7: fields 'chosen'", "line 13: field 'seconds' is -10")
    for line, told in zip(listed[:3], expected, strict=True):
        assert f"{path}, {told}" in line
    assert "2 more" in listed[-1]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("jsonl:nowhere/*.jsonl", "no file matches 'nowhere/*.jsonl'"),
        ("jsonl:blank.jsonl", "source 'jsonl:blank.jsonl' holds no records"),
        ("jsonl:one.jsonl", "has choices for one prompt only"),
        ("jsonl", "unknown source of preferences 'jsonl'. Did you mean 'jsonl:GLOB'?"),
        ("narration", "unknown source of preferences 'narration'"),
        ("narration_preferences:many", "write narration_preferences[:EXAMPLES[:SEED]]"),
    ],
)
def test_sources_without_choices_are_refused(tmp_path, monkeypatch, spec, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank.jsonl").write_text(" \n\n")
    write(tmp_path / "one.jsonl", [simple(0), simple(0, chosen="maybe")])
    with pytest.raises(UserError, match=re.escape(told)):
        open_preferences(spec, 0.1)


def test_all_choices_about_one_prompt_stay_together_with_each_answer_once():
    ranked = read_preferences({"prompt": "x", "ranking": ["a", "b", "c"]})
    other = read_preferences({"prompt": "y", "chosen": "a", "rejected": "b", "margin": 2, "rater": "Ana", "seconds": 3})
    again = read_preferences({"prompt": "x", "chosen": "c", "rejected": "a", "rater": "Davi"})
    first, second = group_by_prompt([*ranked, *other, *again])
    assert first.prompt == (Message("user", "x"),)
    assert first.answers == ("a", "b", "c")
    assert first.pairs == (Pair(0, 1), Pair(0, 2), Pair(1, 2), Pair(2, 0, rater="Davi"))
    assert second.pairs == (Pair(0, 1, 2.0, "Ana", 3.0),)
    assert first.preferences() == [*ranked, *again]
    assert second.preferences() == other


def grouped(count):
    return group_by_prompt(choice for index in range(count) for choice in read_preferences(simple(index)))


def test_a_prompt_stays_on_its_side_when_others_come():
    few, many = (hold_out_prompts("x", grouped(count), 0.2) for count in (400, 1000))
    assert set(few[0]) < set(many[0])
    assert set(few[1]) < set(many[1])
    assert len(many[0]) + len(many[1]) == 1000
    assert 160 < len(many[1]) < 240  # 200 within three standard deviations


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_there_is_something_on_either_side_from_two_prompts_on(count, fraction):
    train, validation = hold_out_prompts("x", grouped(count), fraction)
    assert train
    assert validation
    assert len(train) + len(validation) == count


def test_no_prompt_is_both_learned_and_held_out(tmp_path):
    records = [simple(index % 40, rejected=f"no {index}") for index in range(200)]
    opened = open_preferences(write(tmp_path / "a.jsonl", records), 0.25)
    train, validation = ({group.prompt for group in side} for side in (opened.train, opened.validation))
    assert not train & validation
    assert len(train | validation) == 40
    assert all(len(group.pairs) == 5 for group in (*opened.train, *opened.validation))


def test_the_key_follows_the_choices(tmp_path):
    spec = write(tmp_path / "a.jsonl", [simple(index) for index in range(5)])
    key = open_preferences(spec, 0.1).key
    assert open_preferences(spec, 0.1).key == key
    write(tmp_path / "a.jsonl", [simple(index, margin=index) for index in range(5)])
    assert open_preferences(spec, 0.1).key != key


def test_files_are_read_in_order_and_a_lone_surrogate_becomes_text(tmp_path):
    write(tmp_path / "b.jsonl", [simple(1)])
    write(tmp_path / "a.jsonl", [simple(0, chosen="\ud800")])
    opened = open_preferences(f"jsonl:{tmp_path}/*.jsonl", 0.5)
    found = {group.prompt[0].content: group.answers for group in (*opened.train, *opened.validation)}
    assert found == {"question 0": ("?", "no"), "question 1": ("yes", "no")}


def test_the_narrators_world_is_read_as_drawn():
    opened = open_preferences("narration_preferences:16:3", 0.2)
    found = [choice for side in (opened.train, opened.validation) for group in side for choice in group.preferences()]
    drawn = [draw_example("narration_preferences", 3, index) for index in range(16)]
    assert {(c.prompt[0].content, c.chosen, c.rejected, c.rater) for c in found} == {
        (d["prompt"], d["chosen"], d["rejected"], d["rater"]) for d in drawn
    }
    assert open_preferences("narration_preferences:16:3", 0.2).key == opened.key
    assert open_preferences("narration_preferences:16:4", 0.2).key != opened.key


TEXTS = dict.fromkeys(("prompt", "chosen", "rejected"), tfds.features.Text())


def test_a_dataset_keeps_its_own_split_and_what_is_in_both_is_not_learned(tfds_root, capsys):  # noqa: F811
    splits = {"train": [simple(index) for index in range(6)], "test": [simple(index) for index in (5, 6)]}
    opened = open_preferences(prepare(tfds_root, splits, name="choices", **TEXTS), 0.1)
    assert [group.prompt[0].content for group in opened.train] == [f"question {index}" for index in range(5)]
    assert [group.prompt[0].content for group in opened.validation] == ["question 5", "question 6"]
    assert "1 prompts are also in 'test'" in capsys.readouterr().err
    with pytest.raises(UserError, match="every prompt of 'train' is also in 'test'"):
        open_preferences(prepare(tfds_root, {**splits, "test": splits["train"]}, name="twice", **TEXTS), 0.1)


def test_a_dataset_of_messages_and_numbers(tfds_root):  # noqa: F811
    messages = tfds.features.Sequence({"role": tfds.features.Text(), "content": tfds.features.Text()})
    scores = tfds.features.FeaturesDict({"tone": tfds.features.Scalar(np.float32)})
    features = {"scores": scores, "chosen": messages, "rejected": messages, "margin": tfds.features.Scalar(np.float32)}
    records = [
        {
            "chosen": turns("user", f"q {index}", "assistant", "é"),
            "rejected": turns("user", f"q {index}", "assistant", "no"),
            "margin": 1.5,
            "scores": {"tone": 0.5},
        }
        for index in range(4)
    ]
    opened = open_preferences(prepare(tfds_root, {"train": records}, name="talks", **features), 0.5)
    found = sorted((*opened.train, *opened.validation), key=lambda group: group.prompt)
    expected = [Preference((Message("user", f"q {index}"),), "é", "no", 1.5) for index in range(4)]
    assert [choice for group in found for choice in group.preferences()] == expected


def test_bad_records_of_a_dataset_are_named_by_split_and_place(tfds_root):  # noqa: F811
    spec = prepare(tfds_root, {"train": [simple(0), simple(1, chosen="no")]}, name="bad_choices", **TEXTS)
    with pytest.raises(
        UserError, match=r"1 of 2 records cannot be used(.|\n)*split 'train', record 1: fields 'chosen'"
    ):
        open_preferences(spec, 0.1)


def test_prompts_come_from_chats_and_from_files(tmp_path):
    drawn = [draw_example("narration_chat", 7, index)["messages"][0]["content"] for index in range(8)]
    assert [prompt[-1].content for prompt in open_prompts("narration_chat:8:7")] == drawn
    path = tmp_path / "p.jsonl"
    spec = write(path, [{"prompt": "Quem marcou?"}, {"messages": GREETING + turns("assistant", "x")}])
    assert open_prompts(spec) == [ASKED, LONGER]
    assert read_prompt({"messages": GREETING}) == LONGER
    write(path, [{"prompt": "a", "messages": []}, {"text": "a"}, {"messages": turns("assistant", "x")}])
    with pytest.raises(UserError, match="3 of 3 records cannot be used"):
        open_prompts(spec)
    with pytest.raises(UserError, match="unknown source of prompts"):
        open_prompts("text:a")
