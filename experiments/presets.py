"""Named experiments: some small ones that run anywhere, and one for each published architecture."""

from dataclasses import dataclass, replace

from experiments.config import Experiment
from model.config import ModelConfig
from model.presets import PRESETS, small
from model.tokenizer import TokenizerConfig
from rlhf.config import PPOConfig, RewardConfig
from train.config import ChatConfig, DataConfig, SftConfig, TrainConfig

# The narrator's world: passages whose true probabilities are known, so that the loss has a floor, and a schoolbook of
# questions about such passages, from which a model of this size learns to read at all.
NARRATOR = Experiment(
    model=replace(small(depth=6), width=128, heads=2, mlp_width=352, rope_theta=500.0, qk_norm=True),
    tokenizer=TokenizerConfig(vocab_size=1536),
    data=DataConfig(
        sources=("narration:16000", "narration_quiz:16000"),
        weights=(0.2, 0.8),
        sequence_length=256,
        validation_fraction=0.02,
    ),
    train=TrainConfig(
        steps=2400,
        batch_size=8,
        optimizer="muon",
        learning_rate=6e-3,
        muon_learning_rate=0.03,
        final_learning_rate=0.0,
        eval_every=800,
        checkpoint_every=400,
        sample_every=800,
        sample_prompt="O céu está",
    ),
    sft=SftConfig(
        data=ChatConfig(sources=("narration_conversation:3000",)),
        train=TrainConfig(
            steps=200,
            batch_size=8,
            optimizer="muon",
            learning_rate=5e-4,  # gently: twice these rates answer no better, and forget the base text
            muon_learning_rate=0.003,
            final_learning_rate=0.0,
            eval_every=100,
            checkpoint_every=100,
            sample_every=100,
        ),
    ),
    reward=RewardConfig(source="narration_answers:9000", answers=5, steps=560),
    ppo=PPOConfig(
        prompts="narration_chat:1600:1",  # all that are asked in 100 iterations
        group_size=4,
        max_tokens=24,  # people's longest answers take 21
        kl_coefficient=0.05,
        length_penalty=0.06,
        learning_rate=2e-4,
        ptx_coefficient=0.2,
    ),
    stages=("pretrain", "sft", "reward", "ppo", "compare"),
)

# The same world for studies of many runs: each learns in seconds, and its floor is known.
NARRATOR_TINY = Experiment(
    model=replace(small(depth=2, context_length=128), width=64, heads=2, mlp_width=192, init_std=0.08),
    tokenizer=TokenizerConfig(vocab_size=512),
    data=DataConfig(sources=("narration:4000",), sequence_length=128, validation_fraction=0.05),
    train=TrainConfig(
        steps=500,
        batch_size=8,
        learning_rate=6e-3,
        final_learning_rate=0.0,
        eval_every=250,
        eval_batches=20,
        checkpoint_every=500,  # seconds of work
        sample_every=500,
        sample_prompt="O céu está",
    ),
)

# More of it, so that no run of a ladder sees a passage twice, and the whole held-out text, whose floor is known.
NARRATOR_LADDER = replace(
    NARRATOR_TINY,
    data=replace(NARRATOR_TINY.data, sources=("narration:30000",), validation_fraction=0.01),
    train=replace(NARRATOR_TINY.train, eval_batches=None),
)

TINY = Experiment(
    model=small(depth=3),
    tokenizer=TokenizerConfig(vocab_size=2048),
    data=DataConfig(sources=("pydoc",), sequence_length=256),
    train=TrainConfig(
        steps=560,
        batch_size=4,
        optimizer="muon",
        learning_rate=3e-3,
        eval_every=140,
        checkpoint_every=140,
        sample_every=140,
        sample_prompt="The value of the",
    ),
)

# A mixture of experts that learns in seconds: single characters, and four experts half as wide as one layer would be.
TINY_MOE = Experiment(
    model=replace(small(depth=2, context_length=64), width=64, heads=2, mlp_width=96, experts=4),
    tokenizer=TokenizerConfig(kind="char"),
    data=DataConfig(sources=("pydoc",), sequence_length=64),
    train=TrainConfig(steps=200, batch_size=16, learning_rate=3e-3, warmup_steps=20, eval_batches=20),
)

# nanoGPT's small CPU setting for single characters, without dropout. Its evaluation draws 20 batches at random;
# here the whole held-out tenth is evaluated.
CHAR = Experiment(
    model=replace(small(depth=4, context_length=64), width=128, mlp_width=352),
    tokenizer=TokenizerConfig(kind="char"),
    data=DataConfig(sources=("pydoc",), sequence_length=64),
    train=TrainConfig(steps=2000, batch_size=12, learning_rate=1e-3, warmup_steps=100),
)


def from_depth(depth: int) -> Experiment:
    """An experiment of any size from one dial; for comparing sizes, not for the best result at one.

    Rows of 256, batches of 8, twenty tokens for each parameter (Hoffmann et al. 2022), and a learning rate that falls
    with the square root of the width. The rule is ours.
    """
    model, tokenizer = small(depth), TokenizerConfig(vocab_size=2048)
    data = DataConfig(sequence_length=256, validation_fraction=0.02)
    matrices = 12 * depth * model.width**2 + tokenizer.vocab_size * model.width
    rate = 2e-3 * (256 / model.width) ** 0.5
    train = TrainConfig(steps=20 * matrices // (8 * data.sequence_length), batch_size=8, learning_rate=rate)
    return Experiment(model=model, tokenizer=tokenizer, data=data, train=train)


@dataclass(frozen=True)
class Recipe:
    """How a paper trained: its row length, and what counts in tokens or steps."""

    row: int
    batch_tokens: int
    tokens: int
    learning_rate: float
    warmup_tokens: int
    final_learning_rate: float = 0.1

    def experiment(self, model: ModelConfig) -> Experiment:
        """The experiment that trains `model` so; the optimizer's other settings are our defaults."""
        batch_size = max(1, self.batch_tokens // self.row)
        step_tokens = batch_size * self.row
        return Experiment(
            model=model,
            tokenizer=TokenizerConfig(vocab_size=model.vocabulary),
            data=DataConfig(sequence_length=self.row),
            train=TrainConfig(
                steps=self.tokens // step_tokens,
                batch_size=batch_size,
                learning_rate=self.learning_rate,
                warmup_steps=self.warmup_tokens // step_tokens,
                final_learning_rate=self.final_learning_rate,
                vocab_chunk=16_384,
                eval_batches=20,
                eval_every=1000,
                checkpoint_every=1000,
                sample_every=1000,
            ),
        )


def _gpt2(rate: float) -> Recipe:
    """nanoGPT's reproduction of 124M (600,000 steps of 491,520 tokens, 2,000 of warm-up): GPT-2's paper has none.

    The larger ones take the learning rate of the GPT-3 of their size.
    """
    return Recipe(1024, 491_520, 600_000 * 491_520, rate, 2_000 * 491_520)


def _gpt3(batch_tokens: int, rate: float) -> Recipe:
    """Brown et al. 2020, table 2.1 and appendix B: 300 billion tokens, 375 million of warm-up, decay to 10%.

    There the decay ends after 260 billion tokens; here at the end.
    """
    return Recipe(2048, batch_tokens, 300_000_000_000, rate, 375_000_000)


def _llama(rate: float) -> Recipe:
    """Grattafiori et al. 2024, table 3 and section 3.4.1: rows of 8,192, 8,000 steps of warm-up, decay to 1%.

    16 M tokens a batch, where the 405B's ramp ends, and about 15 trillion tokens.
    """
    return Recipe(8192, 16 * 2**20, 15_000_000_000_000, rate, 8_000 * 16 * 2**20, final_learning_rate=0.01)


def _gpt4_estimate() -> Recipe:
    """The same public guess as its model: 13 trillion tokens in batches of about 60 million (SemiAnalysis, July 2023).

    Learning rate and warm-up are those of GPT-3 175B.
    """
    return Recipe(8192, 7168 * 8192, 13_000_000_000_000, 0.6e-4, 375_000_000)


RECIPES = {
    # Vaswani et al. 2017, section 5: 100,000 steps of 25,000 tokens; the peak of its schedule at 4,000 steps.
    "vaswani2017": Recipe(512, 25_000, 100_000 * 25_000, 512**-0.5 * 4000**-0.5, 4_000 * 25_000),
    "gpt2-124m": _gpt2(6e-4),
    "gpt2-355m": _gpt2(3e-4),
    "gpt2-774m": _gpt2(2.5e-4),
    "gpt2-1558m": _gpt2(2e-4),
    "gpt3-125m": _gpt3(500_000, 6e-4),
    "gpt3-350m": _gpt3(500_000, 3e-4),
    "gpt3-760m": _gpt3(500_000, 2.5e-4),
    "gpt3-1.3b": _gpt3(1_000_000, 2e-4),
    "gpt3-2.7b": _gpt3(1_000_000, 1.6e-4),
    "gpt3-6.7b": _gpt3(2_000_000, 1.2e-4),
    "gpt3-13b": _gpt3(2_000_000, 1e-4),
    "gpt3-175b": _gpt3(3_200_000, 0.6e-4),
    "llama3.1-8b": _llama(3e-4),
    "llama3.1-70b": _llama(1.5e-4),
    "llama3.1-405b": _llama(8e-5),
    "gpt4-estimate": _gpt4_estimate(),
}

EXPERIMENTS: dict[str, Experiment] = {
    "narrator": NARRATOR,
    "narrator-tiny": NARRATOR_TINY,
    "narrator-ladder": NARRATOR_LADDER,
    "tiny": TINY,
    "tiny-moe": TINY_MOE,
    "char": CHAR,
    **{name: recipe.experiment(PRESETS[name]) for name, recipe in RECIPES.items()},
}
