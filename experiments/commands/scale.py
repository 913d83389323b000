"""`narrador scale VERB`: how training goes with more of something. Each verb is a module beside this one."""

import importlib
from collections.abc import Sequence

from model.errors import unknown

VERBS = {
    "devices": "training on more and more devices: speed, and what they send each other",
    "fit": "a law of the loss, by parameters and tokens, fitted to a table of runs",
    "ladder": "runs of several sizes and budgets, and the law of their loss: plan, run, status, fit, report",
    "coordcheck": "what a few steps change in wider and deeper models, under both parametrizations",
    "transfer": "whether the best learning rate stays where it is in wider models",
}


def main(argv: Sequence[str]) -> int:
    """Find the verb and let it do the rest."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:<12}{text}" for name, text in VERBS.items())
        print(f"usage: narrador scale VERB ...\n\n{lines}\n\n'narrador scale VERB --help' tells what each takes.")
        return 0
    if argv[0] not in VERBS:
        raise unknown("scaling study", argv[0], VERBS)
    return importlib.import_module(f"experiments.commands.{argv[0]}").main(argv[1:]) or 0
