"""How much arithmetic a token costs, and what share of the machine's ability a run uses."""

import time
from functools import cache

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from model.config import ModelConfig

# Dense bfloat16 FLOP/s of one chip, from the makers' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that each token is multiplied with: the layers' matrices and the head, not the embedding look-up.

    Of a mixture's experts those that a token meets, and the router.
    """
    attention = 2 * config.width * config.head_dim * (config.heads + config.key_value_heads)
    mlp = _expert_parameters(config)
    if config.experts is not None:
        mlp = config.experts_per_token * mlp + config.width * config.experts
    return config.layers * (attention + mlp) + config.width * config.vocabulary


def idle_parameters(config: ModelConfig) -> int:
    """Weights of the experts that a token does not meet."""
    idle = 0 if config.experts is None else config.experts - config.experts_per_token
    return config.layers * idle * _expert_parameters(config)


def _expert_parameters(config: ModelConfig) -> int:
    return (3 if config.activation == "swiglu" else 2) * config.width * config.hidden_width


def forward_flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs of one token's forward pass in a sequence of `length`.

    2 per weight it is multiplied with, and in each layer 4 x width for every token it attends to (scores and
    values). Causal attention is counted once: a token attends to itself and those before it, (length + 1) / 2
    on average, or at most the window in a banded layer.
    """
    attended = 0.0
    for layer in range(config.layers):
        window = min(config.window(layer), length)
        attended += (window * (window + 1) / 2 + (length - window) * window) / length
    return 2 * matmul_parameters(config) + 4 * config.width * attended


def train_flops_per_token(config: ModelConfig, length: int) -> float:
    """Forward and backward: three times the forward pass (Kaplan et al. 2020, section 2.1). No recomputation."""
    return 3 * forward_flops_per_token(config, length)


@cache
def peak_flops() -> float:
    """FLOP/s of all devices together: the data sheet's in bfloat16; elsewhere what a product reached when asked."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return measured_matmul_flops(jnp.float32, seconds=0.05, size=1024)  # a small model's start is short as well
    known = [kind for kind in PEAK_FLOPS if devices[0].device_kind.startswith(kind)]
    return PEAK_FLOPS[max(known, key=len)] * len(devices) if known else measured_matmul_flops(jnp.bfloat16)


def measured_matmul_flops(dtype: DTypeLike, seconds: float = 0.3, size: int | None = None) -> float:
    """FLOP/s of square matrix products, one on every device at once: the median of repeats after a warm-up.

    Each process measures its own devices, and takes the others' for as fast.
    """
    here = jax.local_devices()
    size = size or (2048 if here[0].platform == "cpu" else 8192)  # for a GPU 2048 is less than a program's start
    mesh = jax.make_mesh((len(here),), ("device",), axis_types=(AxisType.Auto,), devices=here)
    sharding = NamedSharding(mesh, PartitionSpec("device"))
    # Stacked along rows, so that each device has one plain product and no batched one.
    with jax.set_mesh(mesh):
        # Random: a GPU multiplies a constant faster.
        numbers = jax.random.normal(jax.random.key(0), (size, size), dtype)
        x = jax.device_put(jnp.tile(numbers, (len(here), 1)), sharding)
        y = jax.device_put(numbers, NamedSharding(mesh, PartitionSpec()))
        product = jax.jit(jnp.matmul)
        product(x, y).block_until_ready()
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            start = time.perf_counter()
            product(x, y).block_until_ready()
            times.append(time.perf_counter() - start)
    return 2 * size**3 * jax.device_count() / sorted(times)[len(times) // 2]
