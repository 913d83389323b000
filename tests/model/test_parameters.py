"""What knows the answer: published parameter counts, from shapes alone, and the fields that a mistake must name."""

import math

import pytest

from model.config import MeshConfig, ModelConfig, SamplingConfig
from model.errors import UserError
from model.presets import PRESETS, small
from model.transformer import count_parameters

EXACT = {
    # Six layers of four attention matrices, two feed-forward ones with biases and two norms; 37,000 embeddings.
    "vaswani2017": 6 * (4 * 512**2 + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512) + 37_000 * 512,
    # Sum over the arrays of the published checkpoints: openai-community/gpt2, -medium, -large, -xl on Hugging Face.
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
    # Sum over the arrays of meta-llama/Llama-3.1-8B, -70B and -405B.
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
}

# Brown et al. 2020, table 2.1, which rounds; SemiAnalysis (July 2023), which guesses.
ROUNDED = {
    "gpt4-estimate": 1.7e12,
    "gpt3-125m": 125e6,
    "gpt3-350m": 350e6,
    "gpt3-760m": 760e6,
    "gpt3-1.3b": 1.3e9,
    "gpt3-2.7b": 2.7e9,
    "gpt3-6.7b": 6.7e9,
    "gpt3-13b": 13e9,
    "gpt3-175b": 175e9,
}


@pytest.mark.parametrize("name", EXACT)
def test_count_is_the_published_one_to_the_digit(name):
    assert count_parameters(PRESETS[name]) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_count_is_within_two_percent(name):
    assert math.isclose(count_parameters(PRESETS[name]), ROUNDED[name], rel_tol=0.02)


def test_every_preset_is_counted_here():
    assert set(PRESETS) == EXACT.keys() | ROUNDED.keys()


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8, 12])
def test_small_models_are_valid_at_every_depth(depth):
    config = small(depth)
    # Shazeer 2020: three matrices of 8/3 x width weigh what two of 4 x width do, up to the rounding.
    assert 8 * config.width**2 <= 3 * config.width * config.hidden_width <= 8 * config.width**2 + 96 * config.width


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 256, "heads": 7}, ["model.heads=7", "model.width=256", "nearest", " 8."]),
        ({"width": 96, "heads": 5}, ["model.heads=5", " 4."]),
        ({"width": 64, "heads": 100}, ["model.heads=100", " 64."]),
        ({"heads": 4, "kv_heads": 3}, ["model.kv_heads=3", "model.heads=4"]),
        ({"heads": 4, "kv_heads": 8}, ["model.kv_heads=8", "model.heads=4"]),
        ({"width": 12, "heads": 4}, ["model.positions=rope", "3"]),
        ({"width": 15, "heads": 3, "positions": "sinusoidal"}, ["model.positions=sinusoidal", "15"]),
        *(({name: 0}, [f"model.{name}=0"]) for name in ("layers", "width", "heads", "context_length")),
        *(
            ({name: 0}, [f"model.{name}=0"])
            for name in ("kv_heads", "mlp_width", "vocab_size", "attention_window", "experts")
        ),
        ({"experts": 4, "experts_per_token": 5}, ["model.experts_per_token=5", "between 2 and model.experts=4"]),
        ({"experts": 4, "experts_per_token": 1}, ["model.experts_per_token=1", "router would learn nothing"]),
        ({"experts": 4, "mlp_bias": True}, ["model.mlp_bias=True", "model.experts"]),
        ({"router_balance": -1.0}, ["model.router_balance=-1.0"]),
        ({"router_z": math.nan}, ["model.router_z=nan"]),
    ],
)
def test_a_config_that_cannot_be_names_the_field(values, words):
    with pytest.raises(UserError) as caught:
        ModelConfig(**values)
    for word in words:
        assert word in str(caught.value)


def test_defaults_are_filled_in():
    config = ModelConfig(width=64, heads=4)
    assert (config.head_dim, config.key_value_heads, config.hidden_width) == (16, 4, 256)
    with pytest.raises(UserError, match=r"model\.vocab_size"):
        _ = config.vocabulary


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": -0.1}, "min_p=-0.1"),
    ],
)
def test_a_sampling_config_that_cannot_be_names_the_field(values, word):
    with pytest.raises(UserError, match=word):
        SamplingConfig(**values)


def test_a_mesh_defaults_to_every_device_on_data():
    assert MeshConfig() == MeshConfig(data=-1, fsdp=1, tensor=1)
