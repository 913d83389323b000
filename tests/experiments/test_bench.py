"""Benchmarks: what they print, and that their shares are the quotients they claim to be."""

import json
from dataclasses import replace

import pytest

from experiments import cli
from experiments.benchmarks import bench_ppo, bench_train
from experiments.peers import PpoShape
from experiments.presets import TINY
from model.errors import UserError
from tests.experiments.narrador import LEAST, write_small


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_small(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measure(capsys, *arguments):
    assert cli.main(["bench", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_training_is_a_share_of_the_matrix_product(folder, capsys):
    found = measure(capsys, "train", "small.yaml", "--repeats", "2")
    (shape,) = found["shapes"]
    assert (shape["name"], shape["batch"], shape["length"]) == ("small", 4, 32)
    assert shape["tokens_per_second_least"] <= shape["tokens_per_second"] <= shape["tokens_per_second_most"]
    share = shape["tokens_per_second"] * shape["flops_per_token"] / shape["matmul_flops"]
    assert shape["matmul_share"] == pytest.approx(share)
    # By hand: 3 x (2 FLOPs for each of 2 layers' 4 x 32^2 + 3 x 32 x 64 weights and the head's 32 x 350, and in each
    # layer 4 x 32 for each of the 16.5 tokens that one of 32 sees on average).
    weights = 2 * (4 * 32**2 + 3 * 32 * 64) + 32 * 350
    assert shape["flops_per_token"] == 3 * (2 * weights + 2 * 4 * 32 * 16.5)
    assert found["memory_bytes_per_second"] > 0


def test_decoding_is_a_share_of_the_memory_read(folder, capsys):
    found = measure(capsys, "decode", "small.yaml", "--batches", "1", "2", "--repeats", "1")
    assert [row["batch"] for row in found["batches"]] == [1, 2]
    for row in found["batches"]:
        steps_per_second = row["tokens_per_second"] / row["batch"]
        share = steps_per_second * row["bytes_per_step"] / row["memory_bytes_per_second"]
        assert row["memory_share"] == pytest.approx(share)


def test_a_sweep_comes_to_the_same_each_way(folder, capsys, monkeypatch):
    def here(commands, workers, meanwhile):
        for command in commands:
            assert cli.main(command) == 0
        return []

    monkeypatch.setattr("experiments.trials.run_commands", here)
    (folder / "least.yaml").write_text(LEAST)
    found = measure(capsys, "sweep", "least.yaml", "--trials", "2")
    assert (found["trials"], found["together"], found["backend"], found["way"]) == (2, 2, "cpu", "processes")
    assert found["ratio"] == found["sequential_seconds"] / found["processes_seconds"]
    assert found["loss_difference_processes"] == 0
    assert found["loss_difference_vectorised"] < 1e-5


def test_what_does_not_fit_is_refused(capsys):
    assert cli.main(["bench", "train", "llama3.1-405b"]) == 2
    assert "GiB on each device" in capsys.readouterr().err
    odd = replace(TINY, train=replace(TINY.train, batch_size=3))
    with pytest.raises(UserError, match="cannot be split over"):
        bench_train(odd, vocab_size=300, repeats=1)


def test_ppo_counts_whole_iterations():
    shape = PpoShape(1, 16, 2, vocabulary=40, prompt_length=4, response_length=4, batch=4, minibatches=2, epochs=1)
    assert bench_ppo(shape, repeats=1, peers=False)["episodes_per_second"] > 0
