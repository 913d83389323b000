"""What knows the answer: causality by gradient, identities between models that must agree, finite differences."""

import functools
import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import Attention, attention_mask
from model.config import ShardingRules
from model.transformer import Transformer, logits
from tests.model.families import (
    FAMILIES,
    VOCABULARY,
    full_pass,
    model_and_parameters,
    parameter_shapes,
    random_parameters,
    random_tokens,
)

every_family = pytest.mark.parametrize("family", FAMILIES)


@functools.partial(jax.jit, static_argnums=0)
def gradient_and_outputs(model, params, tokens):
    """Gradient of the mean loss; the loss and the logits."""

    def loss(params):
        logits, _ = model.apply({"params": params}, tokens)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], tokens[:, 1:, None], -1)
        return -chosen.mean(), (-chosen.mean(), logits)

    return jax.grad(loss, has_aux=True)(params)


@every_family
def test_gradient_reaches_exactly_the_tokens_so_far(family):
    model, params = model_and_parameters(FAMILIES[family])
    length = 8
    tokens = jnp.arange(length)[None] + 3  # distinct, so that a row of the embedding is a position

    @jax.jit
    @jax.jacrev
    def jacobian(embedding, params):
        hidden, _ = model.apply({"params": params | {"embedding": embedding}}, tokens, method="hidden")
        # The unembedding is a constant here: where it is tied, it is not a way in.
        return hidden[0] @ params["embedding"].T @ np.sin(np.arange(VOCABULARY))

    by_position = np.asarray(jacobian(params["embedding"], params))[:, tokens[0]]  # [T, S, D]
    np.testing.assert_array_equal(np.abs(by_position).max(-1) > 0, np.tril(np.ones((length, length), bool)))


def test_dense_and_banded_layers_take_turns():
    config, length = replace(FAMILIES["gpt3"], layers=4), 8
    attention = Attention(config, ShardingRules(), jnp.float32)
    positions, segments = jnp.arange(length)[None], jnp.zeros((1, length), int)
    x = jax.random.normal(jax.random.key(0), (1, length, config.width))
    zero = jnp.zeros((), int)
    shapes = jax.eval_shape(attention.init, jax.random.key(0), x, positions, segments, None, zero, None)
    params = random_parameters(nn.unbox(shapes))

    @jax.jit
    @jax.jacrev
    def jacobian(x, layer):
        return attention.apply(params, x, positions, segments, None, layer, None)[0].sum(-1)[0]

    distance = np.arange(length)[:, None] - np.arange(length)
    for layer, reach in enumerate([length, 3, length, 3]):  # Brown et al. 2020, section 2.1: alternating
        influence = np.abs(np.asarray(jacobian(x, layer))[:, 0]).max(-1)  # [T, S]
        np.testing.assert_array_equal(influence > 0, (distance >= 0) & (distance < reach))


@pytest.mark.parametrize("window", [None, 1, 2, 5])
def test_attention_mask_against_brute_force(window):
    rng = np.random.default_rng(0)
    query_positions, query_segments = rng.integers(0, 9, (2, 7)), rng.integers(0, 3, (2, 7))
    key_positions, key_segments = rng.integers(0, 9, (2, 6)), rng.integers(0, 3, (2, 6))
    places = (query_positions, key_positions, query_segments, key_segments)
    mask = attention_mask(*map(jnp.asarray, places), window)
    assert mask.shape == (2, 7, 6)
    for b, t, s in np.ndindex(mask.shape):
        back = query_positions[b, t] - key_positions[b, s]
        sees = query_segments[b, t] == key_segments[b, s] and back >= 0 and (window is None or back < window)
        assert mask[b, t, s] == sees


def test_grouped_queries_equal_full_attention_with_repeated_keys_and_values():
    grouped = replace(FAMILIES["llama"], attention_bias=True)
    model, params = model_and_parameters(grouped)
    group = grouped.heads // grouped.key_value_heads
    assert 1 < group < grouped.heads
    attention = dict(params["layers"]["attention"])
    for name in ("key", "value", "key_bias", "value_bias"):
        attention[name] = attention[name].repeat(group, axis=-2)  # [..., K, H] -> [..., N, H]
    repeated = params | {"layers": params["layers"] | {"attention": attention}}
    tokens = random_tokens(2, 8)
    full = Transformer(replace(grouped, kv_heads=None))
    np.testing.assert_allclose(full_pass(model, params, tokens), full_pass(full, repeated, tokens), atol=2e-6)


@every_family
def test_two_documents_in_a_row_equal_two_rows(family):
    model, params = model_and_parameters(FAMILIES[family])
    first, second = random_tokens(1, 3), random_tokens(1, 5, seed=1)
    row = np.concatenate([first, second], axis=1)
    positions, segments = np.array([[0, 1, 2, 0, 1, 2, 3, 4]]), np.array([[4, 4, 4, 2, 2, 2, 2, 2]])
    apart = np.concatenate([full_pass(model, params, first), full_pass(model, params, second)], axis=1)
    np.testing.assert_allclose(full_pass(model, params, row, positions, segments), apart, atol=1e-5)
    assert np.abs(full_pass(model, params, row, positions) - apart).max() > 1e-2, "without segments they mix"


@pytest.mark.parametrize(("scan", "remat"), [(True, "none"), (True, "dots"), (True, "full"), (False, "full")])
def test_scan_and_remat_change_no_number(scan, remat):
    model, params = model_and_parameters(FAMILIES["llama"])
    other, tokens = Transformer(replace(FAMILIES["llama"], scan=scan, remat=remat)), random_tokens(2, 8)
    expected = gradient_and_outputs(model, params, tokens)
    got = gradient_and_outputs(other, params, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, expected)


@pytest.mark.parametrize("scan", [False, True])
@every_family
def test_places_wanted_alone_are_as_among_all_and_so_is_the_gradient(family, scan):
    """Rows of two documents; some places come twice, as where padding is pointed at."""
    _, params = model_and_parameters(FAMILIES[family])
    model = Transformer(replace(FAMILIES[family], scan=scan, remat="full" if scan else "none"))
    tokens, wanted = jnp.asarray(random_tokens(2, 8)), jnp.array([[1, 5, 6], [7, 0, 7]])
    where = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4]] * 2), jnp.array([[4, 4, 4, 2, 2, 2, 2, 2]] * 2)

    def loss(params, wanted_alone):
        read = model.apply({"params": params}, tokens, *where, None, wanted if wanted_alone else None, method="hidden")
        found = read[0] if wanted_alone else jnp.take_along_axis(read[0], wanted[..., None], axis=1)
        return jnp.sum(jnp.sin(found)), found

    (_, expected), slope = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(params, False)
    (_, found), other = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(params, True)
    assert found.shape == (2, 3, model.config.width)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other, slope)


def test_the_last_layer_works_on_the_places_wanted_alone():
    """One place of eight: of two layers the second saves most of its products with queries and in the feed-forward."""
    model, params = model_and_parameters(FAMILIES["gpt2"])
    tokens, one = jnp.asarray(random_tokens(2, 8)), jnp.array([[3], [5]])

    def flops(wanted):
        read = functools.partial(model.apply, method="hidden", wanted=wanted)
        return jax.jit(read).lower({"params": params}, tokens).compile().cost_analysis()["flops"]

    c = model.config
    saved = 2 * (2 * c.width**2 + 2 * c.width * c.hidden_width) * 2 * 7  # a product adds and multiplies
    assert flops(None) - flops(one) >= saved


def test_layers_in_a_loop_know_their_windows():
    model, params = model_and_parameters(FAMILIES["gpt3"])
    tokens = random_tokens(2, 8)
    loop, dense = (
        Transformer(replace(model.config, **change)) for change in ({"scan": True}, {"attention_window": None})
    )
    expected = full_pass(model, params, tokens)
    np.testing.assert_allclose(full_pass(loop, params, tokens), expected, atol=2e-6)
    assert np.abs(full_pass(dense, params, tokens) - expected).max() > 1e-2


@pytest.mark.parametrize(("scan", "remat"), [(True, "none"), (True, "full"), (False, "dots")])
@every_family
def test_parameters_have_one_layout(family, scan, remat):
    expected = parameter_shapes(Transformer(FAMILIES[family]))
    assert expected["layers"]["attention"]["query"].shape[0] == FAMILIES[family].layers
    assert parameter_shapes(Transformer(replace(FAMILIES[family], scan=scan, remat=remat))) == expected


def test_layers_start_different_and_residual_projections_smaller():
    config = replace(FAMILIES["gpt2"], width=32, init_std=0.5)
    params = nn.unbox(jax.jit(Transformer(config).init)(jax.random.key(0), np.zeros((1, 1), np.int32)))["params"]
    params = jax.tree.map(np.asarray, params)
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]
    assert np.all(mlp["up"][0] != mlp["up"][1])
    # Of 1952 or more normal numbers the standard deviation is within 1/sqrt(2 x 1952), 1.6%; four of those.
    for weight in (mlp["up"], attention["query"], params["embedding"]):
        assert weight.std() == pytest.approx(0.5, rel=0.065)
    # Radford et al. 2019, section 2.3: 1/sqrt(N) for N residual layers, two in each of our layers.
    for weight in (mlp["down"], attention["output"]):
        assert weight.std() == pytest.approx(0.5 / math.sqrt(2 * config.layers), rel=0.065)
    assert not any(bias.any() for name, bias in (mlp | attention).items() if name.endswith("bias"))


@every_family
def test_bfloat16_computes_close_to_float32_and_gives_float32_logits(family):
    model, params = model_and_parameters(FAMILIES[family])
    tokens = random_tokens(2, 8)
    exact = full_pass(model, params, tokens)
    rough = full_pass(Transformer(FAMILIES[family], dtype=jnp.bfloat16), params, tokens)
    assert rough.dtype == exact.dtype == np.float32
    # bfloat16 keeps 8 bits: one rounding is 2^-9 of the size, and a handful of them add up.
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # an embedding that is learned for each place, and none
def test_bfloat16_gradients_of_what_many_places_share_are_as_exact_as_the_others(family):
    model, params = model_and_parameters(FAMILIES[family])
    tokens = jnp.tile(random_tokens(1, 8), (600, 1))  # added up in bfloat16, 600 equal terms come to 256
    exact, _ = gradient_and_outputs(model, params, tokens)
    rough, _ = gradient_and_outputs(Transformer(FAMILIES[family], dtype=jnp.bfloat16), params, tokens)
    for name in {"embedding", "position_embedding"} & params.keys():
        error = np.linalg.norm(rough[name] - exact[name]) / np.linalg.norm(exact[name])
        assert 0 < error < 0.05, name


def operand_types(program, kind):
    """The dtypes of the arrays that operations of a kind take, in a jaxpr with its loops and calls."""
    found = set()
    for equation in program.eqns:
        if equation.primitive.name == kind:
            found |= {str(value.aval.dtype) for value in equation.invars if value.aval.ndim}
        inside = jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns"))
        found = found.union(*(operand_types(value, kind) for value in inside if hasattr(value, "eqns")))
    return found


@every_family
def test_sums_in_the_gradient_of_a_bfloat16_model_are_of_float32(family):
    # What XLA makes of a sum of bfloat16 numbers depends on the device: a CPU takes float32 all the same, an H100 does
    # not.
    _, params = model_and_parameters(FAMILIES[family])
    rough = Transformer(FAMILIES[family], dtype=jnp.bfloat16)
    program = jax.make_jaxpr(gradient_and_outputs, static_argnums=0)(rough, params, random_tokens(2, 8))
    for kind in ("reduce_sum", "scatter-add"):
        assert operand_types(program, kind) - {"int32"} == {"float32"}


def test_gradients_of_bfloat16_logits_are_products_of_bfloat16():
    # An H100 multiplies numbers of float32 at half the rate, and reads twice the bytes.
    hidden, unembedding = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((4, 5), jnp.bfloat16)
    program = jax.make_jaxpr(jax.value_and_grad(lambda *operands: logits(*operands).sum(), (0, 1)))(hidden, unembedding)
    assert operand_types(program, "dot_general") == {"bfloat16"}
    assert [value.aval.dtype for value in program.jaxpr.outvars] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]


@pytest.mark.parametrize("family", ["vaswani2017", "gpt3", "llama"])  # gpt2 has nothing that gpt3 lacks
def test_float64_gradient_matches_finite_differences(family):
    model, params = model_and_parameters(FAMILIES[family])
    tokens = random_tokens(2, 8)
    single = full_pass(model, params, tokens)
    params = jax.tree.map(np.float64, params)
    direction = jax.tree.map(np.sin, params)
    with jax.enable_x64(True):
        model = Transformer(FAMILIES[family], dtype=jnp.float64)
        gradient, (loss, logits) = gradient_and_outputs(model, params, tokens)
        assert loss.dtype == logits.dtype == np.float64
        step = 1e-7  # short, or some ReLU crosses zero on the way

        def loss_at(distance):
            moved = jax.tree.map(lambda p, d: p + distance * d, params, direction)
            return gradient_and_outputs(model, moved, tokens)[1][0]

        slope = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        np.testing.assert_allclose((loss_at(step) - loss_at(-step)) / (2 * step), slope, rtol=1e-6)
    np.testing.assert_allclose(single, logits, atol=1e-4)
