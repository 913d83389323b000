"""Datasets that TFDS finds prepared in ArrayRecord, or can prepare because TensorFlow is there."""

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import UserError
from train.progress import say


class Prepared(NamedTuple):
    """A dataset's data sources by split, its features, and a key that changes when it is prepared anew."""

    key: str
    splits: dict[str, Any]
    features: dict[str, Any]


def open_prepared(spec: str, name: str) -> Prepared:
    """Open the dataset NAME[/CONFIG][:VERSION].

    Raises:
        UserError: it is unknown, or not in ArrayRecord, or not prepared where there is no TensorFlow to do it.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    tensorflow = importlib.util.find_spec("tensorflow") is not None
    root = os.environ.get("TFDS_DATA_DIR", str(Path("~/tensorflow_datasets").expanduser()))
    try:
        try:
            builder = tfds.builder(name, data_dir=root)
        except tfds.core.DatasetNotFoundError:
            hint = "" if tensorflow else " Some of TFDS's own (c4, wiki40b, ...) are known only where TensorFlow is: "
            hint += "" if tensorflow else "pip install 'narrador[tfds-prepare]'."
            raise UserError(f"source {spec!r}: TFDS finds no dataset {name!r} under {root}.{hint}") from None
        except (AssertionError, ValueError) as error:  # no such version, config or name
            raise UserError(f"source {spec!r}: {str(error).splitlines()[0]}") from None
        if not Path(builder.data_dir).exists():
            if not tensorflow:
                raise ImportError("there is no TensorFlow")
            builder = tfds.builder(name, data_dir=root, file_format="array_record")
            say(f"preparing {spec} under {builder.data_dir}")
            builder.download_and_prepare()
        sources = {split: builder.as_data_source(split=split) for split in builder.info.splits}
    except ImportError as error:
        raise UserError(
            f"source {spec!r} is not prepared under {root}, and preparing it needs TensorFlow ({error}): "
            "pip install 'narrador[tfds-prepare]'. Reading it afterwards does not."
        ) from None
    except NotImplementedError as error:
        raise UserError(f"source {spec!r} is not in ArrayRecord, so it cannot be read at random: {error}") from None
    # The info tells sizes and counts only; the files' times tell a dataset that was prepared again.
    key = (Path(builder.data_dir) / "dataset_info.json").read_text()
    files = sorted(Path(builder.data_dir).glob("*.array_record*"))
    key += str([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    return Prepared(key, sources, dict(builder.info.features or {}))
