"""The command `narrador`. Only the chosen command's modules are imported, so that it starts fast."""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "train an experiment, or go on with it",
    "sweep": "run an experiment many times with other values, and find what decides",
    "launch": "run an experiment in several processes on this machine",
    "probs": "what a trained model expects after a text",
    "sample": "let a trained model continue a text",
    "rate": "choose between two answers, and keep the choices",
    "compare": "which of two models answers better, and how",
    "chat": "talk to a trained model, and look behind its answers",
    "neighbours": "tokens whose embeddings lie nearest to a word's",
    "config": "list, show and compare experiment configs",
    "cost": "what training a model comes to: operations, years, dollars, energy",
    "plan": "what a training step takes on chips that are not there: memory, time, dollars",
    "overoptimisation": "where optimizing against a reward model stops helping",
    "scale": "how training goes with more devices",
    "bench": "measure training, decoding, PPO and start-up on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Mistakes of the user's end in one message and code 2."""
    if argv is None:
        _use_huge_pages()
        for stream in (sys.stdin, sys.stdout):  # a command line, and what is piped in, may be no UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not _model_is_ours():
        return 2
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        print(f"narrador: unknown command {name!r}.{hint} Known: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from model.errors import UserError

    try:
        return importlib.import_module(f"experiments.commands.{name}").main(rest) or 0
    except UserError as error:
        print(f"narrador: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("narrador: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_the_systems(error):
            raise
        print(f"narrador: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 2


def _use_huge_pages() -> None:
    """Begin again with glibc's memory in huge pages, which it can only be told before it starts.

    XLA's CPU programs take fresh memory for each call; in pages of 4 KiB a third of a small model's step goes by in
    page faults (docs/performance.md).
    """
    tunable, told = "glibc.malloc.hugetlb", os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and tunable not in told:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (told, f"{tunable}=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _model_is_ours() -> bool:
    import model

    if getattr(model, "NARRADOR", None) == "narrador.model":
        return True
    place = getattr(model, "__file__", None) or next(iter(model.__path__))
    print(
        f"narrador: the package 'model' found first is not Narrador's but {place}; "
        "take its folder off PYTHONPATH, or use a virtual environment of its own.",
        file=sys.stderr,
    )
    return False


def is_the_systems(error: Exception) -> bool:
    """Whether the machine refused (disk full, no permission, ...): nothing a traceback would explain.

    Libraries in C++ tell such things in words only.
    """
    words = ("No space left on device", "File too large", "Disk quota exceeded")
    return isinstance(error, OSError) or any(word in str(error) for word in words)


def _help() -> str:
    lines = "\n".join(f"  {name:<18}{text}" for name, text in COMMANDS.items())
    return f"usage: narrador COMMAND ...\n\n{lines}\n\n'narrador COMMAND --help' tells what each takes."


if __name__ == "__main__":
    sys.exit(main())
