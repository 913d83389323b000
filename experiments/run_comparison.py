"""Two whole runs side by side: on which keys their configs differ, what each stage came to, how it got there."""

from numbers import Real
from pathlib import Path
from typing import Any

from experiments.config import find_experiment
from train.mapping import differences, to_mapping
from train.run_directory import STAGE_NAMES, RunDirectory

Sides = dict[str, Any]
"""A value of each: {"a": ..., "b": ...}; None where one has none."""
CURVES = {
    "loss": "training loss (nats)",
    "validation_loss": "held-out loss (nats per token)",
    "accuracy": "agreement with the choices",
    "reward": "score less penalties",
    "gold_reward": "gold reward",
    "kl": "KL from where it began (nats an answer)",
}
"""What is drawn by step, where a stage logs it, and what its axis says."""


def names_whole_run(spec: str) -> bool:
    """Whether DIR or DIR:STAGE leaves the stage open."""
    return Path(spec).is_dir() or ":" not in spec


def config_differences(a: RunDirectory, b: RunDirectory) -> dict[str, Sides]:
    """The keys on which two runs' configs differ; keys that an older one lacks count as their defaults."""
    config_a, config_b = (to_mapping(find_experiment(str(run.config_path))[1]) for run in (a, b))
    return {key: {"a": left, "b": right} for key, left, right in differences(config_a, config_b)}


def results(a: RunDirectory, b: RunDirectory) -> dict[str, dict[str, Sides]]:
    """The numbers that each stage came to, by stage and name, of the stages that either run has completed."""
    found = {}
    for stage in STAGE_NAMES:
        of_a, of_b = (_numbers(run.stage(stage).result or {}) for run in (a, b))
        if names := [*of_a, *(name for name in of_b if name not in of_a)]:
            found[stage] = {name: {"a": of_a.get(name), "b": of_b.get(name)} for name in names}
    return found


def draw_curves(a: RunDirectory, b: RunDirectory, folder: Path) -> dict[str, list[Path]]:
    """Draw what either run logged by step, both in the same axes; the pictures by stage.

    Args:
        folder: where the pictures go; it exists.
    """
    from experiments.pictures import curves_of_two  # Matplotlib is slow to import

    drawn: dict[str, list[Path]] = {}
    for stage in STAGE_NAMES:
        logged = [(str(run.path), run.stage(stage).rows("metrics")) for run in (a, b)]
        for metric, label in CURVES.items():
            curves = [
                (name, [(row["step"], row[metric]) for row in rows if row.get(metric) is not None])
                for name, rows in logged
            ]
            if any(points for _, points in curves):
                target = folder / f"compared_{stage}_{metric}.png"
                curves_of_two(curves, label, target)
                drawn.setdefault(stage, []).append(target)
    return drawn


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if isinstance(value, Real)}
