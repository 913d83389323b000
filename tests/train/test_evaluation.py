"""Held-out loss of several sources: together and each by itself. What knows the answer: sums over the batches."""

import math

import grain
import jax
import numpy as np
import pytest

from model.config import MeshConfig, ShardingRules
from model.sharding import make_mesh
from tests.train.tiny import random_batch
from train.evaluation import evaluate
from train.step import batch_sharding

SOURCES = {"a": [random_batch(seed) for seed in range(6)], "b:c": [random_batch(seed) for seed in (10, 11)]}
BYTES = np.arange(40) % 5


def nats(params, batch):
    """A loss that differs from batch to batch."""
    return np.sum(np.asarray(batch.weights) * np.asarray(batch.targets)) * params


def measured(sources, limit=None):
    sharding = batch_sharding(make_mesh(MeshConfig(), jax.devices()[:1]), ShardingRules())
    held_out = {name: grain.MapDataset.source(batches) for name, batches in sources.items()}
    return evaluate(nats, 0.1, held_out, sharding, BYTES, limit)


def expected(batches):
    cost = sum(float(nats(0.1, batch)) for batch in batches)
    size = sum(int(BYTES[batch.targets][batch.weights > 0].sum()) for batch in batches)
    return cost / sum(batch.weights.sum() for batch in batches), cost / math.log(2) / size


def test_one_source_has_one_loss():
    loss, bits = expected(SOURCES["a"])
    assert measured({"a": SOURCES["a"]}) == pytest.approx({"validation_loss": loss, "validation_bits_per_byte": bits})


@pytest.mark.parametrize(("limit", "of_a", "of_b"), [(None, 6, 2), (4, 3, 1), (1, 1, 1), (100, 6, 2)])
def test_of_several_each_has_its_own_and_all_have_theirs(limit, of_a, of_b):
    a, b = SOURCES["a"][:of_a], SOURCES["b:c"][:of_b]
    loss, bits = expected([*a, *b])
    assert measured(SOURCES, limit) == pytest.approx(
        {
            "validation_loss": loss,
            "validation_bits_per_byte": bits,
            "validation_loss a": expected(a)[0],
            "validation_loss b:c": expected(b)[0],
        }
    )
