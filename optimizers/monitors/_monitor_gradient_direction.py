"""monitor_gradient_direction: how much the gradients of several batches or examples agree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax.federated import axis

from ._make_monitor import make_monitor, norm, record_dtype, widened

PAPER = catalogue.Paper(
    title="Directional Analysis of Stochastic Gradient Descent via von Mises-Fisher "
    "Distributions in Deep Learning",
    authors="Lee et al.",
    year=2018,
    arxiv="1810.00150",
)

# Shares nearer to one than this are taken for one: single precision has no more digits.
_RESOLUTION = 1e-7


class GradientMoments(NamedTuple):
    """Means over several gradients, or what is averaged of one.

    Attributes:
      unit: like params, the gradient divided by its norm.
      grad: like params, the gradient.
      norm: scalar, its norm.
      nonzero: scalar, one, or zero if the gradient is zero.
    """

    unit: optax.Updates
    grad: optax.Updates
    norm: jax.Array
    nonzero: jax.Array


class GradientDirectionState(NamedTuple):
    r"""State of :func:`monitor_gradient_direction`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      mean_resultant_length: scalar, :math:`R`, length of the mean direction, in ``[0, 1]``.
      concentration: scalar, :math:`\kappa` of the von Mises-Fisher distribution.
      concentration_floor: scalar, :math:`\kappa` of gradients that are orthogonal to each other.
      gradient_snr: scalar, squared length of the mean gradient over the variance around it.
      norm_snr: scalar, mean of the gradients' norms over their standard deviation.
      num_gradients: scalar, number of gradients compared; with ``decay``, of how many the
        running mean has the variance.
      means: the running means, if there is a ``decay``, in float32 at least; else ``None``.
      variances: mean squared distances from them, scalars; else ``None``.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mean_resultant_length: jax.Array
    concentration: jax.Array
    concentration_floor: jax.Array
    gradient_snr: jax.Array
    norm_snr: jax.Array
    num_gradients: jax.Array
    means: GradientMoments | None
    variances: GradientMoments | None


@catalogue.register("diagnostic", PAPER, needs=("per_example_grads",))
def monitor_gradient_direction(
    every: int = 1,
    *,
    axis_name: axis.AxisName | None = None,
    decay: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Records how concentrated the directions of gradients are, and their signal to noise.

    For gradients :math:`G_1, \dots, G_n` in :math:`d` dimensions,

    .. math::
        R = \Bigl\| \frac1n \sum_j \frac{G_j}{\|G_j\|} \Bigr\|, \qquad
        \kappa = \frac{R \, (d - R^2)}{1 - R^2}, \qquad
        \mathrm{SNR} = \frac{\|\bar G\|^2}{\tfrac1n \sum_j \|G_j - \bar G\|^2},

    where :math:`\kappa` approximates the maximum likelihood estimate of a von Mises-Fisher
    distribution. Noise alone has a concentration too: :math:`n` orthogonal gradients give
    :math:`(nd - 1) / (\sqrt n \, (n - 1))`, recorded as ``concentration_floor``; look at
    :math:`\kappa` beside it. Lengths do not enter :math:`R` and :math:`\kappa`; a zero gradient
    counts as one without direction. :math:`1 - R^2` and the share of the variance in SNR are
    taken as 1e-7 at least, so that equal gradients give large numbers, not infinite ones.

    The gradients compared are, one of three:

    - by default, those of the examples: the extra ``per_example_grads``, or, if that is not
      given, ``per_example_grad_fn(params)``, which is called on records only. The leading axis
      may as well count minibatches. A record costs one gradient per example, and their memory.
    - with ``axis_name``, the updates of the participants: put it first in a chain, before the
      gradients are averaged. No gradient is computed; a record averages two trees over the
      axis. All participants must have made the same number of updates.
    - with ``decay``, the updates of records so far, with weights that fall geometrically.
      **Approximate**: the gradients belong to different params, and count as
      :math:`(1 + a) / (1 - a)` in the long run; the first records mean little. No gradient is
      computed; the state holds two trees like params. Put it first in a chain.

    Args:
      every: number of updates from one record to the next. Static.
      axis_name: a named axis, or a tuple of nested ones, outermost first. Static.
      decay: weight :math:`a` of the past, in ``[0, 1)``. Whether it is given is static.

    Returns:
      A transformation that leaves updates as they are, and whose state is a
      :class:`GradientDirectionState`, NaN before the first record. By default it needs the
      extra ``per_example_grads``, or ``per_example_grad_fn`` and params.

    Raises:
      ValueError: if ``every`` is no positive integer, ``decay`` is out of its range, or both
        ``axis_name`` and ``decay`` are given; in ``update``, if the axis is not bound.
      MissingExtraError: in ``update``, if there are no gradients of examples.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> w, grads = jnp.zeros(100), 3.0 * jnp.eye(100)[:4]
      >>> tx = gradax.optimizers.monitor_gradient_direction()
      >>> updates, state = tx.update(grads.mean(0), tx.init(w), w, per_example_grads=grads)
      >>> for name in ("concentration", "concentration_floor", "gradient_snr"):
      ...     print(f"{name} {optax.tree.get(state, name):.2f}")
      concentration 66.50
      concentration_floor 66.50
      gradient_snr 0.33

    References:
      Lee et al., `Directional Analysis of Stochastic Gradient Descent via von Mises-Fisher
      Distributions in Deep Learning <https://arxiv.org/abs/1810.00150>`_, 2018.
    """
    who = "monitor_gradient_direction"
    if axis_name is not None and decay is not None:
        raise ValueError(f"{who}: axis_name and decay exclude each other, got both.")
    if axis_name is not None:
        axis.names(axis_name)
    _validate.interval(who, "decay", decay, "[0, 1)")

    def blank(params):
        if decay is None:
            return {"means": None, "variances": None}
        zeros = lambda: widened(optax.tree.zeros_like(params))
        scalars = lambda count: [jnp.zeros([], record_dtype(params)) for _ in range(count)]
        return {
            "means": GradientMoments(zeros(), zeros(), *scalars(2)),
            "variances": GradientMoments(*scalars(4)),
        }

    def measure(updates, state, params, **extra_args):
        if decay is not None:
            means, variances, size = _running(state, _moments(updates), decay, every)
            return _summary(means, variances, size) | {"means": means, "variances": variances}
        if axis_name is not None:
            moments = _moments(updates)
            means = axis.mean(moments, axis_name)
            variances = axis.mean(_squared_distances(moments, means), axis_name)
            return _summary(means, variances, axis.size(axis_name))
        return _summary(*_over_examples(_example_grads(who, params, **extra_args)))

    return make_monitor(who, GradientDirectionState, measure, blank, every=every)


def _example_grads(who, params, *, per_example_grads=None, per_example_grad_fn=None, **extra_args):
    del extra_args
    if per_example_grads is None and per_example_grad_fn is not None:
        return per_example_grad_fn(_extras.require_params(who, params))
    return _extras.require(who, "per_example_grads", per_example_grads)


def _moments(grads):
    """What is averaged of a single gradient."""
    grads, length = widened(grads), norm(grads)
    unit = jax.tree.map(lambda leaf: (leaf * _inverse(length)).astype(leaf.dtype), grads)
    return GradientMoments(unit, grads, length, (length > 0).astype(length.dtype))


def _inverse(length):
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)


def _squared_distances(moments, means):
    """From the means, part by part."""
    return GradientMoments(*(norm(part) ** 2 for part in optax.tree.sub(moments, means)))


def _over_examples(grads):
    """Means and variances over the leading axis, and its size."""
    # Rows are read three times and never written again: a tree of unit rows would cost more.
    grads = widened(grads)
    size = next((len(rows) for rows in jax.tree.leaves(grads)), 1)
    norms = jax.vmap(norm, axis_size=size)
    lengths = norms(grads)
    inverse, nonzero = _inverse(lengths), (lengths > 0).astype(lengths.dtype)

    def mean(scale):
        of_leaf = lambda rows: axis.contract(scale / size, rows).astype(rows.dtype)
        return jax.tree.map(of_leaf, grads)

    def variance(scale, means):
        away = lambda rows, mean: (jax.vmap(jnp.multiply)(rows, scale) - mean).astype(rows.dtype)
        return jnp.mean(norms(jax.tree.map(away, grads, means)) ** 2)

    ones = jnp.ones_like(lengths)
    means = GradientMoments(mean(inverse), mean(ones), jnp.mean(lengths), jnp.mean(nonzero))
    variances = GradientMoments(
        variance(inverse, means.unit),
        variance(ones, means.grad),
        jnp.var(lengths),
        jnp.var(nonzero),
    )
    return means, variances, size


def _running(state, moments, decay, every):
    """Means and variances with weights that fall geometrically, and how many they count as."""
    forgotten = jnp.asarray(decay, moments.norm.dtype) ** (state.count // every + 1)
    weight = (1 - decay) / (1 - forgotten)
    mix = lambda old, new: (old + weight * (new - old)).astype(old.dtype)
    spread = lambda old, new: ((1 - weight) * (old + weight * new)).astype(old.dtype)
    means = jax.tree.map(mix, state.means, moments)
    variances = jax.tree.map(spread, state.variances, _squared_distances(moments, state.means))
    # One over the sum of the squared weights.
    size = (1 + decay) / (1 - decay) * (1 - forgotten) / (1 + forgotten)
    return means, variances, size


def _summary(means, variances, size):
    """What is recorded of ``size`` gradients."""
    reals = lambda leaf: leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)
    dimension = float(sum(map(reals, jax.tree.leaves(means.grad))))
    length = norm(means.unit)
    size = jnp.asarray(size, length.dtype)
    return {
        "mean_resultant_length": length,
        # The mean square of unit vectors is one: 1 - R^2 is their variance, without cancellation.
        "concentration": _concentration(length, variances.unit + (1 - means.nonzero), dimension),
        "concentration_floor": _concentration(1 / jnp.sqrt(size), 1 - 1 / size, dimension),
        "gradient_snr": _snr(norm(means.grad) ** 2, variances.grad),
        "norm_snr": jnp.sqrt(_snr(means.norm**2, variances.norm)),
        "num_gradients": size,
    }


def _concentration(length, rest, dimension):
    """R (d - R^2) / (1 - R^2), given 1 - R^2."""
    return length * (1 + (dimension - 1) / jnp.maximum(rest, _RESOLUTION))


def _snr(signal, variance):
    return signal / jnp.maximum(variance, _RESOLUTION * (signal + variance))
