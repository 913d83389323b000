"""Iterations of learning from a reward model: prompts, rollout, scores, experience, update. PPO and GRPO fill it in.

Dimension letters: `rlhf.rollout`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from model.tokenizer import Tokenizer
from model.transformer import Transformer
from rlhf.config import PolicyConfig
from rlhf.learner import Learner, Metrics, PolicyState, of_answers
from rlhf.objectives import kl_k1, kl_k3, penalize_unstopped
from rlhf.prompts import PaddedPrompts
from rlhf.rollout import Rollout, generate, response_log_probs, to_texts
from rlhf.scorer import RewardModel, combined, score
from rlhf.stage import Step
from train.batches import Batch, Batches
from train.objective import next_token_loss

SAMPLES = 4  # episodes that samples.jsonl shows of an iteration
NOTED = {"reward": "reward", "kl": "KL", "gold_reward": "gold"}  # what the progress bar shows, by metric


class PolicyTrainer(ABC):
    """Iterations on a transformer, for a method that says how it learns and what its critic is."""

    def __init__(
        self,
        model: Transformer,
        config: PolicyConfig,
        prompts: PaddedPrompts,
        reference: Any,
        reward: RewardModel,
        tokenizer: Tokenizer,
        stop: tuple[int, ...],
        seed: int,
        texts: Batches | None = None,
        gold: Callable[[int, str], float] | None = None,
        reward_model: Transformer | None = None,
    ) -> None:
        """Prepare.

        Args:
            reference: the parameters that the policy begins with and is kept near.
            texts: endless batches of pre-training text, of which each minibatch takes one.
            gold: the true reward of a text as an answer to a prompt, where it is known; only ever logged.
            reward_model: the architecture of the reward model. None: the policy's.
        """
        self.config, self.prompts, self.tokenizer, self.texts, self.gold = config, prompts, tokenizer, texts, gold
        self.judge, self.stop, self.key = reward_model or model, stop, jax.random.key(seed)

        def text_loss(params: Any, batch: Batch) -> Float[Array, ""]:
            return next_token_loss(model, params, batch) / jnp.maximum(batch.weights.sum(), 1)

        policy = partial(response_log_probs, model, each=config.group_size)
        self.learner = self.learner_of(policy, text_loss if texts is not None else None)

        # Then the reward model expects what the policy's reference does, and need not ask it again.
        shared = reward.reference is reference and config.temperature == 1

        def prepare(reward: RewardModel, reference: Any, critic: Any, rollout: Rollout) -> tuple[Any, Metrics]:
            reference_log_probs = policy(reference, rollout)[0]
            expected = of_answers(reference_log_probs, rollout) if shared else None
            scores = score(self.judge, reward, rollout.answers(config.group_size), expected)
            stopped = rollout.stopped(stop)
            scores = penalize_unstopped(combined(scores, config.ensemble), stopped, config.unstopped_penalty)
            scores = scores - config.length_penalty * rollout.response_lengths
            experience, metrics = self.learner.experience(critic, rollout, scores, reference_log_probs)
            return experience, {
                "reward": jnp.mean(scores),
                "kl": of_answers(kl_k1(rollout.log_probs, reference_log_probs), rollout).mean(),
                "kl_k3": of_answers(kl_k3(rollout.log_probs, reference_log_probs), rollout).mean(),
                **metrics,
                "response_length": jnp.mean(rollout.response_lengths.astype(scores.dtype)),
                "stop_rate": jnp.mean(stopped.astype(scores.dtype)),
            }

        self._prepare = partial(jax.jit(prepare), reward, reference)
        self._update = jax.jit(self.learner.update, donate_argnums=0)
        self._generate = partial(generate, model, max_tokens=config.max_tokens, stop=stop, answers=config.group_size)

    @abstractmethod
    def learner_of(self, policy: Callable, text_loss: Callable | None) -> Learner:
        """The method's learner around what the model says of responses and of text."""

    @abstractmethod
    def critic_of(self, reward: RewardModel) -> Any:
        """The critic before the first iteration."""

    def initial(self, policy: Any, reward: RewardModel) -> PolicyState:
        """The state before the first iteration."""
        return self.learner.initial(policy, self.critic_of(reward))

    def rollout(self, params: Any, places: Int[np.ndarray, "N"], number: int) -> Rollout:
        """The episodes of iteration `number`: `group_size` answers to each of the prompts at `places`."""
        temperature = np.full(len(places), self.config.temperature, np.float32)
        key = jax.random.fold_in(self.key, 2 * number)
        return self._generate(params, key, self.prompts.tokens[places], self.prompts.lengths[places], temperature)

    def take_step(self, state: PolicyState, number: int) -> Step:
        """One iteration; numbers are from 1."""
        c, places = self.config, self.prompts.batch(number - 1)
        rollout = self.rollout(state.params, places, number)
        experience, measured = self._prepare(state.critic, rollout)
        updates = c.epochs * c.minibatches
        texts = None
        if self.texts is not None:
            drawn = [self.texts[(number - 1) * updates + index] for index in range(updates)]
            texts = jax.tree.map(lambda *x: np.stack(x), *drawn)
        responses, lengths = jax.device_get((rollout.responses(), rollout.response_lengths))
        state, learned = self._update(state, experience, jax.random.fold_in(self.key, 2 * number + 1), texts)
        # The device goes on learning meanwhile.
        answers, gold = to_texts(responses, lengths, self.tokenizer, self.stop), {}
        if self.gold is not None:
            asked = zip(np.repeat(places, c.group_size), answers, strict=True)
            gold = {"gold_reward": np.mean([self.gold(int(place), answer) for place, answer in asked])}
        metrics = {name: float(value) for name, value in {**measured, **learned, **gold}.items()}
        note = "  ".join(f"{said} {metrics[name]:.2f}" for name, said in NOTED.items() if name in metrics)
        prompts = [self.prompts.tokens[i, 1 : self.prompts.lengths[i]].tolist() for i in places[:SAMPLES]]
        shown = [
            {"prompt": self.tokenizer.decode(ids), "text": answer}
            for ids, answer in zip(prompts, answers[:: c.group_size], strict=False)
        ]
        return Step(state, metrics, {"episodes": shown}, note)
