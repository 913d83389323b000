"""`docs/plans.md`: a plan that fits for every published architecture, beside what others have reached."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from experiments.commands.cost import in_words
from experiments.config import find_experiment
from experiments.cost import find_training
from experiments.plan import lay_out, parts_that_fit
from experiments.plan_compile import Compiled, TooLarge, compile_layout, has_compiler
from experiments.plan_report import plan
from experiments.plan_search import mesh_text, parse_mesh
from experiments.presets import RECIPES
from experiments.topologies import find_topology

# Topology, mesh and rows of a step, next to what the recipe has that the mesh divides; None: the recipe's own.
PLANS: dict[str, tuple[str, str, int | None]] = {
    "vaswani2017": ("v5e:2x2", "fsdp=4", 48),
    "gpt2-124m": ("v5e:4x4", "fsdp=16", None),
    "gpt2-355m": ("v5e:4x4", "fsdp=16", None),
    "gpt2-774m": ("v5e:4x8", "fsdp=32", None),
    "gpt2-1558m": ("v5e:4x8", "fsdp=32", None),
    "gpt3-125m": ("v5e:4x4", "fsdp=16", 240),
    "gpt3-350m": ("v5e:4x4", "fsdp=16", 240),
    "gpt3-760m": ("v5e:4x8", "fsdp=32", 256),
    "gpt3-1.3b": ("v5e:8x8", "fsdp=64", 512),
    "gpt3-2.7b": ("v5e:8x8", "fsdp=64", 512),
    "gpt3-6.7b": ("v5p:4x4x4", "fsdp=64", 1024),
    "gpt3-13b": ("v5p:4x4x8", "fsdp=128", 1024),
    "gpt3-175b": ("v5p:8x8x16", "fsdp=512,context=2", 1536),
    "llama3.1-8b": ("v5p:4x4x8", "fsdp=128", None),
    "llama3.1-70b": ("v5p:8x8x16", "fsdp=256,tensor=4", None),
    "llama3.1-405b": ("v5p:16x16x8", "fsdp=256,tensor=8", None),
    "gpt4-estimate": ("v5p:16x16x16", "fsdp=128,expert=4,tensor=8", None),
}

# AI-Hypercomputer's MaxText, docs/reference/models/tiering.md: measured on real chips, in bfloat16.
PUBLISHED = {
    "llama3.1-8b": "45.5% (256 v6e)",
    "llama3.1-70b": "50.3% (256 v6e); Llama 2 70B 65.4% (512 v5p)",
    "llama3.1-405b": "38.6% (256 v6e)",
}

HEAD = """# Plans

What it takes to train each published architecture on chips that nobody here has. `narrador plan > docs/plans.md` makes
this page{how}.
`narrador plan NAME --topology ... --mesh ...` tells more of each.

| model | topology | mesh | rows x parts | GB | of | fits | MFU bound | bound by | MaxText | days | dollars | by |
| --- | --- | --- | --- | ---: | ---: | --- | ---: | --- | --- | ---: | ---: | --- |
"""

TAIL = """
- The bound is what the step could reach were compute, memory and interconnect each perfect and all at once. It is no
  forecast: MaxText's figures are measured, on other chips or other models than the plan beside them, and show how far
  from a bound practice may be. They are from its docs/reference/models/tiering.md, which warns that some older ones
  count attention otherwise.
- Attention here holds its scores in memory; kernels that do not (FlashAttention) need less memory and less traffic.
- A mixture's sums take each row to meet its own experts only. libtpu 0.0.42 computes the gradient of the experts'
  weights as if every row met all that a chip holds: compiled, gpt4-estimate's bound is 22.4%, with 35.8 GB a chip.
- "compiler": bytes of memory and between chips are those of the program that the TPU compiler made of the real step;
  traffic between chip and memory is by sums. "sums": all is.
- Days and dollars are for the published token budget at the bound, so at least that; prices are those of
  `experiments/chips.py`, on demand and dated there.
"""


def page(tell: Callable[[str], None], compiling: bool) -> str:
    """The page in Markdown, each architecture's step compiled where there is the compiler.

    Args:
        tell: is told what is being done.
        compiling: otherwise sums alone.
    """
    compiling = compiling and has_compiler()
    rows = [_row(*_planned(name, compiling, tell)) for name in RECIPES]
    how = "" if compiling else ", here by sums alone (libtpu was not there or not asked)"
    return HEAD.format(how=how) + "\n".join(rows) + "\n" + TAIL.rstrip("\n")


def layout_of(name: str) -> Any:
    """The layout of the page's plan for a published architecture."""
    topology, mesh, batch = PLANS[name]
    _, experiment = find_experiment(name)
    train = replace(experiment.train, batch_size=batch or experiment.train.batch_size, accumulation=1)
    return parts_that_fit(lay_out(replace(experiment, train=train), find_topology(topology), parse_mesh(mesh)))


def _planned(name: str, compiling: bool, tell: Callable[[str], None]) -> tuple[dict[str, Any], Any]:
    layout, training = layout_of(name), find_training(name)
    compiled: Compiled | TooLarge | None = None
    if compiling:
        try:
            compiled = compile_layout(layout, lambda doing: tell(f"{name}: {doing}"))
        except TooLarge as error:
            compiled = error
    return plan(training.name, training.parameters, layout, compiled, training.tokens), layout


def _row(found: dict[str, Any], layout: Any) -> str:
    held = found["memory_per_chip_bytes"]
    cells = (
        found["name"],
        found["topology"],
        mesh_text(layout),
        f"{found['batch']:,} x {found['accumulation']}",
        f"{held['total'] / 1e9:.1f}",
        f"{held['available'] / 1e9:.0f}",
        "yes" if found["fits"] else "no",
        f"{found['mfu_bound']:.1%}",
        found["bound_by"],
        PUBLISHED.get(found["name"], ""),
        in_words(found["days"]),
        in_words(found["dollars"]),
        "compiler" if found["compiled"] else "sums",
    )
    return f"| {' | '.join(cells)} |"
