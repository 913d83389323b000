"""What knows the answer: the papers' formulas, written out slowly, and the symmetries that rotations have."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import ModelConfig
from model.layers import FeedForward, Norm, look_up, rope_frequencies, rotate, rotation, sinusoids
from model.presets import PRESETS
from tests.oracles.rope import llama31_frequencies


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shift", [1, 17, 300])
def test_rotary_scores_depend_only_on_the_distance(shift):
    config = ModelConfig(width=32, heads=2)
    query, key = normal(1, 6, 2, 16), normal(1, 6, 2, 16, seed=1)
    positions = jnp.array([[0, 1, 2, 5, 9, 31]])

    def scores(positions):
        rotated = (rotate(jnp.asarray(x), rotation(config, positions)) for x in (query, key))
        return jnp.einsum("BTNH,BSNH->BNTS", *rotated)

    np.testing.assert_allclose(scores(positions + shift), scores(positions), atol=2e-4)
    assert np.abs(scores(positions) - scores(2 * positions)).max() > 0.1


def test_rotation_keeps_lengths_and_leaves_position_zero_alone():
    x, config = normal(2, 5, 3, 8), ModelConfig(width=24, heads=3)
    positions = jnp.asarray(np.random.default_rng(0).integers(1, 1000, (2, 5)))
    rotated = rotate(jnp.asarray(x), rotation(config, positions))
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(rotate(jnp.asarray(x), rotation(config, jnp.zeros_like(positions))), x)


def test_rotation_turns_each_pair_by_its_own_angle():
    x, config, position = normal(1, 1, 1, 6), ModelConfig(width=6, heads=1, rope_theta=100.0), 7
    rotated = np.asarray(rotate(jnp.asarray(x), rotation(config, jnp.array([[position]]))))[0, 0, 0]
    for pair, frequency in enumerate([1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)]):
        turned = complex(x[0, 0, 0, pair], x[0, 0, 0, pair + 3]) * np.exp(1j * position * frequency)
        np.testing.assert_allclose([rotated[pair], rotated[pair + 3]], [turned.real, turned.imag], rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 8.0])
@pytest.mark.parametrize("name", ["llama3.1-8b", "llama3.1-405b"])
def test_rope_frequencies_follow_llama_31(name, factor):
    config = replace(PRESETS[name], rope_scaling=factor)
    expected = llama31_frequencies(config.head_dim, theta=500_000.0, factor=factor)
    np.testing.assert_allclose(rope_frequencies(config), expected, rtol=1e-5)
    wavelengths = 2 * np.pi / np.array(llama31_frequencies(config.head_dim, 500_000.0, 1.0))
    branches = {"kept": wavelengths < 2048, "divided": wavelengths > 8192}
    branches["between"] = ~branches["kept"] & ~branches["divided"]
    assert all(branch.any() for branch in branches.values()), "all three branches of the rule are met"


def test_sinusoids_against_a_double_loop():
    width, positions = 12, [[0, 1, 2, 50], [7, 7, 3, 511]]
    table = sinusoids(jnp.array(positions), width)
    for b, t in np.ndindex(2, 4):
        for i in range(width // 2):  # Vaswani et al. 2017, section 3.5
            angle = positions[b][t] / 10_000 ** (2 * i / width)
            assert float(table[b, t, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-4)
            assert float(table[b, t, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-4)


@pytest.mark.parametrize("epsilon", [1e-5, 1.0])
def test_norms_against_their_formulas(epsilon):
    x, scale, bias = normal(2, 3, 8) * 3 + 1, normal(8, seed=1), normal(8, seed=2)
    variance = ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True)
    layernorm = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) * scale + bias
    rmsnorm = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale
    for norm, params, expected in (
        ("layernorm", {"scale": scale, "bias": bias}, layernorm),
        ("rmsnorm", {"scale": scale}, rmsnorm),
    ):
        layer = Norm(ModelConfig(width=8, heads=2, norm=norm, norm_epsilon=epsilon))
        np.testing.assert_allclose(layer.apply({"params": params}, jnp.asarray(x)), expected, atol=1e-5)


def test_norm_statistics_of_bfloat16_are_float32():
    x = jnp.asarray(normal(1, 1, 256) + 30, jnp.bfloat16)  # in bfloat16 the mean of these alone is off by 0.1
    layer = Norm(ModelConfig(width=256, norm="layernorm"))
    params = {"params": {"scale": np.ones(256, np.float32), "bias": np.zeros(256, np.float32)}}
    out = layer.apply(params, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), layer.apply(params, x.astype(jnp.float32)), atol=0.02)


def test_gradients_of_a_row_that_is_looked_up_often_add_up():
    # In bfloat16, which keeps 8 bits, 256 + 1 is 256.
    table, ids = jnp.zeros((3, 2), jnp.bfloat16), jnp.array([[0] * 5000 + [2] * 3])
    grads = jax.grad(lambda table: look_up(table, ids).astype(jnp.float32).sum())(table)
    assert grads.dtype == look_up(table, ids).dtype == jnp.bfloat16
    np.testing.assert_allclose(grads.astype(jnp.float32), [[5000, 5000], [0, 0], [3, 3]], rtol=2**-8)


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_feed_forward_against_numpy(activation):
    config = ModelConfig(width=4, heads=2, mlp_width=6, activation=activation, mlp_bias=True)
    x, up, gate, down = normal(1, 3, 4), normal(4, 6, seed=1), normal(4, 6, seed=2), normal(6, 4, seed=3)
    up_bias, down_bias = normal(6, seed=4), normal(4, seed=5)
    params = {"up": up, "up_bias": up_bias, "down": down, "down_bias": down_bias}
    params |= {"gate": gate} if activation == "swiglu" else {}
    h, g = x @ up + up_bias, x @ gate
    hidden = {
        "relu": np.maximum(h, 0),
        # Hendrycks & Gimpel 2016, the tanh form.
        "gelu": 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))),
        "swiglu": h * g / (1 + np.exp(-g)),
    }[activation]
    out = FeedForward(config, jnp.float32).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(out, hidden @ down + down_bias, atol=1e-5)
    assert isinstance(out, jax.Array)
