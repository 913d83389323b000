"""The store of choices: nothing is lost, changed or taken away, and what is exported can be learned from."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

import serve.store
from model.chat import Message
from model.errors import UserError
from rlhf.preferences import open_preferences
from serve.store import SCHEMA, Store, open_stored_preferences


def ask(text):
    return (Message("user", text),)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "deep" / "choices.sqlite")


def run(store, statement):
    """Run a statement past the store's own code."""
    with closing(sqlite3.connect(store.path)) as connection, connection:
        return connection.execute(statement).fetchall()


def test_a_choice_is_kept_as_it_was_made(store):
    prompt = (Message("system", "Seja breve."), Message("user", "Quem é?\n“Ele”"))
    sources = {"left_source": "runs/a:sft", "right_source": "runs/a:ppo"}
    first = store.add(prompt, "Ação", "Não", "right", "Célia", seconds=2.5, **sources)
    second = store.add(ask("x"), "a", "b", "tie", "Davi")
    kept, other = Store(store.path).choices()
    assert (kept.id, other.id) == (first, second)
    assert kept[2:] == (prompt, "Ação", "Não", "runs/a:sft", "runs/a:ppo", "right", "Célia", 2.5)
    assert other[2:] == (ask("x"), "a", "b", None, None, "tie", "Davi", None)
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(kept.created) < timedelta(minutes=1)
    assert kept.created.endswith("+00:00")


def test_a_choice_is_of_one_answer_over_the_other(store):
    for choice in ("left", "right", "tie", "skip"):
        store.add(ask("x"), "a", "b", choice, "Ana", seconds=1.0)
    left, right, *none = [choice.preference for choice in store.choices()]
    assert (left.chosen, left.rejected, left.rater, left.seconds) == ("a", "b", "Ana", 1.0)
    assert (right.chosen, right.rejected) == ("b", "a")
    assert none == [None, None]


BY = {"left_source": "p", "right_source": "s"}


def test_undo_withdraws_the_raters_own_last_standing_choice(store):
    one = store.add(ask("x"), "a", "b", "left", "Ana", **BY)
    two = store.add(ask("y"), "a", "b", "left", "Ana", **BY)
    other = store.add(ask("z"), "a", "b", "left", "Davi", **BY)
    assert store.undo("Ana", ("s", "p")) == two
    assert [choice.id for choice in store.choices()] == [one, other]
    assert store.undo("Ana", ("s", "p")) == one
    assert store.undo("Ana", ("s", "p")) is None
    assert [choice.id for choice in store.choices()] == [other]
    assert store.undo("nobody", ("s", "p")) is None
    assert store.undo("Davi", ("s", "s")) is None
    again = store.add(ask("y"), "a", "b", "right", "Ana", **BY)
    assert [choice.id for choice in store.choices()] == [other, again]
    assert run(store, "SELECT count(*) FROM choices") == [(6,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE choices SET choice = 'right'",
        "UPDATE OR IGNORE choices SET rater = 'x' WHERE id = 1",
        "DELETE FROM choices",
        "DELETE FROM choices WHERE id = 1",
        'INSERT OR REPLACE INTO choices (id, created, rater, prompt, "left", "right", choice) '
        "VALUES (1, 'now', 'x', '[]', 'a', 'b', 'right')",
        "INSERT OR REPLACE INTO choices (created, rater, withdraws) VALUES ('now', 'x', 2)",
        "INSERT INTO choices (id, created, rater, withdraws) VALUES (1, '', '', 1) "
        "ON CONFLICT (id) DO UPDATE SET choice = 'right'",
        "INSERT INTO choices (created, rater) VALUES ('now', 'x')",
        'INSERT INTO choices (created, rater, prompt, "left", "right", choice) '
        "VALUES ('now', 'x', '[]', 'a', 'a', 'left')",
        "INSERT INTO choices (created, rater, prompt, \"right\", choice) VALUES ('now', 'x', '[]', 'a', 'left')",
        'INSERT INTO choices (created, rater, prompt, "left", "right", choice) '
        "VALUES ('now', 'x', '[]', 'a', 'b', 'up')",
        "INSERT INTO choices (created, rater, withdraws, choice) VALUES ('now', 'x', 1, 'left')",
    ],
)
def test_the_database_itself_lets_nothing_be_changed_or_taken_away(store, statement):
    for index in range(2):
        store.add(ask(f"x {index}"), "a", "b", "left", "Ana", **BY)
    assert store.undo("Ana", ("p", "s")) == 2
    before = run(store, "SELECT * FROM choices")
    with pytest.raises(sqlite3.IntegrityError):
        run(store, statement)
    assert run(store, "SELECT * FROM choices") == before


WRITER = """
import sys
from pathlib import Path
from model.chat import Message
from serve.store import Store

sys.stdin.readline()  # all begin at once, with a file that is not there yet
for index in range(30):
    store = Store(Path(sys.argv[1]))
    asked = (Message("user", f"{sys.argv[2]} {index}"),)
    store.add(asked, "a", "b", "left", sys.argv[2], left_source="p", right_source="s")
    if index % 10 == 9:
        store.undo(sys.argv[2], ("p", "s"))
"""


def test_several_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "shared.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, f"rater {n}"], stdin=subprocess.PIPE, text=True) for n in range(4)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0] * 4
    for writer in writers:
        writer.stdin.close()
    choices = Store(path).choices()
    expected = {(f"rater {n}", f"rater {n} {index}") for n in range(4) for index in range(30) if index % 10 != 9}
    assert {(choice.rater, choice.prompt[0].content) for choice in choices} == expected
    assert len(choices) == len(expected)
    assert run(Store(path), "PRAGMA journal_mode") == [("wal",)]


def test_an_export_is_read_back_and_equals_the_store(store, tmp_path):
    for index in range(12):
        odd = "\n\nHuman: a \ud800" if index == 5 else f"answer {index}"
        choice = ("left", "right", "tie", "skip")[index % 4]
        store.add(ask(f"x {index // 2}"), odd, "b", choice, "Ana", seconds=index, **BY)
    store.undo("Ana", ("p", "s"))
    path = tmp_path / "export.jsonl"
    assert store.export(path) == 6
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 6
    exported, stored = open_preferences(f"jsonl:{path}", 0.3), open_stored_preferences(f"store:{store.path}", 0.3)
    assert (exported.train, exported.validation) == (stored.train, stored.validation)
    assert exported.key == stored.key
    made = [choice for side in (stored.train, stored.validation) for group in side for choice in group.preferences()]
    assert {choice.seconds for choice in made} == {0, 1, 4, 5, 8, 9}
    store.add(ask("more"), "a", "b", "left", "Ana")
    assert open_stored_preferences(f"store:{store.path}", 0.3).key != stored.key


def test_a_store_that_is_not_there_is_no_source():
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.sqlite'"):
        open_stored_preferences("store:nowhere.sqlite", 0.1)


def test_ties_alone_are_nothing_to_learn_from(store):
    store.add(ask("x"), "a", "b", "tie", "Ana")
    with pytest.raises(UserError, match="no choice of one answer over another"):
        open_stored_preferences(f"store:{store.path}", 0.1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"choice": "lift"}, "unknown choice 'lift'. Did you mean 'left'?"),
        ({"right": "a"}, "are the same answer"),
        ({"left": " "}, "is an empty answer"),
        ({"rater": ""}, "the name of its rater"),
        ({"seconds": -1.0}, "field 'seconds' is -1.0"),
        ({"prompt": (Message("assistant", "x"),)}, "has to be by the user"),
    ],
)
def test_what_is_no_choice_is_not_kept(store, change, told):
    given = {"prompt": ask("x"), "left": "a", "right": "b", "choice": "left", "rater": "Ana", **change}
    with pytest.raises(UserError, match=re.escape(told)):
        store.add(**given)
    assert store.choices() == []


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes of mine, and no database at all\n" * 50)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"notes.txt' cannot be used as a store of choices: file is not a database"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 1, 7])
def test_another_programs_database_is_refused_and_left_alone(tmp_path, version):
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE choices (theirs)")
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(UserError, match="is a database, but not a store of choices"):
        Store(path)
    assert path.read_bytes() == before


def test_places_that_cannot_be_written_are_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be a store"):
        Store(tmp_path / "file" / "choices.sqlite")
    with pytest.raises(UserError, match="unable to open database file"):
        Store(tmp_path)


def test_a_newer_version_is_refused(store):
    store.add(ask("x"), "a", "b", "left", "Ana")
    run(store, f"PRAGMA user_version = {len(SCHEMA) + 1}")
    with pytest.raises(UserError, match=f"is of version {len(SCHEMA) + 1}; this Narrador reads up to {len(SCHEMA)}"):
        Store(store.path)


def test_an_older_version_is_brought_up_to_date_or_left_as_it_was(store, monkeypatch):
    store.add(ask("x"), "a", "b", "left", "Ana")
    broken = (*SCHEMA, ("ALTER TABLE choices ADD COLUMN mood TEXT", "ALTER TABLE nonsense ADD COLUMN mood"))
    monkeypatch.setattr(serve.store, "SCHEMA", broken)
    with pytest.raises(UserError, match="no such table"):
        Store(store.path)
    monkeypatch.setattr(serve.store, "SCHEMA", (*SCHEMA, broken[-1][:1]))
    for _ in range(2):
        assert [choice.left for choice in Store(store.path).choices()] == ["a"]
    assert run(store, "SELECT mood FROM choices") == [(None,)]
    assert run(store, "PRAGMA user_version") == [(len(SCHEMA) + 1,)]
