"""Optimistic online mirror descent: steps that already count on the next gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

from ._mirror import (
    Mirror,
    check_mirror,
    check_simplex,
    displacement,
    fresh,
    mirror_step,
    require_real,
)

PAPER = catalogue.Paper(
    title="Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial Online "
    "Convex Optimization",
    authors="Chen et al.",
    year=2023,
    arxiv="2302.04552",
)


class VariationRate(NamedTuple):
    """A step size that depends on how much the gradients have varied, not on the count.

    Attributes:
      of_variation: function of the sum of squared changes of the gradient, a scalar, to a scalar.
    """

    of_variation: Callable[[jax.Array], jax.typing.ArrayLike]


class OptimisticMirrorDescentState(NamedTuple):
    """State of :func:`optimistic_mirror_descent`.

    Attributes:
      count: ``int32[]``, number of updates made.
      hat: like params, the secondary point, which no gradient is taken at.
      prev_grad: like params, the gradient of the last step (zero before the first); ``None``
        unless the step size is a :class:`VariationRate`.
      variation: scalar, the sum of squared changes of the gradient; ``None`` likewise.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    hat: optax.Params
    prev_grad: optax.Updates | None
    variation: jax.Array | None


@catalogue.register("function", PAPER, example={"diameter": 2.0, "lipschitz": 1.0})
def sea_convex(
    diameter: jax.typing.ArrayLike,
    lipschitz: jax.typing.ArrayLike,
    delta: jax.typing.ArrayLike = 1.0,
) -> VariationRate:
    r"""Step sizes of optimistic mirror descent for convex losses: large while gradients agree.

    For a domain of diameter :math:`D` and gradients of norm at most :math:`G`,

    .. math::
        \eta_t = \frac{D}{\sqrt{\delta + 4 G^2 + V_{t-1}}}, \qquad
        V_t = \sum_{s \le t} \|g_s - g_{s-1}\|^2, \quad g_0 = 0.

    Then for every point :math:`u` of the domain, and whatever the gradients are,
    :math:`\sum_t \langle g_t, x_t - u \rangle \le 2.5\, D \sqrt{\delta + 4 G^2 + V_T}`.

    Args:
      diameter: :math:`D > 0`.
      lipschitz: :math:`G > 0`.
      delta: :math:`\delta > 0`.

    Returns:
      A :class:`VariationRate`, the ``learning_rate`` of :func:`optimistic_mirror_descent`; no
      schedule, since it is no function of the count.

    Raises:
      ValueError: if an argument is a number that is not positive.

    Examples:
      >>> import gradax
      >>> rate = gradax.optimizers.sea_convex(diameter=2.0, lipschitz=1.0)
      >>> [round(float(rate.of_variation(v)), 4) for v in (0.0, 2.0, 2.25)]
      [0.8944, 0.7559, 0.7428]

    References:
      Chen et al., `Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial
      Online Convex Optimization <https://arxiv.org/abs/2302.04552>`_, 2023.
    """
    for name, value in (("diameter", diameter), ("lipschitz", lipschitz), ("delta", delta)):
        _validate.interval("sea_convex", name, value, "(0, inf)")
    return VariationRate(
        lambda variation: diameter / jnp.sqrt(delta + 4 * lipschitz**2 + variation)
    )


@catalogue.register("schedule", PAPER, example={"strong_convexity": 1.0})
def sea_strongly_convex(strong_convexity: jax.typing.ArrayLike) -> optax.Schedule:
    r"""Step sizes of optimistic mirror descent for strongly convex losses.

    With :math:`t = k + 1` for the count :math:`k`,

    .. math::
        \eta_t = \frac{2}{\lambda t}.

    Args:
      strong_convexity: :math:`\lambda > 0`.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``strong_convexity`` is a number that is not positive.

    Examples:
      >>> import gradax
      >>> schedule = gradax.optimizers.sea_strongly_convex(0.5)
      >>> [float(schedule(count)) for count in (0, 1, 3)]
      [4.0, 2.0, 1.0]

    References:
      Chen et al., `Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial
      Online Convex Optimization <https://arxiv.org/abs/2302.04552>`_, 2023.
    """
    _validate.interval("sea_strongly_convex", "strong_convexity", strong_convexity, "(0, inf)")
    # The sum in floating point: an integer would wrap at the largest count.
    return lambda count: 2.0 / (strong_convexity * (jnp.maximum(count, 0) + 1.0))


def _step_size(learning_rate, count, variation):
    if isinstance(learning_rate, VariationRate):
        return learning_rate.of_variation(variation)
    return learning_rate(count) if callable(learning_rate) else learning_rate


def _no_variation(params: Any) -> jax.Array:
    dtypes = [wide(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)]
    return jnp.zeros([], jnp.finfo(jnp.result_type(jnp.float32, *dtypes)).dtype)


def _squared_distance(a: optax.Updates, b: optax.Updates, dtype: Any) -> jax.Array:
    def of_leaves(x, y):
        gap = x.astype(wide(x.dtype)) - y.astype(wide(x.dtype))
        return jnp.sum(jnp.real(gap * jnp.conj(gap))).astype(dtype)

    return sum(jax.tree.leaves(jax.tree.map(of_leaves, a, b)), jnp.zeros([], dtype))


@catalogue.register("final", PAPER, example={"learning_rate": 5e-4})
def optimistic_mirror_descent(
    learning_rate: optax.ScalarOrSchedule | VariationRate,
    *,
    mirror: Mirror = "euclidean",
    projection: Callable[[optax.Params], optax.Params] | None = None,
) -> optax.GradientTransformation:
    r"""Plays a point that guesses the next gradient to be the last one, and corrects afterwards.

    Beside the point :math:`x_t`, the parameters, where gradients :math:`g_t` are taken, runs a
    second one :math:`\hat x_t`; both start at the same place.

    .. math::
        \hat x_{t+1} &= \arg\min_x \; \eta_t \langle g_t, x \rangle + D(x, \hat x_t) \\
        x_{t+1} &= \arg\min_x \; \eta_{t+1} \langle g_t, x \rangle + D(x, \hat x_{t+1})

    With the Euclidean mirror both are projected gradient steps. With the entropic one every
    slice along the last axis of a leaf is a distribution, and a step multiplies it by
    :math:`\exp(-\eta g)` and normalises. The regret grows with how much gradients change, not
    with the number of steps, so it is at its best where they drift slowly.

    Evaluate the model at the parameters, never at :math:`\hat x`. Average gradients over
    participants before this stage. With a constant step and no projection it is
    :func:`optax.optimistic_gradient_descent` but for the first step, which is twice as long
    here. The state holds one copy of params, or two with :func:`sea_convex`.

    Args:
      learning_rate: :math:`\eta_t > 0`, a number, a schedule of the count (it is read at two
        counts in a step), or a rule such as :func:`sea_convex`.
      mirror: ``"euclidean"`` or ``"entropic"``. Static.
      projection: for the Euclidean mirror, a function of the whole tree onto the domain, such
        as ``optax.projections.projection_l2_ball``. Static.

    Returns:
      A transformation whose state is an :class:`OptimisticMirrorDescentState`; it is the last
      stage and needs params. Where the state holds numbers, a step is
      :math:`x_{t+1}` minus params.

    Raises:
      ValueError: if ``learning_rate`` is a number that is not positive, ``mirror`` is unknown,
        or is ``"entropic"`` with a projection, complex params, or params that are no
        distributions (not seen inside jit).

    Examples:
      >>> import gradax, jax.numpy as jnp, numpy as np
      >>> tx = gradax.optimizers.optimistic_mirror_descent(0.5, mirror="entropic")
      >>> x = jnp.ones(3) / 3
      >>> updates, state = tx.update(jnp.array([1.0, 0.0, 0.0]), tx.init(x), x)
      >>> print(np.asarray(state.hat).round(4), np.asarray(x + updates).round(4))
      [0.2327 0.3837 0.3837] [0.1554 0.4223 0.4223]

    References:
      Chen et al., `Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial
      Online Convex Optimization <https://arxiv.org/abs/2302.04552>`_, 2023.
    """
    who = "optimistic_mirror_descent"
    _validate.interval(who, "learning_rate", learning_rate, "(0, inf)")
    check_mirror(who, mirror, "projection", projection)
    varies = isinstance(learning_rate, VariationRate)

    def move(point, grads, step):
        target = mirror_step(mirror, point, grads, step)
        if projection is None:
            return target
        # Some projections measure the whole tree, in its widest dtype.
        return jax.tree.map(lambda x, y: x.astype(y.dtype), projection(target), target)

    def init_fn(params):
        if mirror == "entropic":
            require_real(who, params)
            check_simplex(who, params)
        zeros = optax.tree.zeros_like(params) if varies else None
        return OptimisticMirrorDescentState(
            count=jnp.zeros([], jnp.int32),
            hat=jax.tree.map(fresh, params),
            prev_grad=zeros,
            variation=_no_variation(params) if varies else None,
        )

    def update_fn(updates, state, params=None):
        _extras.require_params(who, params)
        count, variation, prev_grad = optax.safe_increment(state.count), state.variation, None
        now = _step_size(learning_rate, state.count, variation)
        if varies:
            change = _squared_distance(updates, state.prev_grad, variation.dtype)
            variation = variation + change
            # Always true. But now the old gradient is overwritten after the sum has read it, and
            # XLA need not copy a whole tree to make sure of that.
            known = variation >= 0
            remember = lambda g, h: jnp.where(known, g.astype(h.dtype), h)
            prev_grad = jax.tree.map(remember, updates, state.prev_grad)
        hat = move(state.hat, updates, now)
        target = move(hat, updates, _step_size(learning_rate, count, variation))
        state = OptimisticMirrorDescentState(count, hat, prev_grad, variation)
        return displacement(target, params), state

    return optax.GradientTransformation(init_fn, update_fn)
