"""`narrador run NAME|FILE`: train an experiment, or go on with it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.config import Experiment, find_experiment
from experiments.presets import EXPERIMENTS
from model.errors import UserError, unknown
from train.mapping import from_mapping, to_mapping
from train.run_directory import STAGE_NAMES, RunDirectory


@dataclass(frozen=True)
class Arguments:
    """Train an experiment, or go on with it where it stopped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    stages: str | None = None
    """What to do this time, by commas: pretrain, sft, reward, ppo, grpo, dpo, compare. None: all stages of the
    experiment. A stage that is complete is not repeated."""
    run_dir: Path | None = None
    """The run's folder. None: runs/NAME."""
    json: bool = False
    """Print the result as one JSON object on the last line of stdout."""


def main(argv: Sequence[str]) -> int:
    """Parse, train, report."""
    if not argv or argv[0].startswith("-"):
        wanted = f"usage: narrador run NAME|FILE [--run-dir DIR] [overrides]\nNAME is one of: {', '.join(EXPERIMENTS)}."
        if argv and argv[0] in ("-h", "--help"):
            print(wanted + "\n'narrador run NAME --help' lists the overrides with NAME's values.")
            return 0
        raise UserError(f"say what to run.\n{wanted}")
    name, experiment = find_experiment(argv[0])
    arguments = tyro.cli(
        Arguments,
        prog=f"narrador run {argv[0]}",
        args=list(argv[1:]),
        default=Arguments(experiment),
    )
    experiment = arguments.experiment
    experiment.check()
    named = experiment.stages if arguments.stages is None else arguments.stages.split(",")
    stages = [stage.strip() for stage in named]
    # Naming a run goes on with it where it is.
    directory = arguments.run_dir or (Path(argv[0]) if Path(argv[0]).is_dir() else Path("runs") / name)

    run = RunDirectory(directory)
    _check_stages(experiment, run, stages)
    with run.lock():
        run.claim(to_mapping(experiment), lambda old: to_mapping(from_mapping(Experiment, old, str(run.config_path))))
        from experiments.machine import prepare_jax

        prepare_jax(experiment.train.cpu_devices)
        from experiments.comparison_report import conclusion
        from experiments.report import write_report
        from experiments.stages import STAGES
        from train.loop import Interrupted, StopRequest
        from train.progress import say

        stop = StopRequest()
        try:
            with stop.listening():
                results = {stage: STAGES[stage](experiment, run, stop) for stage in stages}
                write_report(run)
        except Interrupted:
            say(f"saved under {directory}. Go on with:\n  {shlex.join(['narrador', 'run', *argv])}")
            if arguments.json:
                print(json.dumps({"run_dir": str(directory), "interrupted": True}))
            return 0
    if arguments.json:
        first, *others = stages
        print(json.dumps({"run_dir": str(directory), **results[first], **{name: results[name] for name in others}}))
        return 0
    for stage, result in results.items():
        if stage == "reward":
            best = f"; at best {result['ceiling']:.1%} are possible" if "ceiling" in result else ""
            print(f"reward: right on {result['accuracy']:.1%} of {result['pairs']:,} held-out choices{best}.")
            continue
        if stage == "compare":
            print(f"compare: {conclusion(result)}.")
            continue
        if stage in ("ppo", "grpo", "dpo"):
            print(f"{stage}: {_moved(result)};", end=" ")
            kept = (result["base_bits_per_byte_before"], result["base_bits_per_byte"])
            print("base text {:.4f} -> {:.4f} bits per byte.".format(*kept))
            continue
        print(f"{stage}: validation loss {result['validation_loss']:.4f} nats per token, ", end="")
        print(f"{result['validation_bits_per_byte']:.3f} bits per byte.", end=" ")
        if "floor_nats_per_word" in result:
            word, least = result["validation_nats_per_word"], result["floor_nats_per_word"]
            print(f"{word:.3f} nats per word; the truth itself has {least:.3f}.", end=" ")
        print()
    print(f"Report: {run.path / 'report.md'}")
    return 0


def _moved(result: Mapping[str, Any]) -> str:
    """What a policy has learned from a reward model, or from choices."""
    if "reward" not in result:
        return f"right on {result['accuracy']:.1%} of {result['pairs']:,} held-out choices"
    gold = f", gold reward {result['gold_reward']:.2f}" if "gold_reward" in result else ""
    return f"reward {result['reward']:.2f}{gold}, KL {result['kl']:.2f} nats an answer"


def _check_stages(experiment: Experiment, run: RunDirectory, stages: Sequence[str]) -> None:
    """Refuse, before any work, a stage that has nothing to begin with.

    Raises:
        UserError: a stage is unknown, or the one before it is neither complete nor about to be.
    """
    for place, stage in enumerate(stages):
        if stage not in STAGE_NAMES:
            raise unknown("stage", stage, STAGE_NAMES)
        before = experiment.stage_before(stage)
        if before and before not in stages[:place] and run.stage(before).result is None:
            needed = [stage]
            while (earlier := experiment.stage_before(needed[0])) is not None:
                needed.insert(0, earlier)
            raise UserError(
                f"stage {stage!r} begins with what {before!r} came to, which is not complete in {str(run.path)!r}. "
                f"Try --stages {','.join(needed)}."
            )
        if judging := experiment.judge_of(stage):
            RunDirectory(Path(judging)).completed("reward")
