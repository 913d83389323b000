"""Programs compiled for eight simulated devices; prints what they send as one JSON object. See test_collectives."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from experiments.collectives import collective_bytes, collectives
from experiments.least_traffic import least_bytes
from model.config import MeshConfig, ModelConfig, ShardingRules
from model.sharding import make_mesh
from model.transformer import Transformer
from train.batches import Batch
from train.config import TrainConfig
from train.step import abstract_state, batch_sharding, compile_step

CONFIG = ModelConfig(layers=2, width=64, heads=8, mlp_width=128, vocab_size=64, context_length=32)
ROWS = 16


def by_hand():
    """Collectives in one loop and in a loop within it."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))

    @partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    def program(x):
        def inner(x, _):
            return jnp.sin(jax.lax.psum(x, "fsdp")), None

        def outer(x, _):
            x = jax.lax.scan(inner, x, length=3)[0]
            both = jax.lax.all_gather(jnp.cos(x), "data")
            return jax.lax.ppermute(both[0] * both[1], "fsdp", [(i, (i + 1) % 4) for i in range(4)]), None

        x = jax.lax.scan(outer, x, length=5)[0]
        return jax.lax.psum_scatter(x, ("data", "fsdp"), tiled=True)

    text = jax.jit(program).lower(jnp.zeros(16)).compile().as_text()
    return [(c.kind, c.axes, c.runs, c.payload) for c in collectives(text, mesh.shape)]


def step(mesh, accumulation=1, **changes):
    """What a training step sends, compiled and at least."""
    config, rules, mesh = replace(CONFIG, **changes), ShardingRules(), make_mesh(MeshConfig(**mesh))
    train = TrainConfig(batch_size=ROWS, accumulation=accumulation)
    model, place = Transformer(config, rules), batch_sharding(mesh, rules)
    whole, real = (
        jax.ShapeDtypeStruct((ROWS, config.context_length), dtype, sharding=place) for dtype in (jnp.int32, jnp.float32)
    )
    state = abstract_state(model, train, mesh, rules)
    with jax.set_mesh(mesh):
        compiled = compile_step(model, train, state, Batch(whole, whole, whole, whole, real))
    least = least_bytes(config, mesh.shape, ROWS, config.context_length, accumulation, scatters=False)
    return collective_bytes(compiled.as_text(), mesh.shape), least


full = {"scan": True, "remat": "full"}
gpt2 = {"tied_head": True, "positions": "learned", "norm": "layernorm", "activation": "gelu", "mlp_bias": True}
steps = {
    "data=8": step({"data": 8}, scan=True),
    "data=2 fsdp=4": step({"data": 2, "fsdp": 4}, accumulation=2, **full),
    "fsdp=8": step({"data": 1, "fsdp": 8}, **gpt2),
    "fsdp=2 tensor=4": step({"data": 1, "fsdp": 2, "tensor": 4}, **full),
    "fsdp=2 context=2 tensor=2": step({"data": 1, "fsdp": 2, "context": 2, "tensor": 2}, scan=True, kv_heads=4),
    "fsdp=2 expert=4": step({"data": 1, "fsdp": 2, "expert": 4}, experts=4, **full),
}
print(json.dumps({"by_hand": by_hand(), "steps": steps}))
