"""Fixtures of all tests. No test reads or writes the user's own cache."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

import tests.shapes  # noqa: F401  the hook below looks it up by name

# Every annotated shape and type is checked against what really passes through.
jaxtyping.install_import_hook(["model", "train", "rlhf"], "tests.shapes.check")
# Two simulated devices; tests that need one take the first.
jax.config.update("jax_num_cpu_devices", 2)
# Most of a test's time is compiling: less of it for each program, here and in the commands that tests start,
QUICK = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # later ones know no other emitters, and end the process at the name
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*QUICK, os.environ.get("XLA_FLAGS", "")])
# and none for a program that another test has compiled.
SHORTEST_KEPT = 0.3  # seconds: most small programs of these processes never come again
jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_KEPT)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the whole session and all its processes, so that what several tests need is made once."""
    folder = tmp_path_factory.getbasetemp()
    cache = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "NARRADOR_CACHE", str(cache))
        patch.setattr("experiments.machine.SHORTEST_KEPT", SHORTEST_KEPT)
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("NARRADOR_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"
