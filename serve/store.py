"""The choices that people made, kept in SQLite: rows are only ever added, and several processes may add at once."""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from model.chat import Message
from model.errors import UserError, unknown
from rlhf.preferences import Preferences, split_preferences
from rlhf.records import Preference, Prompt, read_preferences, to_record
from train.reading import BadRecord
from train.run_directory import write_atomically

LEFT, RIGHT, TIE, SKIP = CHOICES = ("left", "right", "tie", "skip")
APPLICATION = int.from_bytes(b"narr")  # says in the file whose it is
SECONDS_TO_WAIT = 60.0

# What each version adds to the one before it; the file's `user_version` says how many of these it has.
SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE choices (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            created TEXT NOT NULL,      -- UTC, ISO 8601
            rater TEXT NOT NULL,
            prompt TEXT,                -- messages, as JSON
            "left" TEXT,                -- the answers as they were shown
            "right" TEXT,
            left_source TEXT,           -- what wrote them, such as runs/narrator:ppo
            right_source TEXT,
            choice TEXT CHECK (choice IN ('left', 'right', 'tie', 'skip')),
            seconds REAL CHECK (seconds >= 0),
            withdraws INTEGER UNIQUE REFERENCES choices (id),  -- the row that this one undoes, and then nothing else
            CHECK (withdraws IS NULL OR coalesce(prompt, "left", "right", choice) IS NULL),
            CHECK (withdraws IS NOT NULL OR (prompt IS NOT NULL AND choice IS NOT NULL
                AND "left" IS NOT NULL AND "right" IS NOT NULL AND "left" <> "right"))
        )
        """,
        """
        CREATE TRIGGER choices_stay BEFORE UPDATE ON choices
        BEGIN SELECT RAISE (ABORT, 'choices are added, never changed'); END
        """,
        """
        CREATE TRIGGER choices_remain BEFORE DELETE ON choices
        BEGIN SELECT RAISE (ABORT, 'choices are added, never deleted'); END
        """,
        # REPLACE deletes what is in its way without asking the trigger above.
        """
        CREATE TRIGGER choices_do_not_replace BEFORE INSERT ON choices
        WHEN EXISTS (SELECT 1 FROM choices WHERE id = NEW.id OR withdraws = NEW.withdraws)
        BEGIN SELECT RAISE (ABORT, 'choices are added, never replaced'); END
        """,
    ),
)

_STANDING = "withdraws IS NULL AND id NOT IN (SELECT withdraws FROM choices WHERE withdraws IS NOT NULL)"


class Choice(NamedTuple):
    """One choice as it was made."""

    id: int
    created: str
    prompt: Prompt
    left: str
    right: str
    left_source: str | None
    right_source: str | None
    choice: str
    rater: str
    seconds: float | None

    @property
    def preference(self) -> Preference | None:
        """Which answer was chosen over which; None for a tie or a skip."""
        if self.choice not in (LEFT, RIGHT):
            return None
        chosen, rejected = (self.left, self.right) if self.choice == LEFT else (self.right, self.left)
        return Preference(self.prompt, chosen, rejected, rater=self.rater, seconds=self.seconds)


class Store:
    """A file of choices. Every call opens it anew, so that threads and processes may share one path."""

    def __init__(self, path: Path) -> None:
        """Open the store, or create it.

        Raises:
            UserError: the file is something else or by a newer version, or its place cannot be written to.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{str(path)!r} cannot be a store of choices: {error.strerror}.") from None
        with self._connection() as connection:
            self._migrate(connection)
            _write_ahead(connection)

    def add(
        self,
        prompt: Sequence[Message],
        left: str,
        right: str,
        choice: str,
        rater: str,
        *,
        seconds: float | None = None,
        left_source: str | None = None,
        right_source: str | None = None,
    ) -> int:
        """Keep one choice.

        Args:
            prompt: messages of which the last is the user's.
            left, right: the answers as they were shown.
            choice: one of `CHOICES`.
            rater: who chose.
            seconds: how long it took.
            left_source, right_source: what wrote the answers, such as runs/narrator:ppo.

        Returns:
            Its id.

        Raises:
            UserError: what is no choice: equal or empty answers, no rater, ...
        """
        if choice not in CHOICES:
            raise unknown("choice", choice, CHOICES)
        if not rater.strip():
            raise UserError("a choice needs the name of its rater.")
        try:
            # Whatever is kept can be read back from an export.
            [kept] = read_preferences(to_record(Preference(tuple(prompt), left, right, rater=rater, seconds=seconds)))
        except BadRecord as error:
            raise UserError(f"{str(self.path)!r} cannot keep this choice between left and right: {error}.") from None
        messages = json.dumps([message._asdict() for message in kept.prompt], ensure_ascii=False)
        row = {
            "created": _now(),
            "rater": kept.rater,
            "prompt": messages,
            "left": kept.chosen,
            "right": kept.rejected,
            "left_source": left_source,
            "right_source": right_source,
            "choice": choice,
            "seconds": kept.seconds,
        }
        names, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
        with self._connection() as connection:
            added = connection.execute(f"INSERT INTO choices ({names}) VALUES ({values})", row)
            return int(added.lastrowid or 0)

    def undo(self, rater: str, sources: Sequence[str]) -> int | None:
        """Withdraw the rater's last standing choice between what two sources wrote, by a row that says so.

        Returns:
            Its id, or None if there is none.
        """
        with self._connection() as connection, _writing(connection):
            between = "(left_source, right_source) IN (VALUES (?, ?), (?, ?))"
            query = f"SELECT max(id) FROM choices WHERE rater = ? AND {between} AND {_STANDING}"
            [last] = connection.execute(query, (rater, *sources, *reversed(sources))).fetchone()
            if last is not None:
                row = (_now(), rater, last)
                connection.execute("INSERT INTO choices (created, rater, withdraws) VALUES (?, ?, ?)", row)
            return last

    def choices(self) -> list[Choice]:
        """The choices that stand, oldest first."""
        names = ", ".join(f'"{name}"' for name in Choice._fields)
        with self._connection() as connection:
            rows = [*connection.execute(f"SELECT {names} FROM choices WHERE {_STANDING} ORDER BY id")]
        return [
            Choice(identity, created, tuple(Message(**turn) for turn in json.loads(prompt)), *rest)
            for identity, created, prompt, *rest in rows
        ]

    def export(self, path: Path) -> int:
        """Write the standing choices of one answer over another as JSON lines, which `jsonl:` reads; how many."""
        chosen = [choice.preference for choice in self.choices()]
        lines = [json.dumps(to_record(kept), ensure_ascii=False) + "\n" for kept in chosen if kept is not None]
        write_atomically(path, "".join(lines))
        return len(lines)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if _version(connection) == len(SCHEMA) and _pragma(connection, "application_id") == APPLICATION:
            return
        with _writing(connection):  # another process may have done it by now, so look again
            version, application = _version(connection), _pragma(connection, "application_id")
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if application != APPLICATION and (application or version or tables):
                raise UserError(f"{str(self.path)!r} is a database, but not a store of choices.")
            if version > len(SCHEMA):
                told = f"is of version {version}; this Narrador reads up to {len(SCHEMA)} and has to be updated."
                raise UserError(f"{str(self.path)!r} {told}")
            for statement in (statement for added in SCHEMA[version:] for statement in added):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {len(SCHEMA)}")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT, isolation_level=None)) as connection:
                connection.execute("PRAGMA foreign_keys = ON")
                yield connection
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:  # no database, no room, no permission, locked for too long
            raise UserError(f"{str(self.path)!r} cannot be used as a store of choices: {error}.") from None


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with no other writer in between."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Let nobody who reads wait for who writes. It stays with the file, and SQLite does not itself wait to switch."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return  # even where the file system has none
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _version(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "user_version")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def open_stored_preferences(spec: str, validation_fraction: float) -> Preferences:
    """The choices of one answer over another in the store of a source `store:PATH`.

    Raises:
        UserError: there is no such store, or no such choice in it.
    """
    path = Path(spec.partition(":")[2])
    if not path.is_file():
        raise UserError(f"source {spec!r}: there is no file {str(path)!r}.")
    found = [choice.preference for choice in Store(path).choices()]
    chosen = [preference for preference in found if preference is not None]
    if not chosen:
        raise UserError(f"source {spec!r} holds no choice of one answer over another ({len(found)} ties and skips).")
    return split_preferences(spec, chosen, validation_fraction)
