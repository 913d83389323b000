"""Configs to mappings and back. What knows the answer: the configs themselves, and mistakes made on purpose."""

import pytest
import yaml

from experiments.config import Experiment
from experiments.presets import EXPERIMENTS
from model.errors import UserError
from train.mapping import differences, from_mapping, to_mapping


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_survives_yaml(name):
    text = yaml.safe_dump(to_mapping(EXPERIMENTS[name]))
    assert from_mapping(Experiment, yaml.safe_load(text), "config.yaml") == EXPERIMENTS[name]


def test_missing_keys_take_the_defaults():
    assert from_mapping(Experiment, {}, "f.yaml") == Experiment()
    assert from_mapping(Experiment, {"train": {"steps": 3}}, "f.yaml").train.batch_size == Experiment().train.batch_size


def test_numbers_that_yaml_reads_as_text_are_numbers():
    mapping = yaml.safe_load("train: {learning_rate: 3e-4}")
    assert mapping == {"train": {"learning_rate": "3e-4"}}
    assert from_mapping(Experiment, mapping, "f.yaml").train.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"trian": {}}, r"f\.yaml: unknown key 'trian'.*'train'"),
        ({"train": {"learning_rat": 1}}, r"f\.yaml: unknown key 'train\.learning_rat'.*'train\.learning_rate'"),
        ({"model": {"zzz": 1}}, r"f\.yaml: unknown key 'model\.zzz'.*layers"),
        ({5: 1}, r"f\.yaml: unknown key '5'"),
        ({"train": 3}, r"f\.yaml: train must hold keys and values"),
        ({"train": None}, r"f\.yaml: train must hold keys and values"),
        ({"train": {"steps": "many"}}, r"f\.yaml: train\.steps='many'"),
        ({"train": {"steps": 1.5}}, r"f\.yaml: train\.steps=1\.5"),
        ({"train": {"optimizer": "sgd"}}, r"f\.yaml: train\.optimizer='sgd'.*adamw.*muon"),
        ({"model": {"kv_heads": [1]}}, r"f\.yaml: model\.kv_heads=\[1\]"),
        ({"data": {"sources": "pydoc"}}, r"f\.yaml: data\.sources='pydoc'"),
        ({"data": {"sources": ["pydoc", 1]}}, r"f\.yaml: data\.sources\.1=1"),
        ({"train": {"steps": 0}}, r"train\.steps=0 must be at least 1"),
        ({"model": {"width": 30, "heads": 4}}, r"model\.heads=4 does not divide"),
    ],
)
def test_mistakes_are_named(mapping, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Experiment, mapping, "f.yaml")


def test_differences_are_found_at_any_depth_and_on_either_side():
    left = {"a": 1, "b": {"c": 2, "d": {"e": [1]}}, "only_left": 5}
    right = {"a": 1, "b": {"c": 3, "d": {"e": [1, 2]}}, "only_right": 6}
    assert differences(left, right) == [
        ("b.c", 2, 3),
        ("b.d.e", [1], [1, 2]),
        ("only_left", 5, None),
        ("only_right", None, 6),
    ]
    assert differences(left, left) == []


def test_differences_of_two_experiments():
    found = {key: (a, b) for key, a, b in differences(to_mapping(EXPERIMENTS["tiny"]), to_mapping(EXPERIMENTS["char"]))}
    assert found["tokenizer.kind"] == ("bpe", "char")
    assert found["data.sequence_length"] == (256, 64)
    assert "data.sources" not in found
