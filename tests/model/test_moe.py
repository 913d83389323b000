"""What knows the answer: a mixture computed token by token and expert by expert, and the plain feed-forward layer."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import init_cache
from model.config import MeshConfig, ModelConfig, ShardingRules
from model.decode import decode_step, prefill
from model.layers import FeedForward, wide
from model.moe import ROUTER_LOGITS, MixtureOfExperts, mix, route
from model.sharding import make_mesh
from model.transformer import count_parameters
from tests.model.families import CONTEXT, FAMILIES, full_pass, model_and_parameters, random_parameters, random_tokens

MIXTURE = replace(FAMILIES["llama"], experts=4)
LAYER = ModelConfig(width=8, heads=2, mlp_width=6, experts=3)


def layer(config, dtype=jnp.float32):
    return MixtureOfExperts(config, ShardingRules(), dtype)


def layer_parameters(config):
    x = jnp.zeros((1, 1, config.width))
    shapes = nn.unbox(jax.eval_shape(layer(config).init, jax.random.key(0), x))["params"]
    return jax.tree.map(jnp.asarray, random_parameters(shapes, std=0.5))


def one_by_one(config, params, x):
    """Each token through each of its experts by itself (Jiang et al. 2024, section 2.1)."""
    out = []
    for token in x.reshape(-1, config.width):
        scores = token @ params["router"]
        chosen = jnp.argsort(-scores)[: config.experts_per_token]
        shares = jnp.exp(scores[chosen]) / jnp.exp(scores[chosen]).sum()
        total = jnp.zeros_like(token)
        for share, e in zip(list(shares), list(chosen), strict=True):
            hidden = token @ params["up"][e]
            if config.activation == "swiglu":
                gate = token @ params["gate"][e]
                hidden = hidden * gate / (1 + jnp.exp(-gate))
            else:
                hidden = jnp.maximum(hidden, 0)
            total = total + share * (hidden @ params["down"][e])
        out.append(total)
    return jnp.stack(out).reshape(x.shape)


@pytest.mark.parametrize("activation", ["swiglu", "relu"])
def test_layer_is_the_mixture_one_by_one_in_value_and_gradient(activation):
    config = replace(LAYER, activation=activation)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), layer_parameters(config))
        x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, config.width)))
        module = layer(config, jnp.float64)
        both = (lambda p, x: module.apply({"params": p}, x)), (lambda p, x: one_by_one(config, p, x))
        ours, theirs = (
            jax.jit(jax.value_and_grad(lambda p, x, out_of=out_of: jnp.sin(out_of(p, x)).sum(), (0, 1)))(params, x)
            for out_of in both
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)


def test_one_expert_is_the_feed_forward_layer():
    config = replace(LAYER, experts=1, experts_per_token=1)
    params = layer_parameters(config)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, config.width)), jnp.float32)
    dense = {name: kernel[0] for name, kernel in params.items() if name != "router"}
    expected = FeedForward(config, jnp.float32).apply({"params": dense}, x)
    np.testing.assert_allclose(layer(config).apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_experts_apart_sum_to_all_of_them():
    """What devices that share the experts do, without devices; experts that nobody chose add nothing."""
    params = layer_parameters(LAYER)
    weights = {name: params[name] for name in ("up", "gate", "down")}
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, LAYER.width)), jnp.float32)
    shares, chosen = route(x @ params["router"], 2)
    whole = mix(x, shares, chosen, weights, activation="swiglu")
    parts = [
        mix(x, shares, chosen, {name: w[e : e + 1] for name, w in weights.items()}, activation="swiglu", first=e)
        for e in range(3)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5, atol=1e-6)
    none = mix(x, shares, jnp.zeros_like(chosen), {n: w[1:] for n, w in weights.items()}, activation="swiglu", first=1)
    assert not np.asarray(none).any()


def test_routers_decide_in_float32_whatever_computes():
    params = layer_parameters(LAYER)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, LAYER.width)), jnp.bfloat16)
    out, seen = layer(LAYER, jnp.bfloat16).apply({"params": params}, x, mutable="intermediates")
    (logits,) = seen["intermediates"][ROUTER_LOGITS]
    assert out.dtype == jnp.bfloat16
    assert logits.dtype == wide(jnp.bfloat16) == jnp.float32
    np.testing.assert_allclose(logits, np.asarray(x, np.float32) @ params["router"], rtol=1e-5, atol=1e-6)
    expected = layer(LAYER).apply({"params": params}, x.astype(jnp.float32))
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03 * np.abs(expected).max())


def test_no_token_depends_on_the_others_in_its_batch():
    """A layer that drops what exceeds a capacity would fail here: all tokens of a row want the same experts."""
    model, params = model_and_parameters(MIXTURE)
    tokens = np.concatenate([random_tokens(3, CONTEXT), np.full((1, CONTEXT), 7)])
    expected = full_pass(model, params, tokens)
    order = np.array([3, 1, 0, 2])
    np.testing.assert_allclose(full_pass(model, params, tokens[order]), expected[order], atol=1e-5)
    np.testing.assert_allclose(full_pass(model, params, tokens[3:]), expected[3:], atol=1e-5)
    np.testing.assert_allclose(full_pass(model, params, tokens[:, :5]), expected[:, :5], atol=1e-5)  # nor on later ones


def test_cached_decoding_equals_the_full_pass():
    model, params = model_and_parameters(MIXTURE)
    tokens = random_tokens(3, CONTEXT)
    expected = full_pass(model, params, tokens)
    cache = init_cache(MIXTURE, 3, CONTEXT, jnp.float32)
    logits, cache = prefill(model, params, jnp.asarray(tokens[:, :5]), jnp.full(3, 5), cache)
    for position in range(5, CONTEXT):
        np.testing.assert_allclose(logits, expected[:, position - 1], atol=1e-5)
        logits, cache = decode_step(model, params, jnp.asarray(tokens[:, position]), jnp.full(3, position), cache)


def test_scan_and_remat_change_no_gradient():
    tokens = jnp.asarray(random_tokens(2, CONTEXT))
    _, params = model_and_parameters(MIXTURE)
    gradients = []
    for config in (MIXTURE, replace(MIXTURE, scan=True, remat="full")):
        model, _ = model_and_parameters(config)
        loss = lambda p, model=model: jnp.square(model.apply({"params": p}, tokens)[0]).mean()  # noqa: E731
        gradients.append(jax.jit(jax.grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)


def test_a_mesh_of_one_device_changes_no_logit():
    model, params = model_and_parameters(MIXTURE)
    tokens = random_tokens(2, CONTEXT)
    plain = full_pass(model, params, tokens)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        np.testing.assert_allclose(full_pass(model, params, tokens), plain, atol=1e-6)


def test_parameters_are_counted_by_hand():
    c = MIXTURE
    feed_forward = 3 * c.width * c.hidden_width
    more = c.layers * (3 * feed_forward + 4 * c.width)  # three experts beside the one there was, and the router
    assert count_parameters(c) == count_parameters(FAMILIES["llama"]) + more
