"""Iterations of PPO and GRPO on a small transformer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learned_reward import judge_for
from model.chat import ChatTemplate
from model.errors import UserError
from model.tokenizer import TokenizerConfig, train_tokenizer
from rlhf.config import GRPOConfig, PPOConfig
from rlhf.rollout import response_texts
from rlhf.scorer import Scorer, combined, score, score_tokens
from tests.rlhf.tiny import (
    GRPO,
    JUDGE,
    MODEL,
    PPO,
    PPO_IN_GROUPS,
    STOP,
    TEMPLATE,
    TOKENIZER,
    encoded,
    fresh,
    fresh_reward_model,
    same,
    trainer_of,
)
from train.run_directory import RunDirectory
from train.trained import Trained


@pytest.fixture(scope="module")
def params():
    return fresh()


@pytest.fixture(scope="module")
def reward_model():
    return fresh_reward_model()


@pytest.fixture(scope="module", params=[PPO_IN_GROUPS, GRPO], ids=["ppo", "grpo"])
def trainer(request, params, reward_model):
    return trainer_of(request.param, params, reward_model)


def test_a_step_follows_from_its_state_and_number(params, reward_model, trainer):
    """Bit for bit; another number is another step, and what was given is left alone."""
    before = jax.tree.map(np.array, (params, reward_model))
    found, again = (trainer.take_step(trainer.initial(params, reward_model), 3) for _ in range(2))
    assert same(found.state, again.state)
    assert (found.metrics, found.samples) == (again.metrics, again.samples)
    assert not same(found.state, trainer.take_step(trainer.initial(params, reward_model), 4).state)
    assert same(before, (params, reward_model))
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_gold_is_asked_about_the_prompt_of_each_answer(params, reward_model, trainer, monkeypatch):
    asked = []

    def gold(place, answer):
        asked.append((place, answer))
        return float(place)

    monkeypatch.setattr(trainer, "gold", gold)
    found = trainer.take_step(trainer.initial(params, reward_model), 1)
    places = trainer.prompts.batch(0)
    each = np.repeat(places, trainer.config.group_size)
    assert [place for place, _ in asked] == each.tolist()
    rollout = trainer.rollout(params, places, 1)
    assert [answer for _, answer in asked] == response_texts(rollout, TOKENIZER, STOP)
    assert found.metrics["gold_reward"] == pytest.approx(np.mean(each))


def test_each_prompt_is_answered_as_often_as_the_group_is_large(params, reward_model, trainer):
    size, places = trainer.config.group_size, trainer.prompts.batch(0)
    assert len(places) == 8 // size
    rollout = trainer.rollout(params, places, 1)
    prompts = [row[:length].tolist() for row, length in zip(rollout.tokens, rollout.prompt_lengths, strict=True)]
    assert prompts == [
        trainer.prompts.tokens[place, : trainer.prompts.lengths[place]].tolist() for place in np.repeat(places, size)
    ]
    assert len(set(response_texts(rollout, TOKENIZER, STOP))) == 8  # each drawn for itself


def test_answers_behind_one_prompt_teach_what_they_teach_each_behind_its_own(params, reward_model):
    """Scores, advantages and the first gradient, of answers of different lengths."""
    grouped, alone = (trainer_of(config, params, reward_model) for config in (PPO_IN_GROUPS, PPO))
    rollout = grouped.rollout(params, grouped.prompts.batch(0), 1)
    assert len(set(np.asarray(rollout.response_lengths).tolist())) > 1

    def taught(trainer):
        state = trainer.initial(params, reward_model)
        experience, measured = trainer._prepare(state.critic, rollout)
        grads, learned = jax.jit(trainer.learner.gradient)((state.params, state.critic), experience)
        return experience.advantages, experience.returns, measured, grads, learned

    for one, other in zip(jax.tree.leaves(taught(grouped)), jax.tree.leaves(taught(alone)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_reference_asked_once_says_the_same(params, reward_model, temperature):
    """One that the reward model shares with the policy, and a copy of it; tempered it expects something else."""
    own = reward_model._replace(reference=params)
    copied = reward_model._replace(reference=jax.tree.map(jnp.copy, params))
    trainers = [trainer_of(replace(PPO_IN_GROUPS, temperature=temperature), params, reward) for reward in (own, copied)]
    rollout = trainers[0].rollout(params, trainers[0].prompts.batch(0), 1)
    one, other = (trainer._prepare(trainer.initial(params, own).critic, rollout) for trainer in trainers)
    np.testing.assert_allclose(one[0].returns, other[0].returns, atol=1e-5)
    assert float(one[1]["reward"]) == pytest.approx(float(other[1]["reward"]), abs=1e-5)


def test_before_the_first_update_the_policy_is_the_one_that_answered(params, reward_model, trainer):
    """Ratios of 1 everywhere, nothing clipped, and no distance from the model that it began as."""
    state, rollout = trainer.initial(params, reward_model), trainer.rollout(params, trainer.prompts.batch(0), 1)
    ratios = trainer.learner.policy(params, rollout)[0] - rollout.log_probs
    assert np.max(np.abs(ratios)[np.asarray(rollout.mask)]) < 1e-5
    experience, measured = trainer._prepare(state.critic, rollout)
    assert measured["kl"] == pytest.approx(0, abs=1e-4)
    _, metrics = jax.jit(trainer.learner.loss)((state.params, state.critic), experience)
    assert metrics["clip_fraction"] == 0
    assert metrics.get("value_clip_fraction", 0) == metrics.get("kl_loss", 0) == pytest.approx(0, abs=1e-8)
    assert metrics["update_kl"] < 1e-8


@pytest.mark.parametrize("how", ["mean", "min"])
def test_another_architecture_judges_by_the_ensembles_mean_or_least(params, how):
    """A critic reads before each token what it would score; the first has its trunk, and expects the mean of all."""
    reward = fresh_reward_model(JUDGE, heads=3)
    config = replace(PPO, unstopped_penalty=0.0, ensemble=how)
    trainer = trainer_of(config, params, reward, reward_model=JUDGE)
    rollout, state = trainer.rollout(params, trainer.prompts.batch(0), 1), trainer.initial(params, reward)
    _, measured = trainer._prepare(state.critic, rollout)
    heads = np.asarray(score(JUDGE, reward, rollout.answers()))
    by_hand = {"mean": heads.mean(axis=1), "min": heads.min(axis=1)}[how]
    np.testing.assert_allclose(combined(jnp.asarray(heads), how), by_hand, rtol=1e-6)
    rewards = np.where(rollout.stopped(STOP), by_hand, np.minimum(by_hand, 0))
    assert float(measured["reward"]) == pytest.approx(rewards.mean(), rel=1e-5)
    trunk, kernel, bias = reward.scorer
    critic = Scorer(trunk, kernel.mean(axis=1, keepdims=True), bias.mean(keepdims=True))
    longer = rollout._replace(prompt_lengths=rollout.lengths, log_probs=rollout.log_probs[:, :1])
    said = score_tokens(JUDGE, reward.scorer, rollout.answers())[np.arange(len(heads)), rollout.response_lengths]
    np.testing.assert_allclose(trainer.learner.critic(critic, longer)[:, 0], said.mean(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(trainer.learner.critic(state.critic, rollout), np.zeros_like(rollout.log_probs))
    assert same(state.critic.trunk, reward.scorer.trunk)


def test_a_prompt_that_leaves_no_room_is_refused_by_its_number():
    with pytest.raises(UserError, match=r"prompt 1 has \d+ tokens; .* room for 12"):
        encoded(room=12, prompts=("a?", "abcdefgh" * 3))


def test_prompts_come_in_turn_and_by_number():
    prompts = encoded()
    assert sorted(prompts.batch(0)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(encoded().batch(7), prompts.batch(7))
    few = encoded(batch_size=2)
    assert sorted([*few.batch(0), *few.batch(1)]) == [0, 1, 2, 3]


def run_at(path, tokenizer=TOKENIZER, template=TEMPLATE, reward=True):
    """A folder of what a run's reward model is known by."""
    run = RunDirectory(path)
    (path / "reward").mkdir(parents=True)
    run.config_path.write_text(f"model: {{width: {JUDGE.config.width}, heads: 1}}\n")
    run.tokenizer_path.write_text(tokenizer.to_json())
    run.chat_template_path.write_text(template.text)
    if reward:
        run.stage("reward").complete({"stage": "reward"})
    return run


def test_a_reward_model_of_other_tokens_is_refused_by_what_differs(tmp_path):
    policy = Trained(RunDirectory(tmp_path / "own"), "sft", 0, MODEL, {}, TOKENIZER, TEMPLATE)
    found = judge_for(policy, run_at(tmp_path / "same"))
    assert (found.config.width, found.config.vocab_size) == (JUDGE.config.width, TOKENIZER.size)
    other = train_tokenizer(TokenizerConfig(kind="char"), ["abcdefgh?!"])
    shouting = ChatTemplate(TEMPLATE.text + "!")
    for name, differs, options in (
        ("words", "tokenizers", {"tokenizer": other}),
        ("turns", "chat templates", {"template": shouting}),
        ("both", "tokenizers and chat templates", {"tokenizer": other, "template": shouting}),
    ):
        run = run_at(tmp_path / name, **options)
        with pytest.raises(UserError, match=f"{name}' cannot judge what '.*own' writes: their {differs} differ"):
            judge_for(policy, run)
    with pytest.raises(UserError, match=r"stage 'reward' of '.*none' is not complete"):
        judge_for(policy, run_at(tmp_path / "none", reward=False))
    with pytest.raises(UserError, match="holds no run"):
        judge_for(policy, RunDirectory(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (PPOConfig, {"kl_coefficient": -1.0}, "ppo.kl_coefficient=-1.0 must be 0 or a positive number"),
        (PPOConfig, {"clip": 0.0}, "ppo.clip=0.0 must be a positive number"),
        (PPOConfig, {"learning_rate": float("inf")}, "ppo.learning_rate=inf"),
        (PPOConfig, {"gae_decay": 1.5}, "ppo.gae_decay=1.5 must lie between 0 and 1"),
        (
            PPOConfig,
            {"minibatches": 3, "batch_size": 8},
            "ppo.minibatches=3 does not divide the 8 prompts of",
        ),
        (PPOConfig, {"accumulation": 0}, "ppo.accumulation=0"),
        (PPOConfig, {"accumulation": 3}, "ppo.accumulation=3 does not divide the 16 prompts of a minibatch"),
        (GRPOConfig, {"accumulation": 3}, "grpo.accumulation=3 does not divide the 8 prompts"),
        (PPOConfig, {"group_size": 5}, "ppo.group_size=5 does not divide ppo.batch_size=64"),
        (PPOConfig, {"group_size": 32}, "ppo.minibatches=4 does not divide the 2 prompts of an iteration"),
        (GRPOConfig, {"group_size": 1}, "grpo.group_size=1 must be at least 2"),
        (GRPOConfig, {"group_size": 5}, "grpo.group_size=5 does not divide grpo.batch_size=64"),
    ],
)
def test_values_out_of_range_are_refused(kind, changes, told):
    with pytest.raises(UserError, match=told):
        kind(**changes)
