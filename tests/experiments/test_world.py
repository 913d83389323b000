"""Runs on the narrator's world: the floor, the truth beside the model, and the distance between them."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pictures
from experiments.calibration import calibrate
from experiments.truth import floor
from model.config import ModelConfig
from model.tokenizer import TokenizerConfig, train_tokenizer
from model.transformer import Transformer
from tests.experiments.narrador import last_json, narrador, write_small
from tests.narration.golden import render
from train.narration.cast import TEAM_OF, TEAMS
from train.narration.grammar import NUMBERS
from train.narration.match import SKY
from train.narration.truth import END, Listener
from train.narration.words import split_words
from train.sources import open_source

WORLD = ("run", "small.yaml", "--data", "narration:300", "--tokenizer.kind", "bpe", "--tokenizer.vocab-size", "600")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_small(folder)
    return folder, last_json(narrador(*WORLD, "--train.sample-prompt", "O céu está", "--json", cwd=folder))


def test_a_run_tells_its_floor(run):
    _, result = run
    documents = open_source("narration:300", 0.1)
    truth = floor(documents)
    assert result["floor_nats_per_word"] == pytest.approx(truth.nats / truth.words)
    assert result["floor_bits_per_byte"] == pytest.approx(truth.nats / math.log(2) / truth.size)
    # The same nats, counted by token and by word.
    per_word = result["validation_loss"] / result["floor_loss"] * result["floor_nats_per_word"]
    assert result["validation_nats_per_word"] == pytest.approx(per_word)
    assert result["validation_nats_per_word"] > result["floor_nats_per_word"]


def test_of_several_sources_the_floor_is_under_the_one_whose_truth_is_known(run, tmp_path):
    write_small(tmp_path)
    steps = ("--train.steps", "4", "--train.warmup-steps", "1", "--train.eval-every", "2")
    both = (*WORLD[:3], "narration_quiz:100", "narration:300", *WORLD[4:], *steps)
    result = last_json(narrador(*both, "--json", cwd=tmp_path))
    folder = tmp_path / "runs/small"
    rows = [json.loads(line) for line in (folder / "pretrain/metrics.jsonl").open()]
    quiz, own = "validation_loss narration_quiz:100", "validation_loss narration:300"
    told = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in told] == [0, 2, 4]
    assert all(min(row[quiz], row[own]) <= row["validation_loss"] <= max(row[quiz], row[own]) for row in told)
    assert (result[quiz], result[own]) == (told[-1][quiz], told[-1][own])
    assert result["floor_nats_per_word"] == pytest.approx(run[1]["floor_nats_per_word"])
    per_word = result[own] / result["floor_loss"] * result["floor_nats_per_word"]
    assert result["validation_nats_per_word"] == pytest.approx(per_word)
    report = (folder / "report.md").read_text()
    assert f"| held-out loss of <code>narration:300</code> | {result[own]:.4f} nats per token |" in report


def test_a_floor_is_drawn_with_the_loss_that_it_is_under(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "_save", lambda figure, target: drawn.append(figure.axes[0].get_legend()))
    alone = [{"step": 0, "validation_loss": 3.0}, {"step": 1, "validation_loss": 2.0}]
    mixed = [{**row, "validation_loss narration": 1.5, "validation_loss pydoc": 2.5} for row in alone]
    for rows in (alone, mixed):
        pictures.loss_curve(rows, tmp_path / "loss.png", 1.0, "narration")
    floor = "floor: the truth itself, 1.000"
    assert [[text.get_text() for text in legend.get_texts()] for legend in drawn] == [
        ["held-out text", floor],
        ["held-out text", "held-out narration", floor],
    ]


def test_probs_shows_the_truth_beside_the_model(run):
    folder, _ = run
    table = last_json(narrador("probs", "O céu está", "--top", "600", "--json", cwd=folder))
    truth = {row["text"]: row["true_probability"] for row in table["tokens"]}
    assert sum(truth.values()) == pytest.approx(1)
    # Pieces of words: azul and avermelhado may share a token, which then has both their shares.
    assert sum(likely for text, likely in truth.items() if text.startswith(" a")) == pytest.approx(0.36)
    assert sum(likely for text, likely in truth.items() if text.startswith(" n")) == pytest.approx(0.18)
    shown = narrador("probs", "O céu está", cwd=folder).stdout
    assert "truth" in shown


def test_text_outside_the_language_has_no_truth_and_says_so(run):
    folder, _ = run
    done = narrador("probs", "Once upon a time", "--json", cwd=folder)
    assert "true_probability" not in last_json(done)["tokens"][0]
    assert "the truth is not known here" in done.stderr


def test_the_report_holds_the_model_against_the_truth(run):
    folder, _ = run
    report = (folder / "runs/small/report.md").read_text()
    assert "## Against the truth" in report
    assert "above the floor" in report
    assert "| true probability |" in report
    assert json.loads((folder / "runs/small/pictures/truth.json").read_text())["documents"] == 30


def test_a_uniform_model_is_as_far_from_the_truth_as_its_entropy_says(tmp_path):
    """With q = 1/V everywhere, KL(p || q) = log V - H(p), and H(p) comes from the words alone."""
    documents = open_source("narration:300", 0.1).validation
    texts = [documents[index].decode() for index in range(10)]
    # Every word a token, so that entropies by token are entropies by word.
    words = [*TEAM_OF, *(team.name for team in TEAMS), *map(str, range(60)), *SKY.values, *NUMBERS, "frio"]
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=4096), [render(), " ".join(["", *words])])
    config = ModelConfig(layers=1, width=8, heads=1, mlp_width=8, vocab_size=tokenizer.size, context_length=160)
    model = Transformer(config)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    found = calibrate(SimpleNamespace(model=model, params=params, tokenizer=tokenizer), documents, limit=10)
    entropies: list[list[float]] = []
    for text in texts:
        listener, column = Listener.at_start(), []
        for word in [*split_words(text), END]:
            column.append(-sum(p * math.log(p) for p in listener.expect().values()))
            listener = listener.hear(word) if word else listener
        entropies.append(column)
    expected = math.log(tokenizer.size) - np.mean([value for column in entropies for value in column])
    assert found.kl == pytest.approx(expected, rel=1e-5)
    assert found.kl_by_position[0] == pytest.approx(math.log(tokenizer.size) - np.mean([c[0] for c in entropies]))
    assert found.documents == 10
    # All zeros: its first guess is token 0, never a name.
    assert found.model_guesses == 0
    assert found.truth_guesses > 0.5
    pictures.distance_to_truth(found.kl_by_position, tmp_path / "kl.png")
    assert (tmp_path / "kl.png").stat().st_size > 1000
