"""The loss against its plain definition, and in chunks against whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.transformer import Transformer
from tests.train.tiny import CONFIG, random_batch
from train.objective import cross_entropy, next_token_loss


def inputs(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(3, 5, 8)), dtype)
    kernel = jnp.asarray(rng.normal(size=(8, 23)), dtype)
    return hidden, kernel, jnp.asarray(rng.integers(0, 23, (3, 5)))


def test_cross_entropy_is_minus_log_softmax():
    hidden, kernel, targets = inputs()
    scores = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
    softmax = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(softmax, np.asarray(targets)[..., None], -1))[..., 0]
    np.testing.assert_allclose(cross_entropy(hidden, kernel, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 100])
def test_chunks_give_the_same_loss_and_gradients(chunk):
    """In float64: float32 rounds the sums of different chunks by more than a mistake could hide in."""
    with jax.enable_x64(True):
        hidden, kernel, targets = inputs(jnp.float64)

        def total(hidden, kernel, vocab_chunk):
            return jnp.sum(jnp.sin(cross_entropy(hidden, kernel, targets, vocab_chunk)))

        plain = jax.value_and_grad(total, (0, 1))(hidden, kernel, None)
        chunked = jax.value_and_grad(total, (0, 1))(hidden, kernel, chunk)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), plain, chunked)


def test_chunks_never_hold_all_logits():
    hidden, kernel, targets = jnp.zeros((64, 16)), jnp.zeros((16, 4096)), jnp.zeros(64, int)

    def temporaries(chunk):
        grad = jax.jit(jax.grad(lambda h, k: cross_entropy(h, k, targets, chunk).sum(), (0, 1)))
        return grad.lower(hidden, kernel).compile().memory_analysis().temp_size_in_bytes

    logits = 64 * 4096 * 4
    assert temporaries(None) >= logits
    # The kernel's own chunked copies (16 x 4096 floats) are a quarter of the logits here.
    assert temporaries(128) < 0.9 * logits


def test_losses_are_float32_from_bfloat16_and_stay_float64():
    assert cross_entropy(*inputs(jnp.bfloat16)).dtype == jnp.float32
    assert cross_entropy(*inputs(jnp.bfloat16), vocab_chunk=4).dtype == jnp.float32
    with jax.enable_x64(True):
        assert cross_entropy(*inputs(jnp.float64)).dtype == jnp.float64


def test_padding_does_not_count():
    model, batch = Transformer(CONFIG), random_batch(0)
    params = jax.jit(model.init)(jax.random.key(0), batch.tokens)["params"]
    changed = batch._replace(
        tokens=np.where(batch.segments == 0, 7, batch.tokens), targets=np.where(batch.segments == 0, 9, batch.targets)
    )
    loss = jax.jit(lambda batch: next_token_loss(model, params, batch))
    assert float(loss(batch)) == pytest.approx(float(loss(changed)), rel=1e-6)
