"""How noisy is the gradient of a batch? Statistics of a sample of gradients, and tests on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue
from gradax.federated import axis

ADADAGRAD = catalogue.Paper(
    title="AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
    authors="Lau et al.",
    year=2024,
    arxiv="2402.11215",
)
_NORM_TEST = catalogue.Paper(
    title="Sample Size Selection in Optimization Methods for Machine Learning",
    authors="Byrd et al.",
    year=2012,
    url="https://doi.org/10.1007/s10107-012-0572-5",
)
_INNER_PRODUCT_TEST = catalogue.Paper(
    title="Adaptive Sampling Strategies for Stochastic Optimization",
    authors="Bollapragada et al.",
    year=2017,
    arxiv="1710.11258",
)
_NOISE_SCALE = catalogue.Paper(
    title="An Empirical Model of Large-Batch Training",
    authors="McCandlish et al.",
    year=2018,
    arxiv="1812.06162",
)


class GradientStats(NamedTuple):
    r"""What a sample of gradients :math:`g_1, \dots, g_n` says about the noise of their mean.

    Everything is in float32 at least, and vectors are those of all leaves together.

    Attributes:
      mean: like params, the mean :math:`\bar g`.
      sum_sq_diff: like params and real, :math:`\sum_i |g_i - \bar g|^2` of each coordinate.
      inner_product_variance: scalar, :math:`\sum_i \langle g_i - \bar g, \bar g \rangle^2
        / (n - 1)`.
      sample_size: ``int32[]``, :math:`n`.
    """

    mean: optax.Updates
    sum_sq_diff: optax.Updates
    inner_product_variance: jax.Array
    sample_size: jax.Array


# Arithmetic --------------------------------------------------------------------------------


def widened(tree: Any) -> Any:
    """Casts leaves to single precision, unless they are wider."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def squared(leaf: jax.Array) -> jax.Array:
    """Squares of absolute values, real."""
    return jnp.real(leaf * jnp.conj(leaf))


def inner_product(a: Any, b: Any, batch_axes: int = 0) -> jax.Array:
    """Real inner products over all leaves, of ``a`` with leading batch axes with ``b``."""
    of_leaf = lambda x, y: jnp.sum(jnp.real(jnp.conj(x) * y), tuple(range(batch_axes, x.ndim)))
    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.float32(0))


def _total(tree: Any) -> jax.Array:
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(0))


def _ratio(noise: jax.Array, signal: jax.Array) -> jax.Array:
    """No noise is none whatever the signal; noise without signal is infinite."""
    return jnp.where(noise == 0, jnp.zeros_like(noise), noise / signal)


def stats_of_means(
    mean: Any,
    squares: Any,
    inner_products: jax.Array,
    num_workers: jax.typing.ArrayLike,
    local_batch_size: jax.typing.ArrayLike,
) -> GradientStats:
    """Statistics of all examples, estimated from the mean gradients of workers.

    Args:
      mean: mean of the workers' mean gradients.
      squares: sums of their squared distances from it, coordinate by coordinate.
      inner_products: sum of the squares of the distances' inner products with the mean.
      num_workers: how many there are, at least 2.
      local_batch_size: examples of each.

    Returns:
      The statistics.
    """
    sample_size = jnp.asarray(num_workers * local_batch_size, jnp.int32)
    per_example = local_batch_size / (num_workers - 1)
    scale = lambda leaf: ((sample_size - 1) * per_example).astype(leaf.dtype) * leaf
    variance = jnp.asarray(per_example, inner_products.dtype) * inner_products
    return GradientStats(mean, jax.tree.map(scale, squares), variance, sample_size)


# Samples -----------------------------------------------------------------------------------


def _sample_size(per_example_grads: Any) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(per_example_grads)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "gradient_stats: every leaf of per_example_grads must have the same leading axis of "
            f"examples, got the axes {sorted(sizes)}."
        )
    return sizes.pop()[0]


@catalogue.register(
    "function", ADADAGRAD, example={"per_example_grads": np.array([[1.0, 0.0], [3.0, 1.0]])}
)
def gradient_stats(
    per_example_grads: optax.Updates, axis_name: axis.AxisName | None = None
) -> GradientStats:
    r"""Sums up a sample of gradients: their mean, variances, and how many they are.

    Over an axis it sums up the gradients of all participants, exactly as if they lay in one
    place: two reductions of a tree like params. Where no gradients of single examples are to be
    had, see :func:`variance_from_worker_means`.

    Args:
      per_example_grads: like params with a leading axis of :math:`n` examples, as
        ``jax.vmap(jax.grad(loss), (None, 0))`` returns them.
      axis_name: a named axis, or a tuple of nested ones, whose participants hold equally many
        examples. ``None`` for the examples given.

    Returns:
      The :class:`GradientStats`, equal for all participants.

    Raises:
      ValueError: if there are fewer than two gradients, leaves differ in their number, or the
        axis is not bound.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> stats = schedules.gradient_stats(grads)
      >>> print(stats.mean, stats.sum_sq_diff, stats.sample_size)
      [2. 1.] [ 2. 14.] 4

    References:
      Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods
      <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    local = _sample_size(per_example_grads)
    size = local if axis_name is None else local * axis.size(axis_name)
    if size < 2:
        raise ValueError(f"gradient_stats: need the gradients of two examples, got {size}.")
    grads = widened(per_example_grads)
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
    if axis_name is not None:
        mean = axis.mean(mean, axis_name)
    distances = jax.tree.map(jnp.subtract, grads, mean)
    squares = jax.tree.map(lambda d: jnp.sum(squared(d), axis=0), distances)
    along = jnp.sum(inner_product(distances, mean, batch_axes=1) ** 2)
    if axis_name is not None:
        squares, along = axis.sum((squares, along), axis_name)
    return GradientStats(mean, squares, along / (size - 1), jnp.asarray(size, jnp.int32))


@catalogue.register(
    "function", ADADAGRAD, example={"local_batch_size": 8, "axis_name": "workers"}, needs=("axis",)
)
def variance_from_worker_means(
    local_mean_grad: optax.Updates,
    local_batch_size: jax.typing.ArrayLike,
    axis_name: axis.AxisName,
) -> GradientStats:
    r"""Estimates the statistics of all examples from the mean gradients of workers alone.

    With :math:`J` workers of :math:`b` independent examples each, and their means :math:`g_j`,

    .. math::
        \operatorname{Var} \approx \frac{b}{J - 1} \sum_j |g_j - \bar g|^2 ,

    without bias, but with the accuracy of :math:`J` gradients, not of :math:`J b`. It costs two
    reductions and no gradients of single examples. The sample size is :math:`J b`.

    Args:
      local_mean_grad: like params, this worker's mean gradient.
      local_batch_size: :math:`b \ge 1`, the same for all; may be traced.
      axis_name: a named axis, or a tuple of nested ones, of at least two workers.

    Returns:
      The :class:`GradientStats`, equal for all workers.

    Raises:
      ValueError: if there are fewer than two workers, ``local_batch_size`` is a number below 1,
        or the axis is not bound.

    Examples:
      >>> import functools, jax, jax.numpy as jnp
      >>> from gradax import schedules
      >>> @functools.partial(jax.vmap, axis_name="workers")
      ... def noise_scale(mean_grad):
      ...     stats = schedules.variance_from_worker_means(mean_grad, 8, "workers")
      ...     return schedules.gradient_noise_scale(stats)
      >>> print(noise_scale(jnp.array([[1.0, 2.0], [3.0, 2.0]])))
      [2. 2.]

    References:
      Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods
      <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    who = "variance_from_worker_means"
    _validate.interval(who, "local_batch_size", local_batch_size, "[1, inf)")
    workers = axis.size(axis_name)
    if workers < 2:
        raise ValueError(f"{who}: axis_name must bind two workers at least, got {workers}.")
    local = widened(local_mean_grad)
    mean = axis.mean(local, axis_name)
    distance = jax.tree.map(jnp.subtract, local, mean)
    along = inner_product(distance, mean) ** 2
    squares, along = axis.sum((jax.tree.map(squared, distance), along), axis_name)
    return stats_of_means(mean, squares, along, workers, local_batch_size)


# Tests -------------------------------------------------------------------------------------


def _variance(stats: GradientStats) -> jax.Array:
    return _total(stats.sum_sq_diff) / (stats.sample_size - 1)


# NumPy, since an import must not make JAX choose its devices.
_FIELDS: list[Any] = [np.ones(2), np.ones(2), np.float32(1), np.int32(4)]
_EXAMPLE = {"stats": GradientStats(*_FIELDS)}


@catalogue.register("function", _NORM_TEST, example=_EXAMPLE)
def norm_test(stats: GradientStats, eta: jax.typing.ArrayLike = 0.1) -> jax.Array:
    r"""Says how many examples the mean gradient needs to be accurate to a fraction.

    .. math::
        q = \frac{\| \operatorname{Var}_i(g_i) \|_1}{\eta^2 \, \| \bar g \|^2}

    examples make the expected squared error of the mean :math:`\eta^2` times its squared norm.
    The test fails if fewer were used. Theory wants :math:`\eta < 1`; in practice larger values
    make the batch grow later.

    Args:
      stats: of the batch, by :func:`gradient_stats` or :func:`variance_from_worker_means`.
      eta: :math:`\eta > 0`, the relative error allowed.

    Returns:
      :math:`q`, a real scalar; 0 without noise, infinite if only the mean is zero.

    Raises:
      ValueError: if ``eta`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> print(f"{schedules.norm_test(schedules.gradient_stats(grads), eta=0.5):.3f}")
      4.267

    References:
      Byrd et al., `Sample Size Selection in Optimization Methods for Machine Learning
      <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012.
    """
    _validate.interval("norm_test", "eta", eta, "(0, inf)")
    return _ratio(_variance(stats), inner_product(stats.mean, stats.mean)) / eta**2


@catalogue.register("function", _INNER_PRODUCT_TEST, example=_EXAMPLE)
def inner_product_test(stats: GradientStats, theta: jax.typing.ArrayLike = 0.5) -> jax.Array:
    r"""Says how many examples make the mean gradient a descent direction with high probability.

    .. math::
        q = \frac{\operatorname{Var}_i \langle g_i, \bar g \rangle}
                 {\theta^2 \, \| \bar g \|^4}

    looks only at noise along the mean, and so asks for fewer examples than :func:`norm_test`.

    Args:
      stats: of the batch, by :func:`gradient_stats` or :func:`variance_from_worker_means`.
      theta: :math:`\theta > 0`.

    Returns:
      :math:`q`, a real scalar; 0 without noise, infinite if only the mean is zero.

    Raises:
      ValueError: if ``theta`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> print(f"{schedules.inner_product_test(schedules.gradient_stats(grads), 0.5):.3f}")
      1.387

    References:
      Bollapragada, Byrd and Nocedal, `Adaptive Sampling Strategies for Stochastic Optimization
      <https://arxiv.org/abs/1710.11258>`_, 2017.
    """
    _validate.interval("inner_product_test", "theta", theta, "(0, inf)")
    norm = inner_product(stats.mean, stats.mean)
    # Divided twice: the fourth power of a small norm would be zero.
    return _ratio(_ratio(stats.inner_product_variance, norm), norm) / theta**2


@catalogue.register("function", _INNER_PRODUCT_TEST, example=_EXAMPLE)
def orthogonality_test(stats: GradientStats, nu: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""Says how many examples keep noise orthogonal to the mean gradient within bounds.

    .. math::
        q = \frac{\Bigl\| \operatorname{Var}_i \Bigl( g_i -
            \frac{\langle g_i, \bar g \rangle}{\| \bar g \|^2} \bar g \Bigr) \Bigr\|_1}
            {\nu^2 \, \| \bar g \|^2}

    It accompanies :func:`inner_product_test`, which cannot see this part of the noise. The two
    variances, relative to the norm, add up to that of :func:`norm_test`.

    Args:
      stats: of the batch, by :func:`gradient_stats` or :func:`variance_from_worker_means`.
      nu: :math:`\nu > 0`.

    Returns:
      :math:`q`, a real scalar; 0 without noise, infinite if only the mean is zero.

    Raises:
      ValueError: if ``nu`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> print(f"{schedules.orthogonality_test(schedules.gradient_stats(grads), 0.1):.1f}")
      72.0

    References:
      Bollapragada, Byrd and Nocedal, `Adaptive Sampling Strategies for Stochastic Optimization
      <https://arxiv.org/abs/1710.11258>`_, 2017.
    """
    _validate.interval("orthogonality_test", "nu", nu, "(0, inf)")
    norm = inner_product(stats.mean, stats.mean)
    across = _variance(stats) - _ratio(stats.inner_product_variance, norm)
    return _ratio(jnp.maximum(across, 0), norm) / nu**2


@catalogue.register("function", ADADAGRAD, example=_EXAMPLE)
def coordinate_test(stats: GradientStats, eta: jax.typing.ArrayLike = 0.1) -> jax.Array:
    r"""Says how many examples the worst coordinate of the mean gradient needs.

    .. math::
        q = \max_j \frac{\operatorname{Var}_i(g_{ij})}{\eta^2 \, \bar g_j^2}

    is the test that the theory of AdaGrad asks for. Of little use otherwise: one coordinate
    with a mean near zero makes it explode.

    Args:
      stats: of the batch, by :func:`gradient_stats` or :func:`variance_from_worker_means`.
      eta: :math:`\eta > 0`, the relative error allowed.

    Returns:
      :math:`q`, a real scalar; 0 without noise, infinite if only a coordinate's mean is zero.

    Raises:
      ValueError: if ``eta`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> print(f"{schedules.coordinate_test(schedules.gradient_stats(grads), eta=0.1):.1f}")
      466.7

    References:
      Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods
      <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    _validate.interval("coordinate_test", "eta", eta, "(0, inf)")
    worst = lambda squares, mean: jnp.max(_ratio(squares, squared(mean)), initial=0)
    leaves = jax.tree.leaves(jax.tree.map(worst, stats.sum_sq_diff, stats.mean))
    return jnp.max(jnp.stack(leaves)) / (stats.sample_size - 1) / eta**2


@catalogue.register("function", _NOISE_SCALE, example=_EXAMPLE)
def gradient_noise_scale(stats: GradientStats) -> jax.Array:
    r"""Estimates the batch size beyond which larger batches help less and less.

    The simple noise scale :math:`\operatorname{tr}(\Sigma) / \| \bar g \|^2`, with the
    covariance :math:`\Sigma` of the gradients of single examples; it is :func:`norm_test` with
    :math:`\eta = 1`. The norm of the mean counts its own noise, so that the value never exceeds
    the sample size by much: take a sample larger than the scale you expect.

    Args:
      stats: of the batch, by :func:`gradient_stats` or :func:`variance_from_worker_means`.

    Returns:
      The scale, in examples; a real scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
      >>> print(f"{schedules.gradient_noise_scale(schedules.gradient_stats(grads)):.3f}")
      1.067

    References:
      McCandlish et al., `An Empirical Model of Large-Batch Training
      <https://arxiv.org/abs/1812.06162>`_, 2018.
    """
    return norm_test(stats, 1.0)
