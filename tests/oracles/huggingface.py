"""Weights of PyTorch implementations, put where ours are: layers stacked on axis 0, heads on an axis of their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.config import ModelConfig

Params = dict[str, Any]
Weights = Mapping[str, np.ndarray]


def randomize(module: Any, seed: int, std: float = 0.2) -> Weights:
    """Add N(0, std) to every parameter, norms and biases too, and give them back as arrays."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def gpt2_params(weights: Weights, config: ModelConfig) -> Params:
    """From `GPT2LMHeadModel`, whose matrices are [in, out] and whose query, key and value are one."""
    stack = _stacker(weights, "transformer.h.{}.", config)
    attention: Params = {}
    for name, part in zip(("query", "key", "value"), np.split(stack("attn.c_attn.weight"), 3, axis=-1), strict=True):
        attention[name] = part.reshape(config.layers, config.width, config.heads, config.head_dim)
    for name, part in zip(("query", "key", "value"), np.split(stack("attn.c_attn.bias"), 3, axis=-1), strict=True):
        attention[f"{name}_bias"] = part.reshape(config.layers, config.heads, config.head_dim)
    attention["output"] = _heads_in(stack("attn.c_proj.weight"), config)
    attention["output_bias"] = stack("attn.c_proj.bias")
    return {
        "embedding": weights["transformer.wte.weight"],
        "position_embedding": weights["transformer.wpe.weight"],
        "final_norm": {"scale": weights["transformer.ln_f.weight"], "bias": weights["transformer.ln_f.bias"]},
        "layers": {
            "attention": attention,
            "attention_norm": {"scale": stack("ln_1.weight"), "bias": stack("ln_1.bias")},
            "mlp_norm": {"scale": stack("ln_2.weight"), "bias": stack("ln_2.bias")},
            "mlp": {
                "up": stack("mlp.c_fc.weight"),
                "up_bias": stack("mlp.c_fc.bias"),
                "down": stack("mlp.c_proj.weight"),
                "down_bias": stack("mlp.c_proj.bias"),
            },
        },
    }


def gpt_neo_params(weights: Weights, config: ModelConfig) -> Params:
    """From `GPTNeoForCausalLM`, whose matrices are [out, in] and whose scores are not divided by sqrt(H)."""
    stack = _stacker(weights, "transformer.h.{}.", config)
    attention: Params = {"output_bias": stack("attn.attention.out_proj.bias")}
    for name in ("query", "key", "value"):
        attention[name] = _heads_out(stack(f"attn.attention.{name[0]}_proj.weight"), config.heads, config)
        attention[f"{name}_bias"] = np.zeros((config.layers, config.heads, config.head_dim), np.float32)
    attention["query"] = attention["query"] * config.head_dim**0.5
    attention["output"] = _heads_in(_transposed(stack("attn.attention.out_proj.weight")), config)
    return {
        "embedding": weights["transformer.wte.weight"],
        "position_embedding": weights["transformer.wpe.weight"],
        "final_norm": {"scale": weights["transformer.ln_f.weight"], "bias": weights["transformer.ln_f.bias"]},
        "layers": {
            "attention": attention,
            "attention_norm": {"scale": stack("ln_1.weight"), "bias": stack("ln_1.bias")},
            "mlp_norm": {"scale": stack("ln_2.weight"), "bias": stack("ln_2.bias")},
            "mlp": {
                "up": _transposed(stack("mlp.c_fc.weight")),
                "up_bias": stack("mlp.c_fc.bias"),
                "down": _transposed(stack("mlp.c_proj.weight")),
                "down_bias": stack("mlp.c_proj.bias"),
            },
        },
    }


def llama_params(weights: Weights, config: ModelConfig) -> Params:
    """From `LlamaForCausalLM`, whose matrices are [out, in]."""
    stack = _stacker(weights, "model.layers.{}.", config)
    return _llama_params(
        weights, config, {name: _transposed(stack(f"mlp.{name}_proj.weight")) for name in ("up", "gate", "down")}
    )


def _llama_params(weights: Weights, config: ModelConfig, mlp: Params) -> Params:
    stack = _stacker(weights, "model.layers.{}.", config)
    kv_heads = config.key_value_heads
    return {
        "embedding": weights["model.embed_tokens.weight"],
        "head": weights["lm_head.weight"].T,
        "final_norm": {"scale": weights["model.norm.weight"]},
        "layers": {
            "attention": {
                "query": _heads_out(stack("self_attn.q_proj.weight"), config.heads, config),
                "key": _heads_out(stack("self_attn.k_proj.weight"), kv_heads, config),
                "value": _heads_out(stack("self_attn.v_proj.weight"), kv_heads, config),
                "output": _heads_in(_transposed(stack("self_attn.o_proj.weight")), config),
            },
            "attention_norm": {"scale": stack("input_layernorm.weight")},
            "mlp_norm": {"scale": stack("post_attention_layernorm.weight")},
            "mlp": mlp,
        },
    }


def qwen3_params(weights: Weights, config: ModelConfig) -> Params:
    """From `Qwen3ForCausalLM`: Llama's names, and norms of queries and keys."""
    stack, params = _stacker(weights, "model.layers.{}.", config), llama_params(weights, config)
    for name in ("query", "key"):
        params["layers"]["attention"][f"{name}_norm"] = {"scale": stack(f"self_attn.{name[0]}_norm.weight")}
    return params


def mixtral_params(weights: Weights, config: ModelConfig) -> Params:
    """From `MixtralForCausalLM`: Llama's names but for the experts, whose gate and up are one, [expert, out, in]."""
    stack, experts = _stacker(weights, "model.layers.{}.mlp.", config), "experts."
    gate, up = np.split(stack(experts + "gate_up_proj"), 2, axis=2)
    mlp = {"up": up, "gate": gate, "down": stack(experts + "down_proj")}
    mlp = {name: kernel.swapaxes(2, 3) for name, kernel in mlp.items()}
    return _llama_params(weights, config, {**mlp, "router": _transposed(stack("gate.weight"))})


def torch_encoder_params(weights: Weights, embedding: np.ndarray, config: ModelConfig) -> Params:
    """From `torch.nn.TransformerEncoder`: post-norm layers whose attention biases are zero here."""
    stack = _stacker(weights, "layers.{}.", config)
    parts = np.split(stack("self_attn.in_proj_weight"), 3, axis=1)
    attention = {
        name: _heads_out(part, config.heads, config)
        for name, part in zip(("query", "key", "value"), parts, strict=True)
    }
    attention["output"] = _heads_in(_transposed(stack("self_attn.out_proj.weight")), config)
    return {
        "embedding": embedding,
        "layers": {
            "attention": attention,
            "attention_norm": {"scale": stack("norm1.weight"), "bias": stack("norm1.bias")},
            "mlp_norm": {"scale": stack("norm2.weight"), "bias": stack("norm2.bias")},
            "mlp": {
                "up": _transposed(stack("linear1.weight")),
                "up_bias": stack("linear1.bias"),
                "down": _transposed(stack("linear2.weight")),
                "down_bias": stack("linear2.bias"),
            },
        },
    }


def _stacker(weights: Weights, prefix: str, config: ModelConfig) -> Any:
    return lambda name: np.stack([weights[prefix.format(layer) + name] for layer in range(config.layers)])


def _transposed(stacked: np.ndarray) -> np.ndarray:
    return stacked.swapaxes(1, 2)


def _heads_out(stacked: np.ndarray, heads: int, config: ModelConfig) -> np.ndarray:
    """[L, heads x H, D] -> [L, D, heads, H]."""
    return _transposed(stacked).reshape(config.layers, config.width, heads, config.head_dim)


def _heads_in(stacked: np.ndarray, config: ModelConfig) -> np.ndarray:
    """[L, N x H, D] -> [L, N, H, D]."""
    return stacked.reshape(config.layers, config.heads, config.head_dim, config.width)
