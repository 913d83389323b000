"""The runs of a ladder: chains that go on from each other's checkpoints, worked on by several processes."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.config import claim
from experiments.ladder import Cell, Ladder
from experiments.workers import Ended, run_commands
from train.progress import bar, say
from train.run_directory import InUse, RunDirectory, read_jsonl, whole_lines, write_atomically

STAGE = "pretrain"
SECONDS_BETWEEN_LOOKS = 2.0


def work_on_chain(ladder: Ladder, folder: Path, chain: Sequence[Cell]) -> bool:
    """Do the runs of a chain that are not complete yet, in this process; False where another process is at one.

    Raises:
        Interrupted: it was told to stop; the state is saved.
        UserError: a run cannot be done.
    """
    from experiments.stages.language import pretrain
    from train.loop import StopRequest

    stop, before = StopRequest(), None
    with stop.listening():
        for cell in chain:
            run = ladder.run(folder, cell)
            if run.stage(STAGE).result is None:
                try:
                    with run.lock():
                        begin(ladder, folder, cell, before)
                        pretrain(ladder.experiment_of(cell), run, stop)
                except InUse:
                    say(f"{cell.name} is another process's.")
                    return False
            before = cell
    return True


def begin(ladder: Ladder, folder: Path, cell: Cell, before: Cell | None) -> None:
    """Take a run's folder, and where nothing is in it begin with the state of a shorter one before its decay."""
    run = ladder.run(folder, cell)
    claim(run, ladder.experiment_of(cell))
    if before is not None and not run.stages():
        source = ladder.run(folder, before)
        saved = [int(path.name) for path in source.stage(STAGE).checkpoints.glob("[0-9]*")]
        # A run that was stopped often in its decay may have kept none from before it.
        if steady := [step for step in saved if step <= before.decay_start]:
            _inherit(source, run, max(steady))


def _inherit(source: RunDirectory, target: RunDirectory, step: int) -> None:
    """Copy a checkpoint, and all that was logged up to it. The log that makes it a run that has begun comes last."""
    for path in (source.tokenizer_path, source.data_path):
        write_atomically(target.path / path.name, path.read_bytes())
    old, new = source.stage(STAGE), target.stage(STAGE)
    scratch, place = new.path / "inherited", new.checkpoints / str(step)
    shutil.rmtree(new.path, ignore_errors=True)
    shutil.copytree(old.checkpoints / str(step), scratch)
    new.checkpoints.mkdir()
    scratch.rename(place)
    for name in ("samples", "speed", "metrics"):
        rows = zip(whole_lines(old.log(name)), old.rows(name), strict=True)
        write_atomically(new.log(name), "".join(f"{line}\n" for line, row in rows if row["step"] <= step))


def run_ladder(ladder: Ladder, folder: Path, workers: int) -> list[Ended]:
    """Work on all chains in child processes, with one bar over all; returns the children.

    Raises:
        KeyboardInterrupt: Ctrl-C came; what the runs had is saved.
    """
    left = [chain for chain in ladder.chains() if any(_share(ladder, folder, cell) < 1 for cell in chain)]
    commands = [("scale", "ladder", "chain", str(folder), chain[0].size, str(chain[0].seed)) for chain in left]
    total = sum(map(ladder.seconds, ladder.cells))

    def done() -> tuple[float, int]:
        """Seconds' worth of work, and complete runs."""
        shares = [_share(ladder, folder, cell) for cell in ladder.cells]
        worth = sum(share * ladder.seconds(cell) for share, cell in zip(shares, ladder.cells, strict=True))
        return worth, shares.count(1.0)

    (told, _), looked = done(), time.monotonic()
    with bar("seconds of one worker", round(total), done=round(told)) as advance:

        def look(_child: Ended | None = None) -> None:
            nonlocal told, looked
            if _child is not None or time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                (now, complete), looked = done(), time.monotonic()
                advance(round(now) - round(told), note=f"{complete} of {len(ladder.cells)} runs")
                told = now

        return run_commands(commands, workers, ended=look, meanwhile=look)


def _share(ladder: Ladder, folder: Path, cell: Cell) -> float:
    """How much of a run's own steps is done: 0 to 1, and 1 only when it is complete."""
    stage = ladder.run(folder, cell).stage(STAGE)
    if stage.result is not None:
        return 1.0
    step, own = last_step(stage.log("metrics")), ladder.own_steps(cell)
    return min(max(step - (cell.steps - own), 0) / own, 0.999)


def last_step(log: Path) -> int:
    """The last step that a run has logged; 0 before its first."""
    return max((row["step"] for row in read_jsonl(log)), default=0)


def states(ladder: Ladder, folder: Path) -> list[tuple[Cell, str, int, float | None]]:
    """Of each cell whether it is planned, running, stopped or done, its step, and its loss where it is done."""
    found = []
    for cell in ladder.cells:
        run = ladder.run(folder, cell)
        result = run.stage(STAGE).result
        step = last_step(run.stage(STAGE).log("metrics"))
        if result is not None:
            found.append((cell, "done", cell.steps, result["validation_loss"]))
            continue
        state = "planned"
        if run.config_path.exists():
            try:
                with run.lock():
                    state = "stopped" if run.stages() else "planned"
            except InUse:
                state = "running"
        found.append((cell, state, step, None))
    return found


def seconds_left(ladder: Ladder, folder: Path) -> float:
    """Time until all runs are done, as planned, when all workers work."""
    left = sum((1 - _share(ladder, folder, cell)) * ladder.seconds(cell) for cell in ladder.cells)
    longest = max(
        sum((1 - _share(ladder, folder, cell)) * ladder.seconds(cell) for cell in chain) for chain in ladder.chains()
    )
    return max(left / ladder.workers, longest)
