"""Checkpoints by Orbax: written in the background, whole or not at all, and read back onto any mesh."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from model.errors import UserError
from train.distributed import barrier, from_first, is_first, process_index
from train.progress import say
from train.run_directory import write_atomically

SIZES = "sizes.json"


State = TypeVar("State", bound=Any)  # a named tuple with at least `step`, the number of updates, and `params`


def alone() -> ocp.options.MultiprocessingOptions:
    """Orbax without the other processes."""
    return ocp.options.MultiprocessingOptions(primary_host=process_index(), active_processes={process_index()})


class Checkpoints:
    """The checkpoints of one stage.

    Each holds three items: `params`, `rest` (all else of the state) and `meta` (the loop's own counts).
    """

    def __init__(self, directory: Path, keep: int | None = None) -> None:
        """Open the folder; `keep` is how many checkpoints stay, None to only read.

        All processes write together; who only reads, reads alone, and waits for no other.
        """
        self.directory = directory.absolute()
        self._writable = keep is not None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            read_only=keep is None,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            multiprocessing_options=alone() if keep is None else ocp.options.MultiprocessingOptions(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._record_sizes),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: Any, meta: Mapping[str, Any]) -> None:
        """Start saving; what fails shows here, at the next save or at `wait`.

        Raises:
            UserError: the checkpoint could not be written. Those before it are untouched.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(_rest(state)),
            meta=ocp.args.JsonSave({"step": step, **meta}),
        )
        try:
            self._manager.save(step, args=args)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._failed(error) from error

    def wait(self) -> None:
        """Wait until what was started is on disk, in every process."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error
        self._record_sizes()
        barrier()

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The newest state that can be read, laid out as `abstract`, and its meta; None if there is none."""
        items = {"params": ocp.args.StandardRestore(abstract.params), "rest": ocp.args.StandardRestore(_rest(abstract))}
        found = self._newest(items)
        if found is None:
            return None
        step, restored = found
        state = abstract._replace(
            step=jax.make_array_from_callback((), abstract.step.sharding, lambda _: np.asarray(step, np.int32)),
            params=restored["params"],
            **restored["rest"],
        )
        return state, restored["meta"]

    def restore_params(self, abstract_params: Any) -> tuple[Any, dict[str, Any]]:
        """The newest parameters that can be read, and their meta.

        Raises:
            UserError: there is no checkpoint, or none can be read.
        """
        found = self._newest({"params": ocp.args.StandardRestore(abstract_params)})
        if found is None:
            raise UserError(f"no checkpoint under {str(self.directory)!r} yet.")
        return found[1]["params"], found[1]["meta"]

    def _newest(self, items: dict[str, Any]) -> tuple[int, Any] | None:
        """Restore `items` and meta from the newest checkpoint that is whole."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        failures: list[tuple[int, str]] = []
        for step in steps:
            damage = from_first(partial(self._damage, step)) if self._writable else self._damage(step)
            if damage is None:
                try:
                    args = ocp.args.Composite(**items, meta=ocp.args.JsonRestore())
                    restored = self._manager.restore(step, args=args)
                except Exception as error:
                    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                        raise UserError(f"checkpoint {step} does not fit into this machine's memory.") from None
                    damage = _reason(error)
                else:
                    if failures and self._writable:
                        self._set_aside([failed for failed, _ in failures])
                    return step, restored
            failures.append((step, damage))
            say(f"checkpoint {step} cannot be read ({damage}); trying the one before.")
        if failures:
            raise UserError(
                f"none of the checkpoints under {str(self.directory)!r} can be read: {', '.join(map(str, steps))}. "
                "If none of them matters, delete that folder and the run starts anew."
            )
        return None

    def _record_sizes(self) -> None:
        """Note the size of every file of a finished checkpoint, so that one cut short is told from a whole one."""
        for step in self.directory.iterdir() if is_first() else ():
            if step.name.isdigit() and not (step / SIZES).exists():
                with contextlib.suppress(FileNotFoundError):  # Orbax may just be deleting an old one
                    sizes = {str(path.relative_to(step)): path.stat().st_size for path in _files(step)}
                    write_atomically(step / SIZES, json.dumps(sizes))

    def _damage(self, step: int) -> str | None:
        folder = self.directory / str(step)
        try:
            sizes = json.loads((folder / SIZES).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None  # killed right after Orbax finished it: whole, but not yet measured
        for name, size in sizes.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Move unreadable checkpoints out of the way, so that training can write theirs anew."""
        for step in steps if is_first() else ():
            target = self.directory.with_name(f"damaged-{step}")
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(self.directory / str(step), target)
        barrier()
        self._manager.reload()

    def _failed(self, error: Exception) -> UserError:
        good = [step for step in self._manager.all_steps() if self._damage(step) is None]
        kept = f"checkpoint {max(good)} is intact" if good else "there was none before it"
        return UserError(f"could not save a checkpoint under {str(self.directory)!r} ({_reason(error)}); {kept}.")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _rest(state: Any) -> dict[str, Any]:
    """What a checkpoint keeps beside the parameters; the step is its name."""
    return {name: value for name, value in state._asdict().items() if name not in ("step", "params")}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
