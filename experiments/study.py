"""Ask and tell: which trial comes next, and what it came to, kept in an Optuna storage that many workers share.

Trials are numbered from 0 by the storage; those below the sweep's number are the study, each in its own run directory.
A worker holds the lock of the directory while it works on a trial, so that on one disk a trial that is running by the
storage and not locked has lost its worker, and is taken up again. A worker elsewhere shows that it lives by a counter
that it keeps moving, and counts as lost when that has stood still for a while: no clocks are compared.
"""

import fcntl
import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from experiments.search_space import Range, Value
from experiments.sweep import Sweep
from model.errors import UserError
from train.run_directory import InUse, RunDirectory

BEAT, SILENCE = 30, 180  # seconds between signs of life, and until a worker elsewhere counts as lost
Outcome = Literal["complete", "pruned", "diverged", "refused"]
# What a trial's own attributes are called in the storage.
PLACE, ALIVE, OUTCOME, MESSAGE = "place", "alive", "outcome", "message"
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", module="optuna")


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on, and its run directory, whose lock it holds."""

    number: int
    values: dict[str, Value]
    run: RunDirectory
    trial: optuna.Trial
    held: ExitStack


class Study:
    """The trials of a sweep."""

    def __init__(self, sweep: Sweep, directory: Path) -> None:
        """Open the study of `sweep`, whose folder this is, or begin it.

        Args:
            sweep: as `Sweep.checked` gives it.

        Raises:
            UserError: the storage cannot be reached, or holds another study under this name.
        """
        assert sweep.trials is not None
        self.sweep, self.directory, self.count = sweep, directory, sweep.trials
        self.space = sweep.space
        self._place = f"{platform.node()}:{directory.resolve()}"
        # Killed before it could say where it was: with a journal in this folder it can only have been here.
        self._silent_place = self._place if sweep.storage is None else None
        self._heard: dict[int, tuple[Any, float]] = {}
        name = directory.resolve().name
        storage = sweep.storage or str(directory / "journal.log")
        try:
            self._study = optuna.create_study(
                storage=_storage(storage),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
                study_name=name,
                load_if_exists=True,
            )
            known, begun = self._study.user_attrs.get("sweep"), bool(self._study.get_trials(deepcopy=False))
            if not begun:  # nothing to lose
                self._study.set_user_attr("sweep", sweep.identity())
        except Exception as error:  # of the operating system, SQLAlchemy or a database's driver
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"the storage {shown(storage)!r} cannot be used: {reason[0][:300]}") from None
        if begun and known is None:
            raise UserError(f"the study {name!r} in the storage {shown(storage)!r} was not made by 'narrador sweep'.")
        if begun and (changed := sweep.differs(known or {})):
            raise UserError(
                f"the storage {shown(storage)!r} holds another study named {name!r}; nothing was changed.\n"
                f"{told_apart(changed)}\nChoose another folder with --out, which names the study too."
            )

    def trials(self) -> list[FrozenTrial]:
        """All that have begun, of this sweep."""
        found = self._study.get_trials(deepcopy=False)
        return [t for t in found if t.state.is_finished() or (t.state == TrialState.RUNNING and t.number < self.count)]

    def finished(self) -> list[FrozenTrial]:
        """All that have come to something."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def trial(self, number: int) -> FrozenTrial:
        """One of them."""
        return self._study.get_trials(deepcopy=False)[number]

    def left(self) -> int:
        """How many are still to come to something."""
        return self.count - sum(trial.number < self.count for trial in self.finished())

    def best(self) -> FrozenTrial | None:
        """The complete trial with the least value."""
        complete = [trial for trial in self.finished() if trial.state == TrialState.COMPLETE]
        return min(complete, key=lambda trial: (trial.value, trial.number), default=None)

    def run_directory(self, number: int) -> RunDirectory:
        """The folder of a trial, on this machine."""
        return RunDirectory(self.directory / "trials" / f"{number:04d}")

    def importance(self) -> dict[str, float]:
        """How much each parameter decides whether a trial is among the best tenth (PED-ANOVA, Watanabe et al. 2023).

        Shares of 1, largest first; nothing where there are too few trials to tell.
        """
        if len([trial for trial in self.finished() if trial.state == TrialState.COMPLETE]) < 2 + len(self.space):
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def take(self, most: int = 1) -> list[Taken]:
        """Up to `most` trials that nobody works on: first those that lost their worker, then new ones.

        Each is to be told or let go.
        """
        taken: list[Taken] = []
        for begun in self.trials():
            if len(taken) < most and begun.state == TrialState.RUNNING and self._lost(begun):
                taken += self._hold(begun.number, optuna.Trial(self._asking(), begun._trial_id))
        while len(taken) < most and len(self._study.get_trials(deepcopy=False)) < self.count:
            trial = self._asking().ask()
            if trial.number >= self.count:  # others were faster; it is there should the sweep ever get more trials
                break
            taken += self._hold(trial.number, trial)
        return taken

    def report(self, taken: Taken, step: int, value: float) -> bool:
        """Note a held-out loss on the way; whether the trial should be pruned for it."""
        if step not in self.trial(taken.number).intermediate_values:  # told before it was taken up again
            taken.trial.report(value, step)
        return self.sweep.prune and taken.trial.should_prune()

    def tell(self, taken: Taken, outcome: Outcome, value: float | None = None, message: str = "") -> None:
        """Note what a trial came to, and let go of it.

        A trial that diverged or could not be is PRUNED to Optuna, not FAIL: TPE then learns to stay away from there.
        """
        state = TrialState.COMPLETE if outcome == "complete" else TrialState.PRUNED
        try:
            taken.trial.set_user_attr(OUTCOME, outcome)
            if message:
                taken.trial.set_user_attr(MESSAGE, message)
            self._study.sampler = RandomSampler()  # a grid's would stop a loop of Optuna's own, which there is not
            self._study.tell(taken.trial, value, state)
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # another took it for lost, and was faster
        finally:
            taken.held.close()

    @contextmanager
    def showing_life(self, taken: Taken) -> Iterator[None]:
        """Let workers elsewhere see that a trial is worked on."""
        done = threading.Event()

        def beat() -> None:
            count = 0
            while not done.wait(BEAT):
                count += 1
                try:
                    taken.trial.set_user_attr(ALIVE, f"{os.getpid()} {count}")
                except optuna.exceptions.UpdateFinishedTrialError:
                    return
                except Exception:  # the storage may be away for a moment; where it stays away, telling says so
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _lost(self, trial: FrozenTrial) -> bool:
        """Whether a running trial may have lost its worker; on one disk the lock decides."""
        if trial.user_attrs.get(PLACE, self._silent_place) == self._place:
            return True
        sign = (trial.user_attrs.get(PLACE), trial.user_attrs.get(ALIVE))
        before, since = self._heard.get(trial.number, (None, 0.0))
        if before != sign:
            self._heard[trial.number] = sign, time.monotonic()
            return False
        return time.monotonic() - since > SILENCE

    def _hold(self, number: int, trial: optuna.Trial) -> list[Taken]:
        """The trial, if its folder is free and it has not come to its end meanwhile."""
        held, run = ExitStack(), self.run_directory(number)
        try:
            held.enter_context(run.lock())
        except InUse:
            return []
        if self.trial(number).state != TrialState.RUNNING:
            held.close()
            return []
        trial.set_user_attr(PLACE, self._place)
        self._study.sampler = self._sampler(number)
        values = {path: _suggest(trial, path, _distribution(values)) for path, values in self.space.items()}
        return [Taken(number, values, run, trial, held)]

    def _asking(self) -> optuna.Study:
        """The study, ready to number a trial; its values are drawn once the number is known."""
        self._study.sampler = self._sampler(0) if self.sweep.sampler == "grid" else RandomSampler()
        return self._study

    def _sampler(self, number: int) -> BaseSampler:
        """What draws a trial's values: a function of seed and number, so that no two workers draw the same."""
        if self.sweep.sampler == "grid":
            return GridSampler({path: values.cells() for path, values in self.space.items()}, seed=self.sweep.seed)
        seed = (self.sweep.seed * 1_000_003 + number) % 2**32
        return TPESampler(seed=seed) if self.sweep.sampler == "tpe" else RandomSampler(seed=seed)


def outcome(trial: FrozenTrial) -> str:
    """What a trial came to: an `Outcome`, or running."""
    return trial.user_attrs.get(OUTCOME, "complete") if trial.state.is_finished() else "running"


def told_apart(changed: Sequence[tuple[str, Any, Any]]) -> str:
    """Differences of two sweeps, a line for each."""
    return "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in changed)


def shown(storage: str) -> str:
    """A storage's URL without its password."""
    if "://" not in storage:
        return storage
    import sqlalchemy

    try:
        return sqlalchemy.make_url(storage).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return storage


def _storage(storage: str) -> str | BaseStorage:
    """A database by its URL, or a journal by its path."""
    if "://" in storage:
        return storage
    return JournalStorage(JournalFileBackend(storage, _Lock(storage)))


class _Lock(JournalFileOpenLock):
    """Of a journal, as `RunDirectory.lock`: the system lets go when a process ends, however it ends.

    Optuna's own locks are files, which one that is killed leaves behind for others to wait on.
    """

    def acquire(self) -> bool:
        """Wait for it."""
        self._file = open(self._lock_file, "a")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let go."""
        self._file.close()


def _distribution(values: Range) -> BaseDistribution:
    if values.kind == "choice":
        return CategoricalDistribution(values.choices)
    if values.kind == "int":
        last = int(values.low) + (int(values.high) - int(values.low)) // values.step * values.step
        return IntDistribution(int(values.low), last, step=values.step)
    return FloatDistribution(values.low, values.high, log=values.kind == "log")


def _suggest(trial: optuna.Trial, path: str, values: BaseDistribution) -> Any:
    """A value as it was drawn before, or drawn now."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(path, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(path, values.low, values.high, step=values.step)
    assert isinstance(values, FloatDistribution)
    return trial.suggest_float(path, values.low, values.high, log=values.log)
