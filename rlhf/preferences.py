"""What people chose between, grouped by prompt: from files, TFDS or the narrator's world."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from model.errors import UserError, unknown
from rlhf.records import Preference, Prompt, read_preferences, to_record
from train.prepared import open_prepared
from train.progress import say
from train.reading import read_dataset, read_files
from train.sources import open_world

KINDS = ("narration_preferences[:EXAMPLES[:SEED]]", "jsonl:GLOB", "tfds:NAME[/CONFIG]")


class Pair(NamedTuple):
    """Which of a prompt's answers was chosen over which, by their places; the rest as in `Preference`."""

    winner: int
    loser: int
    margin: float = 0.0
    rater: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class PromptGroup:
    """One prompt with its distinct answers and all choices between them.

    A batch takes a group whole, so that each answer is computed once and no answer comes up again in another batch:
    all comparisons of a prompt are one batch element (Ouyang et al. 2022, section 3.5).
    """

    prompt: Prompt
    answers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    """The same pair twice, or both ways round, if people chose so."""

    def preferences(self) -> list[Preference]:
        """The choices one by one."""
        return [
            Preference(self.prompt, self.answers[p.winner], self.answers[p.loser], p.margin, p.rater, p.seconds)
            for p in self.pairs
        ]


@dataclass(frozen=True)
class Preferences:
    """A source's choices by split; no prompt is in both. `key` changes whenever they do."""

    spec: str
    key: str
    train: Sequence[PromptGroup]
    validation: Sequence[PromptGroup]


def open_preferences(spec: str, validation_fraction: float) -> Preferences:
    """The choices of one source.

    Args:
        spec: one of `KINDS`; records as `rlhf.records` has them.
        validation_fraction: what share of the prompts is held out where the source has no split of its own for it.

    Raises:
        UserError: an unknown kind, no records, records that cannot be used, or fewer than two prompts.
    """
    kind, _, rest = spec.partition(":")
    if kind == "tfds" and rest:
        return _keyed(spec, *_tfds(spec, rest, validation_fraction))
    if kind == "narration_preferences":
        return split_preferences(
            spec, read_dataset(spec, spec, open_world(spec)[1], read_preferences), validation_fraction
        )
    if kind == "jsonl" and rest:
        return split_preferences(spec, read_files(spec, rest, read_preferences), validation_fraction)
    raise unknown("source of preferences", spec, KINDS)


def split_preferences(spec: str, found: Iterable[Preference], validation_fraction: float) -> Preferences:
    """Choices of a source as groups, some prompts held out.

    Raises:
        UserError: there are fewer than two prompts.
    """
    return _keyed(spec, *hold_out_prompts(spec, group_by_prompt(found), validation_fraction))


def _keyed(spec: str, train: list[PromptGroup], validation: list[PromptGroup]) -> Preferences:
    content = [[to_record(choice) for group in side for choice in group.preferences()] for side in (train, validation)]
    return Preferences(spec, _digest(content).hex()[:32], train, validation)


def group_by_prompt(preferences: Iterable[Preference]) -> list[PromptGroup]:
    """All choices between answers to the same prompt together, prompts and answers in the order they first come up."""
    by_prompt: dict[Prompt, list[Preference]] = {}
    for preference in preferences:
        by_prompt.setdefault(preference.prompt, []).append(preference)
    return [_group(prompt, made) for prompt, made in by_prompt.items()]


def hold_out_prompts(
    spec: str, groups: Sequence[PromptGroup], fraction: float
) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """Groups to learn from, and those held out: the prompts whose hash falls into the first `fraction` of all hashes.

    So a prompt stays on its side while choices are added. With few prompts, at least one is on either side.

    Raises:
        UserError: there is only one prompt.
    """
    if len(groups) < 2:
        raise UserError(f"source {spec!r} has choices for one prompt only; to hold out some, at least two are needed.")
    places = [int.from_bytes(_digest(group.prompt)[:8]) / 2**64 for group in groups]
    ordered = sorted(places)
    limit = min(max(fraction, ordered[0]), ordered[-2])
    train = [group for group, place in zip(groups, places, strict=True) if place > limit]
    return train, [group for group, place in zip(groups, places, strict=True) if place <= limit]


def _group(prompt: Prompt, preferences: list[Preference]) -> PromptGroup:
    places: dict[str, int] = {}
    for preference in preferences:
        for answer in (preference.chosen, preference.rejected):
            places.setdefault(answer, len(places))
    pairs = (Pair(places[p.chosen], places[p.rejected], p.margin, p.rater, p.seconds) for p in preferences)
    return PromptGroup(prompt, tuple(places), tuple(pairs))


def _tfds(spec: str, name: str, fraction: float) -> tuple[list[PromptGroup], list[PromptGroup]]:
    sources = open_prepared(spec, name).splits
    if "train" not in sources:
        raise UserError(f"source {spec!r} needs a split 'train'; it has: {', '.join(sources) or 'none'}.")

    def read(split: str) -> list[PromptGroup]:
        return group_by_prompt(read_dataset(spec, f"split {split!r}", sources[split], read_preferences))

    held_out = next((split for split in ("validation", "test") if split in sources), None)
    if held_out is None:
        return hold_out_prompts(spec, read("train"), fraction)
    train, validation = read("train"), read(held_out)
    prompts = {group.prompt for group in validation}
    kept = [group for group in train if group.prompt not in prompts]
    if len(kept) < len(train):
        say(f"{spec}: {len(train) - len(kept)} prompts are also in {held_out!r}; nothing is learned from those.")
    if not kept:
        raise UserError(f"source {spec!r}: every prompt of 'train' is also in {held_out!r}.")
    return kept, validation


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()
