"""`narrador chat`: talk to a trained model in the terminal, and look behind its answers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.seeds import check_seed
from model.config import SamplingConfig
from model.errors import UserError, unknown

if TYPE_CHECKING:
    from serve.conversation import Conversation

HELP = """/about TEXT        ask every question about TEXT, each by itself; without TEXT, about a new passage of a match
/system TEXT       begin anew under an instruction; without TEXT, under none
/temperature X     divide the logits by X; 0 takes the likeliest token
/top N             tokens that /why shows of each distribution, from the next answer on
/why               what was likely at each token of the last answer
/compare           the last question to every stage of this run
/help, /quit       Ctrl-C stops an answer"""


@dataclass(frozen=True)
class Arguments:
    """Talk to a trained model. Lines that begin with / are commands; /help lists them."""

    run: str | None = None
    """DIR or DIR:STAGE of a run. None: the latest under runs/."""
    tokens: int = 128
    """Most tokens of an answer."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    seed: int = 0
    """The same seed gives the same answers to the same questions."""


def main(argv: Sequence[str]) -> None:
    """Parse, and talk until the end of the input."""
    arguments = tyro.cli(Arguments, prog="narrador chat", args=list(argv))
    if arguments.tokens < 1:
        raise UserError(f"--tokens {arguments.tokens} must be at least 1.")
    check_seed(arguments.seed)
    from experiments.machine import prepare_jax

    prepare_jax()
    from serve.conversation import Conversation
    from train.trained import open_trained

    trained = open_trained(arguments.run)
    print(f"{trained.run.path}, stage {trained.stage}, step {trained.step}. /help lists the commands.")
    Talk(Conversation(trained, arguments.sampling, arguments.tokens, arguments.seed)).loop(_read_line)


def _read_line() -> str | None:
    """The next line; None at the end of the input."""
    while True:
        try:
            return input("> ")
        except EOFError:
            return None
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D ends)")


class Talk:
    """The terminal's side of a conversation."""

    def __init__(self, conversation: "Conversation") -> None:
        self.conversation = conversation
        self.about = ""
        self.passages = random.Random(conversation.seed)

    def loop(self, read_line: Callable[[], str | None]) -> None:
        """Answer lines until there are none."""
        while (line := read_line()) is not None:
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            try:
                if text.startswith("/"):
                    self.command(*text[1:].partition(" ")[::2])
                elif text and self.about:
                    # The text comes anew with every question: with the earlier ones it would fill the context.
                    self.conversation.begin_anew()
                    self.answer(self.conversation, f"{self.about}\n{text}")
                elif text:
                    self.answer(self.conversation, text)
            except UserError as error:
                print(error)

    def answer(self, conversation: "Conversation", question: str) -> None:
        """Print an answer as it comes; Ctrl-C stops it, and what has come is kept."""
        pieces = conversation.say(question)
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" ...", end="")
        finally:
            pieces.close()  # type: ignore[attr-defined]
        print()

    def command(self, name: str, value: str) -> None:
        """Do what a line with a slash asks for.

        Raises:
            UserError: there is no such command, or its value cannot be used.
        """
        does: dict[str, Callable[[str], None]] = {
            "about": self._about,
            "system": self.conversation.instruct,
            "temperature": self._temperature,
            "top": self._top,
            "why": lambda _: self._why(),
            "compare": lambda _: self._compare(),
            "help": lambda _: print(HELP),
        }
        if name not in does:
            raise unknown("command", f"/{name}", [f"/{known}" for known in does])
        does[name](value.strip())

    def _about(self, text: str) -> None:
        if not text:
            from train.narration.questions import draw_prompt

            text = draw_prompt(self.passages)[0].text
            print(text)
        self.about = text
        self.conversation.begin_anew()

    def _temperature(self, value: str) -> None:
        self.conversation.sampling = replace(self.conversation.sampling, temperature=_number("/temperature", value))

    def _top(self, value: str) -> None:
        count = _number("/top", value)
        if not (count >= 1 and count.is_integer()):
            raise UserError(f"/top {value} must be a whole number of at least 1.")
        self.conversation.shown = int(count)

    def _why(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        if not self.conversation.reasons:
            raise UserError("there is no answer yet.")
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("said", "", "likeliest"):
            grid.add_column(head)
        for chosen in self.conversation.reasons:
            others = "  ".join(f"{_visible(text)} {probability:.1%}" for text, probability in chosen.likeliest)
            grid.add_row(Text(_visible(chosen.text)), f"{chosen.probability:7.2%}", Text(others))
        Console(highlight=False).print(grid)

    def _compare(self) -> None:
        from train.trained import load, saved_stages

        question = self.conversation.question
        if question is None:
            raise UserError("there is no question yet.")
        trained = self.conversation.trained
        for stage in saved_stages(trained.run):
            print(f"{stage}: ", end="")
            self.answer(self.conversation.with_model(load(trained.run, stage)), question)


def _visible(text: str) -> str:
    return repr(text)[1:-1].replace(" ", "·")


def _number(command: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{command} {value!r} is no number.") from None
