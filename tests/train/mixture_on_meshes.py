"""Run by test_mixture.py in a process of eight simulated devices: how far meshes are from one device, as JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from model.attention import init_cache
from model.config import MeshConfig
from model.decode import decode_step, prefill
from model.transformer import Transformer
from tests.train.tiny import MIXTURE, TRAIN, random_batch, run_steps

MESHES = [
    MeshConfig(data=1, expert=4, fsdp=2),
    MeshConfig(data=2, expert=2, tensor=2),
    MeshConfig(data=1, expert=2, context=2, fsdp=2),
]


def worst(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def decoded(params, rows):
    """Logits after a prompt and after one more token."""
    model, tokens = Transformer(MIXTURE), np.random.default_rng(0).integers(0, MIXTURE.vocabulary, (rows, 5))
    cache = init_cache(MIXTURE, rows, 8, jnp.float32)
    first, cache = prefill(model, params, jnp.asarray(tokens[:, :4]), jnp.full(rows, 4), cache)
    second, _ = decode_step(model, params, jnp.asarray(tokens[:, 4]), jnp.full(rows, 4), cache)
    return first, second


def main() -> None:
    """Train on each mesh, and sample on one of them with a batch that does not divide over it."""
    jax.config.update("jax_disable_most_optimizations", True)
    batches = [random_batch(seed) for seed in range(2)]
    one, one_metrics, _ = run_steps(batches, TRAIN, MIXTURE)
    rows = []
    for mesh_config in MESHES:
        state, metrics, mesh = run_steps(batches, TRAIN, MIXTURE, mesh_config)
        up = state.params["layers"]["mlp"]["up"]
        rows.append(
            {
                "metrics": worst(one_metrics, metrics),
                "state": worst(one, state),
                "experts_of_a_device": up.sharding.shard_shape(up.shape)[1],
            }
        )
    plain = decoded(one.params, 3)
    with jax.set_mesh(mesh):
        print(json.dumps({"meshes": rows, "decoded": worst(plain, decoded(state.params, 3))}))


if __name__ == "__main__":
    main()
