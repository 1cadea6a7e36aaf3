"""Composite mirror descent: a step on the loss and a proximal step on the rest, as one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue

from ._mirror import (
    Mirror,
    check_mirror,
    check_simplex,
    displacement,
    mirror_step,
    real_scalar,
    require_real,
)

PAPER = catalogue.Paper(
    title="Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods",
    authors="Liu and Zhou",
    year=2023,
    arxiv="2312.08531",
)

#: Proximal operator of a function times a step: ``prox(tree, step) -> tree``.
Prox = Callable[[optax.Params, jax.Array], optax.Params]


class CompositeMirrorDescentState(NamedTuple):
    """State of :func:`composite_mirror_descent`.

    Attributes:
      count: ``int32[]``, number of updates made.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


@catalogue.register("function", PAPER, example={"weight": 0.1})
def prox_l1(weight: jax.typing.ArrayLike) -> Prox:
    r"""Proximal operator of the l1 norm: moves every entry towards zero, and stops there.

    .. math::
        \operatorname{prox}(x, \eta) = \operatorname{sign}(x) \max(|x| - \eta a, 0)

    for :math:`h(x) = a \|x\|_1`. Entries become exactly zero; of complex ones the modulus.

    Args:
      weight: :math:`a \ge 0`.

    Returns:
      A function of a tree and a step size to a tree, for :func:`composite_mirror_descent`.

    Raises:
      ValueError: if ``weight`` is a negative number.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> prox = gradax.optimizers.prox_l1(2.0)
      >>> print(prox(jnp.array([3.0, -0.5, -2.0]), 0.5))
      [ 2.  0. -1.]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    _validate.interval("prox_l1", "weight", weight, "[0, inf)")

    def leaf_prox(x, step):
        threshold = real_scalar(step, x.dtype) * real_scalar(weight, x.dtype)
        size = jnp.abs(x)
        return jnp.where(size > threshold, x - threshold * jnp.sign(x), 0)

    return lambda tree, step: jax.tree.map(lambda x: leaf_prox(x, step), tree)


@catalogue.register("function", PAPER, example={"weight": 0.1})
def prox_l2(weight: jax.typing.ArrayLike) -> Prox:
    r"""Proximal operator of half of the squared l2 norm: shrinks everything by one factor.

    .. math::
        \operatorname{prox}(x, \eta) = \frac{x}{1 + \eta a} \qquad\text{for}\qquad
        h(x) = \frac{a}{2} \|x\|^2 .

    Args:
      weight: :math:`a \ge 0`.

    Returns:
      A function of a tree and a step size to a tree, for :func:`composite_mirror_descent`.

    Raises:
      ValueError: if ``weight`` is a negative number.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> print(gradax.optimizers.prox_l2(2.0)(jnp.array([3.0, -1.0]), 0.5))
      [ 1.5 -0.5]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    _validate.interval("prox_l2", "weight", weight, "[0, inf)")

    def leaf_prox(x, step):
        return x / (1 + real_scalar(step, x.dtype) * real_scalar(weight, x.dtype))

    return lambda tree, step: jax.tree.map(lambda x: leaf_prox(x, step), tree)


@catalogue.register("final", PAPER, example={"learning_rate": 1e-3})
def composite_mirror_descent(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mirror: Mirror = "euclidean",
    prox: Prox | None = None,
) -> optax.GradientTransformation:
    r"""Mirror descent on a loss plus a simple function, made for its last iterate.

    For :math:`F = f + h` with gradients :math:`g_t` of :math:`f` and a proximal operator of
    :math:`h`,

    .. math::
        x_{t+1} = \arg\min_x \; h(x) + \langle g_t, x \rangle + \frac{D(x, x_t)}{\eta_t} .

    With the Euclidean mirror this is :math:`\operatorname{prox}_{\eta_t h}(x_t - \eta_t g_t)`;
    with the entropic one every slice along the last axis of a leaf is a distribution, which is
    multiplied by :math:`\exp(-\eta_t g_t)` and normalised. The last iterate is as good as an
    average if the steps are right: take a ``last_iterate_*_schedule`` of
    :mod:`gradax.schedules`, and no average of iterates.

    Args:
      learning_rate: :math:`\eta_t > 0`, a number or a schedule of the count.
      mirror: ``"euclidean"`` or ``"entropic"``. Static.
      prox: for the Euclidean mirror, ``prox(tree, step) -> tree`` such as :func:`prox_l1`; a
        projection is ``lambda tree, step: optax.projections.projection_l2_ball(tree)``. Static.

    Returns:
      A transformation whose state is a :class:`CompositeMirrorDescentState`; it is the last
      stage and needs params. Without ``prox`` the Euclidean one is :func:`optax.sgd`.

    Raises:
      ValueError: if ``learning_rate`` is a number that is not positive, ``mirror`` is unknown,
        or is ``"entropic"`` with ``prox``, complex params, or params that are no distributions
        (not seen inside jit).

    Examples:
      :math:`|x - 1| + 0.1 |x|` from 3, four steps that fall linearly.

      >>> import gradax, jax.numpy as jnp
      >>> schedule = gradax.schedules.last_iterate_linear_schedule(1.0, num_steps=4)
      >>> prox = gradax.optimizers.prox_l1(0.1)
      >>> tx = gradax.optimizers.composite_mirror_descent(schedule, prox=prox)
      >>> x = jnp.array(3.0)
      >>> state = tx.init(x)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.sign(x - 1), state, x)
      ...     x = x + updates
      >>> print(f"{x:.3f}")
      1.625

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "composite_mirror_descent"
    _validate.interval(who, "learning_rate", learning_rate, "(0, inf)")
    check_mirror(who, mirror, "prox", prox)

    def init_fn(params):
        if mirror == "entropic":
            require_real(who, params)
            check_simplex(who, params)
        return CompositeMirrorDescentState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        _extras.require_params(who, params)
        step = learning_rate(state.count) if callable(learning_rate) else learning_rate
        target = mirror_step(mirror, params, updates, step)
        if prox is not None:
            target = prox(target, jnp.asarray(step))
        count = optax.safe_increment(state.count)
        return displacement(target, params), CompositeMirrorDescentState(count)

    return optax.GradientTransformation(init_fn, update_fn)
