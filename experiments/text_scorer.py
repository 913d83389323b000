"""The reward model of a run, asked about texts: whoever wrote them, and with whatever tokenizer."""

import sys
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.alignment import over_batches
from experiments.learned_reward import load_reward_model
from model.errors import UserError
from rlhf.answers import one_a_row
from rlhf.prompts import pad
from rlhf.records import Prompt
from rlhf.reward import encode_answer
from rlhf.scorer import score
from train.progress import bar
from train.run_directory import RunDirectory
from train.trained import open_language


class TextScorer:
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
        model, self.tokenizer, self.template = open_language(run)
        self.context = model.config.context_length
        self._params = load_reward_model(run, model)
        self._score = jax.jit(partial(score, model))

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Float[np.ndarray, "N"]:
        """The score of each answer to its prompt; of an ensemble the mean of its heads.

        Raises:
            UserError: an answer that is longer, with its prompt, than the model's context; a score that is not finite.
        """
        rows = [
            encode_answer(self.tokenizer, self.template, prompt, answer, sys.maxsize)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        tokens, lengths = pad([row.ids for row in rows])
        starts = np.array([row.start for row in rows], np.int32)
        if lengths.max() > self.context:
            raise UserError(
                f"the reward model of {self.name!r} has a context of {self.context} tokens; the longest answer takes "
                f"{lengths.max()} with its prompt."
            )

        room = int((lengths - starts).max())

        def of_batch(which: Int[np.ndarray, "B"]) -> Float[Array, "B"]:
            answers = one_a_row(tokens[which], starts[which], lengths[which], room)
            return self._score(self._params, answers).mean(axis=1)

        with bar(f"scores by {self.name}", len(rows)) as advance:
            found = over_batches(of_batch, len(rows), advance)
        if not np.isfinite(found).all():
            raise UserError(f"the reward model of {self.name!r} gives scores that are not finite.")
        return found
