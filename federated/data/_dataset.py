"""The one form in which every loader returns a data set."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._labels import checked_labels

#: Part of a set without a test split that is held out, and the seed of that choice.
_TEST_FRACTION, _SPLIT_SEED = 0.2, 0

Examples = tuple[np.ndarray, np.ndarray]


class Dataset(NamedTuple):
    """Training and test examples of a classification task.

    Attributes:
      train: ``{"x": float32[n, ...], "y": int32[n]}``, inputs scaled to ``[0, 1]``.
      test: the same, never seen in training.
      num_classes: labels lie in ``[0, num_classes)``.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int


def make_dataset(who: str, train: Examples, test: Examples | None = None) -> Dataset:
    """Checks, splits and scales; ``who`` is named in errors."""
    train = _checked(who, *train)
    test = _checked(who, *test) if test is not None else None
    if test is None:
        train, test = _split(*train)
    low, span = _range(train[0])
    num_classes = int(max(train[1].max(), test[1].max())) + 1
    return Dataset(_pack(*train, low, span), _pack(*test, low, span), num_classes)


def _checked(who: str, x: np.ndarray, y: np.ndarray) -> Examples:
    x, y = np.asarray(x), checked_labels(who, np.asarray(y))
    if len(x) != len(y):
        raise ValueError(f"{who}: x and y must be of equal length, got {len(x)} and {len(y)}.")
    if not (np.issubdtype(x.dtype, np.number) and np.isfinite(x).all()):
        raise ValueError(f"{who}: x must hold finite numbers of one shape, got {x.dtype}.")
    grey = x.ndim == 4 and x.shape[-1] == 1
    return (x[..., 0] if grey else x), y


def _split(x: np.ndarray, y: np.ndarray) -> tuple[Examples, Examples]:
    """The same held-out examples on every machine and in every run."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(y))
    test, train = np.split(order, [int(np.ceil(_TEST_FRACTION * len(y)))])
    return (x[train], y[train]), (x[test], y[test])


def _range(x: np.ndarray) -> tuple[ArrayLike, ArrayLike]:
    """What maps to 0, and the distance to what maps to 1, known from training inputs alone."""
    if x.dtype == np.uint8:
        return 0.0, 255.0
    low, high = x.min(), x.max()
    if x.ndim == 2 and not (low >= 0 and high <= 1):  # a table: every column for itself
        low, high = x.min(axis=0), x.max(axis=0)
    elif low >= 0 and high <= 1:
        return 0.0, 1.0
    span = np.subtract(high, low, dtype=np.float64)
    return low, np.where(span > 0, span, 1.0)


def _pack(x, y, low, span):
    scaled = np.clip((x - low) / span, 0.0, 1.0)
    return {"x": scaled.astype(np.float32), "y": y.astype(np.int32)}
