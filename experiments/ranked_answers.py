"""The fine-tuned model's own answers, ranked by the people of the narrator's world: what a reward model learns from.

Ouyang et al. 2022, section 3.4: labelers rank several answers of the model to one prompt. Choices between answers that
others wrote teach a reward model little about the mistakes of the model that is to be optimized against it. One answer
of each ranking was given to another prompt: the model's own are all to the question, so that nothing else would say
that this is what people want, and a policy would find out that it scores high by declining whatever it is asked.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from experiments.alignment import draw_answers
from model.chat import Message
from rlhf.preferences import Preferences, open_preferences
from rlhf.prompts import encode_prompts
from train.narration.checker import check
from train.narration.passage import Passage
from train.narration.questions import Question, draw_prompt, prompt_text
from train.narration.raters import RATERS, ceiling, ranked
from train.run_directory import RunDirectory, write_atomically
from train.sources import read_world
from train.trained import Trained

KIND = "narration_answers"
PROMPTS = 6000


@dataclass(frozen=True)
class Rankings:
    """The choices of a run's own rankings, by the answers of `count` prompts drawn from `seed`."""

    choices: Preferences
    count: int
    seed: int

    def ceiling(self) -> float:
        """The best accuracy that any reward model can have on the choices held out."""
        known = {prompt_text(*asked): asked for asked in _asked(self.count, self.seed)}
        pairs = []
        for group in self.choices.validation:
            judged = [check(*known[group.prompt[0].content], answer) for answer in group.answers]
            pairs += [(judged[pair.winner], judged[pair.loser]) for pair in group.pairs]
        return ceiling(pairs)


def rank_answers(spec: str, trained: Trained, run: RunDirectory, answers: int, room: int, fraction: float) -> Rankings:
    """The rankings of `spec`, from the run's file if it is there, or else made now.

    Args:
        spec: narration_answers[:EXAMPLES[:SEED]]; an example is a prompt.
        trained: the model that answers.
        answers: to each prompt, at temperature 1, not counting one to another prompt; what was said twice is ranked
            once.
        room: tokens of an answer at most.
        fraction: what share of the prompts is held out.

    Raises:
        UserError: `spec` has no such numbers, or a prompt leaves no room for an answer.
    """
    _, count, seed = read_world(spec, PROMPTS)
    path = run.rankings_path
    if not path.exists():
        lines = (json.dumps(record, ensure_ascii=False) for record in _rank(trained, count, seed, answers, room))
        write_atomically(path, "\n".join(lines) + "\n")
    choices = open_preferences(f"jsonl:{path}", fraction)
    return Rankings(replace(choices, spec=spec), count, seed)


@lru_cache(maxsize=1)
def _asked(count: int, seed: int) -> tuple[tuple[Passage, Question], ...]:
    return tuple(draw_prompt(random.Random(f"{KIND} {seed} {index}")) for index in range(count))


def _rank(trained: Trained, count: int, seed: int, answers: int, room: int) -> Iterator[dict[str, Any]]:
    """A record for each prompt with at least two different answers."""
    asked = _asked(count, seed)
    prompts = [(Message("user", prompt_text(*prompt)),) for prompt in asked]
    rows = encode_prompts(prompts, trained.tokenizer, trained.template, trained.model.config.context_length - room)
    texts = draw_answers(trained, rows, 1.0, room, seed, answers).texts
    rng = random.Random(f"{KIND} {seed} raters")
    for index, prompt in enumerate(asked):
        own, strange = texts[index * answers : (index + 1) * answers], texts[(index + 1) * answers % len(texts)]
        said = list(dict.fromkeys(filter(None, (*own, strange))))
        rater = rng.choice(RATERS)
        order = ranked([check(*prompt, answer) for answer in said], rater, rng)
        if len(said) > 1:
            ranking = [said[place] for place in order]
            yield {"prompt": prompt_text(*prompt), "ranking": ranking, "rater": rater.name}
