"""Child processes on shares of the cores."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from experiments import workers
from experiments.workers import Ended, run_commands, shares, usable_cores


@pytest.mark.parametrize(("cores", "count"), [(2, 2), (7, 3), (16, 4), (3, 3), (2, 5)])
def test_shares_use_every_core_evenly(cores, count):
    parts = shares(range(10, 10 + cores), count)
    assert len(parts) == count
    assert {core for part in parts for core in part} == set(range(10, 10 + cores))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if count <= cores:
        assert sum(sizes) == cores


@pytest.fixture
def as_children(tmp_path, monkeypatch):
    """Let a child `narrador CODE` run CODE as Python, without the time that starting the command takes."""
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\nexec(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_each_child_runs_on_its_share_and_the_parent_keeps_its_own(as_children):
    tell = "import os, time; time.sleep(0.3); print(sorted(os.sched_getaffinity(0)), os.environ['PJRT_NPROC'])"
    cores = usable_cores()
    workers = min(2, len(cores))
    done = run_commands([[tell]] * 4, workers)
    expected = [f"{part} {len(part)}" for part in shares(cores, workers)]
    assert sorted(child.said[-1] for child in done) == sorted(expected * (4 // workers))
    assert usable_cores() == cores


def test_a_child_that_dies_is_reported_and_the_others_go_on(as_children, capsys):
    kill = "import os, signal; print('so far', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    refuse = "import sys; print('no such thing', file=sys.stderr); sys.exit(2)"
    seen: list[Ended] = []
    done = run_commands([[kill], [refuse], ["pass"]], 1, ended=seen.append)
    assert done == seen
    assert [child.code for child in done] == [-signal.SIGKILL, 2, 0]
    told = capsys.readouterr().err
    assert "signal SIGKILL" in told
    assert "| so far" in told
    assert "exit code 2" in told
    assert "| no such thing" in told


CHILD = """
import signal, time
def save(number, frame):
    open(f"saved-{time.monotonic_ns()}", "w").write(str(number))
    raise SystemExit
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
open(f"ready-{time.monotonic_ns()}", "w").close()
time.sleep(60)
"""
PARENT = """
from experiments.workers import run_commands
try:
    run_commands([[open("child.py").read()]] * 3, 2)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_comes_once_to_each_child_and_no_more_are_begun(as_children, number):
    (as_children / "child.py").write_text(textwrap.dedent(CHILD))
    real = str(Path(workers.__file__).parents[1])  # children find the stand-in first
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {real!r})\n{PARENT}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(as_children)},
    )
    deadline = time.monotonic() + 60
    while len(list(as_children.glob("ready-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "stopped\n"
    saved = list(as_children.glob("saved-*"))
    assert [path.read_text() for path in saved] == [str(int(number))] * 2
    assert len(list(as_children.glob("ready-*"))) == 2
