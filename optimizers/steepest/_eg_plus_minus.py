"""EG+-: every weight is the difference of two positive ones, which are multiplied."""

import math
import numbers
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

from ._mirror import displacement, fresh, known, require_real

PAPER = catalogue.Paper(
    title="Exponentiated Gradient versus Gradient Descent for Linear Predictors",
    authors="Kivinen and Warmuth",
    year=1997,
    url="https://doi.org/10.1006/inco.1996.2612",
)


class EGPlusMinusState(NamedTuple):
    """State of the last stage of :func:`eg_plus_minus`.

    Attributes:
      w_pos: like params, the positive parts.
      w_neg: like params, the negative parts; params are the difference.
    """

    w_pos: optax.Params
    w_neg: optax.Params


def _group_axes(shape, group, channel_axis):
    """The axes over which one group reaches."""
    if group == "leaf" or len(shape) < 2:
        return tuple(range(len(shape)))
    if not -len(shape) <= channel_axis < len(shape):
        raise ValueError(
            f"eg_plus_minus: channel_axis must lie in [{-len(shape)}, {len(shape)}) for a leaf of "
            f"shape {tuple(shape)}, got {channel_axis}."
        )
    kept = channel_axis % len(shape)
    return tuple(axis for axis in range(len(shape)) if axis != kept)


def _check_fit(params: optax.Params, total: Any, axes_of: Any) -> None:
    """Raises if a known weight is larger than its share of the mass."""
    mass = known(total)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        seen = known(leaf)
        if seen is None or mass is None or seen.size == 0:
            continue
        share = mass / math.prod(seen.shape[axis] for axis in axes_of(seen.shape))
        largest = np.max(np.abs(seen))
        if not largest < share:
            raise ValueError(
                f"eg_plus_minus: initial weights do not fit in total mass: total / size = {share} "
                f"must be larger than all |w|, got {largest} in "
                f"params{jax.tree_util.keystr(path)}."
            )


def _leaf_parts(z, pos, neg, total, normalize, axes):
    """Both parts of a leaf after the step ``z``, which is minus the rate times the gradient."""
    if z.size == 0:
        return pos, neg
    dtype = wide(pos.dtype)
    mass = jnp.asarray(total, dtype)
    shift = z.astype(dtype) * (mass if normalize else 1)
    logs = [jnp.log(pos.astype(dtype)) + shift, jnp.log(neg.astype(dtype)) - shift]
    if normalize:
        sums = [jax.nn.logsumexp(log, axes, keepdims=True) for log in logs]
        logs = [log - jnp.logaddexp(*sums) + jnp.log(mass) for log in logs]
    # A factor e inside the range of the dtype, for the rounding of the exponential.
    limits = jnp.finfo(pos.dtype)
    low, high = math.log(limits.tiny) + 1, math.log(limits.max) - 1
    pos, neg = (jnp.exp(jnp.clip(log, low, high)).astype(pos.dtype) for log in logs)
    return pos, neg


@catalogue.register("final", PAPER, example={"learning_rate": 2e-6, "total": 40.0})
def eg_plus_minus(
    learning_rate: optax.ScalarOrSchedule,
    total: jax.typing.ArrayLike = 1.0,
    normalize: bool = True,
    group: Literal["leaf", "row"] = "leaf",
    *,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Exponentiated gradient with weights of both signs, of bounded total mass.

    With :math:`w = w^+ - w^-` and the mass :math:`U` of a group,

    .. math::
        w^\pm \leftarrow w^\pm \odot \exp(\mp \eta U g), \qquad
        w^\pm \leftarrow \frac{U w^\pm}{\sum (w^+ + w^-)},

    from :math:`w^\pm = (U/n \pm w_0)/2` over the :math:`n` weights of the group. So the sum of
    the parts stays :math:`U`, and that of :math:`|w|` below. Without normalisation both the
    factor :math:`U` in the exponent and the division are left out. The regret grows with the
    logarithm of the number of weights, which pays where few of many inputs are relevant.

    The state holds two copies of params. Parts are computed as logarithms, and kept between the
    smallest and largest number of their dtype: none ever becomes zero and is lost.

    Args:
      learning_rate: :math:`\eta \ge 0`, a number or a schedule of the count.
      total: mass :math:`U > 0` of each group.
      normalize: keep the mass constant, as in the paper. Static.
      group: ``"leaf"`` for one mass per leaf, ``"row"`` for one per output channel: the weights
        that lead into one unit. Leaves of rank below two are one row. Static.
      channel_axis: axis of the output channels, -1 for Flax kernels ``(..., in, out)``. Static.

    Returns:
      The chained transformation; it is the last stage, and needs params.

    Raises:
      ValueError: if an argument is out of its range, params are complex, or
        :math:`|w_0| < U/n` does not hold (not seen inside jit).

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> w, tx = jnp.zeros(2), gradax.optimizers.eg_plus_minus(0.1, total=1.0)
      >>> updates, state = tx.update(jnp.array([1.0, -2.0]), tx.init(w), w)
      >>> print(updates.round(4))
      [-0.0495  0.0994]

    References:
      Kivinen and Warmuth, `Exponentiated Gradient versus Gradient Descent for Linear Predictors
      <https://doi.org/10.1006/inco.1996.2612>`_, Information and Computation 132, 1997.
    """
    who = "eg_plus_minus"
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "total", total, "(0, inf)")
    _validate.one_of(who, "group", group, ("leaf", "row"))
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, numbers.Integral):
        raise ValueError(f"{who}: channel_axis must be an integer, got {channel_axis!r}.")
    axes_of = lambda shape: _group_axes(shape, group, channel_axis)

    def leaf_start(leaf, sign):
        w = fresh(leaf)
        size = math.prod(w.shape[axis] for axis in axes_of(w.shape))
        share = jnp.asarray(total, w.dtype) / max(size, 1)
        return (0.5 * (share + sign * w)).astype(w.dtype)

    def init_fn(params):
        require_real(who, params)
        _check_fit(params, total, axes_of)
        part = lambda sign: jax.tree.map(lambda leaf: leaf_start(leaf, sign), params)
        return EGPlusMinusState(w_pos=part(1), w_neg=part(-1))

    def update_fn(updates, state, params=None):
        _extras.require_params(who, params)
        leaf_parts = lambda z, *old: _leaf_parts(z, *old, total, normalize, axes_of(z.shape))
        parts = jax.tree.map(leaf_parts, updates, state.w_pos, state.w_neg)
        pos, neg = (jax.tree.map(lambda _, pair, k=k: pair[k], updates, parts) for k in (0, 1))
        target = jax.tree.map(jnp.subtract, pos, neg)
        return displacement(target, params), EGPlusMinusState(pos, neg)

    last = optax.GradientTransformation(init_fn, update_fn)
    return optax.chain(optax.scale_by_learning_rate(learning_rate), last)
