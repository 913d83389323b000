"""The table of what a model expects next: shown by `probs`, printed in reports."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from experiments.truth import knows_truth, true_token_probabilities
from model.config import SamplingConfig
from model.decode import read
from model.sampling import distribution, entropy
from train.progress import say
from train.trained import Trained


def expectation(trained: Trained, text: str, temperature: float, top: int) -> dict[str, Any]:
    """The `top` likeliest next tokens after `text`, as the JSON of `narrador probs`.

    Returns:
        text, temperature, entropy (nats, of the whole distribution), tokens (id, text, probability; likeliest
        first) and rest (the probability of all other tokens). Where the model learned the narrator's world and the
        text belongs to it, each token has its true_probability too, whatever the temperature.
    """
    sampling = SamplingConfig(temperature=temperature)
    tokenizer = trained.tokenizer
    tokens = [tokenizer.document_end, *tokenizer.encode(text)]
    context = trained.model.config.context_length
    if len(tokens) > context:
        say(f"the text has {len(tokens)} tokens; the model reads the last {context}.")
    logits, _, _ = read(trained.model, trained.params, tokens)
    probabilities, nats = _measure(logits[0], sampling)
    ids = np.argsort(-probabilities, kind="stable")[:top]
    shown: list[dict[str, Any]] = [
        {"id": int(token), "text": tokenizer.token_text(int(token)), "probability": float(probabilities[token])}
        for token in ids
    ]
    if any(map(knows_truth, trained.run.config()["data"]["sources"])):
        truth = true_token_probabilities(tokenizer, text)
        if truth is None:
            say("the truth is not known here: the narrator's language has no such text.")
        else:
            shown = [{**row, "true_probability": truth.get(row["id"], 0.0)} for row in shown]
    return {
        "text": text,
        "temperature": temperature,
        "entropy": nats,
        "tokens": shown,
        "rest": max(0.0, 1 - float(probabilities[ids].sum())),
    }


def _measure(logits: Float[Array, "V"], sampling: SamplingConfig) -> tuple[Float[np.ndarray, "V"], float]:
    """The distribution and its entropy."""
    probabilities, nats = jax.jit(lambda x: ((p := distribution(x, sampling)), entropy(p)))(logits)
    return np.asarray(probabilities), float(nats)
