"""Who may take a run's folder, and what is read back from it."""

import fcntl

import pytest

from model.errors import UserError
from train.metrics import Log
from train.run_directory import InUse, RunDirectory, read_jsonl


def begun(path, config):
    """A run in which a stage has begun."""
    run = RunDirectory(path)
    with run.lock():
        run.claim(config)
    (path / "pretrain").mkdir()
    (path / "pretrain/metrics.jsonl").touch()
    return run


def test_a_folder_in_which_nothing_has_begun_is_taken_anew(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        run.claim({"train": {"steps": 1}})
        run.claim_data({"text:a": "old"})
        run.rankings_path.write_text("of the old model's answers\n")
        run.chat_template_path.write_text("of a given tokenizer")
        run.claim({"train": {"steps": 2}})
        run.claim_data({"text:a": "new"})
    assert run.config() == {"train": {"steps": 2}}
    assert not run.rankings_path.exists()
    assert not run.chat_template_path.exists()


def test_another_config_is_refused_with_every_difference(tmp_path):
    run = begun(tmp_path / "run", {"train": {"steps": 1, "seed": 0}, "model": {"width": 8}})
    run.claim({"train": {"steps": 1, "seed": 0}, "model": {"width": 8}})
    with pytest.raises(UserError, match=r"train\.seed: 0 there, 5 now\n  model\.width: 8 there, 16 now"):
        run.claim({"train": {"steps": 1, "seed": 5}, "model": {"width": 16}})
    assert run.config()["train"]["seed"] == 0


def test_other_devices_are_no_other_config_and_the_last_are_kept(tmp_path):
    run = begun(tmp_path / "run", {"train": {"steps": 1, "cpu_devices": None}, "mesh": {"data": -1, "fsdp": 1}})
    moved = {"train": {"steps": 1, "cpu_devices": 4}, "mesh": {"data": 1, "fsdp": 4}}
    run.claim(moved)
    assert run.config() == moved


def test_text_that_changed_is_refused_and_named(tmp_path):
    run = begun(tmp_path / "run", {})
    run.claim_data({"text:a": "1", "text:b": "2"})
    run.claim_data({"text:a": "1", "text:b": "2"})
    with pytest.raises(UserError, match="text:b changed since"):
        run.claim_data({"text:a": "1", "text:b": "3"})


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(UserError, match=r"photo\.png"), RunDirectory(tmp_path).lock():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_config_that_is_just_being_written_is_no_stranger(tmp_path):
    """By another process, which holds the lock; or by one that was killed in it, and then the folder is free."""
    (tmp_path / ".config.yaml.4711").touch()
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InUse), RunDirectory(tmp_path).lock():
            pass
    with RunDirectory(tmp_path).lock():
        RunDirectory(tmp_path).claim({"train": {"steps": 1}})
    assert RunDirectory(tmp_path).config() == {"train": {"steps": 1}}


def test_a_torn_line_is_not_read_and_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]
    log = Log(path, resume_step=2)
    log.write({"step": 3, "loss": float("nan")})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": null}\n'


@pytest.mark.parametrize("content", [b"", b"- a list", b"just words", b"a: [1", b"model: caf\xe9"])
def test_a_damaged_config_is_the_users_to_know(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        RunDirectory(tmp_path).config()


def test_a_stage_that_has_written_nothing_can_be_complete(tmp_path):
    stage = RunDirectory(tmp_path / "run").stage("compare")
    stage.complete({"win_rate": 0.5})
    assert stage.result == {"win_rate": 0.5}
