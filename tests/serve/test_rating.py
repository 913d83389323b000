"""A sitting of a rater: order, keys, time and undo, with answers and a clock of the tests' own."""

import io
import os
import pty
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

import serve.answering
import train.trained
from experiments import cli
from experiments.commands.rate import _keys, picture
from model.chat import Message
from serve.rating import DRAWS, KEYS, Outcome, RatingSession, Shown, Writer
from serve.store import CHOICES, Store
from tests.rlhf.test_preferences import write

PROMPTS = [(Message("user", f"question {index}"),) for index in range(6)]


def answer(messages, seed):
    return f"{messages[-1].content}: {seed}"


SAME = (Writer("runs/a:sft", answer), Writer("runs/a:sft", answer))
TWO = (Writer("runs/a:sft", lambda m, seed: f"sft {seed}"), Writer("runs/a:ppo", lambda m, seed: f"ppo {seed}"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "choices.sqlite")


@pytest.fixture
def clock():
    ticks = SimpleNamespace(now=100.0)
    ticks.read = lambda: ticks.now
    return ticks


def sit(store, writers=SAME, rater="Ana", seed=0, prompts=PROMPTS, **more):
    return RatingSession(prompts, writers, store, rater, seed, **more)


@pytest.mark.parametrize(
    ("key", "action"),
    [
        *[("l", "left"), ("L", "left"), ("\x1b[D", "left"), ("r", "right"), ("R", "right"), ("\x1b[C", "right")],
        *[("t", "tie"), ("T", "tie"), ("s", "skip"), ("u", "undo"), ("q", "quit"), ("Q", "quit"), ("", "quit")],
        *[("\x04", "quit"), ("x", None), ("\n", None), (" ", None), ("\x1b", None), ("\x1b[A", None), ("ll", None)],
    ],
)
def test_what_each_key_does(store, key, action):
    session = sit(store)
    shown = session.show()
    outcome = session.press(key)
    assert outcome.action == action
    kept = store.choices()
    if action in CHOICES:
        assert [(choice.id, choice.choice) for choice in kept] == [(outcome.id, action)]
        assert (kept[0].prompt, kept[0].left, kept[0].right) == (shown.prompt, shown.left, shown.right)
        assert session.show() != shown
    else:
        assert outcome.id is None
        assert kept == []
        assert session.show() is shown
    assert set(KEYS.values()) == {*CHOICES, "undo", "quit"}


def test_the_time_runs_from_when_a_pair_is_first_shown(store, clock):
    session = sit(store, clock=clock.read)
    clock.now = 200
    session.show()
    clock.now = 203.5
    session.show()
    session.press("x")
    clock.now = 204
    session.press("l")
    clock.now = 300
    session.show()
    clock.now = 301
    session.press("t")
    assert [choice.seconds for choice in store.choices()] == [4.0, 1.0]


def test_undo_shows_the_same_pair_again_and_then_goes_on(store, clock):
    session = sit(store, clock=clock.read)
    assert session.press("u") == Outcome("undo", None)
    shown, ids = [], []
    for key in "lr":
        shown.append(session.show())
        ids.append(session.press(key).id)
    third = session.show()
    assert session.press("u") == Outcome("undo", ids[1])
    clock.now += 50
    assert session.show() == shown[1]
    assert session.press("u") == Outcome("undo", ids[0])
    assert session.show() == shown[0]
    clock.now += 2
    session.press("r")
    assert session.show() == shown[1]
    session.press("s")
    assert session.show() == third
    assert [(choice.prompt, choice.choice, choice.seconds) for choice in store.choices()] == [
        (shown[0].prompt, "right", 2.0),
        (shown[1].prompt, "skip", 0.0),
    ]


def test_undo_reaches_back_to_earlier_sittings(store):
    earlier = sit(store)
    first = earlier.show()
    made = earlier.press("l").id
    later = sit(store)
    assert later.already == 1
    current = later.show()
    assert current.prompt == PROMPTS[1]
    assert later.press("u") == Outcome("undo", made)
    assert later.show() is current
    assert sit(store).show() == first


def test_undo_leaves_alone_what_is_between_other_models(store):
    other = sit(store)
    other.show()
    made = other.press("l").id
    session = sit(store, TWO)
    session.show()
    assert session.press("u") == Outcome("undo", None)
    assert [choice.id for choice in store.choices()] == [made]


def test_a_sitting_ends_when_every_prompt_was_shown_once(store):
    session = sit(store, prompts=[*PROMPTS, PROMPTS[0]])
    shown = []
    while (pair := session.show()) is not None:
        shown.append(pair.prompt)
        session.press("s")
    assert shown == PROMPTS
    assert session.press("l") == Outcome(None)
    assert len(store.choices()) == len(PROMPTS)
    assert sit(store).show() is None
    assert sit(store).already == len(PROMPTS)


def test_what_was_compared_is_known_by_rater_and_writers(store):
    session = sit(store, TWO)
    session.show()
    session.press("l")
    assert sit(store, TWO).show().prompt == PROMPTS[1]
    assert sit(store, TWO[::-1]).show().prompt == PROMPTS[1]
    assert sit(store, TWO, rater="Davi").show().prompt == PROMPTS[0]
    assert sit(store, SAME).show().prompt == PROMPTS[0]


def pairs(session):
    shown = []
    while (pair := session.show()) is not None:
        shown.append(pair)
        session.press("s")
    return shown


def test_the_same_seed_shows_the_same_and_each_rater_an_order_of_their_own(tmp_path):
    many = [(Message("user", str(index)),) for index in range(60)]

    def shown(name, rater, seed):
        return pairs(sit(Store(tmp_path / name), TWO, rater, seed, many))

    first, again = shown("a", "Ana", 1), shown("b", "Ana", 1)
    other, davi = shown("c", "Ana", 2), shown("d", "Davi", 1)
    assert first == again
    assert not {pair.left for pair in first} & {pair.left for pair in other}
    assert [{pair.left, pair.right} for pair in davi] == [{pair.left, pair.right} for pair in first]
    assert [pair.left for pair in davi] != [pair.left for pair in first]
    assert 15 <= sum(pair.left_source == "runs/a:ppo" for pair in first) <= 45
    for pair in first:
        assert pair.left.startswith(pair.left_source[-3:])
        assert pair.right.startswith(pair.right_source[-3:])


def test_answers_that_do_not_differ_are_drawn_again_and_then_passed_over(store):
    asked = []

    def stubborn(messages, seed):
        asked.append(seed)
        if messages == PROMPTS[0]:
            return "always this"
        return " " if messages == PROMPTS[1] else f"answer {seed % 2}"

    session = sit(store, (Writer("x", stubborn), Writer("x", stubborn)))
    shown = pairs(session)
    assert session.passed_over >= 2
    assert len(shown) + session.passed_over == len(PROMPTS)
    assert all(pair.left != pair.right for pair in shown)
    assert not {PROMPTS[0], PROMPTS[1]} & {pair.prompt for pair in shown}
    assert len(set(asked)) == len(asked) >= 4 * DRAWS


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `narrador rate` with keys piped in and a model that is a function."""
    monkeypatch.chdir(tmp_path)
    spec = write(tmp_path / "prompts.jsonl", [{"prompt": message.content} for (message,) in PROMPTS])

    def open_trained(spec):
        return SimpleNamespace(run=SimpleNamespace(path="runs/small"), stage=(spec or "runs/small:sft").split(":")[1])

    monkeypatch.setattr(train.trained, "open_trained", open_trained)
    monkeypatch.setattr("experiments.alignment.encode_prompts", lambda *_: [])
    monkeypatch.setattr(serve.answering, "answer_by", lambda *_: lambda m, seed: f"[red]\x1b[2J{answer(m, seed)}")

    def call(keys, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
        code = cli.main(["rate", "--prompts", spec, *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_command_keeps_what_is_typed(command, tmp_path):
    code, out, _ = command("l\nr\nx t u u s q", "--rater", "Ana")
    assert code == 0
    kept = Store(tmp_path / "runs/preferences.sqlite").choices()
    assert [(choice.choice, choice.rater, choice.left_source) for choice in kept] == [
        ("left", "Ana", "runs/small:sft"),
        ("skip", "Ana", "runs/small:sft"),
    ]
    assert "question 1" in out
    assert "[red]\ufffd[2J" in out
    assert "2 choices by Ana were kept in runs/preferences.sqlite" in out
    code, out, _ = command("", "--rater", "Ana")
    assert "2 prompts have been rated by Ana before" in out
    assert "0 choices by Ana" in out
    assert "0 choices by Ana were kept" in command("u", "--rater", "Ana")[1]  # the one withdrawn is of another sitting
    assert command("u", "--rater", "Davi")[1].count("there is nothing to undo") == 1


def test_the_last_choice_can_be_taken_back_too(command, tmp_path):
    code, out, _ = command("lllllrul", "--rater", "Ana")
    assert code == 0
    assert "that was the last" in out
    kept = [choice.choice for choice in Store(tmp_path / "runs/preferences.sqlite").choices()]
    assert kept == ["left"] * 6
    assert "6 choices by Ana were kept" in out


def test_two_models_can_be_held_against_each_other(command, tmp_path):
    assert command("llllq", "--run", "runs/small:ppo", "--against", "runs/small:sft")[0] == 0
    kept = Store(tmp_path / "runs/preferences.sqlite").choices()
    assert len(kept) == 4
    assert all({choice.left_source, choice.right_source} == {"runs/small:ppo", "runs/small:sft"} for choice in kept)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--temperature", "0"), "--temperature 0 gives the same answer twice"),
        (("--tokens", "0"), "--tokens 0 must be at least 1"),
        (("--prompts", "text:x"), "unknown source of prompts 'text:x'"),
        (("--store", "prompts.jsonl"), "file is not a database"),
    ],
)
def test_the_command_refuses_in_one_message(command, arguments, told):
    code, _, err = command("l", *arguments)
    assert code == 2
    assert told in err


def test_a_picture_shows_both_answers_side_by_side():
    console = Console(width=80, file=io.StringIO())
    console.print(picture(Shown(PROMPTS[0], "one answer", "the other", "", "")))
    [line] = [line for line in console.file.getvalue().splitlines() if "one answer" in line]
    assert "the other" in line


def test_on_a_terminal_one_key_is_enough_and_what_came_too_early_is_dropped(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r", closefd=True) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        os.write(ours, b"early")
        with _keys() as read_key:
            for key in ("l", "\x1b[D"):
                later = threading.Timer(0.1, os.write, (ours, key.encode()))
                later.start()
                began = time.monotonic()
                assert read_key() == key
                assert time.monotonic() - began < 5
    os.close(ours)
