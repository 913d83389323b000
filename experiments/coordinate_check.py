"""The coordinate check: how much a few steps of AdamW change each activation, in wider and in deeper models.

Yang et al. 2022 (Tensor Programs V), appendix D.1, and for depth Dey et al. 2025, figure 7: in a parametrization that
transfers, no change grows or shrinks with the size. Heads keep their dimensions, the head is not tied, so that it can
start at zero where the parametrization says so, and the learning rate is the same throughout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import stats

from experiments.config import Experiment
from experiments.machine import session
from experiments.resized import PARAMETRIZATIONS, parametrized, resized
from experiments.stages.language import open_sources
from model.config import ModelConfig
from model.errors import UserError
from model.transformer import Transformer
from train.batches import Batch, PackedRows, training_batches
from train.corpus import tokenize, train_tokenizer_once
from train.optimizer import hyperparameters, make_optimizer
from train.step import fresh_state, train_step

ACTIVATIONS = ("embedding", "attention", "mlp", "residual", "last norm", "logits")
FLAT = 0.1  # a slope within this of zero is taken for none


def activations(model: Transformer, params: Any, batch: Batch) -> dict[str, Array]:
    """What a model computes on the way to the logits: [B T ...], or [L B T ...] of the layers."""
    x = params["embedding"][batch.tokens]
    if model.config.positions == "learned":
        x = x + params["position_embedding"][batch.positions]
    (logits, _), captured = model.apply(
        {"params": params},
        batch.tokens,
        batch.positions,
        batch.segments,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    seen: Any = captured["intermediates"]
    layers = seen["layers"]
    return {
        "embedding": x,
        "attention": layers["attention"]["__call__"][0][0],
        "mlp": layers["mlp"]["__call__"][0],
        "residual": layers["__call__"][0][0][0],
        "last norm": seen["final_norm"]["__call__"][0],
        "logits": logits,
    }


def changes(model: Transformer, before: Any, after: Any, batch: Batch) -> dict[str, Float[Array, "*L"]]:
    """Root-mean-square change of each activation between two sets of parameters, over a batch's real tokens.

    Of the layers' activations one number a layer.
    """
    real = batch.weights / batch.weights.sum()

    def rms(old: Array, new: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.square(new - old).mean(-1) * real, axis=(-2, -1)))

    return jax.tree.map(rms, activations(model, before, batch), activations(model, after, batch))


class Check:
    """The training data and the steps that every size takes."""

    def __init__(self, experiment: Experiment, rate: float, steps: int) -> None:
        """Open the data, and fix the steps: no warm-up, and one learning rate for all."""
        sources = open_sources(experiment)
        tokenizer = train_tokenizer_once(experiment.tokenizer, sources)
        length = experiment.data.sequence_length
        self._rows = [PackedRows(tokenize(source, "train", tokenizer), length) for source in sources]
        self._weights = experiment.data.weights
        self.train = replace(
            experiment.train,
            optimizer="adamw",
            accumulation=1,
            learning_rate=rate,
            steps=steps,
            warmup_steps=0,
            final_learning_rate=1.0,
        )
        vocabulary = experiment.model.vocab_size or tokenizer.size
        self.model = replace(experiment.model, tied_head=False, remat="none", vocab_size=vocabulary)

    def batches(self, seed: int) -> Batch:
        """Those trained on from a seed, and one more to look at, stacked."""
        rows = training_batches(self._rows, self._weights, self.train.batch_size, seed)
        return jax.tree.map(lambda *parts: np.stack(parts), *(rows[number] for number in range(self.train.steps + 1)))

    def measure(self, config: ModelConfig, seeds: int, advance: Callable[[], None]) -> list[dict[str, Any]]:
        """From each seed, the changes on a batch that comes after those trained on."""
        model, numbers = Transformer(config), hyperparameters(self.train)
        optimizer = make_optimizer(self.train, config)

        @jax.jit
        def of_seed(key: PRNGKeyArray, batches: Batch) -> dict[str, Array]:
            fresh = fresh_state(model, optimizer, key)
            trained, probe = (jax.tree.map(lambda x, part=part: x[part], batches) for part in (slice(-1), -1))
            step = partial(train_step, numbers=numbers, model=model, config=self.train)
            state, _ = jax.lax.scan(step, fresh, trained)
            return changes(model, fresh.params, state.params, probe)

        found = []
        for seed in range(seeds):
            found.append(jax.tree.map(np.asarray, of_seed(jax.random.key(seed), self.batches(seed))))
            advance()
        return found


def findings(
    name: str,
    check: Check,
    widths: Sequence[int],
    depths: Sequence[int],
    seeds: int,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """Measure every size from every seed under both parametrizations; fit a slope to each activation.

    Args:
        name: of the experiment.
        widths: from the smallest, which is the base.
        depths: likewise, at the smallest width; none: depth is not checked.
        advance: called after each size and seed.
    """
    found: list[dict[str, Any]] = []
    for along, sizes in (("width", widths), ("depth", depths)):
        models = [
            resized(check.model, size) if along == "width" else resized(check.model, widths[0], size) for size in sizes
        ]
        for parametrization in PARAMETRIZATIONS if models else ():
            configs = [parametrized(model, parametrization, models[0]) for model in models]
            measured = [check.measure(config, seeds, advance) for config in configs]
            lines = curves(measured, by_block=along == "width")
            fitted = {which: fit_slope(which, sizes, values) for which, values in lines.items()}
            found.append({"along": along, "parametrization": parametrization, "sizes": sizes, "activations": fitted})
    train = check.train
    told = {"name": name, "learning_rate": train.learning_rate, "steps": train.steps, "seeds": seeds}
    return {**told, "flat_within": FLAT, "checks": found, "session": session()}


def curves(measured: Sequence[Sequence[Mapping[str, Any]]], by_block: bool) -> dict[str, Any]:
    """Changes by activation as [seed, size]: of each block, or of the last one, which every depth has."""
    told: dict[str, Any] = {}
    for which in ACTIVATIONS:
        values = [[of_seed[which] for of_seed in of_size] for of_size in measured]
        if not by_block:
            values = [[np.ravel(value)[-1] for value in of_size] for of_size in values]
        found = np.array(values).swapaxes(0, 1)
        whole = found.ndim == 2
        told |= {which: found} if whole else {f"{which} {i + 1}": found[:, :, i] for i in range(found.shape[2])}
    return told


def fit_slope(which: str, sizes: Sequence[int], rms: Float[np.ndarray, "seeds sizes"]) -> dict[str, Any]:
    """Slope of log change over log size: the mean of the seeds', with Student's 95% interval of that mean.

    Raises:
        UserError: a change is not a positive number.
    """
    if not (np.isfinite(rms) & (rms > 0)).all():
        raise UserError(
            f"the change of {which} is not a positive number at each size; try another --learning-rate or more --steps."
        )
    slopes = np.polyfit(np.log(sizes), np.log(rms.T), 1)[0]
    spread = stats.t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes))
    slope = float(slopes.mean())
    return {"slope": slope, "slope_interval": [slope - spread, slope + spread], "rms": rms.tolist()}
