"""What knows the answer: the full forward pass without a cache, repeated for every token."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import init_cache
from model.config import SamplingConfig
from model.decode import decode_step, prefill, read, stream
from model.sampling import distribution
from tests.model.families import CONTEXT, FAMILIES, VOCABULARY, full_pass, model_and_parameters, random_tokens

GREEDY = SamplingConfig(temperature=0)
every_family = pytest.mark.parametrize("family", FAMILIES)


def continuations(model, params, prompt, max_tokens):
    """Greedy tokens with the logits they came from; past the context, half of it is kept."""
    context, tokens = model.config.context_length, list(prompt)[-model.config.context_length :]
    for _ in range(max_tokens):
        logits = full_pass(model, params, [tokens])[0, -1]
        tokens.append(int(logits.argmax()))
        yield tokens[-1], logits
        tokens = tokens if len(tokens) <= context else tokens[-(context // 2) :]


@every_family
def test_cached_decoding_equals_the_full_pass_with_prompts_of_many_lengths(family):
    model, params = model_and_parameters(FAMILIES[family])
    tokens, lengths = random_tokens(3, 8), np.array([2, 5, 4])
    expected = full_pass(model, params, tokens)
    prompts = np.where(np.arange(5) < lengths[:, None], tokens[:, :5], 60)  # whatever the padding is
    cache = init_cache(model.config, 3, CONTEXT, jnp.float32)
    logits, cache = prefill(model, params, jnp.asarray(prompts), jnp.asarray(lengths), cache)
    rows = np.arange(3)
    np.testing.assert_allclose(logits, expected[rows, lengths - 1], atol=1e-5)
    for step in range(3):
        position = lengths + step
        token = jnp.asarray(tokens[rows, position])
        logits, cache = decode_step(model, params, token, jnp.asarray(position), cache)
        np.testing.assert_allclose(logits, expected[rows, position], atol=1e-5)


@every_family
def test_greedy_stream_is_the_argmax_of_the_full_pass_within_and_past_the_context(family):
    model, params = model_and_parameters(FAMILIES[family])
    prompt = [5, 17, 3]
    got = list(stream(model, params, prompt, GREEDY, jax.random.key(0), max_tokens=15))
    assert [token for token, _ in got] == [token for token, _ in continuations(model, params, prompt, 15)]


def test_stream_shows_the_distribution_of_the_full_pass():
    model, params = model_and_parameters(FAMILIES["llama"])
    sampling = SamplingConfig(temperature=0.7, top_k=5)
    tokens = [5, 17, 3]
    for token, probabilities in stream(model, params, tokens, sampling, jax.random.key(3), max_tokens=5):
        expected = distribution(jnp.asarray(full_pass(model, params, [tokens])[0, -1]), sampling)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert probabilities[token] > 0
        tokens = [*tokens, token]


@pytest.mark.parametrize("length", [7, 8, 9, 20])
def test_a_prompt_as_long_as_the_context_or_longer_keeps_its_end(length):
    model, params = model_and_parameters(FAMILIES["gpt2"])
    prompt = random_tokens(length).tolist()
    logits, cache, position = read(model, params, prompt)
    assert position == min(length, 8)
    assert cache.keys.shape[3] == 8
    np.testing.assert_allclose(logits[0], full_pass(model, params, [prompt[-8:]])[0, -1], atol=1e-5)
    got = [token for token, _ in stream(model, params, prompt, GREEDY, jax.random.key(0), max_tokens=4)]
    assert got == [token for token, _ in continuations(model, params, prompt, 4)]


def test_a_context_of_one_token_still_goes_on():
    model, params = model_and_parameters(replace(FAMILIES["llama"], context_length=1))
    assert len(list(stream(model, params, [1, 2], GREEDY, jax.random.key(0), max_tokens=4))) == 4


def test_the_key_decides_the_tokens():
    model, params = model_and_parameters(FAMILIES["llama"])

    def tokens(seed):
        return [t for t, _ in stream(model, params, [1, 2], SamplingConfig(), jax.random.key(seed), max_tokens=12)]

    assert tokens(0) == tokens(0)
    assert len({tuple(tokens(seed)) for seed in range(3)}) == 3
    assert all(0 <= token < VOCABULARY for token in tokens(0))


def test_stop_tokens_end_the_stream_and_are_its_last():
    model, params = model_and_parameters(FAMILIES["llama"])

    def tokens(stop):
        return [t for t, _ in stream(model, params, [1, 2], SamplingConfig(), jax.random.key(0), 12, stop)]

    free = tokens(())
    stop = free[4]
    assert tokens({stop}) == free[: free.index(stop) + 1]
    assert tokens({VOCABULARY + 1}) == free
    assert list(stream(model, params, [1, 2], GREEDY, jax.random.key(0), max_tokens=0)) == []
