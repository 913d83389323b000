"""Judgements by hand-set scores and by stores of known choices."""

import pytest

from experiments.judges import parse_judge
from experiments.judging import judge_by_scores, judge_by_store, source_name
from model.chat import Message
from model.errors import UserError
from serve.store import Store

A, B, C = "runs/a:ppo", "runs/a:sft", "runs/c:sft"


def test_the_higher_score_wins():
    said_a, said_b = ["um", "um dois, três.", "", "um"], ["um", "um", "um dois", "um"]
    judged = judge_by_scores(said_a, said_b, [0.5, -1.0, 2.0, 0.1 + 0.2], [0.25, 1.0, -2.0, 0.3])
    assert list(judged.outcomes) == [1, 0, 1, 0.5]
    assert list(judged.longer) == [0, 2, -2, 0]
    assert judged.summary()["win_rate"] == pytest.approx(2.5 / 4)


@pytest.fixture
def store(tmp_path):
    """Between A and B: 4 wins of A, 2 of B, 2 ties and a skip; 3 choices on others."""
    kept = Store(tmp_path / "choices.sqlite")
    for number, (left, right, choice) in enumerate(
        [(A, B, "left")] * 3
        + [(B, A, "right"), (B, A, "left"), (A, B, "right"), (A, B, "tie"), (B, A, "tie"), (A, B, "skip")]
        + [(A, C, "left"), (C, A, "skip"), (C, C, "right"), (A, A, "left")]
    ):
        long_a = {A: "uma resposta longa", B: "curta", C: "outra"}
        texts = (long_a[left], long_a[right] + (" !" if left == right else ""))
        prompt = [Message("user", f"pergunta {number}")]
        kept.add(prompt, *texts, choice, "Célia", left_source=left, right_source=right)
    return kept


def test_choices_are_counted_on_either_side(store):
    judged = judge_by_store(store.path, A, B)
    assert sorted(judged.outcomes) == [0, 0, 0.5, 0.5, 1, 1, 1, 1]
    assert set(judged.longer) == {2}
    assert judged.summary()["win_rate"] == pytest.approx(5 / 8)
    mirrored = judge_by_store(store.path, B, A)
    assert list(mirrored.outcomes) == [1 - outcome for outcome in judged.outcomes]
    assert list(mirrored.longer) == [-longer for longer in judged.longer]


def test_the_interval_of_choices_by_hand(store):
    # With half a win, half a loss and a tie added: 4.5, 2.5 and 3 of 10.
    low, high = judge_by_store(store.path, A, B).summary()["win_rate_interval"]
    mean = (4.5 + 1.5) / 10
    half = 1.96 * (((4.5 + 3 / 4) / 10 - mean**2) / 10) ** 0.5
    assert (low, high) == (pytest.approx(mean - half, abs=1e-4), pytest.approx(mean + half, abs=1e-4))


def test_several_people_on_the_same_two_answers_are_one_judgement(tmp_path):
    """Ten raters of two pairs are no twenty comparisons: they agree on the one, and are split on the other."""
    store = Store(tmp_path / "choices.sqlite")
    for number in range(10):
        left_first = number % 2 == 0
        for prompt, chosen in (("um", "a"), ("dois", "a" if number < 4 else "b")):
            left, right = ("a", "b") if left_first else ("b", "a")
            sources = {"left_source": A if left_first else B, "right_source": B if left_first else A}
            side = "left" if (left, right)[0] == chosen else "right"
            store.add([Message("user", prompt)], left, right, side, f"rater {number}", **sources)
    judged = judge_by_store(store.path, A, B)
    assert sorted(judged.outcomes) == pytest.approx([0.4, 1.0])
    assert judged.summary()["win_rate"] == pytest.approx(0.7)
    low, high = judged.summary()["win_rate_interval"]
    assert high - low > 0.5


def test_a_withdrawn_choice_does_not_count(store):
    store.add([Message("user", "mais uma")], "x", "y", "left", "Davi", left_source=A, right_source=B)
    assert len(judge_by_store(store.path, A, B).outcomes) == 9
    store.undo("Davi", (A, B))
    assert len(judge_by_store(store.path, A, B).outcomes) == 8


def test_a_store_without_the_pair_says_what_it_has(store, tmp_path):
    with pytest.raises(UserError) as error:
        judge_by_store(store.path, B, C)
    told = str(error.value)
    assert f"no choice between {B!r} and {C!r}" in told
    assert told.endswith(f"It has: {A!r} and {B!r} (8); {A!r} and {C!r} (1); {C!r} and {C!r} (1); {A!r} and {A!r} (1).")
    with pytest.raises(UserError, match="none at all"):
        judge_by_store(Store(tmp_path / "empty.sqlite").path, A, B)
    with pytest.raises(UserError, match="from itself"):
        judge_by_store(store.path, A, A)
    with pytest.raises(UserError, match="there is no file"):
        judge_by_store(tmp_path / "nothing.sqlite", A, B)
    assert not (tmp_path / "nothing.sqlite").exists()


def test_judges_by_name():
    assert parse_judge("gold") == ("gold", "")
    assert parse_judge("reward:runs/a") == ("reward", "runs/a")
    assert parse_judge("store:runs/b:c.sqlite") == ("store", "runs/b:c.sqlite")
    for wrong, nearest in (("reward", "'reward:RUN'"), ("store:", "'store:PATH'"), ("golf", "'gold'"), ("gold:x", "")):
        with pytest.raises(UserError, match=f"unknown judge {wrong!r}.*{nearest}"):
            parse_judge(wrong)


def test_a_model_is_called_as_rate_calls_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_name("gone//a/:sft") == "gone/a:sft"
    for stage in ("pretrain", "sft", "reward", "ppo"):  # the last has only just begun
        (tmp_path / "run" / stage).mkdir(parents=True)
        (tmp_path / "run" / stage / "metrics.jsonl").touch()
        if stage != "ppo":
            (tmp_path / "run" / stage / "checkpoints" / "2").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no run"):
        source_name("run")
    (tmp_path / "run" / "config.yaml").write_text("{}")
    assert source_name("run/") == "run:sft"
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint yet"):
        source_name("bare")
