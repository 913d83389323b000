"""What knows the answer: the same weights in `transformers` and `torch.nn`, float32, every norm and bias random."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from model.config import ModelConfig
from model.presets import gpt2, gpt3, llama, vaswani2017
from model.transformer import Transformer
from tests.oracles import huggingface
from train.objective import router_losses

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH, STRIDE = 61, 32, 40


def our_logits(config: ModelConfig, params, tokens, positions):
    model = Transformer(config)
    return np.asarray(jax.jit(model.apply)({"params": params}, tokens, positions)[0])


def random_tokens(rows=2):
    return np.random.default_rng(0).integers(0, VOCABULARY, (rows, LENGTH))


def consecutive(tokens):
    return np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)


def their_logits(module, tokens, positions):
    tokens, positions = torch.tensor(tokens), torch.tensor(positions)
    with torch.no_grad():
        # The mask of ones keeps positions with gaps from being read as several documents.
        return module.eval()(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens)).logits.numpy()


def assert_equal(ours, theirs):
    assert np.abs(theirs).max() > 1, "logits this small would hide a mistake"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_gpt2():
    config = replace(gpt2(layers=2, width=32, heads=4), vocab_size=VOCABULARY, context_length=LENGTH)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4)
    )
    params = huggingface.gpt2_params(huggingface.randomize(theirs, seed=0), config)
    tokens = random_tokens()
    positions = consecutive(tokens)
    assert_equal(our_logits(config, params, tokens, positions), their_logits(theirs, tokens, positions))


def test_gpt3_as_gpt_neo_with_dense_and_banded_layers():
    config = replace(
        gpt3(layers=4, width=32, heads=4), vocab_size=VOCABULARY, context_length=LENGTH, attention_window=5
    )
    theirs = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=LENGTH,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            attention_types=[[["global", "local"], 2]],
            window_size=5,
        )
    )
    params = huggingface.gpt_neo_params(huggingface.randomize(theirs, seed=0), config)
    tokens = random_tokens()
    positions = consecutive(tokens)
    assert_equal(our_logits(config, params, tokens, positions), their_logits(theirs, tokens, positions))


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_llama(factor):
    config = replace(
        llama(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48), vocab_size=VOCABULARY, rope_scaling=factor
    )
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=131_072,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_theta": 500_000.0, **(scaling if factor != 1 else {"rope_type": "default"})},
        )
    )
    params = huggingface.llama_params(huggingface.randomize(theirs, seed=0), config)
    tokens = random_tokens()
    # Far apart, or the scaled frequencies, which are the slow ones, would hardly turn.
    positions = consecutive(tokens) * STRIDE
    expected = their_logits(theirs, tokens, positions)
    assert_equal(our_logits(config, params, tokens, positions), expected)
    other = replace(config, rope_scaling=9.0 - factor)
    assert np.abs(our_logits(other, params, tokens, positions) - expected).max() > 1e-2, "scaling matters here"


def test_norms_of_queries_and_keys_as_in_qwen3():
    config = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_size=VOCABULARY, qk_norm=True)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"},
            tie_word_embeddings=False,
        )
    )
    params = huggingface.qwen3_params(huggingface.randomize(theirs, seed=0), config)
    tokens = random_tokens()
    positions = consecutive(tokens)
    assert_equal(our_logits(config, params, tokens, positions), their_logits(theirs, tokens, positions))


def test_mixture_of_experts_as_in_mixtral():
    config = ModelConfig(
        layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_size=VOCABULARY, experts=4, experts_per_token=2
    )
    theirs = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=None,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"},
        )
    )
    params = huggingface.mixtral_params(huggingface.randomize(theirs, seed=0), config)
    tokens = random_tokens()
    positions = consecutive(tokens)
    assert_equal(our_logits(config, params, tokens, positions), their_logits(theirs, tokens, positions))


def test_load_balancing_loss_as_in_mixtral():
    """Theirs counts all k choices of a token, ours shares of them; theirs pools the layers, so one layer here."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(1, 3, 7, 4)).astype(np.float32), rng.integers(0, 2, (3, 7)).astype(np.float32)
    theirs = load_balancing_loss_func((torch.tensor(logits.reshape(-1, 4)),), 4, 2, torch.tensor(weights))
    ours = router_losses(jax.numpy.asarray(logits), jax.numpy.asarray(weights), 2)["balance_loss"]
    assert float(ours) == pytest.approx(float(theirs) / 2, rel=1e-5)


def test_vaswani2017_as_torch_encoder_layers_that_do_not_look_ahead():
    config = replace(vaswani2017(layers=2, width=32, heads=4), vocab_size=VOCABULARY)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, activation="relu", batch_first=True)
    theirs = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    huggingface.randomize(theirs, seed=0)
    with torch.no_grad():
        for block in theirs.layers:  # ours has no biases in attention
            block.self_attn.in_proj_bias.zero_()
            block.self_attn.out_proj.bias.zero_()
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    embedding = 0.2 * np.random.default_rng(0).standard_normal((VOCABULARY, 32)).astype(np.float32)
    tokens = random_tokens()
    positions = consecutive(tokens)
    angles = positions[..., None] / 10_000 ** (np.arange(0, 32, 2) / 32)  # Vaswani et al. 2017, section 3.5
    x = embedding[tokens] * 32**0.5 + np.stack([np.sin(angles), np.cos(angles)], -1).reshape(*tokens.shape, 32)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
    with torch.no_grad():
        hidden = theirs.eval()(torch.tensor(x, dtype=torch.float32), mask=mask).numpy()
    params = huggingface.torch_encoder_params(weights, embedding, config)
    assert_equal(our_logits(config, params, tokens, positions), hidden @ embedding.T)
