"""A model, a mesh and batches small enough that a training step takes milliseconds."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from model.config import MeshConfig, ModelConfig, ShardingRules
from model.presets import small
from model.sharding import make_mesh
from model.transformer import Transformer
from train.batches import Batch
from train.config import TrainConfig
from train.optimizer import hyperparameters
from train.step import TrainState, batch_sharding, init_state, place, train_step

CONFIG: ModelConfig = replace(small(depth=2, context_length=16), width=32, mlp_width=64, vocab_size=40)
MIXTURE: ModelConfig = replace(CONFIG, experts=4, scan=True)
TRAIN = TrainConfig(steps=20, batch_size=8, warmup_steps=2, learning_rate=3e-3)


def random_batch(seed: int, rows: int = 8, length: int = 16, vocabulary: int = 40) -> Batch:
    """Rows of two documents and some padding each, so that masks and weights matter."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (rows, length + 1)).astype(np.int32)
    cut = rng.integers(2, length - 4, (rows, 1))
    end = rng.integers(length - 3, length + 1, (rows, 1))
    place_in_row = np.broadcast_to(np.arange(length), (rows, length))
    segments = np.where(place_in_row >= end, 0, 1 + (place_in_row >= cut)).astype(np.int32)
    positions = np.where(segments == 2, place_in_row - cut, place_in_row).astype(np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], positions, segments, (segments > 0).astype(np.float32))


def run_steps(
    batches: list[Batch],
    train: TrainConfig = TRAIN,
    config: ModelConfig = CONFIG,
    mesh_config: MeshConfig | None = None,
) -> tuple[TrainState, list[dict[str, Any]], Mesh]:
    """Train on `batches` in turn from the seed's initial state; on one device unless told."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh_config is None else make_mesh(mesh_config)
    rules = ShardingRules()
    model, metrics = Transformer(config, rules), []
    with jax.set_mesh(mesh):
        state = init_state(model, train, mesh, rules)
        step = jax.jit(partial(train_step, model=model, config=train))
        for batch in batches:
            state, measured = step(state, place(batch, batch_sharding(mesh, rules)), hyperparameters(train))
            metrics.append({name: value.item() for name, value in measured.items()})
    return state, metrics, mesh
