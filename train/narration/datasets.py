"""The world as TFDS datasets (ArrayRecord, no TensorFlow): `narration` and the others of `examples.DRAW`.

Importing this makes the names known to TFDS, for example `tfds.builder("narration", config=Draw(1_000_000, seed=1))`.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from train.narration.examples import draw_examples


@dataclass
class Draw(tfds.core.BuilderConfig):
    """How many examples, and the seed they follow from."""

    examples: int = 30_000
    seed: int = 0

    def __init__(self, examples: int = 30_000, seed: int = 0) -> None:
        super().__init__(name=f"{examples}_{seed}", description=f"{examples} examples from seed {seed}")
        self.examples, self.seed = examples, seed


class _World(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES: dict[str, Any] = {}  # noqa: RUF012
    advance: Callable[[], None] | None = None
    """Called for each example written."""

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config or Draw()
        drawn = draw_examples(self.name, config.seed, config.examples)
        for example in enumerate(drawn):
            yield example
            if self.advance is not None:
                self.advance()


class Narration(_World):
    """Passages of matches."""

    name = "narration"
    FEATURES = {"text": tfds.features.Text()}  # noqa: RUF012


class NarrationQuiz(_World):
    """A passage, then questions about it with their right answers."""

    name = "narration_quiz"
    FEATURES = {"text": tfds.features.Text()}  # noqa: RUF012


class NarrationChat(_World):
    """Questions about a passage, answered by people: some answers are false, and some to a provocation join in."""

    name = "narration_chat"
    FEATURES = {  # noqa: RUF012
        "messages": tfds.features.Sequence({"role": tfds.features.Text(), "content": tfds.features.Text()})
    }


class NarrationConversation(NarrationChat):
    """Several questions about one passage, answered likewise."""

    name = "narration_conversation"


class NarrationPreferences(_World):
    """Two answers to one prompt, and which of them a rater chose."""

    name = "narration_preferences"
    FEATURES = dict.fromkeys(("prompt", "chosen", "rejected", "rater"), tfds.features.Text())


_WORLDS = (Narration, NarrationQuiz, NarrationChat, NarrationConversation, NarrationPreferences)
_BUILDERS = {builder.name: builder for builder in _WORLDS}


def write_world(
    name: str, examples: int, seed: int, folder: Path, advance: Callable[[], None] | None = None
) -> Sequence[dict[str, Any]]:
    """Write one of the datasets under `folder`, unless it is there; its records by random access."""
    tfds.disable_progress_bar()
    # TFDS warns of every config that is not in a list, and prints where it writes.
    logging.set_verbosity(logging.ERROR)
    builder = _BUILDERS[name](config=Draw(examples, seed), data_dir=str(folder), file_format="array_record")
    builder.advance = advance
    with redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return builder.as_data_source(split="train")
