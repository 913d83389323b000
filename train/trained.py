"""Opening what a run has learned: its model, parameters and tokenizer, ready to ask."""

import functools
import operator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from model.chat import ChatTemplate
from model.config import MeshConfig, ModelConfig, ShardingRules
from model.errors import UserError, unknown
from model.sharding import make_mesh, path_keys, state_shardings
from model.tokenizer import Tokenizer
from model.transformer import Transformer, named_shapes
from train.checkpoint import Checkpoints, alone
from train.mapping import from_mapping
from train.run_directory import RunDirectory

RUNS = Path("runs")
LANGUAGE_STAGES = ("pretrain", "sft", "ppo", "grpo", "dpo")  # the other holds no model that continues text

# The field of a model's config that says how large an axis is, where it has another name.
FIELDS = {"vocab": "vocab_size", "embed": "width", "mlp": "mlp_width", "head_dim": "width / heads"}


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
        spec: DIR or DIR:STAGE; without a stage the last with a checkpoint, without anything the run in `runs/` that
            was written to last.

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
    """Load the newest checkpoint of a run's stage, by default of the last stage that has one."""
    model, tokenizer, template = open_language(run)
    stages = [name for name in run.stages() if name in LANGUAGE_STAGES]
    if not stages:
        raise UserError(f"{str(run.path)!r} has no checkpoint yet.")
    if stage is not None and stage not in stages:
        raise unknown(f"stage of {str(run.path)!r}", stage, stages)
    stage = stage or (saved_stages(run) or stages)[-1]
    params, meta = restore(run, stage, model, abstract_params(model))
    return Trained(run, stage, meta["step"], model, params, tokenizer, template)


def saved_stages(run: RunDirectory) -> list[str]:
    """The stages of a run that write text and have a checkpoint."""
    begun = filter(LANGUAGE_STAGES.__contains__, run.stages())
    return [name for name in begun if any(run.stage(name).checkpoints.glob("[0-9]*"))]


def open_language(run: RunDirectory) -> tuple[Transformer, Tokenizer, ChatTemplate]:
    """What a run reads and writes with: its model, without parameters, its tokenizer and its chat template."""
    config = from_mapping(ModelConfig, run.config().get("model", {}), str(run.config_path))
    rules = from_mapping(ShardingRules, run.config().get("sharding", {}), str(run.config_path))
    if not run.tokenizer_path.exists():
        raise UserError(f"{str(run.path)!r} has no checkpoint yet.")
    tokenizer = Tokenizer.load(run.tokenizer_path)
    if config.vocab_size is None:
        config = replace(config, vocab_size=tokenizer.size)
    path = run.chat_template_path
    template = ChatTemplate.load(path) if path.exists() else ChatTemplate()
    return Transformer(replace(config, remat="none"), rules), tokenizer, template  # asking has no backward pass


def restore(run: RunDirectory, stage: str, model: Transformer, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """The newest parameters of a stage of `model`, laid out as `abstract`, and their meta.

    Raises:
        UserError: there are none that can be read, or they are another architecture's.
    """
    directory = run.stage(stage).checkpoints
    if differing := _differences(directory, model):
        raise UserError(
            f"the checkpoints under {str(directory)!r} are of another architecture than {str(run.config_path)!r}:\n"
            + "\n".join(f"  {line}" for line in differing)
        )
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.restore_params(abstract)
    finally:
        checkpoints.close()


def _differences(directory: Path, model: Transformer) -> list[str]:
    """On what the newest checkpoint and a model differ, by field of its config; none where that cannot be told."""
    steps = [int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit()]
    stored: dict[tuple[str, ...], tuple[int, ...]] = {}
    # Of a damaged one restoring will tell.
    with suppress(Exception), ocp.StandardCheckpointer(multiprocessing_options=alone()) as reader:
        tree = reader.metadata((directory / str(max(steps)) / "params").absolute()).item_metadata
        whole = tree.get("reference", tree)  # a reward model holds the language model that it began as
        leaves = jax.tree_util.tree_leaves_with_path(whole)
        stored = {path_keys(path): tuple(leaf.shape) for path, leaf in leaves}
    if not stored:
        return []
    (axes, shapes), lines = named_shapes(model.config), []
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        keys = path_keys(path)
        shape = stored.pop(keys, None)
        if shape is None:
            lines.append(f"parameter {'.'.join(keys)}: none there")
            continue
        if len(shape) != len(leaf.shape):
            lines.append(f"parameter {'.'.join(keys)}: {list(shape)} there, {list(leaf.shape)} now")
            continue
        names = functools.reduce(operator.getitem, keys, axes)
        fields = [FIELDS.get(name, name) if name else "context_length" for name in names]
        sizes = zip(fields, shape, leaf.shape, strict=True)
        lines += [f"model.{field}: {there} there, {now} now" for field, there, now in sizes if there != now]
    lines += [f"parameter {'.'.join(keys)}: none now" for keys in stored]
    return list(dict.fromkeys(lines))


def abstract_params(model: Transformer) -> Any:
    """Shapes and places of the parameters: on the mesh in context, or else on one device."""
    (axes, shapes), mesh = named_shapes(model.config), jax.sharding.get_mesh()
    if mesh.empty:
        mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    shardings = state_shardings(mesh, model.rules, axes, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _latest_run() -> RunDirectory:
    begun = list(RUNS.glob("*/*/metrics.jsonl"))
    if not begun:
        raise UserError(
            f"no run under {str(RUNS)!r}; name one with --run DIR, or train one with 'narrador run narrator'."
        )
    return RunDirectory(max(begun, key=lambda path: path.stat().st_mtime).parent.parent)
