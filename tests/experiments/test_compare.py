"""`narrador compare` on small models that have learned nothing yet."""

import json
from dataclasses import replace
from threading import get_ident
from time import sleep

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from experiments import cli
from experiments.alignment import BATCH, divergence, draw_answers, encode_prompts, over_batches, pick_best, repeat_each
from experiments.answer_comparison import ask_source, ask_world
from experiments.best_of_n import best_of_n_kl
from experiments.learned_reward import load_reward_model
from experiments.text_scorer import TextScorer
from model.chat import Message
from model.errors import UserError
from model.tokenizer import TokenizerConfig, train_tokenizer
from rlhf.answers import one_a_row
from rlhf.scorer import score_tokens
from serve.store import Store
from tests.experiments.untrained import MODEL, PROMPTS, TEXTS, add_reward, write_run
from train.run_directory import RunDirectory
from train.trained import open_trained

NAMES = ("one", "other")
SHORT = ("--prompts", "12", "--tokens", "8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """one and other alike, one with a reward model; foreign with other tokens, and the same score for every answer."""
    folder = tmp_path_factory.mktemp("compare")
    add_reward(*write_run(folder / "one", seed=0))
    write_run(folder / "other", seed=1)
    add_reward(*write_run(folder / "foreign", seed=2, vocab_size=400), bias=[1.0, 4.0])
    return folder


@pytest.fixture
def compare(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda: None)  # the test session has its own way

    def call(*arguments):
        code = cli.main(["compare", *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def found(compare):
    """What `compare --json` reports."""

    def call(*arguments):
        code, out, err = compare(*arguments, "--json")
        assert code == 0, err
        return json.loads(out.splitlines()[-1], parse_constant=pytest.fail)

    return call


def test_the_report(compare, found):
    report = found("one:sft", "other:sft", *SHORT)
    assert [report[name] for name in ("judge", "a", "b", "prompts")] == ["gold", "one:sft", "other:sft", 12]
    low, high = report["win_rate_interval"]
    assert 0 <= low <= report["win_rate"] <= high <= 1
    assert 0 <= report["length_controlled_win_rate"] <= 1
    assert report["kl"] > 0
    assert not report["kl_is_bound"]
    pairs = [value for value in report.values() if isinstance(value, dict)]
    assert [set(pair) for pair in pairs] == [{"a", "b"}] * 8
    assert found("one:sft", "other:sft", *SHORT) == report
    code, out, _ = compare("one:sft", "other:sft", *SHORT)
    assert code == 0
    assert "other:sft" in out
    assert f"Judged by the gold reward, the first wins {report['win_rate']:.1%} of 12 prompts" in out


def drawn_by_hand(run, side, times=1):
    trained, prompts = open_trained(str(run)), ask_world(12, 0).prompts
    return prompts, draw_answers(trained, encode_prompts(trained, prompts, 8), 1.0, 8, side, times)


def scores_by_hand(run, prompts, answers):
    """The heads' mean at the token that ends each answer, row by row; the trunks are still their references."""
    trained = open_trained(str(run))
    scorer, tokenizer = load_reward_model(trained.run, trained.model).scorer, trained.tokenizer
    score = jax.jit(score_tokens, static_argnums=0)
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked = trained.template.encode(tokenizer, prompt, answer=True).tokens
        ids = [tokenizer.document_end, *asked, *tokenizer.encode(answer), trained.template.stop_token(tokenizer)]
        row = np.full((1, MODEL["context_length"]), 7)  # whatever comes after the end
        row[0, : len(ids)] = ids
        end = np.array([len(ids)])
        found.append(float(score(trained.model, scorer, one_a_row(row, end, end, 0))[0, 0].mean()))
    return found


def scores_of_one(runs, name, side):
    prompts, answers = drawn_by_hand(runs / name, side)
    return scores_by_hand(runs / "one", prompts, answers.texts)


def test_a_reward_model_judges(compare, found, runs):
    report = found("one", "other:sft", *SHORT, "--judge", "reward:one")
    a, b = (scores_of_one(runs, name, side) for side, name in enumerate(NAMES))
    assert report["judge"] == "reward:one"
    assert report["reward_score"] == {"a": pytest.approx(np.mean(a)), "b": pytest.approx(np.mean(b))}
    assert report["win_rate"] == np.mean(np.greater(a, b))
    assert {"gold_reward", "hallucination_rate"} <= report.keys()
    code, out, _ = compare("one", "other:sft", *SHORT, "--judge", "reward:one")
    assert code == 0
    assert "reward model's score" in out
    assert "Judged by the reward model of one, the first wins" in out


def test_a_judge_of_other_tokens_reads_the_text(found):
    report = found("one", "other", *SHORT, "--judge", "reward:foreign")
    assert report["reward_score"] == {"a": 2.5, "b": 2.5}  # of heads that always say 1 and 4
    assert report["win_rate"] == 0.5


def test_the_best_of_several_answers(compare, found, runs):
    prompts, answers = drawn_by_hand(runs / "one", 0, times=4)
    scores = np.array(scores_by_hand(runs / "one", repeat_each(prompts, 4), answers.texts))
    report = found("one:sft", "one:sft", *SHORT, "--best-of", "4", "--judge", "reward:one")
    assert report["best_of"] == 4
    assert report["reward_score"]["a"] == pytest.approx(scores.reshape(-1, 4).max(axis=1).mean())
    assert report["kl"] == pytest.approx(best_of_n_kl(4), abs=1e-4)
    assert report["kl_is_bound"]
    one, other = (open_trained(str(runs / name)) for name in NAMES)
    report = found("one:sft", "other:sft", *SHORT, "--best-of", "4")
    away = divergence(pick_best(answers, scores, 4), one, other)
    assert report["kl"] == pytest.approx(best_of_n_kl(4) + away, rel=1e-4)
    code, out, _ = compare("one:sft", "other:sft", *SHORT, "--best-of", "4")
    assert code == 0
    assert "one:sft, best of 4" in out
    assert f"KL from the second at most {report['kl']:.2f} nats" in out


def test_other_prompts(found, runs):
    asked = [{"prompt": text} for text in ("Quem é?", "Onde fica?", "Quem é?")]
    (runs / "asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    report = found("one", "other", *SHORT, "--judge", "reward:one", "--prompts-from", "jsonl:asked.jsonl")
    assert report["prompts"] == 2  # each once
    assert "gold_reward" not in report
    fewer = [ask_source("jsonl:asked.jsonl", 1, seed).prompts for seed in range(20)]
    assert {prompt[0].content for [prompt] in fewer} == {"Quem é?", "Onde fica?"}


def test_people_judge(compare, found, runs):
    store = Store(runs / "choices.sqlite")
    for number, choice in enumerate(["left", "left", "right", "tie", "skip"]):
        sources = {"left_source": "one:sft", "right_source": "other:sft"}
        store.add([Message("user", str(number))], "sim", "não", choice, "Célia", **sources)
    report = found("one", "other", "--judge", "store:choices.sqlite")
    assert (report["prompts"], report["win_rate"], report["kl"]) == (4, 2.5 / 4, None)
    assert (report["a"], report["b"]) == ("one:sft", "other:sft")
    code, out, _ = compare("one", "other", "--judge", "store:choices.sqlite")
    assert code == 0
    assert "Judged by the people of choices.sqlite, the first wins 62.5% of 4 pairs of answers" in out
    assert "KL" not in out


def test_what_cannot_be_compared_is_refused(compare, tmp_path):
    Store(tmp_path / "empty.sqlite")
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Quem é?"}\n')
    asked = ("--prompts-from", f"jsonl:{tmp_path}/asked.jsonl")
    for arguments, told in (
        (("one", "one:pretrain"), "has not learned to take turns"),
        (("one", "one", "--tokens", "250"), "a context of 256 tokens"),
        (("one", "one", "--temperature", "0"), "must be above 0"),
        (("one", "one", "--seed", str(2**31)), "must lie in [0, 2**31)"),
        (("one", "one", "--prompts", "0"), "--prompts 0 must be at least 1"),
        (("one", "one", "--best-of", "0"), "--best-of 0 must be at least 1"),
        (("nowhere", "one"), "holds no run"),
        (("one", "other", "--judge", "reward"), "Did you mean 'reward:RUN'?"),
        (("one", "other", "--judge", "reward:other"), "'other' has no reward model"),
        (("one", "other", "--judge", "reward:nowhere"), "holds no run"),
        (("other", "one", "--best-of", "2"), "'other' has no reward model"),
        (("one", "other", *asked), "knows the truth of the narrator's world only"),
        (("one", "other", "--judge", "reward:one", "--prompts-from", "json:x"), "unknown source of prompts 'json:x'"),
        (("one", "other", "--judge", f"store:{tmp_path}/empty.sqlite"), "It has: none at all."),
        (("one", "other", "--judge", "store:nowhere.sqlite"), "there is no file 'nowhere.sqlite'"),
        (("one", "one", "--judge", f"store:{tmp_path}/empty.sqlite"), "cannot tell 'one:sft' from itself"),
        (("one", "other", "--judge", "store:x", *asked), "so --prompts-from cannot be used"),
        (("one", "other", "--judge", "store:x", "--best-of", "2"), "so --best-of cannot be used"),
        (("one:sft", "other", "--out", str(tmp_path / "page")), "name both without a stage"),
    ):
        code, _, err = compare(*arguments)
        assert (code, err.count("narrador: ")) == (2, 1), arguments
        assert told in err
    assert not (tmp_path / "page").exists()


def test_kl_is_that_of_the_tokens_drawn(runs):
    """Over more prompts than a batch holds, against whole rows read at once; 0 from itself, undefined across tokens."""
    one, other = (open_trained(str(runs / name)) for name in NAMES)
    rows = encode_prompts(one, (PROMPTS * 2)[: BATCH + 3], 5)
    answers = draw_answers(one, rows, temperature=0.7, max_tokens=5, seed=3)
    rollout = answers.rollout
    assert len(answers.texts) == len(rollout.tokens) == len(rows)
    a, b = (
        jax.nn.log_softmax(jax.jit(model.model.apply)({"params": model.params}, jnp.asarray(rollout.tokens))[0] / 0.7)
        for model in (one, other)
    )
    nats = []
    for row, (start, end) in enumerate(zip(rollout.prompt_lengths, rollout.lengths, strict=True)):
        places = np.arange(start, end)
        nats.append(float((a - b)[row, places - 1, rollout.tokens[row, places]].sum()))
    assert divergence(answers, one, other) == pytest.approx(np.mean(nats), rel=1e-4)
    assert divergence(answers, one, one) == pytest.approx(0, abs=1e-4)
    foreign = train_tokenizer(TokenizerConfig(vocab_size=400), TEXTS)
    assert divergence(answers, one, replace(other, tokenizer=foreign)) is None


@pytest.mark.parametrize(("count", "devices"), [(3, 1), (4, 1), (11, 1), (11, 2)])
def test_rows_in_batches_come_back_in_order_however_many_are_under_way(count, devices):
    """Two rows for each place, in batches of four places; the last batch begins again, and its rows count once. Every
    thread has the mesh of who asks, or what it computes would be compiled anew, and on other devices. On several
    devices one batch at a time, for two programs could wait for each other there."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    threads, told = set(), []

    def of_batch(which):
        threads.add(get_ident())
        assert jax.sharding.get_mesh() == mesh
        sleep(0.05)  # so that no thread can take all of them
        return jnp.repeat(which, 2), np.stack([which, which], axis=1).reshape(-1)

    with jax.set_mesh(mesh):
        found = over_batches(of_batch, count, told.append, each=2, most=8)
    for rows in found:
        assert rows.tolist() == [place for place in range(count) for _ in range(2)]
    assert sum(told) == 2 * count
    at_a_time = 2 if devices == 1 and jax.default_backend() == "cpu" else 1
    assert len(threads) == 1 + (count > 4) * at_a_time  # the first batch alone


def test_an_answer_too_long_for_the_judge_is_refused(runs):
    judge = TextScorer(RunDirectory(runs / "one"))
    with pytest.raises(UserError, match="a context of 256 tokens; the longest answer takes"):
        judge.scores(PROMPTS[:2], ["sim", "não " * 300])
