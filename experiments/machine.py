"""Getting JAX ready: device count on CPU, and compiled programs kept between runs."""

import importlib.metadata
import inspect
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.cache import cache_root

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "tokenizers", "numpy")
SHORTEST_KEPT = 0.0  # seconds of compiling; a start has dozens of small programs
# What `narrador launch` tells the processes that it starts.
COORDINATOR, PROCESS, LAUNCHED = "NARRADOR_COORDINATOR", "NARRADOR_PROCESS", "NARRADOR_LAUNCHED"


def prepare_jax(cpu_devices: int | None = None) -> None:
    """Set JAX up; call before anything touches a device."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's remarks on loading compiled programs
    import jax

    if cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_KEPT)
    # Orbax logs a traceback beside every error it raises; we tell the error once, in our words.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _quiet_about_closed_loops


def _quiet_about_closed_loops(unraisable: Any) -> None:
    """After a failed save or restore, TensorStore's threads still report to what Orbax has closed or dropped."""
    if str(unraisable.exc_value) != "Event loop is closed" and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


def versions() -> dict[str, Any]:
    """What this process runs: versions and revision."""
    installed: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return {
        "python": platform.python_version(),
        "packages": installed,
        "revision": _revision(),
    }


def session() -> dict[str, Any]:
    """What this process works with: versions, revision, devices and the command. Touches the devices."""
    import jax

    return {
        **versions(),
        "machine": platform.machine(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "command": command(sys.argv[1:]),
    }


def command(arguments: Sequence[str]) -> list[str]:
    """The command line that came to these arguments, `narrador launch` included."""
    launched = os.environ.get(LAUNCHED)
    return ["narrador", *(("launch", launched) if launched else ()), *arguments]


def _revision() -> str | None:
    """The git revision of this code, with a + where it was changed since."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return None
    return revision.stdout.strip() or None
