"""project_radial: removes the part of a step that only makes scale-invariant weights grow."""

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

PAPER = catalogue.Paper(
    title="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    authors="Heo et al.",
    year=2020,
    arxiv="2006.08217",
)


class ProjectRadialState(NamedTuple):
    """State of :func:`project_radial`.

    Attributes:
      inner_state: state of the wrapped transformation; its momentum is never projected.
    """

    inner_state: optax.OptState


def check_projection(
    who: str, delta: Any, wd_ratio: Any, weight_decay: Any, eps: Any, channel_axis: Any
) -> None:
    """Raises unless the constants of :func:`project_radial` can work.

    Args:
      who: public name of the factory.
      delta: as in :func:`project_radial`.
      wd_ratio: as in :func:`project_radial`.
      weight_decay: as in :func:`project_radial`.
      eps: as in :func:`project_radial`.
      channel_axis: as in :func:`project_radial`.

    Raises:
      ValueError: if one of them is out of its range.
    """
    _validate.interval(who, "delta", delta, "[0, inf]")
    _validate.interval(who, "wd_ratio", wd_ratio, "[0, 1]")
    _validate.interval(who, "weight_decay", weight_decay, "[0, inf)")
    _validate.interval(who, "eps", eps, "(0, inf)")
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, numbers.Integral):
        raise ValueError(f"{who}: channel_axis must be an integer, got {channel_axis!r}.")


def _check_ranks(params: optax.Params, channel_axis: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        rank = jnp.ndim(leaf)
        if rank >= 2 and not -rank <= channel_axis < rank:
            raise ValueError(
                f"project_radial: channel_axis must lie in [{-rank}, {rank}) for the leaf "
                f"params{jax.tree_util.keystr(path)} of rank {rank}, got {channel_axis}."
            )


def _view(products, row_length, delta, eps):
    """Whether rows count as scale-invariant, and the multiple of ``w`` to take off ``u``."""
    ww, gg, wg, wu = products
    w_norm, g_norm = jnp.sqrt(ww), jnp.sqrt(gg)
    cosine = jnp.abs(wg) / (jnp.maximum(w_norm, eps) * jnp.maximum(g_norm, eps))
    return jnp.max(cosine) < delta / math.sqrt(row_length), wu / (w_norm + eps) ** 2


def _radial_multiple(w, g, u, delta, eps, channel_axis):
    """The multiple of ``w`` to take off ``u`` (broadcast over rows), and whether it is any."""
    dtype = wide(w.dtype)
    # Without the first barrier XLA squares g once for Adam and this, and keeps it in memory;
    # without the second it sums each product twice, and keeps it in memory for that.
    w, g, u = (x.astype(dtype) for x in (w, jax.lax.optimization_barrier(g), u))
    channel_axis %= w.ndim
    row_axes = tuple(axis for axis in range(w.ndim) if axis != channel_axis)
    pairs = ((w, w), (g, g), (w, g), (w, u))
    rows = [jnp.sum(jnp.real(jnp.conj(a) * b), row_axes, keepdims=True) for a, b in pairs]
    layer = [jnp.sum(row, keepdims=True) for row in jax.lax.optimization_barrier(rows)]
    by_channel, channel = _view(rows, w.size // w.shape[channel_axis], delta, eps)
    by_layer, whole = _view(layer, w.size, delta, eps)
    multiple = jnp.where(by_channel, channel, jnp.where(by_layer, whole, 0.0))
    return multiple, by_channel | by_layer


@catalogue.register("wrapper", PAPER, example={"inner": optax.scale_by_adam()})
def project_radial(
    inner: optax.GradientTransformation,
    *,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    weight_decay: jax.typing.ArrayLike = 0.0,
    wd_scale: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 1e-8,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Projects a direction orthogonally to the weights wherever these look scale-invariant.

    A weight that a normalisation layer follows has a gradient orthogonal to it; the component
    of a step along it changes nothing but its norm, and so shrinks all later steps. With the
    rows :math:`W_j, G_j, U_j` of weight, gradient and inner direction, a leaf is projected if

    .. math::
        \max_j \frac{|\langle W_j, G_j \rangle|}{\|W_j\| \, \|G_j\|}
        < \frac{\delta}{\sqrt{\text{row length}}}, \qquad
        Q_j = U_j - \frac{\langle W_j, U_j \rangle}{\|W_j\|^2} W_j .

    Rows are first those of the output channels, then, if these do not pass, the leaf as one
    row; the decision is one for the whole leaf. Leaves of rank below two are never projected.
    The result is :math:`Q + \lambda\, s\, r\, W` with the decay :math:`\lambda s`, and
    :math:`r` = ``wd_ratio`` for projected leaves, 1 for others.

    Put it around the direction and outermost: clipping or noise before it would change the
    gradient that is tested. Where layers are stacked in one leaf (for a scan) the second view
    mixes them.

    Args:
      inner: transformation that emits a direction, such as :func:`optax.scale_by_adam`.
      delta: threshold :math:`\delta \ge 0`; 0 never projects, infinity always does.
      wd_ratio: factor on the decay of projected leaves, in ``[0, 1]``.
      weight_decay: decoupled decay :math:`\lambda \ge 0`.
      wd_scale: the factor :math:`s \ge 0` on the decay; momentum SGD wants one over one minus
        the momentum.
      eps: floor of the norms in the cosine, and added to the norm of :math:`W_j`, positive.
      channel_axis: axis of the output channels in leaves of rank two or more: -1 for Flax
        kernels ``(..., in, out)``, 0 for ``(out, in, ...)``. Static.

    Returns:
      A transformation whose state is a :class:`ProjectRadialState`; it needs params, and hands
      extra arguments on to ``inner``.

    Raises:
      ValueError: if a constant is out of its range, or a leaf has no such ``channel_axis``.

    Examples:
      The gradient is orthogonal to the weight, so the step becomes orthogonal too.

      >>> import gradax, jax.numpy as jnp, optax
      >>> tx = gradax.optimizers.project_radial(optax.scale_by_sign())
      >>> w, g = jnp.array([[3.0], [4.0]]), jnp.array([[4.0], [-3.0]])
      >>> step, state = tx.update(g, tx.init(w), w)
      >>> print(abs(jnp.vdot(w, step)) < 1e-6)
      True

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights <https://arxiv.org/abs/2006.08217>`_, 2020.
    """
    check_projection("project_radial", delta, wd_ratio, weight_decay, eps, channel_axis)
    _validate.interval("project_radial", "wd_scale", wd_scale, "[0, inf)")
    inner = optax.with_extra_args_support(inner)

    def leaf_step(u, g, w):
        dtype, decay = u.dtype, weight_decay * wd_scale
        if w.ndim < 2 or w.size == 0:
            return (u + decay * w).astype(dtype)
        multiple, projected = _radial_multiple(w, g, u, delta, eps, channel_axis)
        # Both are multiples of w: one pass over the leaf does the projection and the decay.
        along = decay * jnp.where(projected, wd_ratio, 1.0) - multiple
        return (u + along * w).astype(dtype)

    def init_fn(params):
        _check_ranks(params, channel_axis)
        return ProjectRadialState(inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        _extras.require_params("project_radial", params)
        directions, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        steps = jax.tree.map(leaf_step, directions, updates, params)
        return steps, ProjectRadialState(inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
