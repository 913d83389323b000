"""A model's own answers, ranked: by an untrained model, whose answers are noise and nearly all wrong."""

import json
import random

import pytest

from experiments.alignment import draw_answers
from experiments.ranked_answers import rank_answers
from model.errors import UserError
from tests.experiments.untrained import write_run
from train.narration.checker import check
from train.narration.questions import draw_prompt, prompt_text
from train.narration.raters import RATERS, ceiling
from train.trained import load

SPEC = "narration_answers:30:3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("ranked") / "run", seed=0)[0]


def test_answers_of_the_model_are_ranked_once_and_kept(run, monkeypatch):
    trained = load(run, "sft")
    drawn_texts = []

    def remember(*given):
        answers = draw_answers(*given)
        drawn_texts.extend(answers.texts)
        return answers

    monkeypatch.setattr("experiments.ranked_answers.draw_answers", remember)
    found = rank_answers(SPEC, trained, run, answers=3, room=6, fraction=0.5)
    records = [json.loads(line) for line in (run.path / "rankings.jsonl").read_text().splitlines()]
    drawn = (draw_prompt(random.Random(f"narration_answers 3 {index}")) for index in range(30))
    known = {prompt_text(*prompt): prompt for prompt in drawn}
    assert {record["prompt"] for record in records} <= known.keys()
    assert {record["rater"] for record in records} <= {rater.name for rater in RATERS}
    groups = [*found.choices.train, *found.choices.validation]
    assert {group.answers for group in groups} == {tuple(record["ranking"]) for record in records}
    # One answer of each was given to the prompt after it.
    by_prompt = [drawn_texts[3 * index : 3 * index + 4] for index in range(30)]
    expected = [set(filter(None, answers)) for answers in by_prompt[:-1]]
    expected.append(set(filter(None, (*by_prompt[-1], drawn_texts[0]))))
    assert [set(record["ranking"]) for record in records] == [answers for answers in expected if len(answers) > 1]
    ranks = [len(record["ranking"]) for record in records]
    assert max(ranks) == 4
    assert sum(len(group.pairs) for group in groups) == sum(n * (n - 1) // 2 for n in ranks)
    pairs = [
        tuple(check(*known[choice.prompt[0].content], answer) for answer in (choice.chosen, choice.rejected))
        for group in found.choices.validation
        for choice in group.preferences()
    ]
    assert found.ceiling() == pytest.approx(ceiling(pairs))
    monkeypatch.setattr("experiments.ranked_answers.draw_answers", pytest.fail)
    again = rank_answers(SPEC, trained, run, answers=3, room=6, fraction=0.5)
    assert (again.choices.key, again.choices.spec) == (found.choices.key, SPEC)


@pytest.mark.parametrize("spec", ["narration_answers:many", "narration_answers:0", "narration_answers:1:2:3"])
def test_a_wrong_number_is_named(run, spec):
    with pytest.raises(UserError, match=r"write narration_answers\[:EXAMPLES\[:SEED\]\]|at least 1 example"):
        rank_answers(spec, load(run, "sft"), run, answers=2, room=6, fraction=0.5)
