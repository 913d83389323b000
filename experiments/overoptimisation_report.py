"""A study of over-optimisation in words, tables and a picture, beside what was found by those who studied it first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.best_of_n import kl_bound
from experiments.overoptimisation_picture import TITLES, proxy_and_gold
from experiments.pages import code, table, write_page
from experiments.proxies import LEAST, MEAN
from experiments.scaling_forms import BEST_OF_N, CONSTANT, FORMS, LINE, PPO
from train.run_directory import write_atomically

Found = Mapping[str, Any]
METHODS = (BEST_OF_N.name, PPO.name)
FALLS, STAYS = "falls", "does not"


def write_report(folder: Path, found: Found) -> Path:
    """Write result.json, report.md, report.html and pictures/; returns the Markdown's path."""
    (folder / "pictures").mkdir(exist_ok=True)
    proxy_and_gold(found, folder / "pictures" / "overoptimisation.png")
    text = "\n\n".join(
        [
            "# Over-optimisation",
            "Policies are optimized against reward models, and their gold reward, which no reward model has seen, is "
            "watched: after Gao, Schulman and Hilton 2022 (arXiv 2210.10760).",
            "![gold and proxy over d](pictures/overoptimisation.png)",
            "Solid: gold; dashed: the proxy; dotted: the forms. The axes are linear near 0 and logarithmic beyond.",
            table(["", "elsewhere", "here"], beside_others(found)),
            f"## Reward models\n\n{_accuracies(found)}\n\n{_reward_models(found)}",
            "## Curves\n\n" + _curves(found),
            "## The forms held against far points\n\n" + _foretold(found),
            "## What the policies say at last\n\n" + _said(found),
            "## How it was measured\n\n" + _method(found),
        ]
    )
    write_atomically(folder / "result.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return write_page(folder, "Over-optimisation", text)


# --- what it comes to -----------------------------------------------------------------------------------------------


def conclusions(found: Found) -> list[str]:
    """What came out, a few sentences on each question."""
    falling, forms = ([of(found, method) for method in METHODS] for of in (_falling, _forms))
    return [_accuracies(found), *falling, *_data(found), *forms, _same_kl(found), _ensemble(found)]


def beside_others(found: Found) -> list[list[str]]:
    """What was found elsewhere, and the same question answered here."""
    return [
        [
            "does gold fall while the proxy is optimized?",
            "it rises and then falls, by best-of-n and by RL (Gao et al.)",
            " ".join(_falling(found, method) for method in METHODS),
        ],
        [
            "more data",
            "more gold and less over-optimisation; below some 2,000 choices hardly better than chance (Gao et al.)",
            " ".join(_data(found)),
        ],
        [
            "do the forms foretell?",
            "d (alpha - beta d), found for n up to 1,000, held up to 60,000 (Gao et al.)",
            " ".join(_forms(found, method) for method in METHODS),
        ],
        [
            "gold at the same KL",
            "RL takes far more KL than best-of-n for as much gold (Gao et al.)",
            _same_kl(found),
        ],
        [
            "the minimum of an ensemble",
            "of reward models learned apart: hardly any over-optimisation by best-of-n, and less by PPO (Coste "
            "et al. 2023, arXiv 2310.02743)",
            _ensemble(found),
        ],
    ]


def _of(found: Found, method: str) -> list[Found]:
    return [curve for curve in found["curves"] if curve["method"] == method]


def _singles(found: Found, method: str) -> list[Found]:
    """The curves of single reward models, from the fewest choices to the most."""
    return [curve for curve in _of(found, method) if curve["heads"] == 1]


def verdict(curve: Found) -> str:
    """Whether gold falls from its best point to the last one, beyond what the prompts' chance explains."""
    return FALLS if curve["fall"]["high"] < 0 else STAYS


def _accuracies(found: Found) -> str:
    models = [model for model in found["reward_models"] if model["heads"] == 1]
    told = ", ".join(f"{model['accuracy']:.1%} with {model['choices']:,}" for model in models)
    return (
        f"Of {models[0]['pairs']:,} held-out choices the reward models are right on {told} to learn from; at best "
        f"{models[0]['ceiling']:.1%} are possible."
    )


def _falling(found: Found, method: str) -> str:
    curves = _of(found, method)
    falling = [curve["name"] for curve in curves if verdict(curve) == FALLS]
    which = "" if len(falling) in (0, len(curves)) else f" ({'; '.join(falling)})"
    return f"{TITLES[method]}: gold falls from its best point in {len(falling)} of {len(curves)} curves{which}."


def _data(found: Found) -> list[str]:
    if len(_singles(found, PPO.name)) < 2:
        return []
    lines = []
    for method in METHODS:
        curves = _singles(found, method)
        peaks = [curve["fit"]["peak"] for curve in curves]
        golds = [best(curve)["gold"] for curve in curves]
        lines.append(
            f"{TITLES[method]} from {' to '.join(format(curve['choices'], ',') for curve in curves)} choices: the best "
            f"gold gain measured is {', '.join(map(shown, golds))}, {order(golds)}; the form peaks at d = "
            f"{', '.join(map(shown, peaks))}, {order(peaks)}."
        )
    return lines


def order(estimates: Sequence[Found]) -> str:
    """How estimates, from the fewest data to the most, go with the data."""
    values = np.array([np.inf if one["value"] is None else one["value"] for one in estimates])
    with np.errstate(invalid="ignore"):
        steps = np.sign(np.diff(values))  # NaN from infinity to infinity
    if not (np.all(steps > 0) or np.all(steps < 0)):
        return "in no order of the data"
    low, high = (estimates[0], estimates[-1]) if steps[0] > 0 else (estimates[-1], estimates[0])
    apart = low["high"] is not None and (high["low"] is None or low["high"] < high["low"])
    return ("rising" if steps[0] > 0 else "falling") + " with the data" + ("" if apart else " (intervals overlap)")


def best(curve: Found) -> Found:
    """The point of a curve with the highest gold reward."""
    return max(curve["points"], key=lambda point: point["gold"]["value"])


def _ensemble(found: Found) -> str:
    """The ensemble's two rules beside the single reward model of as many choices."""
    parts = []
    for method in METHODS:
        ensemble = {curve["rule"]: curve for curve in _of(found, method) if curve["heads"] > 1}
        choices = ensemble[LEAST]["choices"]
        single = next(curve for curve in _singles(found, method) if curve["choices"] == choices)
        ends = [shown(curve["points"][-1]["gold"]) for curve in (single, ensemble[MEAN], ensemble[LEAST])]
        falls = [f"{curve['fall']['value']:+.2f}" for curve in (single, ensemble[MEAN], ensemble[LEAST])]
        parts.append(
            f"{TITLES[method]} at the end: gold {ends[0]} with one head, {ends[1]} by the mean and {ends[2]} by the "
            f"minimum of {ensemble[LEAST]['heads']} (from the best point {falls[0]}, {falls[1]}, {falls[2]})."
        )
    heads = next(model["heads_correlation"] for model in found["reward_models"] if model["heads"] > 1)
    return " ".join([*parts, f"The heads share a trunk and correlate by {heads:.2f} on answers to the same prompt."])


def _forms(found: Found, method: str) -> str:
    judged = [curve["held_out"] for curve in _of(found, method) if curve["held_out"]]
    formula, other = FORMS[method].formula, _other(method)
    if not judged:
        return f"{TITLES[method]}: too few points to judge {formula} by."
    wins = {name: sum(one["rmse"] < one["rmse_others"][name] for one in judged) for name in (LINE, CONSTANT, other)}
    return (
        f"{TITLES[method]}: fitted to the nearer points, {formula} foretells the far ones better than a straight line "
        f"in {wins[LINE]}, than staying put in {wins[CONSTANT]} and than {FORMS[other].formula} in {wins[other]} of "
        f"{len(judged)} curves."
    )


def _other(method: str) -> str:
    return next(name for name in FORMS if name != method)


def _same_kl(found: Found) -> str:
    """Gold of both methods against the same reward models, where the one that goes less far ends."""
    parts = []
    for one, other in zip(_of(found, BEST_OF_N.name), _of(found, PPO.name), strict=True):
        d = min(max(point["d"]["value"] for point in curve["points"]) for curve in (one, other))
        parts.append(f"{one['name']}: {_gold_at(one, d):+.2f} against {_gold_at(other, d):+.2f} at d = {d:.2f}")
    return f"Best of n against PPO, {'; '.join(parts)}."


def _gold_at(curve: Found, d: float) -> float:
    points = sorted((point["d"]["value"], point["gold"]["value"]) for point in curve["points"])
    at, gold = zip(*points, strict=True)
    return float(np.interp(d, at, gold))


# --- tables ---------------------------------------------------------------------------------------------------------


def shown(estimate: Found) -> str:
    """A number with its interval; what has no end is said in a word."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "none" if low is None else f"none (from {low:.2f})"
    return f"{value:.2f} ({'none' if low is None else f'{low:.2f}'} to {'none' if high is None else f'{high:.2f}'})"


def _reward_models(found: Found) -> str:
    rows = [
        [
            f"{model['choices']:,}",
            f"{model['heads']}",
            f"{model['steps']:,}",
            f"{model['accuracy']:.1%}",
            f"{model['loss']:.3f}",
            f"{model['gold_correlation']:.2f}",
            "–" if model["heads_correlation"] is None else f"{model['heads_correlation']:.2f}",
        ]
        for model in found["reward_models"]
    ]
    head = ["choices", "heads", "steps", "right on", "loss", "correlation with gold", "of the heads"]
    return table(head, rows) + "\n\nCorrelations are among the fine-tuned model's answers to the same prompt."


def _curves(found: Found) -> str:
    rows = []
    for curve in found["curves"]:
        fit, top, end = curve["fit"], best(curve), curve["points"][-1]
        rows.append(
            [
                TITLES[curve["method"]],
                curve["name"],
                *(shown(fit[name]) for name in ("alpha", "beta", "peak")),
                f"{fit['turns']:.0%}",
                f"{top['gold']['value']:+.2f} at {top['d']['value']:.2f}",
                f"{end['gold']['value']:+.2f} at {end['d']['value']:.2f}",
                f"{end['proxy']['value']:+.2f}",
                shown(curve["fall"]),
            ]
        )
    head = [
        "",
        "proxy",
        "alpha",
        "beta",
        "peak of the form, d",
        "best gold at d",
        "last gold at d",
        "last proxy",
        "fall",
    ]
    return table(head, rows)


def _foretold(found: Found) -> str:
    rows = []
    for curve in found["curves"]:
        judged = curve["held_out"]
        if judged is None:
            continue
        others = [judged["rmse_others"][name] for name in (_other(curve["method"]), LINE, CONSTANT)]
        rows.append(
            [
                TITLES[curve["method"]],
                curve["name"],
                f"{judged['fitted']} to {judged['held_out']}, beyond {judged['beyond']:.2f}",
                *(f"{error:.3f}" for error in (judged["rmse_fit"], judged["rmse"], *others)),
                f"{judged['better'][LINE]:.0%}",
            ]
        )
    head = ["", "proxy", "points", "fitted", "form", "other form", "line", "staying put", "form beats line"]
    return (
        "Root mean squared errors of gold, of what was fitted to the points up to two thirds of the largest d, on the "
        "points beyond (fitted: on the points up to there). Last: in how many resamplings of the prompts.\n\n"
        + table(head, rows)
    )


def _said(found: Found) -> str:
    said = found["said_at_last"]
    names = list(said)
    first = said[names[0]][0]
    answers = [[name, code(said[name][0]["text"])] for name in names]
    return f"Asked {code(first['prompt'])}:\n\n" + table(["PPO against", "answers"], answers)


def _method(found: Found) -> str:
    settings, answers, seconds = found["settings"], found["answers"], found["seconds"]
    last = [curve["points"][-1]["kl"] for curve in _of(found, BEST_OF_N.name)]
    bound = kl_bound([settings["answers"]])[0]
    return (
        f"All is measured on the same {settings['prompts']} held-out prompts, as gains over the fine-tuned model. "
        f"Its mean gold reward is {answers['gold']:.2f}. A proxy is stretched so that answers to one prompt vary "
        f"as much in it as in gold.\n\nBest-of-n takes its n from {settings['answers']} answers to each prompt; "
        f"{answers['different']:,} of the {answers['drawn']:,} differ. That an answer is drawn twice makes the KL less "
        f"than log n - (n - 1)/n (Beirami et al. 2024, arXiv 2401.01879): at n = {settings['answers']} it is "
        f"{min(last):.2f} to {max(last):.2f} nats and not {bound:.2f}. PPO ran {settings['iterations']} iterations "
        "without a penalty on the KL; a policy is measured by one answer to each prompt, and its KL over the whole "
        "distribution of each next token.\n\nIntervals are of 95%, by resampling prompts: they tell what other prompts "
        "would show, not what another training would, for every reward model and every policy was trained once. A fall "
        "is measured from the point that is best on the other half of the prompts.\n\n"
        f"Time: {seconds['answers']:,.0f} s for the answers, {sum(seconds['reward_models'].values()):,.0f} s for the "
        f"reward models, {sum(seconds['ppo'].values()):,.0f} s for PPO."
    )
