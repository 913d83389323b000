"""The stages that learn from text by next-token prediction."""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Experiment
from experiments.lanes import fit_together
from experiments.machine import session
from experiments.truth import floor, knows_truth
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import UserError
from model.sharding import make_mesh
from model.tokenizer import Tokenizer, TokenizerConfig
from model.transformer import Transformer
from train.batches import PackedRows, training_batches, validation_batches
from train.chats import Chats, open_chats
from train.config import TrainConfig
from train.corpus import TokenStream, tokenize, tokenize_chats, train_tokenizer_once
from train.distributed import in_turn
from train.evaluation import bits_per_byte
from train.loop import StopRequest, check_batch_divides, check_fits, compute_dtype, fit
from train.record import Diverged, Enough, Watch, Workbench
from train.run_directory import RunDirectory, StageDirectory, write_atomically
from train.sources import Documents, open_source
from train.step import abstract_state
from train.trained import open_language, restore


def pretrain(
    experiment: Experiment, run: RunDirectory, stop: StopRequest, watch: Watch | None = None
) -> dict[str, Any]:
    """Learn by next-token prediction; resumes, and returns at once what a complete stage came to.

    Args:
        watch: told each evaluation; may raise `Enough`, which ends the run, and its checkpoints stay.
    """
    (outcome,) = pretrain_alike([experiment], [run], stop, [watch])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def pretrain_alike(
    experiments: Sequence[Experiment], runs: Sequence[RunDirectory], stop: StopRequest, watches: Sequence[Watch | None]
) -> list[dict[str, Any] | Diverged | Enough]:
    """`pretrain` for experiments that differ in numbers alone, in one program.

    Args:
        experiments: `experiments.together.check_alike` has seen them.
    """
    outcomes: list[Any] = [run.stage("pretrain").result for run in runs]
    if not (left := [place for place, outcome in enumerate(outcomes) if outcome is None]):
        return outcomes
    lead = experiments[left[0]]
    if len(left) == 1:
        mesh = make_mesh(lead.mesh)
        check_batch_divides(lead.train, lead.data.sequence_length, mesh, lead.sharding)
        if lead.model.vocab_size is not None:  # else it takes the tokenizer to tell
            check_fits(abstract_state(Transformer(lead.model, lead.sharding), lead.train, mesh, lead.sharding))
    start, about = time.perf_counter(), session() | ({"together": len(left)} if len(left) > 1 else {})
    with in_turn():
        sources = open_sources(lead)
        for place in left:
            runs[place].claim_data({source.spec: source.key for source in sources})
            runs[place].add_session(about)
        begun = next((runs[place].tokenizer_path for place in left if runs[place].tokenizer_path.exists()), None)
        tokenizer = Tokenizer.load(begun) if begun else train_tokenizer_once(lead.tokenizer, sources)
        for run in (runs[place] for place in left):
            if not run.tokenizer_path.exists():
                write_atomically(run.tokenizer_path, tokenizer.to_json())
                if (own := _template_beside(lead.tokenizer)) is not None:
                    write_atomically(run.chat_template_path, own.text)
        cut = partial(tokenize, tokenizer=tokenizer)
        text = _read(lead, tokenizer, sources, cut)
    benches = []
    for place in left:
        train, stage = experiments[place].train, runs[place].stage("pretrain")
        prompt, weights = tokenizer.encode(train.sample_prompt), lead.data.weights
        bench = _workbench(experiments[place], train, stage, text, prompt, weights=weights)
        benches.append(replace(bench, watch=watches[place]))
    seconds = {"stage": "pretrain", "data_seconds": round(time.perf_counter() - start, 3)}
    told = next((source for source in sources if knows_truth(source.spec)), None)
    for place, outcome in zip(left, fit_together(benches, stop), strict=True):
        if not isinstance(outcome, Exception):
            outcome = {**seconds, **outcome}
            if told is not None:  # the one that the report holds the model against
                outcome |= against_truth(outcome, told, cut(told, "validation"))
            runs[place].stage("pretrain").complete(outcome)
        outcomes[place] = outcome
    return outcomes


def sft(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn to answer from demonstrations (Ouyang et al. 2022, section 3.5): the loss counts the assistant's tokens.

    Begins with what pre-training came to; resumes, and returns at once what a complete stage came to.
    """
    stage, data, train = run.stage("sft"), experiment.sft.data, experiment.sft.train
    if stage.result is not None:
        return stage.result
    check_batch_divides(train, experiment.data.sequence_length, make_mesh(experiment.mesh), experiment.sharding)
    start, about = time.perf_counter(), session()
    with in_turn():
        chats = [open_chats(spec, data.validation_fraction) for spec in data.sources]
        run.add_session(about)
        model, tokenizer, template = open_language(run)
        write_atomically(run.chat_template_path, template.text)
        cut = partial(tokenize_chats, tokenizer=tokenizer, template=template)
        prompt = template.encode(tokenizer, chats[0].validation[0][:-1], answer=True).tokens
        ends = {template.stop_token(tokenizer)}
        bench = _workbench(experiment, train, stage, _read(experiment, tokenizer, chats, cut), prompt, ends)
        run.claim_data({f"sft {source.spec}": source.key for source in chats})  # last: what is refused can be mended

    def pretrained(abstract: Any) -> Any:
        return restore(run, "pretrain", model, abstract)[0]

    bench = replace(bench, initial=pretrained)
    result = {"stage": "sft", "data_seconds": round(time.perf_counter() - start, 3), **fit(bench, stop)}
    stage.complete(result)
    return result


class _Text(NamedTuple):
    """What a stage reads, in rows."""

    tokenizer: Tokenizer
    training: list[PackedRows]
    held_out: dict[str, PackedRows]
    """By source."""


def _read(
    experiment: Experiment,
    tokenizer: Tokenizer,
    sources: Sequence[Documents | Chats],
    cut: Callable[[Any, str], TokenStream],
) -> _Text:
    """Sources as rows of tokens.

    Args:
        cut: a source's split as tokens.

    Raises:
        UserError: a source does not fill a row.
    """
    length = experiment.data.sequence_length
    streams, held_out = ([cut(source, split) for source in sources] for split in ("train", "validation"))
    for source, stream in zip(sources, streams, strict=True):
        check_long_enough(stream, length, source.spec)
    return _Text(
        tokenizer,
        [PackedRows(stream, length) for stream in streams],
        {source.spec: PackedRows(stream, length) for source, stream in zip(sources, held_out, strict=True)},
    )


def _workbench(
    experiment: Experiment,
    config: TrainConfig,
    directory: StageDirectory,
    text: _Text,
    prompt: Sequence[int],
    ends: Set[int] = frozenset(),
    weights: Sequence[float] = (),
) -> Workbench:
    """What a stage trains with.

    Args:
        prompt: what samples continue, from the start of a document on.
        ends: what ends a sample, beside the end of a document.

    Raises:
        UserError: the model's vocabulary is too small.
    """
    rules, tokenizer = experiment.sharding, text.tokenizer
    return Workbench(
        model=Transformer(_sized(experiment.model, tokenizer), rules, compute_dtype(config.precision)),
        config=config,
        mesh=make_mesh(experiment.mesh),
        rules=rules,
        tokenizer=tokenizer,
        training=training_batches(text.training, weights, config.batch_size, config.seed),
        # As many rows at once as training has: a whole batch may not fit.
        validation={
            spec: validation_batches(rows, config.batch_size // config.accumulation)
            for spec, rows in text.held_out.items()
        },
        directory=directory,
        prompt=[tokenizer.document_end, *prompt],
        ends={tokenizer.document_end, *ends},
    )


def open_sources(experiment: Experiment) -> list[Documents]:
    """The text of pre-training."""
    return [open_source(spec, experiment.data.validation_fraction) for spec in experiment.data.sources]


def _template_beside(config: TokenizerConfig) -> ChatTemplate | None:
    """The chat template that lies beside a given tokenizer, if one does."""
    path = Path(config.path).with_name("chat_template.jinja") if config.path else None
    return ChatTemplate.load(path) if path and path.exists() else None


def _sized(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model with its tokenizer's vocabulary, where the config leaves that open.

    Raises:
        UserError: the config's vocabulary is too small.
    """
    if config.vocab_size is None:
        return replace(config, vocab_size=tokenizer.size)
    if config.vocab_size < tokenizer.size:
        raise UserError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {tokenizer.size} tokens."
        )
    return config


def against_truth(result: Mapping[str, Any], source: Documents, held_out: TokenStream) -> dict[str, float]:
    """The held-out loss and its floor by word, and the floor by token and by byte, of a source whose truth is known."""
    loss = result.get(f"validation_loss {source.spec}", result["validation_loss"])  # of a source alone it is the loss
    nats, words, size = floor(source)
    tokens = len(held_out.tokens) - 1
    return {
        "validation_nats_per_word": loss * tokens / words,
        "floor_nats_per_word": nats / words,
        "floor_loss": nats / tokens,
        "floor_bits_per_byte": bits_per_byte(nats, size),
    }


def check_long_enough(stream: TokenStream, length: int, spec: str) -> None:
    """Refuse a corpus that does not fill one row."""
    if len(stream.tokens) - 1 < length:
        raise UserError(
            f"source {spec!r} has {len(stream.tokens) - 1} training tokens, fewer than one row of "
            f"data.sequence_length={length}."
        )
