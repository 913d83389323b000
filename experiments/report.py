"""A run's report: Markdown with its pictures beside it, and one HTML file with them inside."""

import json
import shlex
from pathlib import Path
from typing import Any

from experiments import pictures
from experiments.calibration import calibrate
from experiments.comparison_report import answers_table, conclusion
from experiments.expectation import expectation
from experiments.pages import code, plain, table, write_page
from experiments.truth import knows_truth
from train.narration.cast import TEAMS
from train.narration.truth import OutsideLanguage
from train.run_directory import RunDirectory, write_atomically
from train.sources import open_source
from train.trained import Trained, load

PLAYERS_OF_A_MATCH = 2 * len(TEAMS[0].eleven)


def write_report(run: RunDirectory) -> Path:
    """Write report.md, report.html and pictures/ for a complete run; returns the Markdown's path."""
    stage = run.stage("pretrain")
    folder = run.path / "pictures"
    folder.mkdir(exist_ok=True)
    metrics, speed = stage.rows("metrics"), stage.rows("speed")
    trained = load(run, "pretrain")
    config, result = run.config(), stage.result or {}
    expected = expectation(trained, config["train"]["sample_prompt"], temperature=1.0, top=10)
    told = next(filter(knows_truth, config["data"]["sources"]), None)
    pictures.loss_curve(metrics, folder / "loss.png", result.get("floor_loss"), told)
    pictures.throughput(speed, folder / "throughput.png")
    pictures.expectation_bars(expected, folder / "expectation.png")
    text = "\n\n".join(
        [
            f"# {run.path.name}",
            _summary(result),
            "## Loss\n\nThe held-out text is never trained on.\n\n![loss by step](pictures/loss.png)",
            "## From noise to text\n\n" + _samples(stage.rows("samples")),
            f"## What it expects\n\nAfter {code(expected['text'] or 'the start of a document')}: "
            f"entropy {expected['entropy']:.2f} nats, {expected['rest']:.1%} on tokens not shown.\n\n"
            "![probabilities of the next token](pictures/expectation.png)\n\n" + _expectation(expected),
            *_against_truth(trained, told, config["data"]["validation_fraction"], folder),
            *_fine_tuning(run, folder),
            *_choices(run),
            *_pleasing(run, folder),
            *_comparison(run),
            "## Speed\n\nCompilation, evaluation, samples and checkpoints are left out.\n\n"
            "![tokens per second by step](pictures/throughput.png)",
            "## How it was made\n\n" + _provenance(run),
        ]
    )
    return write_page(run.path, run.path.name, text)


def _summary(result: dict[str, Any]) -> str:
    alone = [(name.partition(" ")[2], loss) for name, loss in result.items() if name.startswith("validation_loss ")]
    rows = {
        "held-out loss": f"{result['validation_loss']:.4f} nats per token",
        "held-out bits per byte": f"{result['validation_bits_per_byte']:.4f}",
        **{f"held-out loss of {code(source)}": f"{loss:.4f} nats per token" for source, loss in alone},
        "steps": f"{result['steps']:,}",
        "tokens trained on": f"{result['tokens']:,}",
        "time": f"{result['seconds']:,.0f} s, from first compilation to last checkpoint",
        "preparing the data before it": f"{result['data_seconds']:,.0f} s, next to nothing where it is cached",
        "speed": f"{result['tokens_per_second']:,.0f} tokens per second",
        "model FLOPs utilization": f"{result['mfu']:.1%}",
    }
    if "floor_nats_per_word" in result:
        word, least = result["validation_nats_per_word"], result["floor_nats_per_word"]
        rows["above the floor"] = f"{word - least:.4f} nats per word ({word:.4f}; the truth itself has {least:.4f})"
    return table(["", ""], [[name, value] for name, value in rows.items()])


def _against_truth(trained: Trained, spec: str | None, held_out: float, folder: Path) -> list[str]:
    """What can be said only where the truth is known: how far from it the model is, and where."""
    if spec is None:
        return []
    try:
        found = calibrate(trained, open_source(spec, held_out).validation)
    except OutsideLanguage:
        return ["## Against the truth\n\nNot known: this tokenizer does not cut text where the world's words end."]
    pictures.distance_to_truth(found.kl_by_position, folder / "truth.png")
    write_atomically(folder / "truth.json", json.dumps(found._asdict()))
    return [
        f"## Against the truth\n\nOn {found.documents} held-out passages the model is {found.kl:.4f} nats per token "
        "from the true probabilities (KL, truth from model): on average, what its loss exceeds the floor by.\n\n"
        "![KL by position](pictures/truth.png)\n\n"
        f"A name that was said before in the passage is the model's first guess in {found.model_guesses:.1%} of the "
        f"{found.names_repeated:,} places where it comes again. One who knows the language guesses it in "
        f"{found.truth_guesses:.1%}; a name drawn from the two teams' {PLAYERS_OF_A_MATCH} would be right in "
        f"{1 / PLAYERS_OF_A_MATCH:.1%}."
    ]


def _fine_tuning(run: RunDirectory, folder: Path) -> list[str]:
    """What the stage `sft` came to, where it is complete."""
    stage = run.stage("sft")
    if stage.result is None:
        return []
    pictures.loss_curve(stage.rows("metrics"), folder / "sft_loss.png")
    return [
        "## Learning to answer\n\nSupervised fine-tuning; the loss counts the assistant's tokens only. On held-out "
        f"chats {stage.result['validation_loss']:.4f} nats per token after {stage.result['steps']:,} steps "
        f"({stage.result['seconds']:,.0f} s).\n\n![loss by step](pictures/sft_loss.png)\n\n"
        + _samples(stage.rows("samples"))
    ]


def _choices(run: RunDirectory) -> list[str]:
    """What the stage `reward` came to, where it is complete."""
    result = run.stage("reward").result
    if result is None:
        return []
    rows = {
        "held-out choices": f"{result['pairs']:,}",
        "right on": f"{result['accuracy']:.1%}",
        "calibration error": f"{result['calibration_error']:.3f}",
        "correlation with the answer's length": f"{result['length_correlation']:.2f}",
        "time": f"{result['seconds']:,.0f} s for {result['steps']:,} steps",
    }
    if "ceiling" in result:
        rows["at best possible"] = f"{result['ceiling']:.1%}, since raters differ and are not named"
    return ["## What people choose\n\n" + table(["reward model", ""], [[*row] for row in rows.items()])]


def _pleasing(run: RunDirectory, folder: Path) -> list[str]:
    """What the stage `ppo` came to, where it is complete."""
    stage = run.stage("ppo")
    result = stage.result
    if result is None:
        return []
    metrics = stage.rows("metrics")
    pictures.rewards(metrics, folder / "ppo.png")
    rows = {"reward": f"{metrics[0]['reward']:.2f} at first, {result['reward']:.2f} at last"}
    if "gold_reward" in result:
        rows["gold reward"] = f"{metrics[0]['gold_reward']:.2f} at first, {result['gold_reward']:.2f} at last"
    rows |= {
        "KL from the fine-tuned model": f"{result['kl']:.2f} nats an answer",
        "answers that stop by themselves": f"{result['stop_rate']:.1%}",
        "bits per byte on the base text": f"{result['base_bits_per_byte_before']:.4f} before, "
        f"{result['base_bits_per_byte']:.4f} after",
        "time": f"{result['seconds']:,.0f} s for {result['steps']:,} iterations",
    }
    shown = [episode for row in stage.rows("samples")[-1:] for episode in row["episodes"]]
    answers = [[code(episode["prompt"]), code(episode["text"])] for episode in shown]
    return [
        "## Learning to please\n\nPPO against the reward model, whose score less penalties is the reward. At first is "
        "one iteration, at last the mean of the last ones.\n\n" + table(["PPO", ""], [[*row] for row in rows.items()]),
        "![rewards and KL by iteration](pictures/ppo.png)",
        table(["asked", "answered at last"], answers),
    ]


def _comparison(run: RunDirectory) -> list[str]:
    """What the stage `compare` came to, where it is complete."""
    result = run.stage("compare").result
    if result is None:
        return []
    head, rows = answers_table(result)
    names = ["", *(plain(name) for name in head[1:])]
    return [f"## Before and after\n\n{plain(conclusion(result))}.\n\n{table(names, rows)}"]


def _samples(rows: list[dict[str, Any]]) -> str:
    return table(["step", "text"], [[f"{row['step']:,}", code(row["prompt"] + row["text"])] for row in rows])


def _expectation(found: dict[str, Any]) -> str:
    measured = [key for key in ("probability", "true_probability") if key in found["tokens"][0]]
    rows = [[code(repr(row["text"])), *(f"{row[key]:.2%}" for key in measured)] for row in found["tokens"]]
    return table(["token", *(key.replace("_", " ") for key in measured)], rows)


def _provenance(run: RunDirectory) -> str:
    parts = []
    for session in run.sessions():
        packages = ", ".join(f"{name} {version}" for name, version in session["packages"].items())
        parts.append(
            f"```\n{shlex.join(session['command'])}\n```\n\nPython {session['python']}, {packages}; "
            f"revision {session['revision']}; devices: {', '.join(session['devices'])}."
        )
    return "\n\n".join([*parts, f"```yaml\n{run.config_path.read_text()}```"])
