"""The reward model that a run has learned, opened: to judge what a policy writes, and to score answers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.transformer import Transformer
from rlhf.scorer import RewardModel, Scorer
from train.run_directory import RunDirectory
from train.trained import Trained, abstract_params, open_language, restore


def judge_for(policy: Trained, run: RunDirectory) -> Transformer:
    """The architecture of the reward model that a run has learned, which is to judge what a policy writes.

    Raises:
        UserError: it is not complete, or reads other tokens than the policy writes.
    """
    run.completed("reward")
    model, tokenizer, template = open_language(run)
    pairs = {
        "tokenizers": (tokenizer.to_json(), policy.tokenizer.to_json()),
        "chat templates": (template, policy.template),
    }
    if differing := [what for what, (one, other) in pairs.items() if one != other]:
        raise UserError(
            f"the reward model of {str(run.path)!r} cannot judge what {str(policy.run.path)!r} writes: their "
            f"{' and '.join(differing)} differ. As reward_run name a run that shares them, or none."
        )
    return model.clone(rules=policy.model.rules)  # they share a mesh


def load_reward_model(run: RunDirectory, model: Transformer, reference: Any = None) -> RewardModel:
    """The reward model that a run has learned, on a trunk of this architecture.

    Args:
        reference: the fine-tuned model's parameters where they are loaded already, so that they are kept once.

    Raises:
        UserError: it has none yet, or its checkpoint cannot be read.
    """
    trunk, width, heads = abstract_params(model), model.config.width, run.config()["reward"]["heads"]
    whole = jax.sharding.NamedSharding(jax.tree.leaves(trunk)[0].sharding.mesh, jax.sharding.PartitionSpec())
    of: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=whole)
    abstract = RewardModel(Scorer(trunk, of((width, heads)), of((heads,))), reference=trunk, weight=of((heads,)))
    found = restore(run, "reward", model, abstract)[0]
    return found if reference is None else found._replace(reference=reference)
