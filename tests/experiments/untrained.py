"""Runs whose stages are done as far as asking goes: small models of random parameters, which have learned nothing."""

import random
import shutil
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import yaml

from model.chat import Message
from model.config import ModelConfig
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from rlhf.scorer import Scorer, init_reward_model
from train.checkpoint import Checkpoints
from train.narration.questions import draw_prompt, prompt_text
from train.run_directory import RunDirectory

MODEL = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16, "context_length": 256, "init_std": 0.2}
TEXTS = [prompt_text(*draw_prompt(random.Random(index))) for index in range(30)]
PROMPTS = [(Message("user", text),) for text in TEXTS]
HEADS = 2


class State(NamedTuple):
    step: int
    params: Any
    unused: np.ndarray  # a checkpoint holds more than parameters


def write_run(path, seed, vocab_size=512, train=None):
    """A run of the stages pretrain and sft, both with the parameters of a seed."""
    run, config = RunDirectory(path), {**MODEL, "vocab_size": vocab_size}
    params = nn.unbox(
        jax.jit(Transformer(ModelConfig(**config)).init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]
    )
    path.mkdir()
    run.config_path.write_text(yaml.safe_dump({"model": config, "reward": {"heads": HEADS}, "train": train or {}}))
    run.tokenizer_path.write_text(train_tokenizer(TokenizerConfig(vocab_size=vocab_size), TEXTS).to_json())
    _save(run, "sft", params)
    shutil.copytree(path / "sft", path / "pretrain")
    return run, params


def add_reward(run, trunk, bias=None):
    """A complete stage `reward`: random heads, or such as give every answer the scores `bias`."""
    made = init_reward_model(jax.random.key(5), trunk, MODEL["width"], HEADS)
    if bias is not None:
        made = made._replace(scorer=Scorer(trunk, jnp.zeros_like(made.scorer.kernel), jnp.asarray(bias)))
    _save(run, "reward", made)
    run.stage("reward").complete({"stage": "reward", "accuracy": 0.5})
    return made


def _save(run, stage, params):
    checkpoints = Checkpoints(run.stage(stage).checkpoints, keep=1)
    checkpoints.save(State(0, params, np.zeros(1)), {})
    checkpoints.wait()
    checkpoints.close()
    run.stage(stage).log("metrics").write_text("{}\n")
