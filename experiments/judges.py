"""The judges of a comparison by their names; how each judges is told in `judging.py`. Importing this imports no JAX."""

from model.errors import unknown

GOLD, REWARD, STORE = "gold", "reward", "store"
JUDGES = ("gold", "reward:RUN", "store:PATH")


def parse_judge(spec: str) -> tuple[str, str]:
    """The kind of judge, and the run or store that it is; one of `JUDGES`.

    Raises:
        UserError: there is no such judge.
    """
    kind, _, place = spec.partition(":")
    if spec != GOLD and not (kind in (REWARD, STORE) and place):
        raise unknown("judge", spec, JUDGES)
    return kind, place
