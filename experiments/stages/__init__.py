"""The stages of an experiment: config to data, model and mesh, and through the loop."""

from collections.abc import Callable
from typing import Any

from experiments.config import Experiment
from experiments.stages.alignment import dpo, grpo, ppo, reward
from experiments.stages.comparison import compare
from experiments.stages.language import pretrain, sft
from train.loop import StopRequest
from train.run_directory import RunDirectory

Stage = Callable[[Experiment, RunDirectory, StopRequest], dict[str, Any]]
"""Resumes, and returns at once what a complete stage came to."""
STAGES: dict[str, Stage] = {
    "pretrain": pretrain,
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "grpo": grpo,
    "dpo": dpo,
    "compare": compare,
}
