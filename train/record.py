"""One run among those that train: what it trains with, what it counts and what it writes. Its state is the loop's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import jax
from jax.sharding import Mesh

from model.config import SamplingConfig, ShardingRules
from model.decode import stream
from model.errors import UserError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from train.batches import Batch, Batches
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.distributed import from_first
from train.evaluation import bits_per_byte, text_bytes
from train.flops import peak_flops, train_flops_per_token
from train.metrics import Logs
from train.run_directory import StageDirectory
from train.step import as_given

SKIPPED_LIMIT = 10
Watch = Callable[[int, Mapping[str, Any]], None]
"""Told the step and what `evaluate` found."""


class Diverged(UserError):
    """Training came to numbers that are not finite, and nothing more can be learned from it."""


class Enough(Exception):
    """Who watches a run has seen enough of it."""


@dataclass(frozen=True)
class Workbench:
    """What a stage trains with: everything but the state."""

    model: Transformer
    config: TrainConfig
    mesh: Mesh
    rules: ShardingRules
    tokenizer: Tokenizer
    training: Batches  # endless
    validation: Mapping[str, Batches]
    """By source."""
    directory: StageDirectory
    prompt: Sequence[int]
    """What samples continue."""
    ends: Set[int]
    """Tokens that end a sample."""
    initial: Callable[[Any], Any] | None = None
    """Gives the parameters to begin with, laid out as told; None: fresh ones from the seed."""
    watch: Watch | None = None
    """Called with each evaluation; may raise `Enough`, which ends the run, and its checkpoints stay."""


@dataclass
class Counts:
    """What the loop counts on the host; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    """Real tokens trained on."""
    seconds: float = 0.0
    """Wall time of the stage, over all its sessions."""
    training_tokens: int = 0
    """Tokens whose time was taken: compilation, evaluation, samples and checkpoints left out."""
    training_seconds: float = 0.0


class Record:
    """A run's logs, checkpoints and counts while it trains."""

    def __init__(self, bench: Workbench, checkpoints: Checkpoints, counts: Counts | None) -> None:
        """Open the logs; `counts` are those of the checkpoint that the run goes on from, None: it begins."""
        self.bench, self.checkpoints, self.counts = bench, checkpoints, counts or Counts()
        self.fresh = counts is None
        self.over: Diverged | Enough | None = None  # why it ended early
        self.logs = Logs(bench.directory, -1 if counts is None else counts.step, bench.config.tensorboard)
        self.byte_lengths = bench.tokenizer.byte_lengths
        self._flops_per_token = train_flops_per_token(bench.model.config, bench.training[0].tokens.shape[1])
        self._window = 0  # tokens since the last line of speed.jsonl

    def close(self) -> None:
        """Let go of the folder."""
        self.logs.close()
        self.checkpoints.close()

    def stepped(self, step: int, batch: Batch) -> None:
        """Count an update."""
        tokens = int((batch.segments > 0).sum())
        self.counts.step, self.counts.tokens = step, self.counts.tokens + tokens
        self._window += tokens

    def check_healthy(self, skipped_in_a_row: int) -> None:
        """Diverge where updates keep failing; they change nothing, so the checkpoints stay good."""
        if skipped_in_a_row >= SKIPPED_LIMIT:
            self.over = Diverged(
                f"{skipped_in_a_row} updates in a row had a loss or gradient that is not finite; training stopped near "
                f"step {self.counts.step}. The checkpoints under {str(self.bench.directory.checkpoints)!r} are intact. "
                f"Try a lower train.learning_rate than {self.bench.config.learning_rate:g} in another --run-dir."
            )

    def log(self, metrics: Mapping[str, Any], batch: Batch, write: bool) -> str:
        """Write the step's line; returns what the progress bar shows."""
        row = {name: value.item() for name, value in metrics.items() if name != "skipped_in_a_row"}
        nats = row["loss"] * float(batch.weights.sum())
        row["bits_per_byte"] = bits_per_byte(nats, text_bytes(batch, self.byte_lengths))
        if write:
            self.logs.learned({"step": self.counts.step, "tokens": self.counts.tokens, **row})
        skipped = f"  {row['skipped']} skipped" if row["skipped"] else ""
        return f"loss {row['loss']:.3f}  {row['bits_per_byte']:.2f} bits/byte{skipped}"

    def log_speed(self, seconds: float) -> str:
        """Write how fast the steps since the last line were; returns what the progress bar shows."""
        counts, rate = self.counts, self._window / seconds
        counts.training_tokens += self._window
        counts.training_seconds += seconds
        self._window, mfu = 0, self._mfu(rate)
        self.logs.speed.write({"step": counts.step, "seconds": counts.seconds, "tokens_per_second": rate, "mfu": mfu})
        return f"{rate:,.0f} tokens/s  MFU {mfu:.0%}"

    def evaluated(self, found: Mapping[str, Any]) -> None:
        """Write an evaluation's line, and tell who watches."""
        found = {name: float(value) for name, value in found.items()}
        self.logs.learned({"step": self.counts.step, "tokens": self.counts.tokens, **found})
        if self.bench.watch:
            try:
                self.bench.watch(self.counts.step, found)
            except Enough as enough:
                self.over = enough

    def say(self, params: Any) -> Iterator[int]:
        """What the model says now, at temperature 1, token by token; the same for the same seed and step."""
        bench, config = self.bench, self.bench.config
        key = jax.random.fold_in(jax.random.key(config.seed), self.counts.step)
        model, most = as_given(bench.model), config.sample_tokens
        return (token for token, _ in stream(model, params, bench.prompt, SamplingConfig(), key, most, bench.ends))

    def sample(self, said: Iterable[int]) -> None:
        """Write a sample, up to the first token that ends it; its prompt is told without the document's start."""
        bench, decode = self.bench, self.bench.tokenizer.decode
        text = decode(takewhile(lambda token: token not in bench.ends, said))
        self.logs.samples.write({"step": self.counts.step, "prompt": decode(bench.prompt[1:]), "text": text})

    def result(self) -> dict[str, Any]:
        """What the run came to.

        Raises:
            Diverged: its updates kept failing, or its last held-out loss is not finite.
            Enough: by who watches.
        """
        if self.over is not None:
            raise self.over
        rows = self.bench.directory.rows
        evaluated = from_first(lambda: [row for row in rows("metrics") if "validation_loss" in row][-1])
        counts = self.counts
        if evaluated["validation_loss"] is None:
            raise Diverged(
                f"the held-out loss after step {counts.step} is not finite; nothing more can be learned from it."
            )
        rate = counts.training_tokens / max(counts.training_seconds, 1e-9)
        return {
            "steps": counts.step,
            "tokens": counts.tokens,
            "seconds": round(counts.seconds, 3),
            **{name: value for name, value in evaluated.items() if name.startswith("validation")},
            "tokens_per_second": rate,
            "mfu": self._mfu(rate),
        }

    def _mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization (Chowdhery et al. 2022, appendix B): FLOPs a second over the machine's peak."""
        return tokens_per_second * self._flops_per_token / peak_flops()
