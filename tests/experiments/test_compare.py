"""`narrador compare` on two small models that have learned nothing yet."""

import json
import random
import shutil
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from experiments import cli
from experiments.alignment import BATCH, divergence, draw_answers
from model.config import ModelConfig
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from train.checkpoint import Checkpoints
from train.narration.questions import draw_prompt, prompt_text
from train.run_directory import RunDirectory
from train.trained import open_trained

MODEL = {
    "layers": 1,
    "width": 16,
    "heads": 2,
    "mlp_width": 16,
    "context_length": 256,
    "init_std": 0.2,
    "vocab_size": 512,
}
PROMPTS = [prompt_text(*draw_prompt(random.Random(index))) for index in range(30)]


class State(NamedTuple):
    step: int
    params: Any
    unused: np.ndarray  # a checkpoint holds more than parameters


def write(path, seed):
    """A run whose stages are done, as far as asking goes."""
    run, model = RunDirectory(path), Transformer(ModelConfig(**MODEL))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"])
    path.mkdir()
    run.config_path.write_text(yaml.safe_dump({"model": MODEL}))
    run.tokenizer_path.write_text(train_tokenizer(TokenizerConfig(vocab_size=512), PROMPTS).to_json())
    checkpoints = Checkpoints(run.stage("sft").checkpoints, keep=1)
    checkpoints.save(State(0, params, np.zeros(1)), {})
    checkpoints.wait()
    checkpoints.close()
    run.stage("sft").log("metrics").write_text("{}\n")
    shutil.copytree(path / "sft", path / "pretrain")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write(folder / "one", seed=0)
    write(folder / "other", seed=1)
    return folder


@pytest.fixture
def compare(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda: None)  # the test session has its own way

    def call(*arguments):
        code = cli.main(["compare", *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_report(compare):
    asked = ("one", "other:sft", "--prompts", "12", "--tokens", "8")
    code, out, err = compare(*asked, "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert (found["a"], found["b"], found["prompts"]) == ("one:sft", "other:sft", 12)
    low, high = found["win_rate_interval"]
    assert 0 <= low <= found["win_rate"] <= high <= 1
    assert 0 <= found["length_controlled_win_rate"] <= 1
    assert found["kl"] > 0
    pairs = [value for value in found.values() if isinstance(value, dict)]
    assert [set(pair) for pair in pairs] == [{"a", "b"}] * 8
    assert json.loads(compare(*asked, "--json")[1]) == found
    code, out, _ = compare(*asked)
    assert code == 0
    assert "other:sft" in out
    assert f"the first wins {found['win_rate']:.1%} of 12 prompts" in out


def test_what_cannot_be_compared_is_refused(compare):
    for arguments, told in (
        (("one", "one:pretrain"), "has not learned to take turns"),
        (("one", "one", "--tokens", "250"), "a context of 256 tokens"),
        (("one", "one", "--temperature", "0"), "must be above 0"),
        (("one", "one", "--prompts", "0"), "must be at least 1"),
        (("nowhere", "one"), "holds no run"),
    ):
        code, _, err = compare(*arguments)
        assert code == 2
        assert told in err


def test_kl_is_that_of_the_tokens_drawn(runs):
    """Over more prompts than a batch holds, against whole rows read at once; 0 from itself, undefined across tokens."""
    one, other = open_trained(str(runs / "one")), open_trained(str(runs / "other"))
    prompts = (PROMPTS * 2)[: BATCH + 3]
    answers = draw_answers(one, prompts, temperature=0.7, max_tokens=5, seed=3)
    rollout = answers.rollout
    assert len(answers.texts) == len(rollout.tokens) == len(prompts)
    a, b = (
        jax.nn.log_softmax(jax.jit(model.model.apply)({"params": model.params}, jnp.asarray(rollout.tokens))[0] / 0.7)
        for model in (one, other)
    )
    nats = []
    for row, (start, end) in enumerate(zip(rollout.prompt_lengths, rollout.lengths, strict=True)):
        places = np.arange(start, end)
        nats.append(float((a - b)[row, places - 1, rollout.tokens[row, places]].sum()))
    assert divergence(answers, one, other) == pytest.approx(np.mean(nats), rel=1e-4)
    assert divergence(answers, one, one) == pytest.approx(0, abs=1e-4)
    foreign = train_tokenizer(TokenizerConfig(vocab_size=400), PROMPTS)
    assert divergence(answers, one, replace(other, tokenizer=foreign)) is None
