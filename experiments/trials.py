"""The trials of a sweep as runs: a worker takes one after the other from the study and trains it, or many at a time."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.config import Experiment, claim
from experiments.search_space import with_values
from experiments.stages.language import open_sources
from experiments.study import MESSAGE, Study, Taken, outcome
from experiments.together import alike, pretrain_together, runs_that_fit, turn
from experiments.workers import Ended, run_commands
from model.errors import UserError
from train.loop import StopRequest
from train.progress import bar, say
from train.record import Diverged, Enough, Watch

REFUSED_LIMIT = 3  # trials: where the first so many cannot be, the sweep itself is at fault
WAIT = 1  # seconds between looks for trials that others have lost


def work(study: Study, stop: StopRequest, together: bool = False) -> None:
    """Train trials until the study is complete; waits for those of other workers, and takes over what they lose.

    Args:
        together: as many at a time as the sweep says or memory allows, those that can in one program.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; what was trained is saved, and the trial will be taken up again.
        UserError: the machine's fault, or the first trials were all refused.
    """
    most = study.sweep.workers if together else 1
    each = most or runs_that_fit(study.sweep.experiment, max(study.left(), 1))
    while True:
        _check_possible(study)
        left = max(study.left(), 1)
        # In turns of the same size, so of the same program.
        if taken := study.take(-(-left // -(-left // most)) if most else turn(left, each)):
            _train(study, taken, stop)
        elif study.left():
            time.sleep(WAIT)
        else:
            return


def work_in_processes(study: Study, workers: int, doing: str = "trials") -> list[Ended]:
    """The same by worker processes on their own CPU cores, with a bar over all trials; returns how they ended.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came; what was trained is saved.
    """
    left = study.left()
    with bar(doing, study.count, done=study.count - left) as advance:

        def look() -> None:
            nonlocal left
            before, left = left, study.left()
            if before > left:
                best = study.best()
                advance(before - left, note=f"best {best.value:.4f}" if best else "none complete yet")

        ended = run_commands([("sweep", "work", str(study.directory))] * workers, workers, meanwhile=look)
        look()
    return ended


def _train(study: Study, taken: Sequence[Taken], stop: StopRequest) -> None:
    """Train trials to their end, and tell the study what each came to."""
    with ExitStack() as working:
        possible: list[tuple[Taken, Experiment]] = []
        for one in taken:
            working.enter_context(one.held)
            working.enter_context(study.showing_life(one))
            values = ", ".join(f"{path}={value}" for path, value in one.values.items())
            say(f"trial {one.number} of {study.count}: {values}")
            try:
                experiment = with_values(study.sweep.experiment, one.values, f"trial {one.number}")
            except UserError as error:
                study.tell(one, "refused", message=str(error))
            else:
                claim(one.run, experiment)
                possible.append((one, experiment))
        for group in alike([experiment for _, experiment in possible]):
            _train_alike(study, [possible[place] for place in group], stop)
        for one in taken:
            told = study.trial(one.number)
            loss = "" if told.value is None else f", held-out loss {told.value:.4f}"
            say(f"trial {one.number}: {outcome(told)}{loss}")


def _train_alike(study: Study, trials: Sequence[tuple[Taken, Experiment]], stop: StopRequest) -> None:
    """Train trials whose programs are the same; one is simply trained."""
    taken, experiments = zip(*trials, strict=True)
    runs, watches = [one.run for one in taken], [_watch(study, *trial) for trial in trials]
    try:
        # Memory was asked about the sweep's own experiment; these may be larger.
        most = len(runs) if study.sweep.workers or len(runs) == 1 else None
        outcomes = pretrain_together(experiments, runs, stop, most, watches)
    except UserError as error:
        if any(run.stages() for run in runs):  # they had begun to learn, so that the fault lies elsewhere
            raise
        open_sources(study.sweep.experiment)  # all trials read the same; where that fails it is this machine's fault
        for one in taken:
            study.tell(one, "refused", message=str(error))
        return
    for one, found in zip(taken, outcomes, strict=True):
        if isinstance(found, Enough):
            study.tell(one, "pruned")
        elif isinstance(found, Diverged):
            study.tell(one, "diverged", message=str(found))
        else:
            study.tell(one, "complete", found["validation_loss"])


def _watch(study: Study, taken: Taken, experiment: Experiment) -> Watch:
    """Reports a trial's evaluations to the study, which may have seen enough."""

    def watch(step: int, found: Mapping[str, Any]) -> None:
        loss, last = found["validation_loss"], step == experiment.train.steps
        if math.isfinite(loss) and study.report(taken, step, loss) and not last:
            raise Enough

    return watch


def _check_possible(study: Study) -> None:
    trials = study.trials()  # those that still train too: they can be
    refused = [trial for trial in trials if outcome(trial) == "refused"]
    if len(refused) == len(trials) >= min(REFUSED_LIMIT, study.count):
        raise UserError(
            f"the first {len(refused)} trials cannot be, the last because: {refused[-1].user_attrs[MESSAGE]} Begin "
            "again in another --out with other ranges."
        )
