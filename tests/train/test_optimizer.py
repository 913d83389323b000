"""Updates against hand calculations, schedules against their formulas."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import ModelConfig
from model.errors import UserError
from train.config import TrainConfig
from train.optimizer import hyperparameters, is_matrix, learning_rate, make_optimizer, muon_dimensions

# One layer's worth of each kind of parameter, stacked over two layers.
PARAMS = {
    "embedding": jnp.full((3, 4), 2.0),
    "layers": {
        "attention": {
            "query": jnp.full((2, 4, 2, 2), 1.0),
            "query_bias": jnp.full((2, 2, 2), 1.0),
            "output": jnp.full((2, 2, 2, 4), 1.0),
        },
        "mlp_norm": {"scale": jnp.full((2, 4), 1.0)},
    },
}

MODEL = ModelConfig()
FLAT = TrainConfig(steps=10, warmup_steps=0, final_learning_rate=1.0)  # one learning rate for every step


def test_adamw_step_by_hand():
    config = replace(FLAT, learning_rate=0.1, weight_decay=0.5, clip_norm=1e9, epsilon=1e-3)
    optimizer = make_optimizer(config, MODEL)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    # First step: m / (1 - beta1) = g and v / (1 - beta2) = g^2, so the step is g / (|g| + eps).
    adam = 3.0 / (3.0 + 1e-3)
    attention, norm = updates["layers"]["attention"], updates["layers"]["mlp_norm"]
    np.testing.assert_allclose(attention["query"], -0.1 * (adam + 0.5 * 1.0), rtol=1e-5)
    np.testing.assert_allclose(updates["embedding"], -0.1 * (adam + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(attention["query_bias"], -0.1 * adam, rtol=1e-5)
    np.testing.assert_allclose(norm["scale"], -0.1 * adam, rtol=1e-5)


def test_long_gradients_are_scaled_to_the_clip_norm():
    config = replace(FLAT, weight_decay=0.0, clip_norm=1.0, epsilon=1e3, learning_rate=1.0)
    optimizer = make_optimizer(config, MODEL)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), PARAMS)
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    # With a huge epsilon the step is about g / eps: proportional to the clipped gradient, of norm 1.
    np.testing.assert_allclose(updates["embedding"], -(1 / np.sqrt(count)) / 1e3, rtol=1e-3)


def test_completep_takes_each_parameters_own_step():
    """By hand as above, with a learning rate, a decay and an epsilon for each (Dey et al. 2025, table 1)."""
    model = replace(MODEL, width=256, layers=6, parametrization="completep", base_width=64, base_layers=2)
    config = replace(FLAT, learning_rate=0.1, weight_decay=0.5, clip_norm=1e9, epsilon=10.0)
    optimizer = make_optimizer(config, model)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)

    def step(rate, decay, epsilon, weight):
        return -rate * 0.1 * (3.0 / (3.0 + epsilon * 10.0) + decay * 0.5 * weight)

    attention, inside = updates["layers"]["attention"], 1 / (4 * 3)
    for name in ("query", "output"):
        np.testing.assert_allclose(attention[name], step(1 / 4, 4, inside, 1.0), rtol=1e-5)
    np.testing.assert_allclose(attention["query_bias"], step(1, 0, inside, 1.0), rtol=1e-5)
    np.testing.assert_allclose(updates["layers"]["mlp_norm"]["scale"], step(1, 0, inside, 1.0), rtol=1e-5)
    np.testing.assert_allclose(updates["embedding"], step(1, 1, 1 / 4, 2.0), rtol=1e-5)


def test_completep_has_no_rule_for_muon():
    model = replace(MODEL, parametrization="completep", base_width=64, base_layers=2)
    with pytest.raises(UserError, match=r"completep has rules for train.optimizer=adamw, not muon"):
        make_optimizer(replace(FLAT, optimizer="muon"), model)


def test_decay_is_for_matrices_only():
    masks = is_matrix(PARAMS)
    assert masks["embedding"]
    assert masks["layers"]["attention"] == {"query": True, "query_bias": False, "output": True}
    assert not masks["layers"]["mlp_norm"]["scale"]


def test_muon_takes_orthogonal_steps_in_each_layers_matrices():
    config = TrainConfig(
        steps=10, warmup_steps=0, optimizer="muon", muon_learning_rate=1.0, weight_decay=0.0, clip_norm=1e9
    )
    optimizer = make_optimizer(config, MODEL)
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    for name, shape in (("query", (4, 4)), ("output", (4, 4))):
        for layer in updates["layers"]["attention"][name]:
            # Five Newton-Schulz steps with Jordan's coefficients bring singular values into about (0.7, 1.2).
            singular = np.linalg.svd(np.asarray(layer).reshape(shape), compute_uv=False)
            assert singular.min() > 0.4
            assert singular.max() < 1.4
    dimensions = muon_dimensions(PARAMS)
    assert dimensions["embedding"] is None
    assert dimensions["layers"]["mlp_norm"]["scale"] is None
    assert dimensions["layers"]["attention"]["query_bias"] is None


def test_beside_muon_the_rest_takes_adamws_own_step():
    config = TrainConfig(steps=10, warmup_steps=0, weight_decay=0.5, clip_norm=1e9)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), PARAMS)
    both = []
    for name in ("adamw", "muon"):
        optimizer = make_optimizer(replace(config, optimizer=name), MODEL)
        both.append(optimizer.update(grads, optimizer.init(PARAMS), PARAMS)[0])
    adamw, muon = both
    np.testing.assert_array_equal(adamw["embedding"], muon["embedding"])
    np.testing.assert_array_equal(adamw["layers"]["mlp_norm"]["scale"], muon["layers"]["mlp_norm"]["scale"])
    assert np.abs(adamw["layers"]["attention"]["query"] - muon["layers"]["attention"]["query"]).max() > 0


def by_step(config):
    """Learning rate after which step, counted from one; the schedule itself counts updates from zero."""
    numbers = hyperparameters(config)
    schedule = learning_rate(config, numbers, numbers.learning_rate)
    return lambda step: schedule(step - 1)


def test_cosine_schedule():
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.1)
    rate = by_step(config)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1.0)
    assert float(rate(10)) == pytest.approx(2.0)
    assert float(rate(60)) == pytest.approx(0.2 + 1.8 / 2)  # half-way: the mean of peak and end
    assert float(rate(110)) == pytest.approx(0.2)


def test_warmup_stable_decay_schedule():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.0, schedule="wsd")
    rate = by_step(config)
    assert [float(rate(step)) for step in (0, 5, 10, 50, 80)] == pytest.approx([0, 1, 2, 2, 2])
    assert float(rate(90)) == pytest.approx(1.0)
    assert float(rate(100)) == pytest.approx(0.0)


def test_schedules_shorter_than_their_warmup_do_not_break():
    for schedule in ("cosine", "wsd"):
        rate = by_step(TrainConfig(steps=3, warmup_steps=50, schedule=schedule, learning_rate=1.0))
        assert [float(rate(step)) for step in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
