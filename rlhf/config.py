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


@dataclass(frozen=True)
class PPOConfig:
    """PPO against the reward model. As Ouyang et al. 2022 where nothing is said."""

    prompts: str = "narration_chat:20000:1"
    """What is asked: narration_chat[:EXAMPLES[:SEED]], or jsonl:GLOB of {"prompt"} or {"messages"}."""
    steps: int = 100
    """Iterations: rollout, then epochs of minibatches."""
    batch_size: int = 64
    """Episodes of one iteration."""
    epochs: int = 1
    """Times that each episode is learned from."""
    minibatches: int = 4
    """Updates of one epoch."""
    max_tokens: int = 32
    """Where an answer ends that has not stopped by then."""
    temperature: float = 1.0
    """Divides the logits, in drawing and in every log-probability."""
    kl_coefficient: float = 0.02
    """Reward lost for each nat that a token is likelier than under the fine-tuned model; fixed."""
    unstopped_penalty: float = 1.0
    """Taken from the score of an answer that did not stop by itself."""
    discount: float = 1.0
    """Of what comes a token later."""
    gae_decay: float = 0.95
    """Lambda of generalized advantage estimation."""
    whiten_rewards: bool = False
    """Scale the tokens' rewards of an iteration to variance 1; their mean stays."""
    whiten_advantages: bool = True
    """Scale the advantages of an iteration to mean 0 and variance 1."""
    clip: float = 0.2
    """How far a probability may move, as a ratio, before a token teaches nothing more."""
    value_clip: float = 0.2
    """The same for values."""
    learning_rate: float = 1e-4
    """Of the policy at first; it falls linearly to a tenth."""
    critic_learning_rate: float = 3e-4
    """Of the critic, likewise."""
    epsilon: float = 1e-5
    """Adam's (Huang et al. 2024, section 3)."""
    ptx_coefficient: float = 0.5
    """Weight of the loss on pre-training text, a batch for each minibatch (PPO-ptx). 0: none."""
    ptx_rows: int = 2
    """Rows of such a batch."""
    checkpoint_every: int = 20
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "epochs", "minibatches", "max_tokens", "ptx_rows", "checkpoint_every")
        for name in (*counts, "temperature", "clip", "value_clip", "learning_rate", "critic_learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"ppo.{name}={getattr(self, name)} must be a positive number.")
        for name in ("kl_coefficient", "unstopped_penalty", "ptx_coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"ppo.{name}={getattr(self, name)} must be 0 or a positive number.")
        for name in ("discount", "gae_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"ppo.{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.batch_size % self.minibatches:
            raise UserError(f"ppo.minibatches={self.minibatches} does not divide ppo.batch_size={self.batch_size}.")
