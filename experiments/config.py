"""An experiment as one frozen config, found by name, in a YAML file or in a run directory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from model.config import MeshConfig, ModelConfig, ShardingRules
from model.errors import UserError, unknown
from model.tokenizer import TokenizerConfig
from rlhf.config import DPOConfig, GRPOConfig, PPOConfig, RewardConfig
from train.config import DataConfig, SftConfig, TrainConfig
from train.mapping import from_mapping, to_mapping
from train.run_directory import STAGE_BEFORE, RunDirectory


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)
    stages: Annotated[tuple[str, ...], tyro.conf.Suppress] = ("pretrain",)  # on the command line: of this time
    """What a run does, one after the other: pretrain, sft, reward, ppo, grpo, dpo, compare."""

    def judge_of(self, stage: str) -> str | None:
        """The other run whose reward model a stage learns from, if it names one."""
        return getattr(getattr(self, stage, None), "reward_run", None)

    def stage_before(self, stage: str) -> str | None:
        """What a stage begins with; with another run's reward model it needs none of this one's."""
        return STAGE_BEFORE["reward" if self.judge_of(stage) else stage]

    def check(self) -> None:
        """What no part can check alone.

        Raises:
            UserError: rows longer than the positions.
        """
        if self.data.sequence_length > self.model.context_length:
            raise UserError(
                f"data.sequence_length={self.data.sequence_length} is longer than the "
                f"model.context_length={self.model.context_length} positions of the model."
            )


def find_experiment(name: str) -> tuple[str, Experiment]:
    """The experiment called `name` (or depth-N), or described by the YAML file or run directory at that path.

    A YAML file holds any part of a config; its key `base` names the experiment that the rest comes from.

    Returns:
        A short name for it, and the config.

    Raises:
        UserError: nothing is called so, or the file has a mistake in it.
    """
    from experiments.presets import EXPERIMENTS, from_depth

    if name in EXPERIMENTS:
        return name, EXPERIMENTS[name]
    if match := re.fullmatch(r"depth-([1-9]\d{0,2})", name):
        return name, from_depth(int(match[1]))
    is_run = Path(name).is_dir()
    path = Path(name) / "config.yaml" if is_run else Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown("experiment", name, [*EXPERIMENTS, "depth-N"])
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no config file {str(path)!r}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(mapping, Mapping):
        raise UserError(f"{path}: a config holds keys and values, such as 'train: {{steps: 100}}'.")
    mapping = dict(mapping)
    base = mapping.pop("base", None)
    if base is not None:
        if not isinstance(base, str) or base not in EXPERIMENTS:
            raise unknown("experiment in 'base'", str(base), EXPERIMENTS)
        mapping = _merge(to_mapping(EXPERIMENTS[base]), mapping)
    label = path.resolve().parent.name if is_run else path.stem
    return label, from_mapping(Experiment, mapping, str(path))


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def claim(run: RunDirectory, experiment: Experiment) -> None:
    """Take a run's folder for an experiment, or find that it already holds a run of it, perhaps of an older version.

    Raises:
        UserError: it holds a run of another config; the differences are shown.
    """
    run.claim(to_mapping(experiment), lambda old: to_mapping(from_mapping(Experiment, old, str(run.config_path))))


def vocabulary_guess(experiment: Experiment) -> int:
    """Rows of the embedding; where only a trained tokenizer would know, its limit, or some hundred characters."""
    tokenizer = experiment.tokenizer
    return experiment.model.vocab_size or (tokenizer.vocab_size if tokenizer.kind == "bpe" else 350)


def parameter_count(experiment: Experiment) -> int | None:
    """Parameters of the model, from shapes alone; None while the vocabulary is not known."""
    config = experiment.model
    if config.vocab_size is None:
        if experiment.tokenizer.kind != "bpe":
            return None
        config = replace(config, vocab_size=experiment.tokenizer.vocab_size)
    from model.transformer import count_parameters

    return count_parameters(config)
