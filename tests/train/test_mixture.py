"""What a mixture of experts adds to training, against closed forms, NumPy, and sums by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.transformer import Transformer
from tests.train.tiny import CONFIG, MIXTURE, TRAIN, random_batch, run_steps
from train.flops import idle_parameters, matmul_parameters
from train.objective import next_token_loss, router_losses, training_loss
from train.optimizer import make_optimizer, muon_dimensions

BATCHES = [random_batch(seed) for seed in range(2)]


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """These programs are tiny and run a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def router_logits(seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=(2, 3, 7, 4))).astype(np.float32)


def losses(logits, weights=None, experts_per_token=2):
    weights = np.ones(logits.shape[1:3], np.float32) if weights is None else weights
    return router_losses(jnp.asarray(logits), jnp.asarray(weights), experts_per_token)


def test_even_routing_costs_one_and_a_lone_expert_all_there_are():
    # Token n prefers experts n and n + 1 (mod 4), by so little that all probabilities are 1/4.
    logits = np.zeros((1, 2, 8, 4), np.float32)
    for n in range(8):
        logits[:, :, n, [n % 4, (n + 1) % 4]] = 1e-6
    even = losses(logits)
    assert float(even["balance_loss"]) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(even["expert_load"], 0.25)
    assert float(even["router_z_loss"]) == pytest.approx(np.log(4) ** 2, rel=1e-5)
    logits[...] = [50.0, 0, 0, 0]
    assert float(losses(logits, experts_per_token=1)["balance_loss"]) == pytest.approx(4, rel=1e-5)


def test_router_losses_by_numpy_without_what_has_no_target():
    logits, weights = router_logits(), np.random.default_rng(1).integers(0, 2, (3, 7)).astype(np.float32)
    balance, z, loads = [], [], []
    for one in logits.astype(np.float64):
        kept = one[weights > 0]
        probability = np.exp(kept) / np.exp(kept).sum(-1, keepdims=True)
        load = np.bincount(np.argsort(-kept)[:, :2].ravel(), minlength=4) / (2 * len(kept))
        balance.append(4 * (load * probability.mean(0)).sum())
        z.append((np.log(np.exp(kept).sum(-1)) ** 2).mean())
        loads.append(load)
    found = losses(logits, weights)
    assert float(found["balance_loss"]) == pytest.approx(np.mean(balance), rel=1e-5)
    assert float(found["router_z_loss"]) == pytest.approx(np.mean(z), rel=1e-5)
    np.testing.assert_allclose(found["expert_load"], loads, rtol=1e-5)


def test_descending_the_balance_loss_evens_the_load():
    logits = jnp.asarray(router_logits(scale=0.3) + np.array([1.0, 0.5, 0, 0], np.float32))
    before = losses(logits)
    gradient = jax.grad(lambda bias: losses(logits + bias)["balance_loss"])(jnp.zeros(4))
    after = losses(logits - 4 * gradient)
    assert float(after["expert_load"].max()) < float(before["expert_load"].max())
    assert float(after["balance_loss"]) < float(before["balance_loss"])


def test_training_adds_the_weighted_losses_and_evaluation_does_not():
    config = replace(MIXTURE, router_balance=0.5, router_z=0.25)
    state, _, _ = run_steps([], config=config)
    model, batch = Transformer(config), jax.tree.map(jnp.asarray, BATCHES[0])
    nats = next_token_loss(model, state.params, batch)
    total, found = jax.jit(training_loss, static_argnums=0)(model, state.params, batch)
    assert float(found["loss"]) == pytest.approx(float(nats), rel=1e-5)
    added = 0.5 * found["balance_loss"] + 0.25 * found["router_z_loss"]
    assert float(total) == pytest.approx(float(nats + added), rel=1e-5)
    assert float(found["balance_loss"] / batch.weights.sum()) == pytest.approx(1, abs=0.1)
    assert float(found["expert_load"].sum()) == pytest.approx(2 * float(batch.weights.sum()), rel=1e-5)


def test_accumulation_changes_only_the_balance():
    """Parts of different lengths weigh what they hold: the loss, the z-loss and the load are those of the whole."""
    config = replace(MIXTURE, router_balance=0.0)
    whole, (one, *_), _ = run_steps(BATCHES[:1], config=config)
    parts, (two, *_), _ = run_steps(BATCHES[:1], replace(TRAIN, accumulation=2), config)
    for name in ("loss", "router_z_loss", "largest_load", "grad_norm"):
        assert one[name] == pytest.approx(two[name], rel=1e-5), name
    assert two["balance_loss"] == pytest.approx(one["balance_loss"], rel=0.1)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_trains(optimizer):
    _, metrics, _ = run_steps(BATCHES[:1] * 20, replace(TRAIN, optimizer=optimizer), MIXTURE)
    assert metrics[-1]["loss"] < 0.85 * metrics[0]["loss"]
    assert metrics[-1]["balance_loss"] < 1.2
    assert metrics[-1]["largest_load"] < 0.5  # a half is the most that one expert of two can have


def test_muon_takes_orthogonal_steps_for_each_expert_and_leaves_the_router():
    rng = np.random.default_rng(0)
    shapes = {"up": (2, 3, 4, 6), "down": (2, 3, 6, 4), "router": (2, 4, 3)}
    grads = {"layers": {"mlp": {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}}}
    params = jax.tree.map(jnp.ones_like, grads)
    config = replace(TRAIN, optimizer="muon", warmup_steps=0, muon_learning_rate=1.0, weight_decay=0.0, clip_norm=1e9)
    optimizer = make_optimizer(config, MIXTURE)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for name in ("up", "down"):
        shape = updates["layers"]["mlp"][name].shape
        for matrix in np.asarray(updates["layers"]["mlp"][name]).reshape(-1, *shape[2:]):
            # optax scales a step by sqrt(max(1, outputs / inputs)).
            singular = np.linalg.svd(matrix, compute_uv=False) / max(1, shape[3] / shape[2]) ** 0.5
            assert 0.4 < singular.min() < singular.max() < 1.4
    assert muon_dimensions(params)["layers"]["mlp"]["router"] is None


def test_what_a_token_meets_by_hand():
    expert, dense = 3 * 32 * 64, matmul_parameters(CONFIG)
    assert matmul_parameters(MIXTURE) == dense + MIXTURE.layers * (expert + 4 * 32)  # one more expert, and the router
    assert idle_parameters(MIXTURE) == MIXTURE.layers * 2 * expert
    assert idle_parameters(CONFIG) == 0
