"""Coresets: a few weighted examples whose gradients add up to nearly those of all examples."""

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _keys, _validate, catalogue

_CRAIG = catalogue.Paper(
    title="Coresets for Data-efficient Training of Machine Learning Models",
    authors="Mirzasoleiman et al.",
    year=2019,
    arxiv="1906.01827",
)
_AUGMENTATION = catalogue.Paper(
    title="Data-Efficient Augmentation for Training Neural Networks",
    authors="Liu and Mirzasoleiman",
    year=2022,
    arxiv="2210.08363",
)

#: Similarities of one class are kept whole up to this many bytes, else computed as needed.
_WHOLE = 2**29
#: Entries of a block of similarities: it should fit into a cache.
_BLOCK = 2**19
#: Points that are this close, relative to their norms and squared, are the same point: the
#: product that gives the distances is not exact, and features in float32 say no more either.
_SAME = 2.0**-46

#: Candidates -> their similarities to all points, one row each, in an array of their own.
_Rows = Callable[[np.ndarray], np.ndarray]
#: Candidates, cover -> by how much each would raise the sum of the cover.
_Evaluate = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Candidates that are left -> some of them, in order.
_Draw = Callable[[np.ndarray], np.ndarray]


class Coreset(NamedTuple):
    """Examples that stand for all, in the order in which they were chosen.

    NumPy arrays: they choose rows of data that lie on the host.

    Attributes:
      indices: ``int64[budget]``, rows of the chosen examples; class after class, if there are
        classes.
      weights: ``int64[budget]``, how many examples each stands for; they add up to all.
      gains: ``float64[budget]``, by how much each raised the objective when it was chosen. In a
        class they never grow, unless candidates were drawn at random.
    """

    indices: np.ndarray
    weights: np.ndarray
    gains: np.ndarray

    @property
    def loss_weights(self) -> np.ndarray:
        """The weights over their mean, ``float32[budget]``, for ``mean(weight * loss)``."""
        return (self.weights / self.weights.mean()).astype(np.float32)


@catalogue.register(
    "function", _CRAIG, example={"similarity": ((2.0, 1.0), (1.0, 2.0)), "budget": 1}
)
def facility_location(
    similarity: jax.typing.ArrayLike,
    budget: int,
    *,
    sample_size: int | None = None,
    key: jax.typing.ArrayLike | None = None,
) -> Coreset:
    r"""Chooses points that are similar to all others, one after the other.

    Greedy maximisation of

    .. math::
        F(A) = \sum_i \max\bigl(0,\, \max_{j \in A} S_{ij}\bigr),

    which reaches at least :math:`1 - 1/e` of the best value. Of equally good candidates the one
    with the smallest index is taken. Candidates wait in a queue, ordered by what they last would
    have gained; as that can only fall, most are never looked at again, and the result is still
    that of looking at all of them. Similarities are rounded to multiples of a power of two,
    :math:`2^{-51} n \max |S|` or less, with which every sum is exact and ties are ties.

    It runs on the host, with one copy of the matrix in float64.

    Args:
      similarity: ``[n, n]``, :math:`S_{ij}`, what candidate j does for point i.
      budget: how many to choose, from 1 to n.
      sample_size: candidates drawn at each choice, the best of which is taken; ``None`` for all
        of them. With :math:`(n / k) \log(1 / \epsilon)` for a budget of k the value reached is
        :math:`1 - 1/e - \epsilon` of the best or more, on average.
      key: a JAX key or a seed for the draws; with ``sample_size`` only.

    Returns:
      A :class:`Coreset`. A chosen point stands for itself and for the points that are most
      similar to it, the first chosen one if several are.

    Raises:
      ValueError: if the matrix is not square or not finite, or ``budget`` or ``sample_size`` out
        of range; if only one of ``sample_size`` and ``key`` is given.

    Examples:
      >>> from gradax import schedules
      >>> coreset = schedules.facility_location([[3, 2, 0], [2, 3, 1], [0, 1, 3]], budget=2)
      >>> print(coreset.indices, coreset.weights, coreset.gains)
      [1 2] [2 1] [6. 2.]

    References:
      Mirzasoleiman et al., `Coresets for Data-efficient Training of Machine Learning Models
      <https://arxiv.org/abs/1906.01827>`_, 2019; Minoux, `Accelerated greedy algorithms for
      maximizing submodular set functions <https://doi.org/10.1007/BFb0006528>`_, 1978;
      Mirzasoleiman et al., `Lazier Than Lazy Greedy <https://arxiv.org/abs/1409.7938>`_, 2014.
    """
    who = "facility_location"
    matrix = _numbers(who, "similarity", similarity)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{who}: similarity must be a square matrix, got shape {matrix.shape}.")
    size = len(matrix)
    _check_budget(who, budget, size)
    draw = _draws(who, sample_size, key)
    rows = np.array(matrix.T, np.float64, order="C")
    _round(rows, size * float(np.abs(rows).max()))
    return _greedy(rows.__getitem__, size, budget, 0.0, draw)


@catalogue.register(
    "function", _AUGMENTATION, example={"features": ((0.0,), (1.0,), (5.0,)), "budget": 2}
)
def gradient_coreset(
    features: jax.typing.ArrayLike,
    budget: int,
    labels: Any = None,
    similarity: Literal["max_minus", "exp"] = "max_minus",
    *,
    allocation: Literal["equal", "proportional"] = "equal",
    sample_size: int | None = None,
    key: jax.typing.ArrayLike | None = None,
) -> Coreset:
    r"""Chooses and weights examples whose gradients stand for those of all examples.

    The medoids of the gradients, found by :func:`facility_location` with

    .. math::
        S_{ij} = \max_{kl} d_{kl} - d_{ij} \quad\text{or}\quad S_{ij} = \exp(-d_{ij} / m),
        \qquad d_{ij} = \|x_i - x_j\|_2,

    and :math:`m` features; the sum of their weighted gradients is off by no more than
    :math:`\sum_i \min_{j \in A} d_{ij}`. Choose within classes wherever there are labels:
    similarities between classes say little, and cost most. Train on
    ``mean(coreset.loss_weights * losses)``, and choose anew every few epochs.

    It runs on the host in float64. A class of n examples costs :math:`n^2` distances, and rows
    of the matrix over and over; up to 8,192 examples the matrix is kept, in at most half a
    gigabyte, beyond that rows are computed as they are needed. Distances are rounded to eleven
    digits of twice the largest norm, from the mean, so that duplicates and mirror images tie
    exactly; distances below 1e-7 of the norms of the two points count as zero.

    Args:
      features: ``[n, ...]``, real numbers that describe the gradient of each example, such as
        those of :func:`last_layer_gradients`.
      budget: how many to choose, from 1 to n.
      labels: ``[n]``, the class of each example, numbers or names; ``None`` for one class.
      similarity: ``"max_minus"`` is what the theory is about, ``"exp"`` what the authors' code
        does.
      allocation: ``"equal"`` shares the budget equally among classes, and what small ones cannot
        use among the others, the first classes getting one more if it does not come out even;
        ``"proportional"`` shares it by their sizes, with one for each class at least.
      sample_size: candidates drawn at each choice in a class, for classes that are too large
        otherwise; see :func:`facility_location`. Then ``max_minus`` uses an upper limit of the
        largest distance, which changes no choice and only a class's first gain.
      key: a JAX key or a seed for the draws; with ``sample_size`` only.

    Returns:
      A :class:`Coreset`, class after class in the order of sorted labels. Weights add up to n,
      unless the budget is smaller than the number of classes: then some classes have no part.

    Raises:
      ValueError: if features are not finite, labels are not as many as examples, ``budget`` or
        ``sample_size`` is out of range, an option is unknown, or only one of ``sample_size`` and
        ``key`` is given.

    Examples:
      >>> from gradax import schedules
      >>> features = [[0.0], [1.0], [2.0], [9.0], [10.0]]
      >>> coreset = schedules.gradient_coreset(features, budget=2)
      >>> print(coreset.indices, coreset.weights, coreset.loss_weights)
      [2 3] [3 2] [1.2 0.8]

    References:
      Liu and Mirzasoleiman, `Data-Efficient Augmentation for Training Neural Networks
      <https://arxiv.org/abs/2210.08363>`_, 2022; Mirzasoleiman et al., `Coresets for
      Data-efficient Training of Machine Learning Models <https://arxiv.org/abs/1906.01827>`_,
      2019.
    """
    who = "gradient_coreset"
    _validate.one_of(who, "similarity", similarity, ("max_minus", "exp"))
    _validate.one_of(who, "allocation", allocation, ("equal", "proportional"))
    points = _numbers(who, "features", features)
    if points.ndim < 1:
        raise ValueError(f"{who}: features must have an axis of examples, got shape ().")
    _check_budget(who, budget, len(points))
    draw = _draws(who, sample_size, key)
    members = _members(who, labels, len(points))
    sizes = np.array([len(one) for one in members])
    share = {"equal": _equal, "proportional": _proportional}[allocation]
    parts = []
    for own, count in zip(members, share(sizes, budget), strict=True):
        if count:
            part = _one_class(points[own], int(count), similarity, draw)
            parts.append(part._replace(indices=own[part.indices]))
    return Coreset(*(np.concatenate(field) for field in zip(*parts, strict=True)))


@catalogue.register(
    "function", _AUGMENTATION, example={"logits": np.array([[0.0, 1.0]]), "labels": np.array([0])}
)
def last_layer_gradients(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    embedding: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Gradients of every example's cross entropy with respect to the last layer.

    They are the bulk of how gradients differ between examples, and need no backward pass. With
    the last layer's inputs :math:`h` its logits :math:`W^\top h + b` have the gradients

    .. math::
        \nabla_b = \operatorname{softmax}(z) - e_y, \qquad
        \nabla_W = h \,(\operatorname{softmax}(z) - e_y)^\top.

    Args:
      logits: ``[..., classes]``, :math:`z`.
      labels: ``int[...]``, the class :math:`y` of each example.
      embedding: ``[..., inputs]``, :math:`h`; ``None`` for the gradient of the bias alone.

    Returns:
      ``[..., classes]``, or ``[..., inputs * classes]``: the gradient of the kernel of a Flax
      ``Linear`` or ``Dense``, flattened. The dtype is that of the logits, or of logits and
      embedding together.

    Raises:
      ValueError: if shapes do not fit, labels are no integers, or one that is not traced is no
        class.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> logits = jnp.zeros((2, 4))
      >>> print(schedules.last_layer_gradients(logits, jnp.array([2, 0])))
      [[ 0.25  0.25 -0.75  0.25]
       [-0.75  0.25  0.25  0.25]]

    References:
      Liu and Mirzasoleiman, `Data-Efficient Augmentation for Training Neural Networks
      <https://arxiv.org/abs/2210.08363>`_, 2022; Katharopoulos and Fleuret, `Not All Samples Are
      Created Equal <https://arxiv.org/abs/1803.00942>`_, 2018.
    """
    who = "last_layer_gradients"
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"{who}: labels must have the shape of logits without the last axis, got "
            f"{labels.shape} and {logits.shape}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{who}: labels must be integers, got {labels.dtype}.")
    classes = logits.shape[-1]
    if not isinstance(labels, jax.core.Tracer) and labels.size:
        for extreme in (int(labels.min()), int(labels.max())):
            _validate.interval(who, "labels", extreme, f"[0, {classes})")
    residual = jax.nn.softmax(logits) - jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    if embedding is None:
        return residual
    embedding = jnp.asarray(embedding)
    if embedding.ndim < 1 or embedding.shape[:-1] != labels.shape:
        raise ValueError(
            f"{who}: embedding must have one vector for each label, got the shapes "
            f"{embedding.shape} and {labels.shape}."
        )
    outer = embedding[..., :, None] * residual[..., None, :]
    return outer.reshape(*labels.shape, -1)


def _numbers(who: str, name: str, values: Any) -> np.ndarray:
    """Finite real numbers on the host, in a dtype that NumPy computes with."""
    if isinstance(values, jax.core.Tracer):
        raise ValueError(f"{who}: {name} must not be traced; choose outside of jit.")
    array = np.asarray(values)
    if jnp.iscomplexobj(array):
        raise ValueError(f"{who}: {name} must be real, got {array.dtype}.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{who}: {name} must be finite, got NaN or infinity.")
    return array


def _check_budget(who: str, budget: int, size: int) -> None:
    _validate.integer(who, "budget", budget, at_least=1)
    if budget > size:
        raise ValueError(f"{who}: budget must not exceed the {size} points, got {budget}.")


def _draws(who: str, sample_size: int | None, key: Any) -> _Draw | None:
    """What draws candidates out of those that are left, or None where all are looked at."""
    if sample_size is None:
        if key is not None:
            raise ValueError(f"{who}: key must be None without sample_size, got {key!r}.")
        return None
    _validate.integer(who, "sample_size", sample_size, at_least=1)
    rng = np.random.default_rng(
        np.asarray(jax.random.bits(_keys.as_key(who, key), (4,), jnp.uint32))
    )

    def draw(left: np.ndarray) -> np.ndarray:
        return np.sort(rng.choice(left, min(sample_size, len(left)), replace=False))

    return draw


def _members(who: str, labels: Any, size: int) -> list[np.ndarray]:
    """Rows of each class, in the order of sorted labels."""
    if labels is None:
        return [np.arange(size)]
    labels = np.asarray(labels)
    if labels.shape != (size,):
        raise ValueError(
            f"{who}: labels must be as many as the {size} examples, got the shape {labels.shape}."
        )
    _, inverse = np.unique(labels, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.cumsum(np.bincount(inverse))[:-1])


def _equal(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Equal shares; what does not fit into a class goes to those with room."""
    counts = np.zeros_like(sizes)
    while left := budget - counts.sum():
        room = counts < sizes
        share, extra = divmod(left, room.sum())
        wanted = counts + room * (share + (np.cumsum(room) <= extra))
        counts = np.minimum(wanted, sizes)
    return counts


def _proportional(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Shares by size beyond one for each class, if the budget has that many."""
    least = int(budget >= len(sizes))
    room, budget = sizes - least, budget - least * len(sizes)
    # Rounded down; what is left goes to those that lost most.
    counts, lost = np.divmod(room * budget, max(room.sum(), 1))
    counts[np.argsort(-lost, kind="stable")[: budget - counts.sum()]] += 1
    return least + counts


def _round(values: np.ndarray, total: float) -> np.ndarray:
    """Rounds in place, to multiples of a unit with which sums of size ``total`` are exact."""
    # Adding a number of this size shifts all digits below the unit out.
    shift = math.ldexp(1.5, math.frexp(total)[1])
    values += shift
    values -= shift
    return values


def _one_class(points: np.ndarray, budget: int, similarity: str, draw: _Draw | None) -> Coreset:
    """Chooses within one class."""
    size = len(points)
    rows, floor = _similarities(points.reshape(size, -1).astype(np.float64), similarity)
    if draw is not None:
        return _greedy(rows, size, budget, floor, draw)
    if 8 * size * size <= _WHOLE:
        matrix = np.empty((size, size))
        for batch in _batches(size, size):
            matrix[batch] = rows(batch)
        rows = matrix.__getitem__
    return _greedy(rows, size, budget, None if similarity == "max_minus" else floor)


def _similarities(points: np.ndarray, kind: str) -> tuple[_Rows, float]:
    """Rows of similarities up to a constant, and a value that none falls below."""
    size, width = points.shape
    points = points - points.mean(axis=0)
    squares = np.einsum("ij,ij->i", points, points)
    largest = 2 * math.sqrt(squares.max())
    squares *= 1 - _SAME
    room = max(size, 2**16)

    def rows(batch: np.ndarray) -> np.ndarray:
        block = points[batch] @ points.T
        block *= -2
        block += squares
        block += squares[batch, None]
        np.maximum(block, 0, out=block)
        np.sqrt(block, out=block)
        if kind == "max_minus":
            return _round(np.negative(block, out=block), room * largest)
        block *= -1 / max(width, 1)
        return _round(np.exp(block, out=block), room)

    if kind == "exp":
        return rows, 0.0
    return rows, float(_round(np.array(-largest), room * largest))


def _greedy(
    rows: _Rows, size: int, budget: int, floor: float | None, draw: _Draw | None = None
) -> Coreset:
    """Chooses one candidate after the other; without a floor it is the least similarity."""

    def evaluate(batch: np.ndarray, cover: np.ndarray) -> np.ndarray:
        block = rows(batch)
        block -= cover
        return np.maximum(block, 0, out=block).sum(axis=1)

    chooser: _Lazy | _Drawn
    if draw is None:
        totals, floor = _totals(rows, size, floor)
        chooser = _Lazy(evaluate, totals - size * floor)
    else:
        chooser = _Drawn(evaluate, size, draw)
    cover = np.full(size, floor)
    nearest, owner = np.full(size, -np.inf), np.zeros(size, np.int64)
    indices, gains = np.empty(budget, np.int64), np.empty(budget)
    for number in range(budget):
        gains[number], indices[number] = chooser.choose(cover)
        row = rows(indices[number : number + 1])[0]
        owner[row > nearest] = number
        np.maximum(nearest, row, out=nearest)
        np.maximum(cover, row, out=cover)
    owner[indices] = np.arange(budget)
    return Coreset(indices, np.bincount(owner, minlength=budget), gains)


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    """The candidates 0 to ``count``, so many at a time as a block has room for."""
    step = max(1, _BLOCK // size)
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))


def _totals(rows: _Rows, size: int, floor: float | None) -> tuple[np.ndarray, float]:
    """Sums of each candidate's similarities, none below the floor, and the floor."""
    totals, least = np.empty(size), math.inf
    for batch in _batches(size, size):
        block = rows(batch)
        least = min(least, float(block.min()))
        if floor is not None:
            np.maximum(block, floor, out=block)
        totals[batch] = block.sum(axis=1)
    return totals, least if floor is None else floor


class _Lazy:
    """All candidates in a queue, ordered by upper bounds of what they gain, then by index.

    Args:
      evaluate: computes gains.
      gains: of all candidates, at the first choice.
    """

    def __init__(self, evaluate: _Evaluate, gains: np.ndarray):
        self._evaluate, self._size, self._round = evaluate, len(gains), 0
        self._queue = [(-gain, index, 0) for index, gain in enumerate(gains.tolist())]
        heapq.heapify(self._queue)

    def choose(self, cover: np.ndarray) -> tuple[float, int]:
        """Takes the best candidate; returns its gain and its index."""
        queue, now, limit = self._queue, self._round, 1
        while queue[0][2] < now:
            batch: list[int] = []
            while queue and queue[0][2] < now and len(batch) < limit:
                batch.append(heapq.heappop(queue)[1])
            gains = self._evaluate(np.array(batch), cover).tolist()
            for index, gain in zip(batch, gains, strict=True):
                heapq.heappush(queue, (-gain, index, now))
            # Where one bound was too high many are, and a block costs less than its rows.
            limit = min(2 * limit, max(1, _BLOCK // self._size))
        self._round += 1
        gain, index, _ = heapq.heappop(queue)
        return -gain, index


class _Drawn:
    """A few candidates are drawn at each choice.

    Args:
      evaluate: computes gains.
      size: number of candidates.
      draw: draws from those that are left.
    """

    def __init__(self, evaluate: _Evaluate, size: int, draw: _Draw):
        self._evaluate, self._draw = evaluate, draw
        self._left = np.ones(size, bool)

    def choose(self, cover: np.ndarray) -> tuple[float, int]:
        """Takes the best of those that are drawn; returns its gain and its index."""
        drawn = self._draw(np.flatnonzero(self._left))
        batches = _batches(len(drawn), len(cover))
        gains = np.concatenate([self._evaluate(drawn[batch], cover) for batch in batches])
        best = int(np.argmax(gains))
        self._left[drawn[best]] = False
        return float(gains[best]), int(drawn[best])
