"""The stages of an experiment: config to data, model and mesh, and through the loop."""

from experiments.stages.alignment import Stage, dpo, grpo, ppo, reward
from experiments.stages.comparison import compare
from experiments.stages.language import pretrain, sft

STAGES: dict[str, Stage] = {
    "pretrain": pretrain,
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "grpo": grpo,
    "dpo": dpo,
    "compare": compare,
}
