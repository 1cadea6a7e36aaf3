"""adaptive_batch_size: grows the batch just enough to keep the gradient's relative noise down."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax.schedules._protocols import Controller

from ._statistics import (
    ADADAGRAD,
    GradientStats,
    coordinate_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
)


class BatchSizeState(NamedTuple):
    """State of :func:`adaptive_batch_size`.

    Attributes:
      batch_size: ``int32[]``, the batch size to use next.
      count: ``int32[]``, number of updates.
      statistic: ``float32[]``, the batch size that the latest test asked for; NaN before it.
      due: ``bool[]``, whether the next update tests; if not, it does not read its statistics,
        which need not be computed then.
    """

    batch_size: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    statistic: jax.Array
    due: jax.Array


@catalogue.register(
    "controller",
    ADADAGRAD,
    example={"initial_batch_size": 8, "max_batch_size": 1024, "multiple_of": 8},
)
def adaptive_batch_size(
    test: str = "norm",
    eta: jax.typing.ArrayLike = 0.1,
    theta: jax.typing.ArrayLike = 0.5,
    nu: jax.typing.ArrayLike = 1.0,
    *,
    initial_batch_size: int,
    max_batch_size: int,
    multiple_of: int = 1,
    every: int = 1,
    max_growth: jax.typing.ArrayLike | None = None,
) -> Controller:
    r"""Sets the batch size by a test on the gradients of the batch before; it never falls.

    With the batch size :math:`q` that the test asks for,

    .. math::
        b_{k+1} = \min \bigl( b_{max}, \lceil \max(b_k, q) \rceil \bigr) .

    With AdaGrad or AdaGrad-Norm (:func:`~gradax.optimizers.adagrad_norm`) and the norm test this
    is AdAdaGrad; it works beside any optimizer. ``gradax.make_batch_step(..., controller=...)``
    runs it inside the training step. Scale the learning rate yourself, if at all, by
    :func:`batch_scaled_learning_rate`.

    Once ``max_batch_size`` is reached, or between tests, ``state.due`` is false and no
    statistics are needed. A statistic that is NaN changes nothing, an infinite one asks for the
    largest batch.

    Args:
      test: ``"norm"`` (:func:`norm_test`), ``"inner_product"`` (:func:`inner_product_test`),
        ``"augmented"`` (the larger of that and :func:`orthogonality_test`), or ``"coordinate"``
        (:func:`coordinate_test`). Static.
      eta: :math:`\eta` of the norm and coordinate tests; the smaller, the larger the batches.
      theta: :math:`\theta` of the inner-product and augmented tests.
      nu: :math:`\nu` of the augmented test.
      initial_batch_size: the first batch size, at least 2. Static.
      max_batch_size: the largest. Static.
      multiple_of: batch sizes are rounded up to multiples of it, such as the size of
        micro-batches; the initial and the largest one must be multiples. Static.
      every: number of updates from one test to the next; the first update tests. Static.
      max_growth: largest factor by which one update may grow the batch, above 1, before
        rounding up; ``None`` for any. Whether it is given is static.

    Returns:
      A :class:`Controller` with ``init() -> BatchSizeState`` and
      ``update(state, stats: GradientStats) -> BatchSizeState``.

    Raises:
      ValueError: if an argument is out of its range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> controller = schedules.adaptive_batch_size(
      ...     eta=0.5, initial_batch_size=4, max_batch_size=64
      ... )
      >>> state = controller.init()
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> state = controller.update(state, schedules.gradient_stats(grads))
      >>> print(state.batch_size)
      5

    References:
      Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods
      <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    who = "adaptive_batch_size"
    tests = {
        "norm": lambda stats: norm_test(stats, eta),
        "inner_product": lambda stats: inner_product_test(stats, theta),
        "augmented": lambda stats: jnp.maximum(
            inner_product_test(stats, theta), orthogonality_test(stats, nu)
        ),
        "coordinate": lambda stats: coordinate_test(stats, eta),
    }
    _validate.one_of(who, "test", test, tests)
    for name, value in (("eta", eta), ("theta", theta), ("nu", nu)):
        _validate.interval(who, name, value, "(0, inf)")
    _check_sizes(who, initial_batch_size, max_batch_size, multiple_of)
    _validate.integer(who, "every", every, at_least=1)
    _validate.interval(who, "max_growth", max_growth, "(1, inf)")

    def wanted(batch_size, statistic):
        # Compared as floats, chosen as integers: the statistic may exceed all integers.
        asked = jnp.ceil(statistic).astype(jnp.int32)
        size = jnp.where(statistic >= max_batch_size, max_batch_size, asked)
        if max_growth is not None:
            size = jnp.where(size > max_growth * batch_size, _ceil(max_growth * batch_size), size)
        size = jnp.maximum(size, batch_size)
        rounded = ((size - 1) // multiple_of + 1) * multiple_of
        return jnp.minimum(rounded, max_batch_size).astype(jnp.int32)

    def init():
        return BatchSizeState(
            batch_size=jnp.asarray(initial_batch_size, jnp.int32),
            count=jnp.zeros([], jnp.int32),
            statistic=jnp.full([], jnp.nan, jnp.float32),
            due=jnp.asarray(initial_batch_size < max_batch_size),
        )

    def update(state: BatchSizeState, stats: GradientStats) -> BatchSizeState:
        statistic = tests[test](stats)
        tested = state.due & ~jnp.isnan(statistic)
        batch_size = jnp.where(tested, wanted(state.batch_size, statistic), state.batch_size)
        count = optax.safe_increment(state.count)
        return BatchSizeState(
            batch_size=batch_size,
            count=count,
            statistic=jnp.where(state.due, statistic.astype(jnp.float32), state.statistic),
            due=(count % every == 0) & (batch_size < max_batch_size),
        )

    return Controller(init, update)


def _ceil(value):
    return jnp.ceil(value).astype(jnp.int32)


def _check_sizes(who, initial_batch_size, max_batch_size, multiple_of):
    _validate.integer(who, "multiple_of", multiple_of, at_least=1)
    _validate.integer(who, "initial_batch_size", initial_batch_size, at_least=2)
    _validate.integer(who, "max_batch_size", max_batch_size, at_least=initial_batch_size)
    for name, size in (("initial", initial_batch_size), ("max", max_batch_size)):
        if size % multiple_of:
            raise ValueError(
                f"{who}: {name}_batch_size must be a multiple of {multiple_of}, got {size}."
            )
