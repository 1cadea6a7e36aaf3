"""Data sets that other libraries download: TensorFlow Datasets and Hugging Face."""

import numpy as np

from gradax import _optional

from ._dataset import Dataset, Examples, make_dataset

#: Columns that hold the input and the label, in order of preference.
_INPUTS = ("image", "img", "pixels", "features", "x")
_LABELS = ("label", "labels", "fine_label", "character", "target", "y")
_TESTS = ("test", "validation", "valid")


def from_tfds(name: str) -> Dataset | None:
    """The set of that name in TensorFlow Datasets, ``None`` if it has none."""
    tfds = _optional.load("tensorflow_datasets", "hub", "load(..., source='tfds')")
    # The name of the set, before its configuration and version; listing asks no server.
    root = name.partition("/")[0].partition(":")[0]
    if root not in tfds.list_builders(with_community_datasets=False):
        return None
    # A batch of -1 is the whole split; supervised ones come as (input, label).
    splits = tfds.as_numpy(tfds.load(name, batch_size=-1, as_supervised=True))
    return _assemble(name, splits)


def from_huggingface(name: str) -> Dataset:
    """The set of that name on the Hugging Face hub."""
    datasets = _optional.load("datasets", "hub", "load(..., source='huggingface')")
    splits = datasets.load_dataset(name)
    wanted = ("train", *_TESTS)
    return _assemble(name, {s: _columns(name, splits[s]) for s in wanted if s in splits})


def _assemble(name: str, splits: dict[str, Examples]) -> Dataset:
    if "train" not in splits:
        raise ValueError(f"load: {name!r} must have a train split, got {sorted(splits)}.")
    test = next((splits[split] for split in _TESTS if split in splits), None)
    return make_dataset(f"load({name!r})", splits["train"], test)


def _columns(name: str, table) -> Examples:
    chosen = [
        next((column for column in candidates if column in table.column_names), None)
        for candidates in (_INPUTS, _LABELS)
    ]
    if None in chosen:
        raise ValueError(
            f"load: {name!r} must have a column of {_INPUTS} and one of {_LABELS}, "
            f"got {table.column_names}."
        )
    columns = table.select_columns(chosen).with_format("numpy")[:]
    x, y = (np.asarray(columns[column]) for column in chosen)
    return x, y
