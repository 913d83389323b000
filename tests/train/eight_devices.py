"""A program for eight simulated devices: the same step and the same rollout on many meshes, against one device.

Its last line is JSON, for tests/train/test_meshes.py. One process for all of it: starting and the one-device answer are
paid for once.
"""

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from model.attention import init_cache
from model.config import RULES, MeshConfig, ModelConfig, SamplingConfig, ShardingRules
from model.decode import prefill, stream
from model.presets import llama
from model.sharding import make_mesh
from model.transformer import Transformer
from rlhf.rollout import generate
from tests.train import tiny
from tests.train.tiny import random_batch
from train.config import TrainConfig
from train.optimizer import hyperparameters
from train.step import batch_sharding, compile_step, init_state, place

# Grouped queries, and a vocabulary that every axis divides.
CONFIG: ModelConfig = replace(
    llama(layers=2, width=32, heads=8, kv_heads=4, mlp_width=48), vocab_size=40, context_length=16
)
LOOPED = replace(CONFIG, scan=True, remat="full")
MIXTURE = replace(CONFIG, experts=4)
# Adam divides by the gradient's size: of a gradient that is all rounding it would make a whole step.
TRAIN = replace(tiny.TRAIN, epsilon=1e-5)
IN_PARTS = replace(TRAIN, accumulation=2)
BATCHES = [random_batch(seed) for seed in range(2)]

MESHES: dict[str, tuple[str, MeshConfig, ModelConfig, TrainConfig]] = {
    "fsdp": ("fsdp+tensor", MeshConfig(fsdp=8), CONFIG, TRAIN),
    "data, tensor": ("tensor", MeshConfig(data=4, tensor=2), CONFIG, TRAIN),
    "data, fsdp, tensor": ("fsdp+tensor", MeshConfig(data=2, fsdp=2, tensor=2), LOOPED, IN_PARTS),
    "fsdp, context": ("fsdp+context+tensor", MeshConfig(fsdp=4, context=2), LOOPED, TRAIN),
    "context, tensor": ("fsdp+tensor", MeshConfig(context=4, tensor=2), CONFIG, TRAIN),
    "expert, context, tensor": ("fsdp+tensor", MeshConfig(expert=2, context=2, tensor=2), CONFIG, IN_PARTS),
    "fsdp, expert": ("fsdp+tensor", MeshConfig(fsdp=2, expert=4), replace(LOOPED, experts=4), TRAIN),
    "data, expert, tensor": ("fsdp+tensor", MeshConfig(data=2, expert=2, tensor=2), MIXTURE, TRAIN),
    "fsdp, expert, context": ("fsdp+context+tensor", MeshConfig(fsdp=2, expert=2, context=2), MIXTURE, TRAIN),
}


def two_steps(mesh: Mesh, rules: ShardingRules, config: ModelConfig, train: TrainConfig) -> tuple[Any, list[Any]]:
    """The state after two updates, and after the first one on the host. Its first moments are the first gradient."""
    model, numbers = Transformer(config, rules), hyperparameters(train)
    with jax.set_mesh(mesh):
        state = init_state(model, train, mesh, rules)
        sharding = batch_sharding(mesh, rules)
        step = compile_step(model, train, state, place(BATCHES[0], sharding))
        seen = []
        for batch in BATCHES:
            state, metrics = step(state, place(batch, sharding), numbers)
            seen.append(jax.device_get((metrics["loss"], state.params, state.opt_state)))
    return state, seen


def worst(one: Any, other: Any) -> float:
    """Largest difference between two trees."""
    return max(float(np.max(np.abs(a - b))) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def pieces(state: Any) -> dict[str, list[int]]:
    """Into how many pieces the parameters and moments of each kind are cut."""
    found: dict[str, set[int]] = {"matrices": set(), "norms": set()}
    for path, x in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state)):
        if x.ndim:
            kind = "norms" if "scale" in jax.tree_util.keystr(path) else "matrices"
            found[kind].add(x.size // x.addressable_shards[0].data.size)
    return {kind: sorted(counts) for kind, counts in found.items()}


def answers(mesh: Mesh, rules: ShardingRules, params: Any) -> tuple[Any, list[int], list[int]]:
    """Rollouts of four prompts, a stream from one, and the shape that one device holds of the cache."""
    model = Transformer(CONFIG, rules)
    prompts = np.random.default_rng(0).integers(0, 40, (4, 5), np.int32)
    lengths = np.array([5, 2, 4, 3], np.int32)
    key = jax.random.key(1)
    with jax.set_mesh(mesh):
        rollout = generate(
            model, params, key, prompts, lengths, np.ones(4, np.float32), max_tokens=6, stop=tuple(range(9))
        )
        single = one_answer(model, params)
        _, cache = prefill(
            model, params, jnp.asarray(prompts), jnp.asarray(lengths), init_cache(CONFIG, 4, 8, jnp.float32)
        )
    return jax.device_get(rollout), single, list(cache.keys.sharding.shard_shape(cache.keys.shape))


def one_answer(model: Transformer, params: Any) -> list[int]:
    """Tokens drawn after one prompt: rows and tokens that no mesh divides."""
    return [token for token, _ in stream(model, params, [3, 4, 5], SamplingConfig(), jax.random.key(1), 5)]


def main() -> None:
    """Everything, told as numbers."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    state, expected = two_steps(one, ShardingRules(), CONFIG, TRAIN)
    mixture, expected_of_mixture = two_steps(one, ShardingRules(), MIXTURE, TRAIN)
    (rollout, single, _), found = answers(one, ShardingRules(), state.params), {}
    routed = one_answer(Transformer(MIXTURE), mixture.params)
    for name, (rules, config, model, train) in MESHES.items():
        state, seen = two_steps(make_mesh(config), RULES[rules], model, train)
        answer = expected if model.experts is None else expected_of_mixture
        found[name] = {
            "differences": [worst(a, b) for a, b in zip(answer, seen, strict=True)],
            "pieces": pieces(state),
        }
        if name == "data, fsdp, tensor":
            there, streamed, cache = answers(make_mesh(config), RULES[rules], state.params)
            found["answers"] = {
                "same": bool(np.array_equal(rollout.tokens, there.tokens)) and streamed == single,
                "lengths": rollout.response_lengths.tolist(),
                "log_probs": worst(rollout.log_probs, there.log_probs),
                "cache": cache,
            }
        if name == "data, expert, tensor":
            with jax.set_mesh(make_mesh(config)):
                found["routed"] = one_answer(Transformer(model, RULES[rules]), state.params) == routed
    print(json.dumps(found))


if __name__ == "__main__":
    main()
