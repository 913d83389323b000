"""Published architectures by name, and small ones from one dial. Sources stand beside the numbers."""

from dataclasses import replace

from model.config import ModelConfig

GPT2_VOCABULARY = 50_257
LLAMA3_VOCABULARY = 128_256
GPT4_VOCABULARY = 100_352  # cl100k_base's 100,277 (OpenAI's tiktoken), rounded up to a multiple of 1,024


def vaswani2017(layers: int, width: int, heads: int) -> ModelConfig:
    """The decoder of Vaswani et al. 2017 without cross-attention: sinusoids, post-norm, ReLU, shared embedding."""
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context_length=512,
        positions="sinusoidal",
        norm="layernorm",
        norm_position="post",
        activation="relu",
        mlp_bias=True,
        tied_head=True,
    )


def gpt2(layers: int, width: int, heads: int, context_length: int = 1024) -> ModelConfig:
    """Radford et al. 2019: learned positions, pre-LayerNorm, GELU (tanh), biases, tied head."""
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        vocab_size=GPT2_VOCABULARY,
        context_length=context_length,
        positions="learned",
        norm="layernorm",
        activation="gelu",
        attention_bias=True,
        mlp_bias=True,
        tied_head=True,
    )


def gpt3(layers: int, width: int, heads: int) -> ModelConfig:
    """Brown et al. 2020: GPT-2 with 2,048 positions and dense and banded layers in turn.

    The paper does not give the band's width: 256 is assumed.
    """
    return replace(gpt2(layers, width, heads, context_length=2048), attention_window=256)


def llama(layers: int, width: int, heads: int, kv_heads: int, mlp_width: int) -> ModelConfig:
    """Llama 3.1 (Grattafiori et al. 2024, table 3): RoPE with scaling, RMSNorm, SwiGLU, grouped queries."""
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        mlp_width=mlp_width,
        vocab_size=LLAMA3_VOCABULARY,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=8.0,
    )


def gpt4_estimate() -> ModelConfig:
    """A public guess at GPT-4, confirmed by nobody (SemiAnalysis, "GPT-4 Architecture", July 2023).

    Told there: about 1.7 to 1.8 trillion parameters in 120 layers, 16 experts of some 110 billion, two for each token,
    some 55 billion in attention, rows of 8,192. Width, heads and the experts' width are ours, so that these numbers
    come out; what is left is as in GPT-2, without biases in the experts.
    """
    return replace(
        gpt2(120, 10_240, 80, context_length=8192),
        vocab_size=GPT4_VOCABULARY,
        mlp_width=41_984,
        mlp_bias=False,
        experts=16,
        experts_per_token=2,
    )


def small(depth: int, context_length: int = 256) -> ModelConfig:
    """A Llama-style model from one dial: `depth` layers and heads, 64 dimensions a head.

    The feed-forward layer has 8/3 x width, rounded up to a multiple of 32, so that its three matrices
    weigh what two of 4 x width do (Shazeer 2020, section 2).
    """
    width = 64 * depth
    return ModelConfig(
        layers=depth,
        width=width,
        heads=depth,
        mlp_width=-(-8 * width // 3 // 32) * 32,
        context_length=context_length,
        tied_head=True,
    )


PRESETS: dict[str, ModelConfig] = {
    # Vaswani et al. 2017, table 3, "base"; 37,000 shared BPE tokens (section 5.1).
    "vaswani2017": replace(vaswani2017(6, 512, 8), vocab_size=37_000),
    "gpt2-124m": gpt2(12, 768, 12),
    "gpt2-355m": gpt2(24, 1024, 16),
    "gpt2-774m": gpt2(36, 1280, 20),
    "gpt2-1558m": gpt2(48, 1600, 25),
    # Brown et al. 2020, table 2.1. Two of its rows do not multiply out (XL: 24 heads of 128 are not 2048;
    # 13B: 40 heads of 128 are not 5140), so XL has 16 heads here and 13B a width of 5120.
    "gpt3-125m": gpt3(12, 768, 12),
    "gpt3-350m": gpt3(24, 1024, 16),
    "gpt3-760m": gpt3(24, 1536, 16),
    "gpt3-1.3b": gpt3(24, 2048, 16),
    "gpt3-2.7b": gpt3(32, 2560, 32),
    "gpt3-6.7b": gpt3(32, 4096, 32),
    "gpt3-13b": gpt3(40, 5120, 40),
    "gpt3-175b": gpt3(96, 12_288, 96),
    "llama3.1-8b": llama(32, 4096, 32, 8, 14_336),
    "llama3.1-70b": llama(80, 8192, 64, 8, 28_672),
    "llama3.1-405b": llama(126, 16_384, 128, 8, 53_248),
    "gpt4-estimate": gpt4_estimate(),
}
# Deep models compile as one loop and recompute in backward; their whole logits would not fit either.
PRESETS = {name: replace(config, scan=True, remat="full") for name, config in PRESETS.items()}
