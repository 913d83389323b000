"""`narrador plan NAME --topology v5p:16x16x8`: what a training step takes on machines that are not there."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import tyro

from model.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Memory, FLOPs, traffic, time and dollars of training on a pod: the step compiled by the TPU's compiler."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A preset, depth-N, a YAML file or a run directory. None: all published architectures, as a page in Markdown."""
    topology: str | None = None
    """A chip and its arrangement, such as v5p:16x16x8 or v6e:16x16; h100:8x64 is 64 nodes of 8."""
    mesh: str | None = None
    """Chips along each axis, such as fsdp=256,tensor=8. None: the best by sums."""
    batch: int | None = None
    """Rows of a step. None: the experiment's own; without --mesh its neighbours among powers of two, too."""
    accumulation: int | None = None
    """Parts that a batch is computed in. None: the fewest that fit, by sums."""
    remat: Literal["none", "dots", "full"] | None = None
    """What backward computes again. None: as the experiment has it; without --mesh all are tried."""
    tokens: float | None = None
    """Tokens to train on. None: the published budget, or the experiment's own."""
    search: bool = False
    """Try meshes, remat policies and batches by sums, compile the best, and rank them."""
    compile: bool = True
    """Ask the TPU compiler; otherwise sums alone, in a second."""
    json: bool = False
    """Print one JSON object on the last line of stdout."""


COMPILED_OF_A_SEARCH = 3


def main(argv: Sequence[str]) -> None:
    """Parse, plan, show."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the sums need no chip, and libtpu would look for one
    arguments = tyro.cli(Arguments, prog="narrador plan", args=list(argv))
    if arguments.name is None:
        from experiments.plan_page import page

        with waiting("planning") as tell:
            print(page(tell, arguments.compile))
        return
    if arguments.topology is None:
        raise UserError("--topology is missing: the chips to plan for, such as v5p:16x16x8, v6e:16x16 or h100:8x64.")
    if arguments.search and arguments.mesh is not None:
        raise UserError("--search tries meshes, and --mesh names one: give one of the two.")
    _plan(arguments.name, arguments.topology, arguments)


def _plan(name: str, topology_name: str, arguments: Arguments) -> None:
    with waiting("working out the sums") as tell:
        from experiments.plan_compile import Compiled, TooLarge
        from experiments.plan_report import lines, plan, ranked
        from experiments.plan_search import search

        training, experiment, topology = prepare(name, topology_name, arguments)
        why_not = reason_not_to_compile(topology, arguments.compile)

        def planned(layout: Any, which: str = "") -> tuple[dict[str, Any], Compiled | TooLarge | None]:
            compiled = None if why_not else compiled_or_too_large(layout, lambda doing: tell(f"{which}{doing}"))
            return plan(training.name, training.parameters, layout, compiled, training.tokens), compiled

        if arguments.search or arguments.mesh is None:
            batches = (arguments.batch,) if arguments.batch else ()
            layouts = search(experiment, topology, batches, arguments.remat, arguments.accumulation)
        else:
            layouts = [laid_out(experiment, topology, arguments)]
        tried = COMPILED_OF_A_SEARCH if arguments.search and not why_not else 1
        plans = [
            planned(layout, f"{index + 1} of {tried}: " if tried > 1 else "")
            for index, layout in enumerate(layouts[:tried])
        ]
    order = sorted(range(len(plans)), key=lambda index: (not plans[index][0]["fits"], -plans[index][0]["mfu_bound"]))
    best = order[0]
    found, compiled = plans[best]
    if arguments.search:
        rest = [plan(training.name, training.parameters, layout, None, training.tokens) for layout in layouts[tried:10]]
        found = found | {"ranked": [plans[index][0] for index in order] + rest}
    if arguments.json:
        print(json.dumps(found))
        return
    if arguments.search:
        print("\n".join(ranked(found["ranked"])), end="\n\n")
    print("\n".join(lines(found, layouts[best], compiled, why_not)))


def prepare(name: str, topology_name: str, arguments: Arguments) -> tuple[Any, Any, Any]:
    """The training, the experiment with the batch and policy asked for, and the machine.

    Raises:
        UserError: one of them is unknown, or a number is out of range.
    """
    from experiments.config import find_experiment
    from experiments.cost import find_training
    from experiments.topologies import find_topology

    topology, training = find_topology(topology_name), find_training(name, arguments.tokens)
    for option in ("batch", "accumulation"):
        if (value := getattr(arguments, option)) is not None and not 1 <= value <= 10**9:
            raise UserError(f"--{option} {value} must lie between 1 and a billion.")
    _, experiment = find_experiment(name)
    model, train = experiment.model, experiment.train
    model = replace(model, vocab_size=model.vocab_size or experiment.tokenizer.vocab_size)
    model = replace(model, remat=arguments.remat or model.remat)
    batch, parts = arguments.batch or train.batch_size, arguments.accumulation or 1
    if batch % parts:
        raise UserError(f"--accumulation {parts} does not divide the batch of {batch} rows.")
    train = replace(train, batch_size=batch, accumulation=parts)
    return training, replace(experiment, model=model, train=train), topology


def laid_out(experiment: Any, topology: Any, arguments: Arguments) -> Any:
    """The experiment on the mesh that was asked for, in the fewest parts that fit where none were."""
    from experiments.plan import lay_out, parts_that_fit
    from experiments.plan_search import parse_mesh

    layout = lay_out(experiment, topology, parse_mesh(arguments.mesh or ""))
    return layout if arguments.accumulation else parts_that_fit(layout)


def reason_not_to_compile(topology: Any, wanted: bool) -> str:
    """Why the sums must do; empty: they need not."""
    from experiments.plan_compile import has_compiler

    if topology.compiled and wanted and not has_compiler():
        return "libtpu, the TPU's compiler, is not installed; pip install 'narrador[tpu]' asks for no TPU."
    if not topology.chip.torus:
        return "there is no compiling for GPUs that are not there."
    if not topology.compiled:
        return f"libtpu has two devices for each {topology.chip.title}; it compiles for {', '.join(compiled_kinds())}."
    return "" if wanted else "as asked."


def compiled_kinds() -> tuple[str, ...]:
    """Chips that there is a compiler for."""
    from experiments.topologies import COMPILED

    return COMPILED


def compiled_or_too_large(layout: Any, tell: Callable[[str], None]) -> Any:
    """What the compiler says of a layout, that it is too large included."""
    from experiments.plan_compile import TooLarge, compile_layout

    try:
        return compile_layout(layout, tell)
    except TooLarge as error:
        return error


@contextmanager
def waiting(doing: str) -> Iterator[Callable[[str], None]]:
    """A spinner with what is being done and for how long; off a terminal, a line for each thing. On stderr."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from train.progress import console, say

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=None)

        def tell(doing: str) -> None:
            progress.update(task, description=doing)
            if not console.is_terminal:
                say(f"{doing} ...")

        yield tell
