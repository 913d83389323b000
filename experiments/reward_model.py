"""The reward model of a run, asked about texts: whoever wrote them, and with whatever tokenizer."""

import sys
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from experiments.alignment import batches, pad
from model.errors import UserError
from rlhf.records import Prompt
from rlhf.reward import encode_answer
from rlhf.scorer import load_reward_model, score
from train.progress import bar
from train.run_directory import RunDirectory
from train.trained import load


class RewardModel:
    """Scores answers on the scale where the answers that it learned from have mean 0 and std 1."""

    def __init__(self, run: RunDirectory) -> None:
        """Load it.

        Raises:
            UserError: the folder holds no run, or its stage `reward` is not complete.
        """
        run.config()  # says it where there is no run at all
        if run.stage("reward").result is None:
            raise UserError(f"{str(run.path)!r} has no reward model: its stage 'reward' is not complete.")
        self.name = str(run.path)
        before = load(run, "sft")
        self.tokenizer, self.template, self.context = (
            before.tokenizer,
            before.template,
            before.model.config.context_length,
        )
        self._params = load_reward_model(run, before.model)
        self._score = jax.jit(partial(score, before.model))

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Float[np.ndarray, "N"]:
        """The score of each answer to its prompt; of an ensemble the mean of its heads.

        Raises:
            UserError: an answer that is longer, with its prompt, than the model's context.
        """
        rows = [
            encode_answer(self.tokenizer, self.template, prompt, answer, sys.maxsize)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        tokens, lengths = pad([row.ids for row in rows], self.tokenizer.padding)
        starts = np.array([row.start for row in rows], np.int32)
        if lengths.max() > self.context:
            raise UserError(
                f"the reward model of {self.name!r} has a context of {self.context} tokens; the longest answer takes "
                f"{lengths.max()} with its prompt."
            )
        found = []
        with bar(f"scores by {self.name}", len(rows)) as advance:
            for which in batches(len(rows)):
                scores = np.asarray(self._score(self._params, tokens[which], starts[which], lengths[which]))
                found.append(scores.mean(axis=1))
                advance(min(len(which), len(rows) - len(which) * (len(found) - 1)))
        return np.concatenate(found)[: len(rows)]
