"""What knows the answer: a sum by hand, of a model that shares nothing but its gradients."""

import json

import pytest

from experiments import cli
from tests.experiments.narrador import last_json, narrador

SMALL = """
base: char
model: {layers: 1, width: 16, heads: 2, mlp_width: 32, vocab_size: 64, context_length: 16, tied_head: false}
data: {sequence_length: 16}
train: {batch_size: 3}
"""


def test_two_devices_do_the_work_of_one(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["scale", "devices", "small.yaml", "--devices", "1", "2", "--mesh-axis", "data", "--out", "page", "--json"]
    found = last_json(narrador(*words, cwd=tmp_path))
    assert found["simulated"]
    assert found["axis"] == "data"
    rows = {(row["mode"], row["devices"]): row for row in found["rows"]}
    assert {key: row["rows"] for key, row in rows.items()} == {
        ("strong", 1): 4,
        ("strong", 2): 4,
        ("weak", 1): 2,
        ("weak", 2): 4,
    }
    parameters = 2 * 64 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16  # two tables, attention, SwiGLU, three norms
    for (mode, devices), row in rows.items():
        assert row["tokens_per_second"] == pytest.approx(row["rows"] * 16 / row["seconds_per_step"])
        assert row["least_bytes"] == ({} if devices == 1 else {"data": 4 * parameters}), mode
        assert sum(row["collective_bytes"].values()) <= 1.1 * sum(row["least_bytes"].values())
        first = rows[mode, 1]["tokens_per_second"]
        assert row["efficiency"] == pytest.approx(row["tokens_per_second"] / devices / first)
    page = tmp_path / "page"
    assert json.loads((page / "scaling.json").read_text()) == found
    assert (page / "pictures" / "scaling.png").stat().st_size > 5_000
    assert "in brackets, mean nothing" in (page / "report.md").read_text()
    assert "data:image/png" in (page / "report.html").read_text()


def test_what_cannot_be_measured_is_said(tmp_path, capsys, monkeypatch):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda cpu_devices: None)  # the tests have two already
    for words, told in (
        (["devices", str(path), "--devices", "1", "3"], "--devices 3: this machine has 2"),
        (["devices", str(path), "--devices", "1", "2", "--rows", "5"], "--rows 5 cannot be shared out evenly over 2"),
        (["devices", str(path), "--devices", "0"], "--devices 0 must be at least 1"),
        (["devices", "tinny"], "Did you mean 'tiny'?"),
        (["devises"], "Did you mean 'devices'?"),
    ):
        assert cli.main(("scale", *words)) == 2
        assert told in capsys.readouterr().err
