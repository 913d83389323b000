"""The training step against itself done another way: in parts, on two devices, and with broken numbers."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from model.config import MeshConfig, ShardingRules
from model.sharding import make_mesh
from model.transformer import Transformer
from tests.train.tiny import CONFIG, TRAIN, random_batch, run_steps
from train.step import abstract_state, batch_sharding, compile_step, place

WIDE = replace(CONFIG, parametrization="completep", base_width=8, base_layers=1)
BATCHES = [random_batch(seed) for seed in range(3)]


def worst(a, b):
    """Largest difference between two trees, on the scale of the larger numbers."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def test_accumulation_equals_the_large_batch():
    whole, whole_metrics, _ = run_steps(BATCHES)
    # Parts hold different numbers of real tokens, so a mean of means would differ.
    parts, parts_metrics, _ = run_steps(BATCHES, replace(TRAIN, accumulation=4))
    for a, b in zip(whole_metrics, parts_metrics, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert worst(whole.params, parts.params) < 1e-5


@pytest.mark.parametrize(
    ("mesh", "config"),
    [
        (MeshConfig(data=2), CONFIG),
        (MeshConfig(fsdp=2), CONFIG),
        (MeshConfig(tensor=2), CONFIG),
        (MeshConfig(fsdp=2), WIDE),
    ],
)
def test_two_devices_equal_one(mesh, config):
    one, one_metrics, _ = run_steps(BATCHES, config=config)
    two, two_metrics, built = run_steps(BATCHES, config=config, mesh_config=mesh)
    assert built.devices.size == 2
    for a, b in zip(one_metrics, two_metrics, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert worst(one.params, two.params) < 1e-5


@pytest.mark.parametrize(("axis", "dimension"), [("fsdp", 2), ("tensor", 1)])
def test_parameters_and_moments_are_split_as_the_rules_say(axis, dimension):
    state, _, _ = run_steps(BATCHES[:1], mesh_config=MeshConfig(**{axis: 2}))
    kernel = state.params["layers"]["mlp"]["down"]  # [layers, mlp, embed]
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert len(moments) == 2
    for array in (kernel, *moments):
        assert array.sharding.shard_shape(array.shape)[dimension] == array.shape[dimension] // 2


def test_a_loss_that_is_not_finite_skips_the_update_and_is_counted():
    poisoned = BATCHES[1]._replace(weights=BATCHES[1].weights * np.float32("nan"))
    clean, _, _ = run_steps([BATCHES[0]])
    skipped, metrics, _ = run_steps([BATCHES[0], poisoned, poisoned])
    assert worst((clean.params, clean.opt_state), (skipped.params, skipped.opt_state)) == 0
    assert [row["skipped_in_a_row"] for row in metrics] == [0, 1, 2]
    after, metrics, _ = run_steps([BATCHES[0], poisoned, BATCHES[2]])
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (3, 1, 0)
    assert worst(clean.params, after.params) > 0
    # Half of the warm-up's two steps, then the peak, which the update that was left out did not use up.
    assert [row["learning_rate"] for row in metrics] == pytest.approx([1.5e-3, 3e-3, 3e-3], rel=1e-6)


def test_training_lowers_the_loss_of_what_it_sees():
    _, metrics, _ = run_steps([BATCHES[0]] * 20)
    assert metrics[0]["loss"] == pytest.approx(np.log(CONFIG.vocab_size), rel=0.02)
    assert metrics[-1]["loss"] < 0.85 * metrics[0]["loss"]
    assert metrics[0].keys() == {"loss", "grad_norm", "learning_rate", "skipped", "skipped_in_a_row"}


def test_muon_trains_too():
    _, metrics, _ = run_steps([BATCHES[0]] * 20, replace(TRAIN, optimizer="muon"))
    assert metrics[-1]["loss"] < 0.85 * metrics[0]["loss"]


def test_runs_that_differ_in_numbers_share_one_program():
    mesh, rules = make_mesh(MeshConfig(), jax.devices()[:1]), ShardingRules()
    other = replace(TRAIN, learning_rate=1e-2, beta2=0.9, weight_decay=0.0, warmup_steps=7, steps=30, seed=1)
    programs = []
    with jax.set_mesh(mesh):
        for train, std in ((TRAIN, 0.02), (other, 0.1), (replace(TRAIN, optimizer="muon"), 0.02)):
            model = Transformer(replace(CONFIG, init_std=std))
            batch = place(BATCHES[0], batch_sharding(mesh, rules))
            programs.append(compile_step(model, train, abstract_state(model, train, mesh, rules), batch))
    assert programs[0] is programs[1]
    assert programs[0] is not programs[2]
