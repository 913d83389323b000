"""What a sweep came to: its findings as JSON, and its report as a page."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import sweep_pictures
from experiments.pages import code, plain, table, write_page
from experiments.study import MESSAGE, PLACE, Study, outcome, shown
from experiments.truth import knows_truth
from train.run_directory import write_atomically

OUTCOMES = ("complete", "pruned", "diverged", "refused", "running")


def findings(study: Study) -> dict[str, Any]:
    """All that a sweep's report says, as JSON.

    `seconds` runs from the first trial's start to the last one's end, pauses between sessions included.
    """
    trials = study.trials()
    counts = Counter(map(outcome, trials))
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    rows = [
        {
            "number": trial.number,
            "outcome": outcome(trial),
            "value": trial.value if outcome(trial) in ("complete", "pruned") else None,
            "params": {path: trial.params.get(path) for path in study.space},
            "run_dir": _run_dir(study, trial),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **({"message": trial.user_attrs[MESSAGE]} if MESSAGE in trial.user_attrs else {}),
        }
        for trial in trials
    ]
    best = study.best()
    chosen = next((row for row in rows if best and row["number"] == best.number), None)
    return {
        "name": study.directory.resolve().name,
        "best": {name: chosen[name] for name in ("number", "value", "params", "run_dir")} if chosen else None,
        "trials": len(study.finished()),
        "seconds": round((max(ends) - min(starts)).total_seconds(), 3) if ends else 0.0,
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "importance": study.importance(),
        "params": {path: str(values) for path, values in study.space.items()},
        "sampler": study.sweep.sampler,
        "storage": shown(study.sweep.storage) if study.sweep.storage else None,
        "rows": rows,
    }


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The findings without their rows."""
    return {name: value for name, value in found.items() if name != "rows"}


def write_report(study: Study, directory: Path, command: Sequence[str] | None = None) -> Path:
    """Write report.md, report.html, report.json and pictures/; returns the Markdown's path.

    Args:
        command: what was run just now, noted beside those before it.
    """
    found = findings(study)
    commands = _commands(directory, command)
    floor = _floor(study, found)
    folder = directory / "pictures"
    folder.mkdir(exist_ok=True)
    drawn = []
    if found["best"]:
        log = {path: values.kind == "log" for path, values in study.space.items()}
        rows = [row for row in found["rows"] if row["outcome"] != "running"]  # of which some have no values yet
        sweep_pictures.sensitivity(rows, log, found["best"]["number"], folder / "sensitivity.png", floor)
        drawn.append("## Each parameter by itself\n\n![held-out loss by parameter](pictures/sensitivity.png)")
        if len(study.space) > 1:
            sweep_pictures.parallel(rows, log, folder / "parallel.png")
            drawn.append("## All together\n\nA line for each trial.\n\n![trials as lines](pictures/parallel.png)")
    text = "\n\n".join(
        [
            f"# {found['name']}",
            _summary(found, floor),
            *_importance(found),
            *drawn,
            "## Trials\n\n" + _trials(found),
            "## How it was made\n\n" + "\n\n".join(f"```\n{line}\n```" for line in commands),
            f"The best again, or for longer:\n\n```\nnarrador sweep best {directory} --as-config best.yaml\n"
            "narrador run best.yaml\n```\n\n"
            f"Each trial is a run: `narrador run {directory}/trials/0000` goes on with one and writes its own report.",
        ]
    )
    write_atomically(directory / "report.json", json.dumps({**found, "commands": commands}, indent=2) + "\n")
    return write_page(directory, found["name"], text)


def _run_dir(study: Study, trial: Any) -> str:
    """Where a trial's run lies: here, or HOST:FOLDER on the machine that ran it."""
    own = study.run_directory(trial.number).path
    host, _, folder = trial.user_attrs.get(PLACE, "").partition(":")
    return str(own) if own.exists() or not folder else f"{host}:{folder}/trials/{own.name}"


def _commands(directory: Path, command: Sequence[str] | None) -> list[str]:
    """The different commands that worked on the sweep, this one included."""
    file = directory / "report.json"
    before = json.loads(file.read_text()).get("commands", []) if file.exists() else []
    return list(dict.fromkeys([*before, *([shlex.join(command)] if command else [])]))


def _floor(study: Study, found: Mapping[str, Any]) -> float | None:
    """The least possible loss, where the text is the world's alone and all trials cut it into the same tokens."""
    sources = study.sweep.experiment.data.sources
    if len(sources) > 1 or not knows_truth(sources[0]) or not found["best"]:
        return None
    return (study.run_directory(found["best"]["number"]).stage("pretrain").result or {}).get("floor_loss")


def _summary(found: Mapping[str, Any], floor: float | None) -> str:
    best = found["best"]
    outcomes = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items() if count)
    rows = [["trials", outcomes or "none"], ["time from first to last", f"{found['seconds']:,.0f} s"]]
    rows += [["sampler", found["sampler"]]]
    rows += [[f"range of {code(path)}", code(values)] for path, values in found["params"].items()]
    if best:
        above = f"; the truth itself has {floor:.4f}" if floor is not None else ""
        rows = [
            ["best held-out loss", f"{best['value']:.4f} nats per token{above}"],
            *([code(path), f"**{_number(value)}**"] for path, value in best["params"].items()),
            ["its run", code(best["run_dir"])],
            *rows,
        ]
    return ("" if best else "No trial is complete.\n\n") + table(["", ""], rows)


def _importance(found: Mapping[str, Any]) -> list[str]:
    if not found["importance"]:
        return []
    rows = [[code(path), f"{share:.0%}"] for path, share in found["importance"].items()]
    return [
        "## What decides\n\nHow much each parameter's value says about whether a trial is among the best tenth "
        "(PED-ANOVA, Watanabe et al. 2023); shares of the whole. Of few trials it is a rough guess.\n\n"
        + table(["parameter", "share"], rows)
    ]


def _trials(found: Mapping[str, Any]) -> str:
    """The best first; what came to no loss last."""
    order = sorted(found["rows"], key=lambda row: (OUTCOMES.index(row["outcome"]), row["value"] or 0, row["number"]))
    paths = list(found["params"])
    rows = [
        [
            str(row["number"]),
            "" if row["value"] is None else f"{row['value']:.4f}",
            *(plain(_number(row["params"][path])) for path in paths),
            row["outcome"],
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            plain(row.get("message", "")),
        ]
        for row in order
    ]
    head = ["trial", "held-out loss", *map(code, paths), "came to", "seconds", ""]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
