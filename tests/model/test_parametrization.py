"""What knows the answer: the paper's table written out again, and standard models whose weights are scaled by hand."""

import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import init_cache
from model.config import ModelConfig
from model.decode import decode_step, prefill
from model.errors import UserError
from model.parametrization import epsilon_scale, learning_rate_scale
from model.sharding import path_keys
from model.transformer import Transformer
from tests.model.families import CONTEXT, FAMILIES, full_pass, model_and_parameters, parameter_shapes, random_tokens

M, D = 4, 3  # width and depth over the base's
# Every kind of parameter that there is a rule for: biases everywhere, learned positions, a gate, norms of heads.
BASE = ModelConfig(
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    mlp_width=128,
    vocab_size=61,
    context_length=8,
    positions="learned",
    norm="layernorm",
    qk_norm=True,
    attention_bias=True,
    mlp_bias=True,
    init_std=0.3,
    scan=True,
)
LARGE = replace(
    BASE,
    **{name: M * getattr(BASE, name) for name in ("width", "heads", "kv_heads", "mlp_width")},
    layers=D * BASE.layers,
    parametrization="completep",
    base_width=BASE.width,
    base_layers=BASE.layers,
)
# Dey et al. 2025, table 1: initial std over init_std, learning rate, epsilon; of each parameter by its last name.
IN, OUT = (1 / math.sqrt(M), 1 / M, 1 / (M * D)), (1 / math.sqrt(M * 2 * BASE.layers), 1 / M, 1 / (M * D))
VECTOR, TABLE, LAST = (None, 1, 1 / (M * D)), (1, 1, 1 / M), (None, 1, 1 / M)
EXPECTED = {
    **{name: IN for name in ("query", "key", "value", "up", "gate")},
    **{name: OUT for name in ("output", "down")},
    **{f"{name}_bias": VECTOR for name in ("query", "key", "value", "output", "up", "down")},
    **{name: VECTOR for name in ("scale", "bias")},
    **{name: TABLE for name in ("embedding", "position_embedding")},
    "head": (0, 1, 1 / M),
}


def initial(config):
    tokens = jnp.zeros((1, 1), jnp.int32)
    return nn.unbox(jax.jit(Transformer(config).init)(jax.random.key(0), tokens))["params"]


def by_path(params):
    return {path_keys(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_every_parameter_has_the_tables_numbers():
    found = by_path(initial(LARGE))
    assert {path[-1] for path in found} == EXPECTED.keys()
    for path, leaf in found.items():
        std, rate, epsilon = LAST if path[0] == "final_norm" else EXPECTED[path[-1]]
        if std is not None:
            assert np.std(leaf) == pytest.approx(0.3 * std, rel=0.1), path  # of some hundred drawn at least
        assert learning_rate_scale(LARGE, path) == pytest.approx(rate), path
        assert epsilon_scale(LARGE, path) == pytest.approx(epsilon), path


def test_no_parameter_of_any_family_is_without_a_rule():
    for family in FAMILIES.keys() - {"vaswani2017"}:  # which is post-norm
        config = replace(FAMILIES[family], parametrization="completep", base_width=8, base_layers=1)
        for path in by_path(parameter_shapes(Transformer(config))):
            matrix = "layers" in path and path[-1] != "scale" and not path[-1].endswith("bias")
            assert learning_rate_scale(config, path) == (0.5 if matrix else 1)
            assert epsilon_scale(config, path) == pytest.approx(0.5 / config.layers if "layers" in path else 0.5)


def scaled(params, factors):
    """Parameters with those of some names multiplied."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x * factors.get(path_keys(path)[-1], 1.0), params)


@pytest.mark.parametrize("tied", [False, True])
def test_the_multipliers_are_those_of_a_standard_model_with_scaled_weights(tied):
    config = replace(LARGE, tied_head=tied, qk_norm=False)
    model, params = model_and_parameters(config)
    standard = Transformer(replace(config, parametrization="standard", base_width=None, base_layers=None))
    factors = {name: 1 / D for name in ("output", "output_bias", "down", "down_bias")}
    by_hand = scaled(params, {**factors, "head": 1 / M})
    logits = full_pass(standard, by_hand, tokens := random_tokens(2, 8)) * (1 / M if tied else 1)
    np.testing.assert_allclose(full_pass(model, params, tokens), logits, atol=2e-5 * np.abs(logits).max())


def test_a_base_model_is_the_standard_one_but_for_a_head_of_zeros():
    base = replace(BASE, parametrization="completep", base_width=BASE.width, base_layers=BASE.layers)
    ours, standard = initial(base), initial(BASE)
    assert not np.any(ours.pop("head"))
    standard.pop("head")
    jax.tree.map(np.testing.assert_array_equal, ours, standard)
    for path in by_path(ours):
        assert learning_rate_scale(base, path) == epsilon_scale(base, path) == 1


def test_cached_decoding_equals_the_full_pass():
    config = replace(FAMILIES["llama"], parametrization="completep", base_width=8, base_layers=1)
    model, params = model_and_parameters(config)
    tokens, rows = random_tokens(2, 6), np.arange(2)
    expected = full_pass(model, params, tokens)
    cache = init_cache(config, 2, CONTEXT, jnp.float32)
    logits, cache = prefill(model, params, jnp.asarray(tokens[:, :4]), jnp.full(2, 4), cache)
    np.testing.assert_allclose(logits, expected[:, 3], atol=1e-5)
    for position in (4, 5):
        logits, cache = decode_step(model, params, jnp.asarray(tokens[rows, position]), jnp.full(2, position), cache)
        np.testing.assert_allclose(logits, expected[:, position], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base_width": None}, "model.parametrization=completep needs model.base_width, such as this model's own 256"),
        ({"base_layers": None}, "needs model.base_layers, such as this model's own 6"),
        ({"base_width": 0}, "model.base_width=0 must be at least 1"),
        ({"parametrization": "standard"}, "model.base_width=64 is only for model.parametrization=completep"),
        ({"norm_position": "post"}, "is for model.norm_position=pre, not post"),
        ({"mlp_bias": False, "experts": 4}, "no rule for a mixture's router: model.experts=4"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, told):
    with pytest.raises(UserError, match=told):
        replace(LARGE, **changes)
