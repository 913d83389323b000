"""Named experiments: two small ones that run anywhere, and one for each published architecture."""

from dataclasses import replace

from experiments.config import Experiment
from model.config import ModelConfig
from model.presets import PRESETS, small
from model.tokenizer import TokenizerConfig
from train.config import DataConfig, TrainConfig

TINY = Experiment(
    model=small(depth=4),
    tokenizer=TokenizerConfig(vocab_size=2048),
    data=DataConfig(sources=("pydoc",), sequence_length=256),
    train=TrainConfig(steps=300, batch_size=8, sample_prompt="The value of the"),
)

# nanoGPT's small CPU setting for single characters, without dropout. Its evaluation draws 20 batches at random;
# here the whole held-out tenth is evaluated.
CHAR = Experiment(
    model=replace(small(depth=4, context_length=64), width=128, mlp_width=352),
    tokenizer=TokenizerConfig(kind="char"),
    data=DataConfig(sources=("pydoc",), sequence_length=64),
    train=TrainConfig(steps=2000, batch_size=12, learning_rate=1e-3, warmup_steps=100),
)


def _published(model: ModelConfig, row: int, batch_tokens: int, total_tokens: int, rate: float) -> Experiment:
    """A published architecture with its paper's row length, batch, learning rate and token budget."""
    batch_size = max(1, batch_tokens // row)
    return Experiment(
        model=model,
        tokenizer=TokenizerConfig(vocab_size=model.vocabulary),
        data=DataConfig(sequence_length=row),
        train=TrainConfig(
            steps=total_tokens // (batch_size * row),
            batch_size=batch_size,
            learning_rate=rate,
            warmup_steps=2000,
            vocab_chunk=16_384,
            eval_batches=20,
            eval_every=1000,
            checkpoint_every=1000,
            sample_every=1000,
        ),
    )


# GPT-2's paper gives neither learning rate nor budget: nanoGPT's reproduction for both (600,000 steps of 0.5 M tokens).
_GPT2 = {name: (1024, 491_520, 300_000_000_000, 6e-4) for name in PRESETS if name.startswith("gpt2")}
# Brown et al. 2020, table 2.1: batch in tokens and learning rate; 300 billion tokens each.
_GPT3 = {
    name: (2048, batch, 300_000_000_000, rate)
    for name, batch, rate in (
        ("gpt3-125m", 500_000, 6e-4),
        ("gpt3-350m", 500_000, 3e-4),
        ("gpt3-760m", 500_000, 2.5e-4),
        ("gpt3-1.3b", 1_000_000, 2e-4),
        ("gpt3-2.7b", 1_000_000, 1.6e-4),
        ("gpt3-6.7b", 2_000_000, 1.2e-4),
        ("gpt3-13b", 2_000_000, 1e-4),
        ("gpt3-175b", 3_200_000, 0.6e-4),
    )
}
# Grattafiori et al. 2024, table 3 and section 3.4.1: rows of 8,192, 16 M tokens a batch at the end of the 405B's
# ramp, 15 trillion tokens.
_LLAMA = {
    name: (8192, 16 * 2**20, 15_000_000_000_000, rate)
    for name, rate in (("llama3.1-8b", 3e-4), ("llama3.1-70b", 1.5e-4), ("llama3.1-405b", 8e-5))
}

EXPERIMENTS: dict[str, Experiment] = {
    "tiny": TINY,
    "char": CHAR,
    **{name: _published(PRESETS[name], *recipe) for name, recipe in {**_GPT2, **_GPT3, **_LLAMA}.items()},
}
