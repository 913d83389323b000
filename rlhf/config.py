"""What alignment reads and how it learns. Plain data: importing this does not import JAX."""

import math
from dataclasses import dataclass

from model.errors import UserError


@dataclass(frozen=True)
class RewardConfig:
    """The reward model: a scalar head on the trunk, learned from choices."""

    source: str = "narration_preferences:12000"
    """One of: narration_preferences[:EXAMPLES[:SEED]], jsonl:GLOB, tfds:NAME[/CONFIG], store:PATH."""
    validation_fraction: float = 0.1
    """Share of the prompts held out."""
    length: int = 160
    """Tokens of a prompt with its answer at most; longer ones are refused."""
    heads: int = 1
    """Members of an ensemble, on one trunk."""
    steps: int = 400
    """Updates."""
    batch_size: int = 16
    """Prompts of one update, each with all its answers."""
    learning_rate: float = 3e-4
    """Peak learning rate of AdamW, decayed linearly to zero."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """Decoupled decay."""
    label_smoothing: float = 0.0
    """Share of every choice that is taken for chance."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ["length", "heads", "steps", "batch_size", "learning_rate", "log_every", "checkpoint_every"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"reward.{name}={getattr(self, name)} must be a positive number.")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"reward.{name}={getattr(self, name)} must be 0 or a positive number.")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"reward.label_smoothing={self.label_smoothing} must lie in [0, 0.5).")
        if not 0 < self.validation_fraction <= 0.5:
            raise UserError(f"reward.validation_fraction={self.validation_fraction} must lie in (0, 0.5].")
