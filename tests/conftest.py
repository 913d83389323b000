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


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the whole session, so that what several tests need is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "NARRADOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("NARRADOR_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"
