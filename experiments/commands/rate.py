"""`narrador rate`: choose between two answers of a model, and keep the choices."""

import getpass
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from model.config import SamplingConfig
from model.errors import UserError
from rlhf.prompts import open_prompts
from serve.rating import QUIT, UNDO, Outcome, RatingSession, Shown, Writer
from serve.store import Store

LAST = "that was the last; u takes it back, any other key ends"
HELP = "l or ← left   r or → right   t tie   s skip   u undo   q quit"


@dataclass(frozen=True)
class Arguments:
    """Show a prompt and two answers at a time; one key chooses."""

    run: str | None = None
    """DIR or DIR:STAGE of a run. None: the latest under runs/."""
    against: str | None = None
    """DIR or DIR:STAGE of who writes the other answer; `compare --judge store:PATH` counts who wins. None: the same."""
    store: Path = Path("runs/preferences.sqlite")
    """Where the choices are kept; made if it is not there."""
    rater: str | None = None
    """Who chooses. None: the name of the account."""
    prompts: str = "narration_chat:200:7"
    """What is asked: narration_chat[:EXAMPLES[:SEED]], or jsonl:GLOB of {"prompt"} or {"messages"}."""
    seed: int = 0
    """The same seed shows the same answers."""
    temperature: float = 1.0
    """Divides the logits; it has to be above 0, where both answers would be the same."""
    tokens: int = 48
    """Most tokens of an answer."""


def main(argv: Sequence[str]) -> None:
    """Parse, then show and ask until the prompts are used up or the rater has had enough."""
    arguments = tyro.cli(Arguments, prog="narrador rate", args=list(argv))
    sampling = SamplingConfig(temperature=arguments.temperature)
    if not sampling.temperature:
        raise UserError("--temperature 0 gives the same answer twice; it must be above 0.")
    if arguments.tokens < 1:
        raise UserError(f"--tokens {arguments.tokens} must be at least 1.")
    store, prompts, rater = Store(arguments.store), open_prompts(arguments.prompts), arguments.rater or _account()
    from experiments.machine import prepare_jax

    prepare_jax()
    from experiments.alignment import encode_prompts, model_name
    from serve.answering import answer_by
    from train.trained import open_trained

    def writer(spec: str | None) -> Writer:
        trained = open_trained(spec)
        encode_prompts(trained, prompts, arguments.tokens)  # refuses, before any is shown, what it cannot read whole
        return Writer(model_name(trained), answer_by(trained, sampling, arguments.tokens))

    first = writer(arguments.run)
    second = first if arguments.against is None else writer(arguments.against)
    session = RatingSession(prompts, (first, second), store, rater, arguments.seed)
    console = Console(highlight=False)
    if session.already:
        console.print(f"{session.already} prompts have been rated by {session.rater} before.", markup=False)
    with _keys() as read_key:
        kept = rate(session, read_key, console)
    if session.passed_over:
        console.print(f"{session.passed_over} prompts got no two different answers, and were passed over.")
    console.print(f"{kept} choices by {session.rater} were kept in {arguments.store}.", markup=False, soft_wrap=True)


def rate(session: RatingSession, read_key: Callable[[], str], console: Console) -> int:
    """Show and ask to the end.

    Args:
        read_key: waits for one key; empty text when there are no more.

    Returns:
        How many choices of this sitting were kept.
    """
    kept: set[int | None] = set()
    while True:
        outcome = Outcome(None)
        if (shown := _show(session, console)) is not None:
            console.print(picture(shown))
            console.print(HELP, style="dim")
            while outcome.action is None:
                outcome = session.press(read_key())
        elif kept:
            console.print(LAST, style="dim")
            outcome = session.press(read_key())
        if outcome.action in (QUIT, None):
            break
        if outcome.action == UNDO:
            kept.discard(outcome.id)
        else:
            kept.add(outcome.id)
        nothing = outcome.action == UNDO and outcome.id is None
        console.print("there is nothing to undo" if nothing else outcome.action, style="bold")
    return len(kept)


def picture(shown: Shown) -> RenderableType:
    """The prompt, and the answers side by side."""
    prompt = Text("\n").join(
        Text.assemble((f"{message.role}: ", "bold"), _printable(message.content)) for message in shown.prompt
    )
    sides = Table.grid(expand=True, padding=(0, 1))
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(
        *(Panel(_printable(text), title=title) for title, text in (("left", shown.left), ("right", shown.right)))
    )
    return Group("", prompt, sides)


def _show(session: RatingSession, console: Console) -> Shown | None:
    with console.status("two answers are being written"):
        return session.show()


def _printable(text: str) -> Text:
    """Without what a terminal would take for orders."""
    return Text("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text))


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Keys as they are pressed, without Enter; where stdin is no terminal, its characters."""
    if not sys.stdin.isatty():
        yield lambda: sys.stdin.read(1)
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read_key() -> str:
        termios.tcflush(terminal, termios.TCIFLUSH)  # nobody has chosen between what they had not seen
        return os.read(terminal, 8).decode(errors="replace")  # an arrow is several bytes

    try:
        tty.setcbreak(terminal)
        yield read_key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UserError("the account has no name; say who chooses with --rater.") from None
