"""A policy, a reward model, prompts and text on which an iteration takes milliseconds."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from model.chat import ChatTemplate, Message
from model.sharding import path_keys
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from rlhf.config import GRPOConfig, PPOConfig
from rlhf.grpo import GRPOTrainer
from rlhf.ppo import PPOTrainer
from rlhf.prompts import PaddedPrompts, encode_prompts, stop_tokens
from rlhf.scorer import init_reward_model
from tests.train.tiny import CONFIG
from train.batches import PackedRows, training_batches
from train.corpus import TokenStream

TOKENIZER = train_tokenizer(TokenizerConfig(kind="char"), ["abcdefgh?"])
TEMPLATE = ChatTemplate()
STOP = stop_tokens(TOKENIZER, TEMPLATE)
MODEL = Transformer(replace(CONFIG, layers=1, vocab_size=TOKENIZER.size, context_length=32))
JUDGE = Transformer(replace(MODEL.config, width=16, heads=1, mlp_width=32))  # a reward model need not be as large
PPO = PPOConfig(batch_size=8, epochs=2, minibatches=2, max_tokens=6)
PPO_IN_GROUPS = replace(PPO, group_size=2)
GRPO = GRPOConfig(batch_size=8, epochs=2, minibatches=2, max_tokens=6, group_size=2)


def fresh(model=MODEL, seed=0):
    """Parameters much as they are drawn, without the seconds that compiling takes."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"])
    rng = np.random.default_rng(seed)

    def draw(path, x):
        noise = rng.normal(scale=0.02, size=x.shape)
        return jnp.asarray(noise + (path_keys(path)[-1] == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def fresh_reward_model(model=MODEL, seed=1, heads=2):
    """A reward model that has learned nothing, but not to be the one that it is held against."""
    made = init_reward_model(jax.random.key(seed), fresh(model, seed), model.config.width, heads)
    return made._replace(reference=fresh(model, seed + 100))


def encoded(batch_size=8, room=20, prompts=("a?", "bc?", "def?", "?")):
    """Batches of four prompts of different lengths."""
    rows = encode_prompts([(Message("user", p),) for p in prompts], TOKENIZER, TEMPLATE, room)
    return PaddedPrompts(rows, batch_size, 0)


def texts(rows=2, length=16):
    """Endless batches of text."""
    rng = np.random.default_rng(0)
    documents = [[TOKENIZER.document_end, *rng.integers(1, 9, rng.integers(3, 20))] for _ in range(40)]
    starts = np.cumsum([0, *map(len, documents)])
    tokens = np.array([*np.concatenate(documents), TOKENIZER.document_end], np.int32)
    return training_batches([PackedRows(TokenStream(tokens, starts), length)], (), rows, seed=0)


def trainer_of(config, params, reward, **options):
    """A PPO or GRPO trainer, by its config; options as the trainer takes them."""
    kind, prompts = PPOTrainer if config.stage == "ppo" else GRPOTrainer, encoded(config.prompts_per_step)
    return kind(MODEL, config, prompts, params, reward, TOKENIZER, STOP, seed=0, **options)


def same(one, other):
    """Whether two trees are the same to the bit."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
