"""What a run reads and how it learns. Plain data: importing this does not import JAX."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from model.config import ModelConfig
from model.errors import UserError, check_numbers


@dataclass(frozen=True)
class DataConfig:
    """Where documents come from and how they become rows of tokens."""

    sources: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--data"])] = ("narration",)
    """Each one of: narration[:EXAMPLES[:SEED]] (narration_quiz likewise),
    pydoc, text:GLOB, jsonl:GLOB#FIELD, tfds:NAME[/CONFIG]."""
    weights: tuple[float, ...] = ()
    """Share of the batches' rows from each source. None given: every row of every source equally often."""
    sequence_length: int = 256
    """Tokens of one row."""
    validation_fraction: float = 0.1
    """Share of the documents held out: one in every 1/share, rounded. Where that makes fewer than ten: this share
    of the end of each one's text."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("data.sources is empty; name at least one, such as pydoc.")
        positive = all(math.isfinite(weight) and weight > 0 for weight in self.weights)
        if self.weights and (len(self.weights) != len(self.sources) or not positive):
            raise UserError(f"data.weights={self.weights} must be one positive number for each of {self.sources}.")
        if self.sequence_length < 1:
            raise UserError(f"data.sequence_length={self.sequence_length} must be at least 1.")
        if not 0 < self.validation_fraction <= 0.5:
            raise UserError(f"data.validation_fraction={self.validation_fraction} must lie in (0, 0.5].")


@dataclass(frozen=True)
class ChatConfig:
    """Chats to learn answers from."""

    sources: tuple[str, ...] = ("narration_chat",)
    """Each one of: narration_chat[:EXAMPLES[:SEED]] (narration_conversation likewise), jsonl:GLOB, tfds:NAME[/CONFIG];
    records have `messages`."""
    validation_fraction: float = 0.05
    """Share of the chats held out."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("sft.data.sources is empty; name at least one, such as narration_chat.")
        if not 0 < self.validation_fraction <= 0.5:
            raise UserError(f"sft.data.validation_fraction={self.validation_fraction} must lie in (0, 0.5].")


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer, its schedule, and what happens how often."""

    steps: int = 1000
    """Updates of the parameters."""
    batch_size: int = 16
    """Rows of one update, over all devices."""
    accumulation: int = 1
    """Parts that a batch is computed in, one after the other, to save memory; changes the result by rounding only, but
    for a mixture's load balance, which is each part's own."""
    seed: int = 0
    """Seeds initial weights, the order of the data and samples."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024) for the layers' matrices and AdamW elsewhere."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of the matrices under Muon."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.95
    """AdamW's decay of the gradient's square."""
    epsilon: float = 1e-8
    """AdamW's guard against division by zero."""
    weight_decay: float = 0.1
    """Decoupled decay, on matrices only."""
    clip_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Cosine decay (Loshchilov & Hutter 2017), or warmup-stable-decay (Hu et al. 2024)."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from zero."""
    decay_fraction: float = 0.2
    """Share of the steps that warmup-stable-decay decays over."""
    final_learning_rate: float = 0.1
    """Learning rate at the end, as a share of the peak."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What is computed in. auto: bfloat16 on TPU and GPU, float32 on CPU. Products of float32 are as exact as JAX's
    default on the device: on TPUs one pass in bfloat16, on GPUs TF32."""
    vocab_chunk: int | None = None
    """Columns of the logits that the loss holds at once. None: all."""
    cpu_devices: int | None = None
    """Devices that a CPU poses as, each with its part of the batch. None: one."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 250
    """Steps between evaluations on the held-out split; the end is always evaluated."""
    eval_batches: int | None = None
    """Batches of one evaluation, shared among the sources by size. None: the whole held-out split."""
    sample_every: int = 250
    """Steps between sample texts."""
    sample_prompt: str = ""
    """What samples continue; empty: the start of a document."""
    sample_tokens: int = 64
    """Length of a sample."""
    checkpoint_every: int = 250
    """Steps between checkpoints; the end and an interruption always make one."""
    checkpoints_kept: int = 2
    """How many checkpoints stay on disk."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        counts = "steps batch_size accumulation log_every eval_every sample_every checkpoint_every checkpoints_kept"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)} must be at least 1.")
        for name in ("vocab_chunk", "cpu_devices", "eval_batches"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"train.seed={self.seed} must lie in [0, 2**31).")
        if self.batch_size % self.accumulation:
            raise UserError(
                f"train.accumulation={self.accumulation} does not divide train.batch_size={self.batch_size}."
            )
        check_numbers(
            "train",
            self,
            positive="learning_rate muon_learning_rate epsilon clip_norm",
            not_negative="warmup_steps weight_decay sample_tokens",
            share="decay_fraction final_learning_rate",
        )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)} must lie in [0, 1).")


def check_rule(train: TrainConfig, model: ModelConfig) -> None:
    """Refuse an optimizer that a model's parametrization has no rule for.

    Raises:
        UserError: names both, and what goes together.
    """
    if model.parametrization == "completep" and train.optimizer != "adamw":
        raise UserError(
            f"model.parametrization=completep has rules for train.optimizer=adamw, not {train.optimizer}: "
            "take adamw, or parametrization standard."
        )


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning: what to learn answers from, and how."""

    data: ChatConfig = field(default_factory=ChatConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
