"""A plan put together, sums and compiler, as one mapping and as text."""

from typing import Any

from experiments.commands.cost import duration, in_words
from experiments.plan import Layout, advice, bill, collective_bytes, flops, memory, roofline
from experiments.plan_compile import Compiled, TooLarge
from experiments.plan_search import mesh_text


def plan(
    name: str, parameters: int, layout: Layout, compiled: Compiled | TooLarge | None, tokens: int
) -> dict[str, Any]:
    """Every number of a plan by name; the compiler's where it was asked, else the sums'.

    Args:
        compiled: what the compiler found; None: it was not asked.
        tokens: what the model is to be trained on.
    """
    held, counted, moved = memory(layout), flops(layout), collective_bytes(layout)
    if isinstance(compiled, Compiled):
        total = compiled.arguments + compiled.temporaries
        held |= {"arguments": compiled.arguments, "temporaries": compiled.temporaries, "total": total}
        counted["executed"] = compiled.traced_flops
        moved = moved | compiled.collective_bytes
    elif isinstance(compiled, TooLarge):
        held |= {"temporaries": compiled.needed - held["arguments"], "total": compiled.needed}
    times = roofline(layout, moved, counted["executed"])
    experiment = layout.experiment
    return {
        "name": name,
        "topology": layout.topology.name,
        "mesh": {axis: size for axis, size in layout.mesh.items() if size > 1},
        "batch": experiment.train.batch_size,
        "accumulation": experiment.train.accumulation,
        "remat": experiment.model.remat,
        "parameters": parameters,
        "devices": layout.topology.chips,
        "memory_per_chip_bytes": held,
        "fits": held["total"] <= held["available"],
        "flops_per_step": counted["formula"],
        "flops_executed": counted["executed"],
        "collective_bytes": {axis: moved[axis] for axis, size in layout.mesh.items() if size > 1},
        "seconds": times["seconds"],
        "seconds_per_step": times["seconds_per_step"],
        "bound_by": times["bound_by"],
        "mfu_bound": times["mfu_bound"],
        "tokens": tokens,
        **bill(layout, times["seconds_per_step"], tokens),
        "compiled": compiled is not None,
        "compile_seconds": compiled.seconds if isinstance(compiled, Compiled) else None,
        "compile_host_bytes": compiled.host_bytes if isinstance(compiled, Compiled) else None,
        "compiler_flops_per_chip": compiled.flops if isinstance(compiled, Compiled) else None,
        "traced_flops_once": compiled.traced_flops_once if isinstance(compiled, Compiled) else None,
        "collectives": compiled.collectives if isinstance(compiled, Compiled) else None,
    }


def lines(found: dict[str, Any], layout: Layout, compiled: Compiled | TooLarge | None, why_not: str) -> list[str]:
    """The plan for people to read.

    Args:
        why_not: why the compiler was not asked, if it was not.
    """
    experiment, chip = layout.experiment, layout.topology.chip
    sums, moved = memory(layout), collective_bytes(layout)

    def beside(one: str, other: str) -> str:
        return f"{one:>14}" + ("" if compiled is None else f"{other:>14}")

    by = "by sums" if compiled is None else "compiler"
    held, chips = found["memory_per_chip_bytes"], found["devices"]
    text = [
        f"{found['name']} on {found['topology']}, {chips:,} x {chip.title}, mesh {mesh_text(layout)}",
        f"{found['batch']:,} rows of {experiment.data.sequence_length:,} tokens"
        f" ({in_words(layout.tokens_per_step)} a step) in {found['accumulation']} part(s), remat {found['remat']}, "
        f"{experiment.train.optimizer}, products in bfloat16",
        "",
        f"{'parameters':<22}{in_words(found['parameters'])}",
        f"{'memory of a chip':<22}{beside(by, 'by sums')}",
    ]
    for kind in ("arguments", "temporaries", "total"):
        text.append(f"  {kind:<20}{beside(_gigabytes(held[kind]), _gigabytes(sums[kind]))}")
    over = (held["total"] - held["available"]) / 1e9
    verdict = "it fits" if found["fits"] else f"too much by {over:.3g} GB: {advice(layout)}"
    text += [f"  {'available':<20}{_gigabytes(held['available']):>14}   {verdict}", "", "FLOPs of a step, all chips"]
    executed, formula = found["flops_executed"], found["flops_per_step"]
    text += [
        f"  {'formula':<20}{formula:>14.3e}   3 x (2 x weights + 4 x width x tokens attended to, each layer), a token",
        f"  {'executed':<20}{executed:>14.3e}   {executed / formula:.2f} times: masked scores too, and what remat and "
        "the loss' chunks do again",
    ]
    if isinstance(compiled, Compiled):
        text += [
            f"  {'compiler':<20}{compiled.flops * chips:>14.3e}   counts a loop over layers, parts or chunks once; so "
            f"counted the traced step has {compiled.traced_flops_once:.3e}",
        ]
    text += ["", f"{'sent by a chip':<22}{beside(by, 'least')}"]
    for axis, told in found["collective_bytes"].items():
        text.append(f"  {axis:<20}{beside(_gigabytes(told), _gigabytes(moved[axis]))}")

    text += ["", "least time of a step, were each perfect and all at once"]
    for kind, seconds in found["seconds"].items():
        binding = "   binding" if kind == found["bound_by"] else ""
        text.append(f"  {kind:<20}{seconds:>12.4g} s{binding}")
    text += [
        f"{'MFU':<22}{found['mfu_bound']:>13.1%}   at most: a bound, not a forecast",
        "",
        f"{in_words(found['tokens'])} tokens take at least {duration(found['days'] * 86_400, 'days')} "
        f"and {in_words(found['dollars'])} dollars",
        f"  {chip.dollars_per_hour:.2f} dollars a chip-hour ({chip.price_source}, {chip.price_date})",
    ]
    if isinstance(compiled, Compiled):
        kinds = ", ".join(f"{count} {kind}" for kind, count in compiled.collectives.items())
        text += [f"compiled here in {compiled.seconds:.0f} s and {compiled.host_bytes / 2**30:.1f} GiB; it has {kinds}"]
    elif compiled is None:
        text += [f"all of it by sums: {why_not}"]
    return text


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def ranked(plans: list[dict[str, Any]]) -> list[str]:
    """A table of plans, best first."""
    text = [f"{'mesh':<36}{'remat':>6}{'rows':>7}{'parts':>6}{'memory':>10}{'MFU bound':>11}{'bound by':>14}{'':>12}"]
    for found in plans:
        mesh = ",".join(f"{axis}={size}" for axis, size in found["mesh"].items()) or "data=1"
        held = found["memory_per_chip_bytes"]["total"] / 1e9
        how = "compiled" if found["compiled"] else "by sums"
        text.append(
            f"{mesh:<36}{found['remat']:>6}{found['batch']:>7,}{found['accumulation']:>6}{held:>7.1f} GB"
            f"{found['mfu_bound']:>11.1%}{found['bound_by']:>14}{how if found['fits'] else 'too large':>12}"
        )
    return text
