"""The real train step, compiled by the real TPU compiler for a pod that is not there.

libtpu compiles without a TPU, in a process of its own: what it does to a process that has no TPU is then no matter.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.plan import Layout
from model.errors import UserError

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the TPU is only compiled for
    "TPU_SKIP_MDS_QUERY": "1",  # no asking a cloud which machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside other plans
    "TPU_ACCELERATOR_TYPE": "none",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one chip's program."""

    arguments: int
    """Bytes of state and batch."""
    temporaries: int
    """Bytes beside them, the program's own included. Where the program fits no chip: what is told of it."""
    flops: float
    """By its cost analysis, which counts a loop once."""
    traced_flops: float
    """Of all chips: matrix products of the step as traced, loops as often as they go round."""
    traced_flops_once: float
    """The same with each loop once."""
    collective_bytes: dict[str, float]
    """Bytes that a chip sends, and receives, along each mesh axis in a step."""
    collectives: dict[str, int]
    """How many of each kind a step runs."""
    seconds: float
    """Of tracing and compiling."""
    host_bytes: int
    """Most memory that took here."""


class TooLarge(Exception):
    """The compiler found no way to fit the program into a chip's memory; holds the bytes it would take."""

    def __init__(self, needed: float) -> None:
        super().__init__(needed)
        self.needed = needed


def has_compiler() -> bool:
    """Whether libtpu is here (extra `tpu`)."""
    return importlib.util.find_spec("libtpu") is not None


def compile_layout(layout: Layout, tell: Callable[[str], None]) -> Compiled:
    """Compile the step of a layout in a new process.

    Args:
        layout: for a topology with `compiled`.
        tell: is told what is being done.

    Raises:
        TooLarge: it does not fit.
        UserError: the compiler refuses, in its words.
    """
    from train.mapping import to_mapping

    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}
    with tempfile.TemporaryFile("w+") as noise:
        command = [sys.executable, "-m", "experiments.plan_compile"]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=noise, text=True, env=environment)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            request = {"experiment": to_mapping(layout.experiment), "topology": layout.topology.name}
            child.stdin.write(json.dumps(request))
            child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "doing" in message:
                    tell(message["doing"])
                elif "needed" in message:
                    raise TooLarge(message["needed"])
                elif "refused" in message:
                    raise UserError(f"the TPU compiler refuses: {message['refused']}")
                else:
                    return Compiled(**message)
            noise.seek(0)
            last = noise.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise UserError(f"the TPU compiler ended with code {child.wait()}: {last[0][:500]}")
        finally:
            child.kill()
            child.wait()


def main() -> None:
    """The other process: read a request from stdin, compile, write lines of JSON to stdout."""
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is not for the reader

    def send(**message: Any) -> None:
        answer.write(json.dumps(message) + "\n")
        answer.flush()

    from experiments.config import Experiment
    from train.mapping import from_mapping

    experiment = from_mapping(Experiment, request["experiment"], "the request")
    try:
        send(**_compile(experiment, request["topology"], lambda doing: send(doing=doing)))
    except Exception as error:
        words = " ".join(str(error).split())
        if match := re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", words):
            send(needed=float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1))
        else:
            send(refused=words[:500])


def _compile(experiment: Any, topology: str, doing: Callable[[str], None]) -> dict[str, Any]:
    import resource

    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    from experiments.collectives import collectives
    from experiments.topologies import find_topology
    from experiments.traced_flops import traced_flops
    from model.sharding import make_mesh
    from model.transformer import Transformer
    from train.batches import Batch
    from train.optimizer import hyperparameters
    from train.step import abstract_state, batch_sharding, jitted_step

    doing("placing the state")
    start, found = time.monotonic(), find_topology(topology)
    # Two by two chips a host where they are as many, so that a slice of any size can be asked for.
    host = tuple(2 if axis < 2 and size % 2 == 0 else 1 for axis, size in enumerate(found.shape))
    bounds = (*host, 1, 1)[:3]
    devices = topologies.get_topology_desc(topology, platform="tpu", chips_per_host_bounds=bounds).devices
    mesh, rules, train = make_mesh(experiment.mesh, devices), experiment.sharding, experiment.train
    model = Transformer(experiment.model, rules, jnp.bfloat16)
    state = abstract_state(model, train, mesh, rules)
    shape, sharding = (train.batch_size, experiment.data.sequence_length), batch_sharding(mesh, rules)
    dtypes = [jnp.float32 if name == "weights" else jnp.int32 for name in Batch._fields]
    shapes: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for dtype in dtypes]
    batch = Batch(*shapes)
    with jax.set_mesh(mesh):
        doing("tracing the step")
        traced = jitted_step(model, train, state).trace(state, batch, hyperparameters(train))
        doing("compiling it for the chips")
        compiled = traced.lower().compile()
    seconds = time.monotonic() - start
    doing("reading the program")
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes + memory.generated_code_size_in_bytes + fresh,
        "flops": cost["flops"],
        "traced_flops": traced_flops(traced.jaxpr.jaxpr),
        "traced_flops_once": traced_flops(traced.jaxpr.jaxpr, trips=False),
        **_travelling(collectives(text, dict(mesh.shape))),
        "seconds": seconds,
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _travelling(found: list[Any]) -> dict[str, Any]:
    """Bytes by mesh axis and runs by kind."""
    from experiments.collectives import total_by_axis

    runs: Counter[str] = Counter()
    for collective in found:
        runs[collective.kind] += collective.runs
    return {"collective_bytes": total_by_axis(found), "collectives": dict(runs)}


if __name__ == "__main__":
    main()
