"""Two whole runs side by side, and the page about them."""

import json
import re

import pytest

from experiments import cli
from experiments.pages import code, html_page, plain, table
from experiments.run_comparison import config_differences, draw_curves, names_whole_run, results
from tests.experiments.untrained import write_run
from train.run_directory import RunDirectory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """a and b differ in two keys; b has not learned to answer, and has done no stage to its end but pretrain."""
    folder = tmp_path_factory.mktemp("run_comparison")
    for name, seed in (("a", 0), ("b", 1)):
        run, _ = write_run(folder / name, seed, train={"seed": seed, "steps": 20 + seed})
        run.stage("pretrain").complete({"stage": "pretrain", "steps": 20 + seed, "validation_loss": 1.5 + seed})
        rows = [{"step": step, "loss": 8 / step, "validation_loss": None} for step in (1, 10, 20)]
        run.stage("pretrain").log("metrics").write_text("".join(json.dumps(row) + "\n" for row in rows))
    RunDirectory(folder / "a").stage("sft").complete({"stage": "sft", "steps": 5, "gold_rate": 0.25, "note": "text"})
    (folder / "b" / "sft" / "metrics.jsonl").unlink()
    return folder


@pytest.fixture
def pair(runs):
    return RunDirectory(runs / "a"), RunDirectory(runs / "b")


def test_a_stage_or_a_whole_run(runs):
    assert names_whole_run(str(runs / "a"))
    assert names_whole_run("nowhere")
    assert not names_whole_run(f"{runs}/a:sft")


def test_configs_differ_by_key(pair):
    assert config_differences(*pair) == {"train.seed": {"a": 0, "b": 1}, "train.steps": {"a": 20, "b": 21}}
    assert config_differences(pair[0], pair[0]) == {}


def test_results_stand_side_by_side(pair):
    assert results(*pair) == {
        "pretrain": {"steps": {"a": 20, "b": 21}, "validation_loss": {"a": 1.5, "b": 2.5}},
        "sft": {"steps": {"a": 5, "b": None}, "gold_rate": {"a": 0.25, "b": None}},
    }


def test_only_what_was_logged_is_drawn(pair, tmp_path):
    drawn = draw_curves(*pair, tmp_path)
    assert drawn == {"pretrain": [tmp_path / "compared_pretrain_loss.png"]}
    assert drawn["pretrain"][0].read_bytes().startswith(b"\x89PNG")


def test_the_page(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda: None)
    assert cli.main(["compare", "a", "b", "--out", "the page", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert set(found) == {"judge", "a", "b", "config_differences", "results"}  # b answers nothing yet
    assert (found["a"], found["b"]) == ("a:sft", "b:pretrain")
    assert "the page is the page/comparison.md" in err
    text, html = ((runs / "the page" / f"comparison.{end}").read_text() for end in ("md", "html"))
    for line in (
        "No answers were compared: one of the runs has not learned to take turns.",
        "| train.seed | 0 | 1 |",
        "| validation loss | 1.5 | 2.5 |",
        "| gold rate | 25.0% | – |",
        "![compared pretrain loss](pictures/compared_pretrain_loss.png)",
        "<code>narrador compare a b --out &#39;the page&#39; --json</code>",
    ):
        assert line in text.replace("&#95;", "_")
    assert html.count("data:image/png;base64,") == 1
    assert "<td>train.steps</td>" in html


def test_the_page_tells_of_answers(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda: None)
    arguments = ("--prompts", "4", "--tokens", "4", "--out", "same")
    assert cli.main(["compare", "a", "a", *arguments]) == 0
    assert "Judged by the gold reward" in capsys.readouterr().out
    text = (runs / "same" / "comparison.md").read_text()
    assert re.search(r"Judged by the gold reward, the first wins [\d.]+% of 4 prompts", text)
    assert "| gold reward |" in text
    assert "They are the same." in text
    assert "best of" not in text


def test_text_is_never_markup(tmp_path):
    wild = "a|b*c*<i>\n\x1b`$"
    assert "|" not in plain(wild)
    page = html_page(tmp_path, "<x>", table(["", "*"], [[plain(wild), code(wild)]]))
    assert "<td>a|b*c*&lt;i&gt;<br>\\x1b`$</td>" in page
    assert "<title>&lt;x&gt;</title>" in page
