"""What a study of over-optimisation found: curves of proxy and gold reward over d, the forms on them, and more numbers.

Rewards are gains over the fine-tuned model, prompt by prompt, in units of the gold reward: a proxy is stretched so
that the fine-tuned model's answers vary as much in it as in gold.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.best_of_n import counts_to, kl_of_best, of_best, rank_weights
from experiments.held_out import Drawn
from experiments.overoptimisation import Study
from experiments.proxies import Proxy
from experiments.scaling_forms import BEST_OF_N, PPO, Curve, tell
from train.mapping import to_mapping

ROUNDS = 1000  # of the bootstrap
Draws = Float[np.ndarray, "P N"]


class Scale:
    """A proxy's scores of the draws, and how its gains are written in units of the gold reward."""

    def __init__(self, study: Study, proxy: Proxy) -> None:
        drawn = study.drawn
        self.probabilities: Draws = np.exp(drawn.log_probs)[drawn.which].astype(np.float64)
        """Of each draw under the fine-tuned model."""
        self.scores: Draws = study.as_one(study.scores(proxy), drawn.stopped, proxy.rule)[drawn.which]
        self.gold: Draws = drawn.gold[drawn.which]
        self._stretch = centred(self.gold).std() / (centred(self.scores).std() or 1.0)

    def of_proxy(self, scores: Float[np.ndarray, "P M"]) -> Float[np.ndarray, "P M"]:
        """Scores, as gains over the prompt's mean."""
        return (scores - self.scores.mean(axis=1, keepdims=True)) * self._stretch

    def of_gold(self, gold: Float[np.ndarray, "P M"]) -> Float[np.ndarray, "P M"]:
        """Gold rewards, as gains over the prompt's mean."""
        return gold - self.gold.mean(axis=1, keepdims=True)


def best_of_n_curve(scale: Scale) -> Curve:
    """Values of n up to as many answers as were drawn."""
    answers = scale.gold.shape[1]
    counts = counts_to(answers)
    weights = rank_weights(answers, counts)
    return Curve(
        np.array(counts),
        kl_of_best(scale.probabilities, scale.scores, counts, weights),
        scale.of_proxy(of_best(scale.scores, scale.scores, weights)),
        scale.of_gold(of_best(scale.gold, scale.scores, weights)),
    )


def ppo_curve(rows: Sequence[Mapping[str, Any]], scale: Scale) -> Curve:
    """The fine-tuned model, and the policy wherever it was measured.

    Args:
        rows: samples.jsonl of the stage.
    """
    kl, scores, gold = (np.array([row[name] for row in rows]).T for name in ("kl", "proxy", "gold"))
    start = np.zeros((len(kl), 1))
    return Curve(
        np.array([0, *(row["step"] for row in rows)]),
        np.hstack([start, kl]),
        np.hstack([start, scale.of_proxy(scores)]),
        np.hstack([start, scale.of_gold(gold)]),
    )


def findings(study: Study) -> dict[str, Any]:
    """Do all that is not done yet, and tell what came out, by name, as JSON has it."""
    settings, drawn = study.settings, study.drawn
    models, curves, ppo_seconds, said = {}, [], {}, {}
    for proxy in settings.proxies:
        learned = study.learn_reward(proxy)
        models[proxy.folder] = {**learned, **agreement(drawn, study.scores(proxy))}
    for proxy in settings.proxies:
        stage, scale = study.optimize(proxy), Scale(study, proxy)
        rows = stage.rows("samples")
        for form, curve in ((BEST_OF_N, best_of_n_curve(scale)), (PPO, ppo_curve(rows, scale))):
            found = tell(curve, form, ROUNDS, settings.seed)
            curves.append({"name": proxy.name, **proxy._asdict(), "method": form.name, **as_json(found)})
        ppo_seconds[proxy.name] = (stage.result or {})["seconds"]
        said[proxy.name] = rows[-1]["episodes"]
    answer_seconds = round(float(drawn.seconds), 3)
    reward_seconds = {name: model["seconds"] for name, model in models.items()}
    return {
        "settings": to_mapping(settings),
        "answers": {
            "drawn": drawn.which.size,
            "different": len(drawn.gold),
            "gold": float(drawn.gold[drawn.which].mean()),
        },
        "reward_models": list(models.values()),
        "curves": curves,
        "said_at_last": said,
        "seconds": {
            "answers": answer_seconds,
            "reward_models": reward_seconds,
            "ppo": ppo_seconds,
            "total": round(answer_seconds + sum(reward_seconds.values()) + sum(ppo_seconds.values()), 3),
        },
    }


def agreement(drawn: Drawn, scores: Float[np.ndarray, "U K"]) -> dict[str, float | None]:
    """Among answers to the same prompt, how a reward model goes with gold, and its heads with each other.

    Pearson's correlation; of the heads the mean over pairs of them.
    """
    heads = [centred(head[drawn.which]) for head in scores.T]
    pairs = [correlation(a, b) for a, b in combinations(heads, 2)]
    return {
        "gold_correlation": correlation(np.mean(heads, axis=0), centred(drawn.gold[drawn.which])),
        "heads_correlation": float(np.mean(pairs)) if pairs else None,
    }


def centred(values: Draws) -> Draws:
    """Values less their prompt's mean."""
    return values - values.mean(axis=1, keepdims=True)


def correlation(a: Draws, b: Draws) -> float:
    """Of values whose mean is 0; 0 where one of the two does not vary."""
    return float(np.mean(a * b) / (np.sqrt(np.mean(a**2) * np.mean(b**2)) or np.inf))


def as_json(value: Any) -> Any:
    """Named tuples as mappings; what is not finite as null."""
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
