"""Opening what a run has learned: its model, parameters and tokenizer, ready to ask."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.chat import ChatTemplate
from model.config import MeshConfig, ModelConfig
from model.errors import UserError, unknown
from model.sharding import ShardingRules, logical_axes, make_mesh, state_shardings
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from train.checkpoint import Checkpoints
from train.mapping import from_mapping
from train.run_directory import RunDirectory

RUNS = Path("runs")
LANGUAGE_STAGES = ("pretrain", "sft", "ppo")  # the other holds no model that continues text


@dataclass(frozen=True)
class Trained:
    """A model at one stage of a run."""

    run: RunDirectory
    stage: str
    step: int
    model: Transformer
    params: Any
    tokenizer: Tokenizer
    template: ChatTemplate


def open_trained(spec: str | None) -> Trained:
    """Load what a run has learned.

    Args:
        spec: DIR or DIR:STAGE; without a stage the last one begun, without anything the run in `runs/` that was
            written to last.

    Raises:
        UserError: no such run or stage, or no checkpoint yet.
    """
    if spec is None:
        return load(_latest_run())
    if Path(spec).is_dir() or ":" not in spec:
        return load(RunDirectory(Path(spec)))
    directory, _, stage = spec.rpartition(":")
    return load(RunDirectory(Path(directory)), stage)


def load(run: RunDirectory, stage: str | None = None) -> Trained:
    """Load the newest checkpoint of a run's stage, by default the last one begun."""
    config = from_mapping(ModelConfig, run.config().get("model", {}), str(run.config_path))
    stages = [name for name in run.stages() if name in LANGUAGE_STAGES]
    if not stages:
        raise UserError(f"{str(run.path)!r} has no checkpoint yet.")
    if stage is not None and stage not in stages:
        raise unknown(f"stage of {str(run.path)!r}", stage, stages)
    stage = stage or stages[-1]
    tokenizer = Tokenizer.load(run.tokenizer_path)
    if config.vocab_size is None:
        config = replace(config, vocab_size=tokenizer.size)
    model = Transformer(replace(config, remat="none"))  # asking has no backward pass
    checkpoints = Checkpoints(run.stage(stage).checkpoints)
    try:
        params, meta = checkpoints.restore_params(abstract_params(model))
    finally:
        checkpoints.close()
    path = run.chat_template_path
    template = ChatTemplate.load(path) if path.exists() else ChatTemplate()
    return Trained(run, stage, meta["step"], model, params, tokenizer, template)


def abstract_params(model: Transformer) -> Any:
    """Shapes and places of the parameters on one device."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    mesh, shapes = make_mesh(MeshConfig(), jax.devices()[:1]), nn.unbox(boxed)
    shardings = state_shardings(mesh, ShardingRules(), logical_axes(boxed), shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _latest_run() -> RunDirectory:
    begun = list(RUNS.glob("*/*/metrics.jsonl"))
    if not begun:
        raise UserError(
            f"no run under {str(RUNS)!r}; name one with --run DIR, or train one with 'narrador run narrator'."
        )
    return RunDirectory(max(begun, key=lambda path: path.stat().st_mtime).parent.parent)
