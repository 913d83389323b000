"""A ladder in words and tables: its plan, its state, and the report of its law."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.ladder import DECAY, Ladder
from experiments.ladder_fit import COUNTS
from experiments.ladder_run import seconds_left, states
from experiments.law_report import FRONTIER, HEADINGS, cells, frontier_cells
from experiments.machine import command, versions
from experiments.pages import code, table, write_page
from experiments.scaling_law import EPOCH, HOFFMANN
from train.run_directory import write_atomically

PLANNED = ("size", "parameters", "non-embedding", "tokens", "steps", "seed", "FLOPs", "epochs", "min", "MB")
STATUS = ("run", "state", "step", "of", "loss")
Lines = list[list[str]]


def planned(ladder: Ladder) -> Lines:
    """Each cell with what it takes."""
    rows = []
    for cell in ladder.cells:
        size, tokens = ladder.size(cell.size), cell.steps * ladder.tokens_per_step
        rows.append(
            [
                cell.size,
                f"{size.total:,}",
                f"{size.non_embedding:,}",
                f"{tokens:,}",
                f"{cell.steps:,}",
                f"{cell.seed}",
                f"{ladder.flops(cell):.2e}",
                f"{tokens / ladder.data_tokens:.2f}",
                f"{ladder.seconds(cell) / 60:.1f}",
                f"{size.memory_bytes / 1e6:,.0f}",
            ]
        )
    return rows


def plan_remarks(ladder: Ladder) -> list[str]:
    """What a reader of the plan must know."""
    return [
        f"{len(ladder.cells)} runs of {len(ladder.sizes)} sizes on {ladder.workers} workers, about "
        f"{ladder.wall_seconds() / 60:.0f} minutes as fast as the sizes were measured just now.",
        f"Warmup-stable-decay: the last {DECAY:.0%} of each run's steps decay. min: of the steps that a run takes "
        "itself, going on from the next shorter one of its size and seed before that one's decay.",
        f"The learning rate is {ladder.experiment.train.learning_rate:g} for all sizes, by CompleteP from width "
        f"{ladder.experiment.model.width} and {ladder.experiment.model.layers} layers.",
        f"The training split has {ladder.data_tokens:,} tokens. MB: memory of the compiled step.",
    ]


def status(ladder: Ladder, folder: Path) -> tuple[Lines, str]:
    """Each cell's state, and how long the rest takes."""
    rows = [
        [cell.name, state, f"{step:,}", f"{cell.steps:,}", "" if loss is None else f"{loss:.4f}"]
        for cell, state, step, loss in states(ladder, folder)
    ]
    done = sum(row[1] == "done" for row in rows)
    left = seconds_left(ladder, folder)
    return rows, f"{done} of {len(rows)} runs are done" + (f"; about {left / 60:.0f} minutes left." if left else ".")


def conclusions(found: Mapping[str, Any]) -> list[str]:
    """What the ladder came to, in sentences."""
    told, held = found["laws"]["flops"], found["held_out"]
    lines = []
    if held is not None:
        low, high = held["predicted_interval"]
        lines.append(
            f"The most compute, {held['size']} for {held['steps']:,} steps, was held out: foretold "
            f"{held['predicted']:.4f} ({low:.4f} to {high:.4f}) from {held['fitted']} other runs, at "
            f"{held['times_the_compute']:.1f} times the compute of the next; it came to {held['loss']:.4f} "
            f"({_mean(held['seeds'])}), {abs(held['error']):.2%} {'less' if held['error'] > 0 else 'more'}."
        )
    low, high = told["E_interval"]
    if found["floor"] is not None:
        side = "holds" if low <= found["floor"] <= high else "does not hold"
        lines.append(
            f"E, the loss of endless size and data, is fitted as {told['E']:.4f} ({low:.4f} to {high:.4f}); the truth "
            f"itself has {found['floor']:.4f} nats per token, which that interval {side}."
        )
    last = told["frontier"][-1]
    lines.append(
        f"For {last['C']:.2g} FLOPs the law's best is N = {last['N'][0]:.3g} (FLOPs / 6) and D = {last['D'][0]:.3g}: "
        f"{last['tokens_per_parameter'][0]:.1f} tokens for each, and a loss of {last['loss'][0]:.4f}."
    )
    if (noise := found["seed_noise"]) is not None:
        lines.append(
            f"Runs that differ only in the seed are {noise['deviation']:.4f} nats apart (standard deviation, of "
            f"{noise['runs']} runs in {noise['places']} places)."
        )
    return lines


def write_report(ladder: Ladder, folder: Path, found: Mapping[str, Any]) -> Path:
    """Write fit.json, report.md, report.html and pictures; returns the Markdown's path."""
    from experiments.ladder_picture import best_use, losses

    (folder / "pictures").mkdir(exist_ok=True)
    losses(found, folder / "pictures" / "losses.png")
    best_use(found, folder / "pictures" / "best_use.png")
    title = f"A ladder of {len(found['runs'])} runs"
    doubts = [f"- {line}" for line in found["warnings"]] or ["- Nothing that the ladder itself can see."]
    made = [" ".join(ladder.command), *(" ".join(command(["scale", "ladder", verb, str(folder)])) for verb in VERBS)]
    text = "\n\n".join(
        [
            f"# {title}",
            "\n".join(f"- {line}" for line in conclusions(found)),
            "![losses over compute](pictures/losses.png)",
            "## The law\n\nL(N, D) = E + A / N^alpha + B / D^beta: the Huber loss (delta 1e-3) of log L is least "
            f"(Hoffmann et al. 2022; Besiroglu et al. 2024); intervals by bootstrap "
            f"over runs, {_rounds(found)} rounds.",
            *(f"N as {COUNTS[count]}:\n\n" + table(HEADINGS, cells(told)) for count, told in found["laws"].items()),
            "## The best use of a budget\n\nN as FLOPs per token / 6, under which C = 6 N D exactly; what rows are "
            "padded with is not counted.",
            table(FRONTIER, frontier_cells(found["laws"]["flops"], 4)),
            "![the best N and D](pictures/best_use.png)\n\nOther text, tokens and models: of the published laws only "
            f"the slopes can be compared, a = {HOFFMANN.exponent:.2f} (Hoffmann et al.) and {EPOCH.exponent:.2f} "
            "(Besiroglu et al.); each line is moved so that it meets ours at the middle budget.",
            "## What to doubt\n\n" + "\n".join(doubts),
            "## At the same compute\n\nWhere a parabola in log N is lowest, beside the law's best. Only to look at: "
            "such parabolas are biased even without noise (arXiv 2603.22339).\n\n" + _slices(found),
            "## Runs\n\n" + _runs(found),
            f"## How it was made\n\n{found['seconds'] / 60:.1f} minutes of training on one worker's share of the "
            f"machine, {ladder.workers} at a time.\n\n" + "\n\n".join(map(code, made)),
        ]
    )
    write_atomically(folder / "fit.json", json.dumps({**found, **versions()}, indent=1) + "\n")
    return write_page(folder, title, text)


VERBS = ("run", "report")


def _mean(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"the mean of {seeds} seeds"


def _rounds(found: Mapping[str, Any]) -> int:
    return found["laws"]["flops"]["rounds"]


def _slices(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{one['C']:.2e}",
            f"{len(one['N'])}",
            "yes" if one["interior"] else "no",
            "–" if one["parabola_N"] is None else f"{one['parabola_N']:.3g}",
            f"{one['law_N']:.3g}",
        ]
        for one in found["isoflop"]
    ]
    return table(("FLOPs", "sizes", "minimum inside", "parabola's N", "law's N"), rows)


def _runs(found: Mapping[str, Any]) -> str:
    rows = [
        [
            row["run"],
            f"{row['total']:,}",
            f"{row['non_embedding']:,}",
            f"{row['tokens']:,}",
            f"{row['flops']:.2e}",
            f"{row['epochs']:.2f}",
            f"{row['loss']:.4f}",
        ]
        for row in found["runs"]
    ]
    return table(("run", "parameters", "non-embedding", "tokens", "FLOPs", "epochs", "loss"), rows)
