"""The trials of a sweep as runs: a worker takes one after the other from the study and trains it."""

import math
import time
from collections.abc import Mapping
from typing import Any

from experiments.config import claim
from experiments.search_space import with_values
from experiments.stages.language import pretrain
from experiments.study import MESSAGE, Study, Taken, outcome
from model.errors import UserError
from train.loop import StopRequest
from train.progress import say
from train.record import Diverged

REFUSED_LIMIT = 3  # trials: where the first so many cannot be, the sweep itself is at fault
WAIT = 1  # seconds between looks for trials that others have lost


class _Pruned(Exception):
    """The study has seen enough of a trial."""


def work(study: Study, stop: StopRequest) -> None:
    """Train trials until the study is complete; waits for those of other workers, and takes over what they lose.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; what was trained is saved, and the trial will be taken up again.
        UserError: the machine's fault, or the first trials were all refused.
    """
    while True:
        _check_possible(study)
        if taken := study.take():
            _train(study, taken[0], stop)
        elif study.left():
            time.sleep(WAIT)
        else:
            return


def _train(study: Study, taken: Taken, stop: StopRequest) -> None:
    """Train a trial to its end, and tell the study what it came to."""
    values = ", ".join(f"{path}={value}" for path, value in taken.values.items())
    say(f"trial {taken.number} of {study.count}: {values}")
    with taken.held, study.showing_life(taken):
        try:
            experiment = with_values(study.sweep.experiment, taken.values, f"trial {taken.number}")
            claim(taken.run, experiment)

            def watch(step: int, found: Mapping[str, Any]) -> None:
                loss, last = found["validation_loss"], step == experiment.train.steps
                if math.isfinite(loss) and study.report(taken, step, loss) and not last:
                    raise _Pruned

            value = pretrain(experiment, taken.run, stop, watch)["validation_loss"]
        except _Pruned:
            study.tell(taken, "pruned")
        except Diverged as error:
            study.tell(taken, "diverged", message=str(error))
        except UserError as error:
            if taken.run.stages():  # it had begun to learn, so that the fault lies elsewhere
                raise
            study.tell(taken, "refused", message=str(error))
        else:
            study.tell(taken, "complete", value)
    told = study.trial(taken.number)
    loss = "" if told.value is None else f", held-out loss {told.value:.4f}"
    say(f"trial {taken.number}: {outcome(told)}{loss}")


def _check_possible(study: Study) -> None:
    finished = study.finished()
    refused = [trial for trial in finished if outcome(trial) == "refused"]
    if len(refused) == len(finished) >= min(REFUSED_LIMIT, study.count):
        raise UserError(
            f"the first {len(refused)} trials cannot be, the last because: {refused[-1].user_attrs[MESSAGE]} Begin "
            "again in another --out with other ranges."
        )
