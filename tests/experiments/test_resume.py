"""A run that is killed, stopped, damaged or out of disk, against the same run left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.experiments.narrador import NOWHERE, RUN, begin, last_json, narrador, write_small


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nobody touched."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_small(folder)
    result = last_json(narrador(*RUN, "--json", cwd=folder))
    return folder, result


def final_params(folder: Path):
    path = folder / "runs" / "small" / "pretrain" / "checkpoints" / "40" / "params"
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute())


def assert_same_run(one: Path, other: Path):
    """Parameters and what was learned are the same to the bit."""
    assert jax.tree.all(jax.tree.map(np.array_equal, final_params(one), final_params(other)))
    for log in ("metrics", "samples"):
        read = [(folder / "runs/small/pretrain" / f"{log}.jsonl").read_bytes() for folder in (one, other)]
        assert read[0] == read[1]


def fresh(folder: Path) -> Path:
    write_small(folder)
    return folder


def test_result_says_what_was_trained(undisturbed):
    folder, result = undisturbed
    assert result["run_dir"] == "runs/small"
    assert (result["stage"], result["steps"]) == ("pretrain", 40)
    # The pattern's own entropy is far below what an untrained model pays: log of its vocabulary.
    rows = [json.loads(line) for line in (folder / "runs/small/pretrain/metrics.jsonl").open()]
    assert result["validation_loss"] < 0.85 * rows[0]["validation_loss"]
    assert result["tokens_per_second"] > 0
    assert 0 < result["mfu"] < 1.5
    keys = ["tokens", "seconds", "validation_bits_per_byte"]
    assert all(isinstance(result[key], int | float) for key in keys)


def test_running_again_trains_nothing_and_says_the_same(undisturbed):
    folder, result = undisturbed
    assert last_json(narrador(*RUN, "--json", cwd=folder)) == result


def test_kill_9_at_random_moments_changes_nothing(undisturbed, tmp_path):
    folder = fresh(tmp_path)
    kills = int(os.environ.get("NARRADOR_TEST_KILLS", "3"))
    chance = random.Random(os.urandom(8))
    done = 0
    while done < kills:
        process = begin(RUN, folder, NOWHERE)
        log = folder / "runs/small/pretrain/metrics.jsonl"
        before = log.stat().st_mtime_ns if log.exists() else 0
        # From the first line of this process on, any moment may come: in a step, an evaluation or a checkpoint.
        while process.is_alive() and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        process.kill()
        process.join()
        done += 1
    last_json(narrador(*RUN, "--json", cwd=folder))
    assert_same_run(undisturbed[0], folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(undisturbed, tmp_path, number):
    folder = fresh(tmp_path)
    process = begin(RUN, folder, [*NOWHERE[:2], folder / "said"])
    log = folder / "runs/small/pretrain/speed.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(timeout=100)
    told = (folder / "said").read_text()
    assert process.exitcode == 0, told
    assert "narrador run small.yaml --data text:text.txt" in told
    assert list((folder / "runs/small/pretrain/checkpoints").glob("[0-9]*/params"))
    if number == signal.SIGTERM:
        last_json(narrador(*RUN, "--json", cwd=folder))
        assert_same_run(undisturbed[0], folder)


def copy_unfinished(source: Path, target: Path) -> Path:
    """A copy of a run as if it had been killed just before it was complete."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "runs/small/pretrain/result.json").unlink()
    return target / "runs/small/pretrain/checkpoints"


@pytest.mark.parametrize("harm", ["truncated", "deleted file"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(undisturbed, tmp_path, harm):
    checkpoints = copy_unfinished(undisturbed[0], tmp_path)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["30", "40"]
    largest = max((checkpoints / "40").rglob("*"), key=lambda path: path.stat().st_size)
    if harm == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        largest.unlink()
    done = narrador(*RUN, "--json", cwd=tmp_path)
    last_json(done)
    assert "continuing from step 30" in done.stderr
    assert "Traceback" not in done.stderr
    assert "checkpoint 40 cannot be read" in done.stderr
    assert_same_run(undisturbed[0], tmp_path)


# No file may grow past 50 kB: as on a full disk, writing the large ones fails.
FULL_DISK = """
import resource, signal, sys
from experiments.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(main())
"""


def test_a_disk_that_is_full_while_saving_leaves_the_checkpoint_before(undisturbed, tmp_path):
    checkpoints = copy_unfinished(undisturbed[0], tmp_path)
    shutil.rmtree(checkpoints / "40")
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *RUN],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 2, process.stderr
    assert "could not save a checkpoint" in process.stderr
    assert "checkpoint 30 is intact" in process.stderr
    assert "Traceback" not in process.stderr
    last_json(narrador(*RUN, "--json", cwd=tmp_path))
    assert_same_run(undisturbed[0], tmp_path)


def test_another_config_in_the_folder_is_refused_with_the_difference(undisturbed):
    folder, _ = undisturbed
    before = (folder / "runs/small/config.yaml").read_bytes()
    done = narrador(*RUN, "--train.steps", "41", cwd=folder)
    assert done.returncode == 2
    assert "train.steps: 40 there, 41 now" in done.stderr
    assert (folder / "runs/small/config.yaml").read_bytes() == before


def test_a_second_process_on_the_folder_is_refused(undisturbed, tmp_path):
    copy_unfinished(undisturbed[0], tmp_path)
    first = begin(RUN, tmp_path, NOWHERE)
    lock = tmp_path / "runs/small/.lock"
    while lock.read_text() != str(first.pid):
        assert first.is_alive()
        time.sleep(0.005)
    second = narrador(*RUN, cwd=tmp_path)
    first.kill()
    first.join()
    assert second.returncode == 2
    assert f"in use by another process (pid {first.pid})" in second.stderr


def test_text_that_changed_under_a_run_is_refused_and_changes_nothing(undisturbed, tmp_path):
    copy_unfinished(undisturbed[0], tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    with (tmp_path / "text.txt").open("a") as file:
        file.write("Ünd more.\n")
    done = narrador(*RUN, cwd=tmp_path)
    assert done.returncode == 2
    assert "text:text.txt changed since" in done.stderr
    after = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    assert after == before


def test_ten_broken_updates_in_a_row_stop_the_run_and_leave_the_last_good_checkpoint(tmp_path):
    folder = fresh(tmp_path)
    healthy = ("--train.checkpoint-every", "1", "--train.steps", "1000", "--train.schedule", "wsd")
    # The rate rises until updates overflow; checkpoints of every step, two kept.
    done = narrador(
        *RUN,
        *healthy,
        "--train.learning-rate",
        "1e38",
        "--train.warmup-steps",
        "1000",
        "--train.eval-every",
        "5000",
        cwd=folder,
    )
    assert done.returncode == 2, done.stderr
    assert "10 updates in a row" in done.stderr
    kept = sorted(int(path.name) for path in (folder / "runs/small/pretrain/checkpoints").glob("[0-9]*"))
    stopped = int(done.stderr.split("near step ")[1].split(".")[0])
    assert "Traceback" not in done.stderr
    assert kept
    assert kept[-1] <= stopped - 10
