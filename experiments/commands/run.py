"""`narrador run NAME|FILE`: train an experiment, or go on with it."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.config import Experiment, claim, find_experiment
from experiments.machine import COORDINATOR, LAUNCHED, PROCESS, command, versions
from experiments.presets import EXPERIMENTS
from experiments.processes import check_same, end_all, joined
from model.errors import UserError, unknown
from train.config import check_rule
from train.distributed import in_turn, is_first, process_count
from train.files import paths_of
from train.mapping import to_mapping
from train.run_directory import STAGE_NAMES, RunDirectory
from train.sources import read_world

FOR_SEVERAL = ("pretrain", "sft")  # the other stages hold whole models on one device


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
    distributed: bool = False
    """Be one of several processes on the same run. SLURM, Open MPI, Cloud TPU and GKE tell which one; elsewhere the
    next three do."""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which one this is, from 0."""
    wait: int = 300
    """Seconds until all processes must have come."""


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
    experiment, place = arguments.experiment, _place(arguments)
    experiment.check()
    named = experiment.stages if arguments.stages is None else arguments.stages.split(",")
    stages = [stage.strip() for stage in named]
    # Naming a run goes on with it where it is.
    is_run = argv[0] not in EXPERIMENTS and RunDirectory(Path(argv[0])).config_path.exists()
    directory = arguments.run_dir or (Path(argv[0]) if is_run else Path("runs") / name)

    if place is not None:
        from experiments.machine import prepare_jax

        prepare_jax(experiment.train.cpu_devices)
    with joined(*place, arguments.wait) if place else nullcontext():
        return _run(argv, experiment, RunDirectory(directory), stages, arguments.json)


def _run(argv: Sequence[str], experiment: Experiment, run: RunDirectory, stages: Sequence[str], as_json: bool) -> int:
    """Do the stages; returns the exit code."""
    if process_count() > 1:
        check_same({"config": to_mapping(experiment), "stages": stages, "run_dir": str(run.path), **versions()})
    _check_stages(experiment, run, stages)
    _check_specs(experiment, run, stages)
    with run.lock():
        with in_turn():
            claim(run, experiment)
        from experiments.machine import prepare_jax

        prepare_jax(experiment.train.cpu_devices)
        import jax

        from experiments.report import write_report
        from experiments.stages import STAGES
        from train.loop import Interrupted, StopRequest
        from train.progress import say

        if process_count() > 1:
            check_same({"devices": jax.local_device_count()})
            say(f"{process_count()} processes with {jax.device_count()} devices.")
        stop = StopRequest()
        try:
            with stop.listening():
                results = {stage: STAGES[stage](experiment, run, stop) for stage in stages}
                if is_first():
                    write_report(run)
        except Interrupted:
            say(f"saved under {run.path}. Go on with:\n  {shlex.join(command(['run', *argv]))}")
            if as_json and is_first():
                print(json.dumps({"run_dir": str(run.path), "interrupted": True}))
            if process_count() > 1:
                end_all(0, "it was told to stop.")
            return 0
    if as_json and is_first():
        first, *others = stages
        print(json.dumps({"run_dir": str(run.path), **results[first], **{name: results[name] for name in others}}))
    elif is_first():
        _tell(results)
        print(f"Report: {run.path / 'report.md'}")
    return 0


def _place(arguments: Arguments) -> tuple[str | None, int | None, int | None] | None:
    """Where process 0 listens, how many there are and which one this is, by hand or as `narrador launch` set it.

    None of them is known on a cluster, which JAX asks. For a single process: None.

    Raises:
        UserError: a number or an address that cannot be.
    """
    place = (arguments.coordinator, arguments.processes, arguments.process)
    if LAUNCHED in os.environ:
        place = (os.environ[COORDINATOR], int(os.environ[LAUNCHED]), int(os.environ[PROCESS]))
    coordinator, processes, process = place
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator {coordinator!r} must be HOST:PORT, such as 10.0.0.1:1234.")
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes} must be at least 1.")
    if process is not None and not 0 <= process < (processes or process + 1):
        raise UserError(f"--process {process} must lie in [0, {processes}).")
    if arguments.wait < 1:
        raise UserError(f"--wait {arguments.wait} must be at least 1 second.")
    return place if arguments.distributed or place != (None, None, None) else None


def _tell(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what each stage came to."""
    from experiments.comparison_report import conclusion

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


def _moved(result: Mapping[str, Any]) -> str:
    """What a policy has learned from a reward model, or from choices."""
    if "reward" not in result:
        return f"right on {result['accuracy']:.1%} of {result['pairs']:,} held-out choices"
    gold = f", gold reward {result['gold_reward']:.2f}" if "gold_reward" in result else ""
    return f"reward {result['reward']:.2f}{gold}, KL {result['kl']:.2f} nats an answer"


def _check_stages(experiment: Experiment, run: RunDirectory, stages: Sequence[str]) -> None:
    """Refuse, before any work, a stage that has nothing to begin with.

    Raises:
        UserError: a stage is unknown, or the one before it is neither complete nor about to be, or it is not for
            several processes or the model's parametrization.
    """
    trained = {"pretrain": experiment.train, "sft": experiment.sft.train}
    for place, stage in enumerate(stages):
        if stage not in STAGE_NAMES:
            raise unknown("stage", stage, STAGE_NAMES)
        if stage in trained:
            check_rule(trained[stage], experiment.model)
        elif stage != "compare" and experiment.model.parametrization != "standard":
            raise UserError(
                f"stage {stage!r} has an optimizer of its own, which knows no "
                f"model.parametrization={experiment.model.parametrization}. Take standard, or --stages pretrain,sft."
            )
        if process_count() > 1 and stage not in FOR_SEVERAL and run.stage(stage).result is None:
            raise UserError(
                f"stage {stage!r} works in one process only, and this run has {process_count()}. Do "
                f"--stages {','.join(FOR_SEVERAL)} in several, and the others afterwards in one."
            )
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


def _check_specs(experiment: Experiment, run: RunDirectory, stages: Sequence[str]) -> None:
    """Refuse, before any work, what a later stage could not read.

    Raises:
        UserError: a source of a kind that the stage does not know, the world asked for no examples, a file that is
            not there, or no room in the context for an answer.
    """
    from rlhf.preferences import KINDS
    from rlhf.prompts import PROMPT_KINDS
    from train.chats import CHAT_KINDS

    choices = (experiment.reward.source,)
    read = {"sft": experiment.sft.data.sources, "reward": choices, "dpo": choices}
    read |= {"ppo": (experiment.ppo.prompts,), "grpo": (experiment.grpo.prompts,)}
    chosen = (*KINDS, "narration_answers:PROMPTS", "store:PATH")
    known = {"sft": CHAT_KINDS, "reward": chosen, "dpo": chosen, "ppo": PROMPT_KINDS, "grpo": PROMPT_KINDS}
    for stage in stages:
        if run.path.is_dir() and run.stage(stage).result is not None:
            continue
        for spec in read.get(stage, ()):
            kind, _, rest = spec.partition(":")
            if kind not in {re.split(r"[:\[]", pattern)[0] for pattern in known[stage]}:
                raise unknown(f"source of stage {stage!r}", spec, known[stage])
            if kind.startswith("narration"):
                read_world(spec)
            elif kind == "jsonl":
                paths_of(spec, rest)
            elif kind == "store" and not Path(rest).is_file():
                raise UserError(f"source {spec!r}: there is no file {rest!r}.")
        most, context = getattr(getattr(experiment, stage, None), "max_tokens", 0), experiment.model.context_length
        if most >= context:
            raise UserError(f"{stage}.max_tokens={most} leaves no room for a prompt in model.context_length={context}.")
