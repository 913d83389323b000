"""A study of over-optimisation on a model of a thousand parameters, stopped on its way and gone on with."""

import json
import os
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from experiments import cli
from experiments.held_out import Asked, Drawn, HeldOut, answer_kl
from experiments.overoptimisation import FIXED, LEARNING_RATE, measured
from experiments.overoptimisation_report import order, shown, verdict
from experiments.proxies import LEAST, MEAN, Proxy, Settings
from rlhf.answers import one_a_row
from rlhf.ppo import PPOTrainer
from rlhf.reward import RewardTrainer
from rlhf.rollout import Rollout, generate
from rlhf.scorer import init_reward_model, log_likelihoods, score
from tests.experiments.untrained import write_run
from train.run_directory import RunDirectory
from train.trained import load

ASKED = ("--sizes", "30", "--prompts", "10", "--answers", "4", "--iterations", "3")
CONFIG = {
    "reward": {"length": 256, "steps": 20, "batch_size": 4},
    "ppo": {"batch_size": 8, "minibatches": 2, "max_tokens": 6},
}
PROXIES = [Proxy(30), Proxy(30, 4, MEAN), Proxy(30, 4, LEAST)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, _ = write_run(tmp_path_factory.mktemp("overoptimisation") / "run", seed=0)
    run.config_path.write_text(yaml.safe_dump({**run.config(), **CONFIG}))
    run.stage("sft").complete({"stage": "sft"})
    return run


@pytest.fixture
def study(run, monkeypatch, capsys):
    monkeypatch.chdir(run.path.parent)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda: None)  # the test session has its own way
    monkeypatch.setattr("experiments.overoptimisation.world_ceiling", lambda: 0.77)
    monkeypatch.setattr("rlhf.reward.rounded", lambda length: 64 if length <= 64 else 512)  # one program

    def call(*arguments):
        code = cli.main(["overoptimisation", *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_study_that_is_stopped_goes_on_and_repeats_nothing(study, run, monkeypatch):
    steps, learned = [], []
    iterate, update = PPOTrainer.take_step, RewardTrainer.take_step

    def iterate_and_stop(self, state, number):
        steps.append(number)
        if len(steps) == 5:  # the second policy's second iteration
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(self, state, number)

    def count(self, state, number):
        learned.append(number)
        return update(self, state, number)

    monkeypatch.setattr(PPOTrainer, "take_step", iterate_and_stop)
    monkeypatch.setattr(RewardTrainer, "take_step", count)
    code, out, err = study("run", *ASKED, "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == {"run_dir": "run", "interrupted": True}
    assert "narrador overoptimisation run --sizes 30" in err

    code, out, err = study("run", *ASKED, "--json")
    assert code == 0, err
    assert steps == [1, 2, 3] * len(PROXIES)
    assert learned == [1, 2] * 2  # a single reward model and one ensemble
    found = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    check_findings(found)
    folder = run.path / "overoptimisation"
    report = (folder / "report.md").read_text()
    assert {"run_dir": "run", **json.loads((folder / "result.json").read_text())} == found
    assert (folder / "pictures" / "overoptimisation.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64" in (folder / "report.html").read_text()
    assert "30 choices, least of 4" in report

    monkeypatch.setattr(PPOTrainer, "take_step", pytest.fail)
    monkeypatch.setattr(RewardTrainer, "take_step", pytest.fail)
    monkeypatch.setattr("experiments.held_out.draw_answers", pytest.fail)
    (folder / "report.md").unlink()
    code, out, _ = study("run", *ASKED, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == found
    assert (folder / "report.md").read_text() == report

    code, out, err = study("run", *ASKED[:-1], "5")
    assert code == 2
    assert "--iterations 3 there, 5 now" in err

    monkeypatch.setitem(FIXED, "learning_rate", 1.0)
    code, out, err = study("run", *ASKED)
    assert code == 2
    assert f"(learning_rate {LEARNING_RATE} there, 1.0 now)" in err


def check_findings(found):
    assert [model["heads"] for model in found["reward_models"]] == [1, 4]
    assert {model["pairs"] for model in found["reward_models"]} == {found["reward_models"][0]["pairs"]}
    assert found["reward_models"][0]["heads_correlation"] is None
    assert [(c["name"], c["method"]) for c in found["curves"]] == [
        (proxy.name, method) for proxy in PROXIES for method in ("best_of_n", "ppo")
    ]
    for curve in found["curves"]:
        strengths = [point["strength"] for point in curve["points"]]
        assert strengths == ([1, 2, 3, 4] if curve["method"] == "best_of_n" else [0, 1, 2, 3])
        start, *points = curve["points"]
        assert [start[name]["value"] for name in ("d", "proxy", "gold")] == pytest.approx([0, 0, 0], abs=1e-4)
        for point in points:
            assert point["kl"] > 0
            assert point["d"]["value"] == pytest.approx(point["kl"] ** 0.5)
        if curve["method"] == "best_of_n":
            gains = [point["proxy"]["value"] for point in curve["points"]]
            assert gains == sorted(gains)
    assert found["seconds"]["total"] > 0


def test_what_cannot_be_studied_is_refused(study, run, tmp_path):
    other, _ = write_run(tmp_path / "other", seed=1)
    for arguments, told in (
        (("nowhere",), "holds no run"),
        ((str(other.path),), "no complete stage 'sft'"),
        (("run", "--seed", str(2**31)), "must lie in [0, 2**31)"),
        (("run", "--answers", "1"), "--answers 1 must be at least 2"),
        (("run", "--sizes", "100", "3"), "--sizes 3 must be at least 20"),
        (("run", "--sizes", "100", "100"), "names one twice"),
    ):
        code, _, err = study(*arguments)
        assert code == 2
        assert told in err
    assert not (run.path.parent / "nowhere").exists()


def test_kl_of_answers_is_that_of_every_next_token(run):
    """Against whole distributions read row by row; and on average what the tokens drawn say."""
    trained = load(RunDirectory(run.path), "sft")
    other = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), trained.params)
    prompts, lengths = np.tile(np.arange(1, 9, dtype=np.int32), (400, 1)), np.tile([5, 8], 200).astype(np.int32)
    drawn = generate(trained.model, other, jax.random.key(2), prompts, lengths, np.ones(400, np.float32), 3, (0,))
    kl, apply = jax.jit(partial(answer_kl, trained.model)), jax.jit(trained.model.apply)
    found, expected = (np.asarray(each, np.float64) for each in kl(other, trained.params, drawn))
    ours, theirs = (
        np.asarray(jax.nn.log_softmax(apply({"params": params}, drawn.tokens)[0]), np.float64)
        for params in (other, trained.params)
    )
    for row in range(20):
        places = np.arange(lengths[row] - 1, lengths[row] - 1 + drawn.response_lengths[row])
        exact = np.sum(np.exp(ours[row, places]) * (ours - theirs)[row, places])
        assert found[row] == pytest.approx(exact, rel=1e-3)
    places = np.minimum(drawn.prompt_lengths[:, None] + np.arange(3), drawn.tokens.shape[1] - 1)
    reference = np.take_along_axis(theirs, places[..., None] - 1, axis=1)
    reference = np.take_along_axis(reference, np.asarray(drawn.responses())[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(expected, np.where(drawn.mask, reference, 0).sum(axis=1), rtol=1e-4)
    ratios = np.where(drawn.mask, drawn.log_probs - reference, 0).sum(axis=1)
    assert ratios.mean() == pytest.approx(found.mean(), abs=4 * float(ratios.std()) / 20)
    assert np.asarray(kl(other, other, drawn)[0]) == pytest.approx(np.zeros(400), abs=1e-5)


def test_answers_score_behind_one_prompt_what_they_score_alone(run):
    """Three to the first prompt, one of them twice, one to the second, two to a row."""
    trained = load(RunDirectory(run.path), "sft")
    model, params = trained.model, trained.params
    tokens = np.array([[1, 2, 3, 9, 0, 0, 0], [1, 2, 3, 9, 8, 0, 0], [1, 2, 3, 7, 8, 9, 0], [4, 5, 6, 7, 8, 0, 0]])
    starts, lengths, which = np.array([3, 3, 3, 4]), np.array([4, 5, 6, 5]), np.array([[1, 0, 1, 2], [3, 3, 3, 3]])
    alone = one_a_row(tokens, starts, lengths, 3)
    reward = init_reward_model(jax.random.key(1), jax.tree.map(lambda x: 1.1 * x, params), model.config.width)
    reward = reward._replace(reference=params)
    likely = np.asarray(jax.jit(partial(log_likelihoods, model))(params, alone))
    drawn = Drawn(tokens, starts, lengths, None, likely, None, which, None)
    rows = drawn.in_rows(2)
    assert rows.tolist() == [[0, 1], [2, 2], [3, 3]]
    scores_of = jax.jit(partial(score, model))
    exact = scores_of(reward, alone)[rows.ravel()]
    for expected in (None, likely[rows.ravel()]):
        found = scores_of(reward, drawn.behind_prompts(rows, 3), expected)
        np.testing.assert_allclose(found, exact, atol=1e-5)


def test_what_is_measured_of_a_prompt_stands_in_its_place(run, monkeypatch):
    """Forty prompts of lengths in no order, in two batches of two widths, answered by their own first tokens."""
    trained, rng = load(RunDirectory(run.path), "sft"), np.random.default_rng(0)
    rows = [rng.integers(3, 20, size if size < 35 else size + 60).tolist() for size in 3 + rng.permutation(40)]
    widths = []

    def echo(model, params, key, prompts, lengths, temperature, most, ends):
        widths.append(prompts.shape)
        tokens = np.pad(prompts, ((0, 0), (0, most)))
        np.put_along_axis(tokens, lengths[:, None] + np.arange(most), prompts[:, :most], axis=1)
        return Rollout(tokens, lengths, jnp.full(len(lengths), most), temperature, jnp.zeros((len(lengths), most)))

    held_out = HeldOut(trained, Asked([], rows), 2)
    monkeypatch.setattr("experiments.held_out.generate", echo)
    monkeypatch.setattr(held_out, "_gold", lambda texts, places: texts)
    lengths_as_kl = lambda params, reference, rollout: (rollout.prompt_lengths, None)  # noqa: E731
    monkeypatch.setattr(held_out, "_kl", lengths_as_kl)
    found = held_out.measure(None, jax.random.key(0), lambda answers, expected: answers.tokens[:, :2])
    assert widths == [(32, 48), (32, 102)]  # the longest is not rounded up
    assert found.kl.tolist() == [len(row) for row in rows]
    assert found.scores.tolist() == [row[:2] for row in rows]
    said = [[token for token in row[:2] if token not in held_out.ends] for row in rows]
    assert found.gold == [trained.tokenizer.decode(tokens).strip() for tokens in said]


def test_parts_of_a_study():
    assert [proxy.name for proxy in Settings(sizes=(900, 50, 200)).proxies] == [
        *("50 choices", "200 choices", "900 choices", "200 choices, mean of 4", "200 choices, least of 4"),
    ]
    assert len({(proxy.folder, proxy.stage) for proxy in Settings().proxies}) == 5
    for iterations in range(1, 101):
        at = [number for number in range(1, iterations + 1) if measured(number, iterations)]
        assert at[-1] == iterations
        assert min(iterations, 10) <= len(at) <= 20


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_words_for_numbers():
    near, middle, far = estimate(1.0, 0.8, 1.2), estimate(1.5, 1.1, 1.9), estimate(3.0, 2.0, None)
    never = estimate(None, 2.5, None)
    assert order([near, middle, far]) == "rising with the data"
    assert order([far, middle, near]) == "falling with the data"
    assert order([near, middle]) == "rising with the data (intervals overlap)"
    assert order([near, far, middle]) == "in no order of the data"
    assert order([near, never]) == "rising with the data"
    assert order([never, never]) == "in no order of the data"
    assert [shown(one) for one in (near, far, never)] == [
        *("1.00 (0.80 to 1.20)", "3.00 (2.00 to none)", "none (from 2.50)"),
    ]
    assert verdict({"fall": estimate(-0.2, -0.3, -0.1)}) == "falls"
    assert verdict({"fall": estimate(-0.2, -0.5, 0.1)}) == "does not"
