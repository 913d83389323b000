"""The stages of an experiment: config to data, model and mesh, and through the loop."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.config import Experiment
from experiments.machine import session
from model.errors import UserError
from model.sharding import ShardingRules, make_mesh
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from train.batches import PackedRows, check_long_enough, training_batches, validation_batches
from train.corpus import TokenStream, tokenize, train_tokenizer_once
from train.evaluation import bits_per_byte
from train.loop import StopRequest, Workbench, check_rows_divide, compute_dtype, fit
from train.run_directory import RunDirectory, write_atomically
from train.sources import Documents, open_source
from train.truth import floor, knows_truth


def pretrain(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """Learn by next-token prediction; resumes, and returns at once what a complete stage came to."""
    stage = run.stage("pretrain")
    if stage.result is not None:
        return stage.result
    data, train = experiment.data, experiment.train
    mesh, rules = make_mesh(experiment.mesh), ShardingRules()
    check_rows_divide(train, mesh)
    start = time.perf_counter()
    sources = [open_source(spec, data.validation_fraction) for spec in data.sources]
    run.claim_data({source.spec: source.key for source in sources})
    run.add_session(session())
    if run.tokenizer_path.exists():
        tokenizer = Tokenizer.load(run.tokenizer_path)
    else:
        tokenizer = train_tokenizer_once(experiment.tokenizer, sources)
        write_atomically(run.tokenizer_path, tokenizer.to_json())
    model_config = experiment.model
    if model_config.vocab_size is None:
        model_config = replace(model_config, vocab_size=tokenizer.size)
    elif model_config.vocab_size < tokenizer.size:
        raise UserError(
            f"model.vocab_size={model_config.vocab_size} is smaller than the tokenizer's {tokenizer.size} tokens."
        )
    streams = [tokenize(source, "train", tokenizer) for source in sources]
    held_out = [tokenize(source, "validation", tokenizer) for source in sources]
    for source, stream in zip(sources, streams, strict=True):
        check_long_enough(stream, data.sequence_length, source.spec)
    rows = [PackedRows(stream, data.sequence_length) for stream in streams]
    data_seconds = time.perf_counter() - start
    bench = Workbench(
        model=Transformer(model_config, rules, compute_dtype(train.precision)),
        config=train,
        mesh=mesh,
        rules=rules,
        tokenizer=tokenizer,
        training=training_batches(rows, data.weights, train.batch_size, train.seed),
        validation=validation_batches(
            [PackedRows(stream, data.sequence_length) for stream in held_out], train.batch_size
        ),
        directory=stage,
    )
    result = {"stage": "pretrain", "data_seconds": round(data_seconds, 3), **fit(bench, stop)}
    if all(map(knows_truth, data.sources)):
        result |= against_truth(result["validation_loss"], sources, held_out)
    stage.complete(result)
    return result


def against_truth(loss: float, sources: Sequence[Documents], held_out: Sequence[TokenStream]) -> dict[str, float]:
    """The held-out loss and its floor by word, and the floor by token and by byte, for sources whose truth is known."""
    floors = [floor(source) for source in sources]
    nats, words, size = (sum(column) for column in zip(*floors, strict=True))
    tokens = sum(len(stream.tokens) - 1 for stream in held_out)
    return {
        "validation_nats_per_word": loss * tokens / words,
        "floor_nats_per_word": nats / words,
        "floor_loss": nats / tokens,
        "floor_bits_per_byte": bits_per_byte(nats, size),
    }
