"""The narrator's world as sources: any number of examples, the same from the same seed, whoever draws them."""

import multiprocessing
import random

import pytest
import tensorflow_datasets as tfds

import train.narration.datasets
from tests.train.test_sources import texts
from train.narration.datasets import Draw, write_world
from train.narration.examples import DRAW, draw_example, draw_examples
from train.narration.passage import draw_passage
from train.sources import WORLD, open_source


def test_the_sources_are_those_that_can_be_drawn():
    assert tuple(DRAW) == WORLD


def test_documents_are_passages_and_follow_from_the_seed():
    first, again, other = (open_source(spec, 0.1) for spec in ("narration:60", "narration:60:0", "narration:60:1"))
    assert len(first.train) + len(first.validation) == 60
    assert texts(first.train) == texts(again.train)
    assert first.key == again.key != other.key
    assert not set(texts(first.train)) & set(texts(other.train))
    everything = {draw_passage(random.Random(f"narration 0 {index}")).text for index in range(60)}
    assert {*texts(first.train), *texts(first.validation)} <= everything


def test_more_documents_begin_with_those_of_fewer():
    few, many = ([*draw_examples("narration", 3, count)] for count in (5, 9))
    assert many[:5] == few


def test_workers_draw_what_one_process_draws():
    """Enough for processes: what example i is does not depend on who draws it."""
    count = 4500
    drawn = list(draw_examples("narration", 7, count))
    assert len(drawn) == count
    for index in (0, 999, 1000, 3217, 4499):
        assert drawn[index] == draw_example("narration", 7, index)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", WORLD)
def test_each_is_a_dataset_that_tfds_knows(name, tmp_path):
    builder = tfds.builder(name, config=Draw(20, seed=5), data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    records = builder.as_data_source(split="train")
    assert len(records) == 20
    again = write_world(name, 20, 5, tmp_path / "again")
    assert [str(record) for record in records] == [str(record) for record in again]
    assert train.narration.datasets.__doc__


def test_a_chat_is_read_as_its_turns_a_quiz_as_it_is_and_a_choice_as_what_was_chosen():
    chat = draw_example("narration_chat", 0, 0)["messages"]
    assert [turn["role"] for turn in chat] == ["user", "assistant"]
    assert texts(open_source("narration_chat:20", 0.1).train)[0] == "\n".join(turn["content"] for turn in chat)
    assert texts(open_source("narration_quiz:20", 0.1).train)[0] == draw_example("narration_quiz", 0, 0)["text"]
    choice = draw_example("narration_preferences", 0, 0)
    expected = f"{choice['prompt']}\n{choice['chosen']}"
    assert texts(open_source("narration_preferences:20", 0.1).train)[0] == expected
