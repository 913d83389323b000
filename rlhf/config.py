"""What alignment reads and how it learns. Plain data: importing this does not import JAX."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from model.errors import UserError, check_numbers


@dataclass(frozen=True)
class RewardConfig:
    """The reward model: a scalar head on the trunk, learned from choices."""

    source: str = "narration_preferences:12000"
    """One of: narration_preferences[:EXAMPLES[:SEED]], narration_answers[:EXAMPLES[:SEED]] (rankings of the fine-tuned
    model's own answers), jsonl:GLOB, tfds:NAME[/CONFIG], store:PATH."""
    answers: int = 4
    """Own answers to each prompt of narration_answers; one to another prompt is ranked with them."""
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
        positive = "length answers heads steps batch_size learning_rate log_every checkpoint_every"
        check_numbers("reward", self, positive=positive, not_negative="warmup_steps weight_decay")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"reward.label_smoothing={self.label_smoothing} must lie in [0, 0.5).")
        if not 0 < self.validation_fraction <= 0.5:
            raise UserError(f"reward.validation_fraction={self.validation_fraction} must lie in (0, 0.5].")


@dataclass(frozen=True)
class PolicyConfig:
    """What PPO and GRPO share: answers are drawn and scored, and the policy learns from them."""

    stage: ClassVar[str]
    """What the stage and its part of an experiment are called."""

    prompts: str = "narration_chat:20000:1"
    """What is asked: narration_chat[:EXAMPLES[:SEED]], or jsonl:GLOB of {"prompt"} or {"messages"}."""
    reward_run: str | None = None
    """The run whose reward model scores the answers; it reads the same tokens. None: this one's own."""
    ensemble: Literal["mean", "min"] = "mean"
    """How the reward model's heads become one score; min is worst-case optimization (Coste et al. 2023)."""
    steps: int = 100
    """Iterations: rollout, then epochs of minibatches."""
    batch_size: int = 64
    """Episodes of one iteration."""
    group_size: int = 1
    """Answers to each prompt, which is read once for all of them."""
    epochs: int = 1
    """Times that each episode is learned from."""
    minibatches: int = 4
    """Updates of one epoch."""
    accumulation: int = 1
    """Parts that a minibatch is computed in, one after the other, to save memory; changes the result by rounding
    only."""
    max_tokens: int = 32
    """Where an answer ends that has not stopped by then."""
    temperature: float = 1.0
    """Divides the logits, in drawing and in every log-probability."""
    kl_coefficient: float = 0.02
    """Reward lost for each nat that a token is likelier than under the fine-tuned model; fixed."""
    length_penalty: float = 0.0
    """Taken from the score of an answer for each of its tokens; of such penalties see Singhal et al. 2023."""
    unstopped_penalty: float = 1.0
    """Taken from the score, at most 0, of an answer that did not end its turn."""
    clip: float = 0.2
    """How far a probability may move, as a ratio, before a token teaches nothing more."""
    learning_rate: float = 1e-4
    """Of the policy; it rises from a tenth in the first tenth of iterations, and falls back to that."""
    epsilon: float = 1e-5
    """Adam's (Huang et al. 2024, section 3)."""
    ptx_coefficient: float = 0.5
    """Weight of the loss on pre-training text, a batch for each minibatch (PPO-ptx). 0: none."""
    ptx_rows: int = 2
    """Rows of such a batch."""
    checkpoint_every: int = 20
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        counts = "steps batch_size group_size epochs minibatches accumulation max_tokens ptx_rows checkpoint_every"
        check_numbers(
            self.stage,
            self,
            positive=f"{counts} temperature clip learning_rate epsilon",
            not_negative="kl_coefficient length_penalty unstopped_penalty ptx_coefficient",
        )
        prompts, over = divmod(self.batch_size, self.group_size)
        if over:
            named = f"{self.stage}.group_size={self.group_size}"
            raise UserError(f"{named} does not divide {self.stage}.batch_size={self.batch_size}.")
        of_minibatch, over = divmod(prompts, self.minibatches)
        if over:
            named = f"{self.stage}.minibatches={self.minibatches}"
            raise UserError(f"{named} does not divide the {prompts} prompts of an iteration (batch_size / group_size).")
        if of_minibatch % self.accumulation:
            named = f"{self.stage}.accumulation={self.accumulation}"
            raise UserError(f"{named} does not divide the {of_minibatch} prompts of a minibatch.")

    @property
    def prompts_per_step(self) -> int:
        """Different prompts of one iteration."""
        return self.batch_size // self.group_size

    @property
    def rates(self) -> dict[str, float]:
        """First learning rates, by network."""
        return {"policy": self.learning_rate}


@dataclass(frozen=True)
class PPOConfig(PolicyConfig):
    """PPO against the reward model. As Ouyang et al. 2022 where nothing is said."""

    stage: ClassVar[str] = "ppo"

    discount: float = 1.0
    """Of what comes a token later."""
    gae_decay: float = 0.95
    """Lambda of generalized advantage estimation."""
    whiten_rewards: bool = False
    """Scale the tokens' rewards of an iteration to variance 1; their mean stays."""
    whiten_advantages: bool = True
    """Scale the advantages of an iteration to mean 0 and variance 1."""
    value_clip: float = 0.2
    """As `clip`, for values."""
    critic_learning_rate: float = 3e-4
    """Of the critic at first; it falls as the policy's does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self.stage, self, positive="value_clip critic_learning_rate", share="discount gae_decay")

    @property
    def rates(self) -> dict[str, float]:
        """First learning rates, by network."""
        return {**super().rates, "critic": self.critic_learning_rate}


@dataclass(frozen=True)
class GRPOConfig(PolicyConfig):
    """GRPO against the reward model: answers to one prompt are judged against each other (Shao et al. 2024)."""

    stage: ClassVar[str] = "grpo"

    group_size: int = 8
    """Answers to each prompt."""
    minibatches: int = 1
    """Updates of one epoch."""
    kl_coefficient: float = 0.04
    """Weight of the KL from the fine-tuned model in the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise UserError(f"grpo.group_size={self.group_size} must be at least 2: answers are judged by the others.")


@dataclass(frozen=True)
class DPOConfig:
    """DPO on the choices that the reward model learns from (`reward.source`); see Rafailov et al. 2023."""

    beta: float = 0.1
    """How dear it is to move away from the fine-tuned model."""
    steps: int = 400
    """Updates."""
    batch_size: int = 16
    """Prompts of one update, each with all its answers."""
    learning_rate: float = 1e-4
    """It rises from a tenth in the first tenth of steps, and falls back to that."""
    epsilon: float = 1e-8
    """Adam's."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        names = "beta steps batch_size learning_rate epsilon log_every checkpoint_every"
        check_numbers("dpo", self, positive=names)
