"""Several processes on one run: they learn what one learns, stop, die and go on together, and refuse to differ."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments import processes
from tests.experiments.narrador import command
from train.distributed import Group
from train.run_directory import RunDirectory

CONFIG = """
base: char
model: {layers: 1, width: 16, heads: 2, mlp_width: 32, context_length: 48}
data: {sources: ["text:text.txt"], sequence_length: 32}
mesh: {data: 1, fsdp: -1}
train: {steps: 60, batch_size: 4, log_every: 1, eval_every: 20, eval_batches: 1, sample_every: 20, sample_tokens: 2,
        warmup_steps: 5, checkpoint_every: 10}
sft:
  data: {sources: ["jsonl:chats.jsonl"]}
  train: {steps: 4, batch_size: 4, log_every: 1, eval_batches: 1, sample_tokens: 2, warmup_steps: 1}
stages: [pretrain, sft]
"""
THINGS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}
RUN = ("run", "own.yaml", "--stages", "pretrain,sft")
METRICS = Path("runs/own/pretrain/metrics.jsonl")


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(CONFIG)
    (folder / "text.txt").write_text("".join(f"the {thing} is {colour}. " for thing, colour in THINGS.items()) * 60)
    turns = [[{"role": "user", "content": f"{a}?"}, {"role": "assistant", "content": b}] for a, b in THINGS.items()]
    lines = [json.dumps({"messages": turns[number % 4]}) + "\n" for number in range(42)]
    (folder / "chats.jsonl").write_text("".join(lines))
    return folder


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), cwd=folder, stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    try:
        out, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.kill()
        raise
    return process.returncode, out + err


def rows(folder: Path, log: str, stages: Sequence[str]) -> list[dict]:
    return [json.loads(line) for stage in stages for line in (folder / "runs/own" / stage / log).open()]


def wait_for(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log has a line of this step."""
    log, deadline = folder / METRICS, time.monotonic() + 200
    while not (log.exists() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def child(launcher: subprocess.Popen, index: int) -> int:
    """The pid of one of the processes that a launcher has started."""
    return int(Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()[index])


def assert_learned_the_same(one: Path, other: Path, *stages: str) -> None:
    """The same lines, their numbers within rounding."""
    lines, others = (rows(folder, "metrics.jsonl", stages) for folder in (one, other))
    assert [list(row) for row in lines] == [list(row) for row in others]
    for row, theirs in zip(lines, others, strict=True):
        assert theirs == pytest.approx(row, rel=1e-5, abs=1e-5)
    assert rows(one, "samples.jsonl", stages) == rows(other, "samples.jsonl", stages)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process that nobody touched."""
    folder = write(tmp_path_factory.mktemp("alone"))
    code, said = finish(start(folder, *RUN))
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What two processes leave when one of them is killed, and what they say."""
    folder = write(tmp_path_factory.mktemp("killed"))
    launcher = start(folder, "launch", "2", *RUN)
    wait_for(folder, 21, launcher)  # the checkpoint of step 20 is begun once that of step 10 is whole
    os.kill(child(launcher, 1), signal.SIGKILL)
    code, said = finish(launcher)
    assert code == 128 + signal.SIGKILL, said
    return folder, said


def test_a_process_that_dies_is_named_and_takes_the_others_down(killed):
    folder, said = killed
    assert "process 1 of 2 ended with signal SIGKILL; the others end too" in said
    assert "Traceback" not in said
    assert (folder / "runs/own/pretrain/checkpoints/10").exists()
    assert not (folder / "runs/own/pretrain/result.json").exists()


def test_what_two_processes_began_one_ends_on_1_device_and_on_4(alone, killed, tmp_path):
    folders = {devices: shutil.copytree(killed[0], tmp_path / devices) for devices in ("1", "4")}
    pretrain = (*RUN[:2], "--stages", "pretrain", "--train.cpu-devices")
    for folder, process in [(folder, start(folder, *pretrain, devices)) for devices, folder in folders.items()]:
        code, said = finish(process)
        assert code == 0, said
        assert "continuing from step" in said
        assert_learned_the_same(alone, folder, "pretrain")
    assert RunDirectory(folder / "runs/own").sessions()[-1]["devices"] == ["cpu"] * 4


def test_a_signal_to_one_of_two_stops_both_at_one_step_and_both_go_on(alone, killed, tmp_path):
    shutil.copytree(killed[0], tmp_path, dirs_exist_ok=True)
    launcher = start(tmp_path, "launch", "2", *RUN)
    wait_for(tmp_path, 42, launcher)
    os.kill(child(launcher, 1), signal.SIGTERM)
    code, said = finish(launcher)
    assert code == 0, said
    assert "another process was told to stop" in said
    assert f"narrador launch 2 {' '.join(RUN)}" in said
    last = max(int(path.name) for path in (tmp_path / "runs/own/pretrain/checkpoints").glob("[0-9]*"))
    assert last == json.loads((tmp_path / METRICS).read_text().splitlines()[-1])["step"] < 60
    code, said = finish(start(tmp_path, "launch", "2", *RUN, "--json"))
    assert code == 0, said
    assert f"continuing from step {last} of 60" in said
    assert said.count("training ...") == 2  # pretrain and sft, by process 0 alone
    assert_learned_the_same(alone, tmp_path, "pretrain", "sft")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_processes_that_slurm_started_differently_all_refuse_and_say_where(tmp_path):
    folder = write(tmp_path)
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    job["JAX_COORDINATOR_PORT"] = str(free_port())
    steps = [("--distributed", "--train.steps", str(60 + process)) for process in range(2)]
    both = [start(folder, *RUN, *steps[i], **job, SLURM_PROCID=str(i)) for i in range(2)]
    for code, said in map(finish, both):
        assert code == 2, said
        assert "config.train.steps: 60 in process 0, 61 in process 1" in said
        assert "Traceback" not in said
    assert not (folder / "runs").exists()


def test_a_stage_for_one_process_is_refused_by_all_before_any_work(tmp_path):
    code, said = finish(start(write(tmp_path), "launch", "2", *RUN[:2], "--stages", "pretrain,sft,reward"))
    assert code == 2
    assert "stage 'reward' works in one process only, and this run has 2" in said
    assert not (tmp_path / "runs").exists()


def test_a_coordinator_that_cannot_be_reached_is_named_with_the_time_waited(tmp_path):
    place = f"127.0.0.1:{free_port()}"
    arguments = ("--coordinator", place, "--processes", "2", "--process", "1", "--wait", "1")
    code, said = finish(start(write(tmp_path), *RUN, *arguments))
    assert code == 2
    assert f"after 1 s the processes have not all met at {place}" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("launch", "two", *RUN), "'two' processes cannot be"),
        (("launch", "2", "bench"), "say how many processes, and what they run"),
        ((*RUN, "--coordinator", "here"), "--coordinator 'here' must be HOST:PORT"),
        ((*RUN, "--processes", "2", "--process", "2"), "--process 2 must lie in [0, 2)"),
        ((*RUN, "--processes", "0"), "--processes 0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, arguments, told):
    from experiments import cli

    monkeypatch.chdir(write(tmp_path))
    assert cli.main(arguments) == 2
    assert told in capsys.readouterr().err


def test_who_watches_over_the_others_ends_with_the_work(monkeypatch):
    """Left inside the service's client when Python ends, it would abort a process whose work is done."""

    class Client:
        def key_value_try_get(self, key):
            raise LookupError(key)

    monkeypatch.setattr(processes, "group", lambda: Group(Client(), 0, 2))
    done = threading.Event()
    watcher = threading.Thread(target=processes._watch, args=(done,), daemon=True)
    watcher.start()
    done.set()
    watcher.join(5)
    assert not watcher.is_alive()
