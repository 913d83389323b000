"""A sweep: an experiment, what varies in it, and how. By name and options, from a YAML or Python file, or its folder.

DIR/sweep.yaml           the sweep            DIR/report.md, report.html, report.json, pictures/
DIR/journal.log          Optuna's journal     DIR/trials/0007/    an ordinary run directory for each trial
"""

import json
import math
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from experiments.config import Experiment, find_experiment
from experiments.search_space import Range, Value, grid, parse_space
from experiments.seeds import check_seed
from model.errors import UserError, unknown
from train.mapping import differences, from_mapping, to_mapping
from train.run_directory import write_atomically


@dataclass(frozen=True)
class Sweep:
    """Many runs of an experiment that differ in some values, told apart by the held-out loss of pre-training."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    param: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """PATH=RANGE of the config, as often as wanted: log:LOW:HIGH, lin:LOW:HIGH, int:LOW:HIGH:STEP or choice:A,B. A
    grid takes log:LOW:HIGH:POINTS and lin:LOW:HIGH:POINTS."""
    trials: int | None = None
    """How many runs, over all machines and sessions. None: every cell of a grid; the other samplers must be told."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """The tree-structured Parzen estimator (Bergstra et al. 2011; its first ten trials are random), random search or
    every cell of a grid."""
    prune: bool = False
    """Stop a trial whose held-out loss is above the median of the others at the same step, once five are complete."""
    seed: int = 0
    """Seeds the sampler; the runs' own seed is train.seed."""
    out: Path | None = None
    """The sweep's folder. None: sweeps/NAME."""
    storage: str | None = None
    """An Optuna storage URL such as postgresql://..., or the path of a journal file, that several machines share. None:
    a journal in the sweep's folder."""
    workers: int | None = None
    """Trials at a time. None: one for each CPU core; vectorised, as many as memory allows, 16 a device at most."""
    execution: Literal["auto", "sequential", "processes", "vectorised"] = "auto"
    """One after the other in this process, in parallel processes on their own CPU cores, or vectorised: many in one
    program, those that differ in numbers alone. auto: processes on CPUs, vectorised on an accelerator."""

    @property
    def space(self) -> dict[str, Range]:
        """What each parameter may be, by its path."""
        return parse_space(self.param, self.sampler)

    @property
    def cells(self) -> list[dict[str, Value]]:
        """The cells of its grid."""
        return grid(self.space)

    def checked(self) -> "Sweep":
        """The same with the number of trials filled in and the parameters in their own spelling.

        Raises:
            UserError: something in it cannot be.
        """
        self.experiment.check()
        for name, value in (("trials", self.trials), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be at least 1.")
        check_seed(self.seed)
        space, trials = self.space, self.trials
        if self.sampler == "grid":
            count = math.prod(len(values.cells()) for values in space.values())
            if trials is not None and trials > count:
                raise UserError(f"--trials {trials}: the grid has {count} cells, and none of them is run twice.")
            trials = trials or count
        elif trials is None:
            raise UserError(f"--sampler {self.sampler} could go on for ever; say how many --trials.")
        return replace(self, param=tuple(f"{path}={values}" for path, values in space.items()), trials=trials)

    def identity(self) -> dict[str, Any]:
        """What a study is about, as JSON says it; two sweeps that differ in it share no storage."""
        told = {name: getattr(self, name) for name in ("sampler", "prune", "seed")}
        param = {path: str(values) for path, values in self.space.items()}
        return json.loads(json.dumps({"param": param, **told, "experiment": to_mapping(self.experiment)}))

    def differs(self, known: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """Where another sweep's identity is not this one's; what an older version did not know has its default."""
        experiment = to_mapping(from_mapping(Experiment, known.get("experiment", {}), "the study"))
        return differences(json.loads(json.dumps({**known, "experiment": experiment})), self.identity())

    def save(self, directory: Path) -> None:
        """Write it to its folder, from where `load` has it."""
        told = to_mapping(replace(self, out=None)) | {"param": list(self.param)}
        write_atomically(_file(directory), yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def find_sweep(name: str) -> tuple[str, Sweep]:
    """The sweep that a file or a sweep's folder describes, or the experiment called `name` with nothing to vary yet.

    Returns:
        A short name for it, and the sweep.

    Raises:
        UserError: there is nothing of that name, or the file has a mistake in it.
    """
    path = Path(name)
    if path.is_dir() and _file(path).exists():
        return path.resolve().name, load(path)
    if path.suffix == ".py":
        return path.stem, _from_python(path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        try:
            mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
        if isinstance(mapping, Mapping) and "experiment" in mapping:
            return path.stem, _from_mapping(mapping, path)
    label, experiment = find_experiment(name)
    return label, Sweep(experiment)


def load(directory: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        UserError: the folder holds none.
    """
    file = _file(directory)
    if not file.exists():
        raise UserError(f"{str(directory)!r} holds no sweep (no {file.name} in it).")
    return replace(_from_mapping(yaml.safe_load(file.read_text()), file), out=directory)


def _file(directory: Path) -> Path:
    return directory / "sweep.yaml"


def _from_python(path: Path) -> Sweep:
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}.")
    found = runpy.run_path(str(path)).get("SWEEP")
    if not isinstance(found, Sweep):
        raise UserError(f"{path}: SWEEP must be an experiments.sweep.Sweep, not {found!r}.")
    return found


def _from_mapping(mapping: Mapping[str, Any], path: Path) -> Sweep:
    """A sweep as YAML has it: `experiment` a name, a file's path or a config, `param` a list or a mapping."""
    told = dict(mapping)
    experiment = told.pop("experiment")
    if isinstance(experiment, str):
        beside = path.parent / experiment
        _, base = find_experiment(str(beside) if beside.exists() else experiment)
    else:
        base = from_mapping(Experiment, experiment, f"{path}: experiment")
    param = told.pop("param", ())
    if isinstance(param, Mapping):
        param = [f"{key}={_range(values)}" for key, values in param.items()]
    options = {name for name in Sweep.__dataclass_fields__ if name not in ("experiment", "param")}
    for key in told:
        if key not in options:
            raise unknown(f"key in {path}:", str(key), ["experiment", "param", *sorted(options)])
    return replace(from_mapping(Sweep, {**told, "param": param}, str(path)), experiment=base)


def _range(values: Any) -> str:
    """A range as the command line takes it; a list is a choice."""
    if not isinstance(values, list):
        return str(values)
    return "choice:" + ",".join("none" if value is None else str(value) for value in values)
