"""What the command prints, for people and for machines, and how it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from experiments.presets import EXPERIMENTS
from model.tokenizer import Tokenizer
from tests.experiments.narrador import RUN, command, last_json, narrador, write_small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained run in it."""
    folder = tmp_path_factory.mktemp("trained")
    write_small(folder)
    last_json(narrador(*RUN, "--json", cwd=folder))
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    """In that folder, in this process."""
    monkeypatch.chdir(trained)
    return trained


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_probs_is_the_models_distribution(here, capsys):
    code, out, _ = call(capsys, "probs", "1 and 2 make", "--top", "400", "--json")
    assert code == 0
    table = json.loads(out.splitlines()[-1])
    assert set(table) == {"text", "temperature", "entropy", "tokens", "rest"}
    shown = np.array([row["probability"] for row in table["tokens"]])
    assert shown.sum() == pytest.approx(1, abs=1e-5)
    assert table["entropy"] == pytest.approx(-(shown * np.log(shown)).sum(), abs=1e-4)
    assert table["tokens"][0]["text"] == " "
    assert list(shown) == sorted(shown, reverse=True)


def test_temperature_sharpens_as_its_formula_says(here, capsys):
    def probabilities(temperature):
        _, out, _ = call(capsys, "probs", "1 and", "--top", "400", "--json", "--temperature", str(temperature))
        rows = json.loads(out.splitlines()[-1])["tokens"]
        return {row["id"]: row["probability"] for row in rows}

    plain, sharp = probabilities(1.0), probabilities(0.5)
    squares = {token: p**2 for token, p in plain.items()}
    for token, p in sharp.items():
        assert p == pytest.approx(squares[token] / sum(squares.values()), rel=1e-3)


def test_probs_table_adds_up_to_one_hundred(here, capsys):
    _, out, _ = call(capsys, "probs", "1 and", "--run", "runs/small:pretrain")
    assert sum(float(number) for number in re.findall(r"([\d.]+)%", out)) == pytest.approx(100, abs=0.1)
    assert "the rest" in out
    assert "entropy" in out


def test_sample_is_the_same_for_the_same_seed(here, capsys):
    def text(*arguments):
        _, out, _ = call(capsys, "sample", "--prompt", "3 and", "--tokens", "30", "--json", *arguments)
        return json.loads(out)["text"]

    assert text("--seed", "1") == text("--seed", "1")
    assert text("--seed", "1") != text("--seed", "2")
    greedy = text("--temperature", "0")
    assert greedy == text("--top-k", "1", "--seed", "9")
    _, streamed, _ = call(capsys, "sample", "--prompt", "3 and", "--tokens", "30", "--temperature", "0")
    assert streamed == f"3 and{greedy}\n"


def test_neighbours_are_by_cosine(here, capsys):
    code, out, _ = call(capsys, "neighbours", "1", "--top", "5", "--json")
    assert code == 0
    rows = json.loads(out)["neighbours"]
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
    assert "1" not in [row["text"] for row in rows]
    code, _, err = call(capsys, "neighbours", "make")
    assert code == 2
    assert "'make' is not one token but 4" in err


def test_the_report_is_whole(here):
    markdown = Path("runs/small/report.md").read_text()
    for heading in ("Loss", "From noise to text", "What it expects", "Speed", "How it was made"):
        assert f"## {heading}" in markdown
    for picture in re.findall(r"\((pictures/[^)]+)\)", markdown):
        assert (Path("runs/small") / picture).stat().st_size > 1000
    html = Path("runs/small/report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "pictures/" not in html.replace("](pictures/", "")


def test_config_show_counts_parameters(capsys):
    _, out, _ = call(capsys, "config", "show", "gpt2-124m", "--json")
    assert json.loads(out)["parameters"] == 124_439_808  # GPT-2 small as published


def test_config_show_counts_a_runs_own_tokenizer(here, capsys):
    _, out, _ = call(capsys, "config", "show", "runs/small", "--json")
    vocabulary = Tokenizer.load(Path("runs/small/tokenizer.json")).size
    # Tied embedding; per layer four attention matrices, three of feed-forward and two norms; the final norm.
    expected = vocabulary * 32 + 2 * (4 * 32**2 + 3 * 32 * 64 + 2 * 32) + 32
    assert json.loads(out)["parameters"] == expected


def test_any_depth_is_an_experiment(capsys):
    _, out, _ = call(capsys, "config", "show", "depth-5", "--json")
    shown = json.loads(out)
    assert (shown["model"]["layers"], shown["model"]["width"], shown["model"]["heads"]) == (5, 320, 5)


def test_config_diff(capsys):
    _, out, _ = call(capsys, "config", "diff", "gpt3-6.7b", "gpt3-13b", "--json")
    changed = json.loads(out)["differences"]
    assert changed["model.width"] == {"a": 4096, "b": 5120}
    assert "model.norm" not in changed


def test_sharding_rules_are_part_of_a_config(tmp_path, capsys):
    (tmp_path / "wide.yaml").write_text("base: tiny\nsharding: {embed: [fsdp, context], vocab: []}\n")
    _, out, _ = call(capsys, "config", "show", str(tmp_path / "wide.yaml"), "--json")
    rules = json.loads(out)["sharding"]
    assert (rules["embed"], rules["vocab"], rules["mlp"]) == (["fsdp", "context"], [], ["tensor"])


def test_config_list_names_every_experiment(capsys):
    _, out, _ = call(capsys, "config", "list", "--json")
    assert [row["name"] for row in json.loads(out)["experiments"]] == list(EXPERIMENTS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("rum",), "Did you mean 'run'?"),
        (("run", "tinny"), "Did you mean 'tiny'?"),
        (("run",), "say what to run"),
        (("run", "missing.yaml"), "no config file 'missing.yaml'"),
        (("run", "tiny", "--train.lerning-rate", "1"), "--train.learning-rate"),
        (("run", "tiny", "--train.steps", "many"), "--train.steps"),
        (("run", "tiny", "--train.steps", "0"), "train.steps=0 must be at least 1"),
        (("run", "tiny", "--model.heads", "5"), "model.heads=5 does not divide model.width=192"),
        (("run", "tiny", "--data.sequence-length", "512"), "longer than the model.context_length=256"),
        (("run", "char", "--data", "text:nowhere/*.txt"), "no file matches 'nowhere/*.txt'"),
        (("run", "char", "--data", "text:empty.txt"), "'empty.txt' is empty"),
        (("run", "char", "--data", "text:binary.txt"), "binary"),
        (("run", "char", "--data", "text:short.txt"), "fewer than one row"),
        (("run", "char", "--data", "texts:a"), "unknown source 'texts:a'"),
        (("run", "char", "--mesh.data", "3"), "does not fit 2 devices"),
        (("run", "tiny", "--sharding.embed", "fdsp"), "mesh axis in sharding.embed 'fdsp'. Did you mean 'fsdp'?"),
        (("run", "bad-key.yaml"), "unknown key 'train.step'. Did you mean 'train.steps'?"),
        (("run", "bad-type.yaml"), "train.steps='lots'"),
        # Before any text is looked for: there is no such folder.
        (("run", "llama3.1-405b", "--data", "text:nowhere/*"), "GiB on each device"),
        (("run", "tiny", "--run-dir", "short.txt"), "is a file"),
        (("run", "tiny", "--run-dir", "strangers"), "is not empty and holds no run"),
        (("probs", "x", "--run", "nowhere"), "holds no run"),
        (("probs", "x"), "no run under 'runs'"),
        (("probs", "x", "--top", "0"), "--top 0"),
        (("sample", "--top-p", "2"), "top_p=2.0 must lie in (0, 1]"),
        (("config", "shaw", "tiny"), "Did you mean 'show'?"),
        (("bench", "trian"), "Did you mean 'train'?"),
    ],
)
def test_bad_input_ends_in_one_message_and_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(b"ab\0cd")
    Path("short.txt").write_text("too short")
    Path("bad-key.yaml").write_text("base: tiny\ntrain: {step: 3}\n")
    Path("bad-type.yaml").write_text("base: tiny\ntrain: {steps: lots}\n")
    Path("strangers").mkdir()
    Path("strangers/photo.png").touch()
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert " ".join(told.split()) in re.sub(r"[\s│]+", " ", err + out)
    assert not list(Path("strangers").glob("config.yaml"))


def test_the_stage_must_exist(here, capsys):
    code, _, err = call(capsys, "probs", "x", "--run", "runs/small:pretrian")
    assert code == 2
    assert "Did you mean 'pretrain'?" in err


def test_another_package_called_model_is_noticed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command("--help"), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert str(tmp_path / "model") in done.stderr


def test_help_does_not_wait_for_jax(tmp_path):
    program = "import sys, experiments.cli as cli; cli.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)


def test_only_a_run_is_gone_on_with_by_its_folder(tmp_path, monkeypatch):
    """A folder that has a preset's name by chance, and one that holds no run, are left alone."""
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr("experiments.commands.run._run", lambda *given: taken.append(given[2].path) or 0)
    Path("narrator").mkdir()
    for path in ("tiny", "elsewhere/own"):
        Path(path).mkdir(parents=True)
        (Path(path) / "config.yaml").write_text("base: tiny\n")
    for name in ("narrator", "tiny", "elsewhere/own"):
        assert cli.main(["run", name]) == 0
    assert taken == [Path("runs/narrator"), Path("runs/tiny"), Path("elsewhere/own")]
