"""The stability cap: steps no longer than the curvature of the loss lets them be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide_dtype
from gradax.optimizers.curvature._hessian_top_eigenvalue import (
    hessian_top_eigenvalue,
    random_direction,
)

PAPER = catalogue.Paper(
    title="Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
    authors="Cohen et al.",
    year=2021,
    arxiv="2103.00065",
)

#: Kind of momentum -> largest stable rate times sharpness, as a function of the momentum.
_LIMITS = {
    "gd": lambda mu: 2.0,
    "heavy_ball": lambda mu: 2 * (1 + mu),
    "nesterov": lambda mu: 2 * (1 + mu) / (1 + 2 * mu),
    "ema": lambda mu: 2 * (1 + mu) / (1 - mu),
}

#: Power iterations of the first measurement, whose start is random.
_FIRST_ITERS = 20


def _check(who: str, kind: str, momentum: Any) -> None:
    _validate.one_of(who, "kind", kind, _LIMITS)
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    if kind == "gd" and isinstance(momentum, int | float) and momentum != 0:
        raise ValueError(
            f"{who}: momentum must be 0 with kind='gd', got {momentum}; name another kind."
        )


@catalogue.register("function", PAPER, example={"sharpness": 10.0})
def stable_learning_rate(
    sharpness: jax.typing.ArrayLike,
    kind: str = "gd",
    momentum: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""The largest learning rate that does not diverge on a quadratic of this sharpness.

    With :math:`\lambda` the largest eigenvalue of the Hessian and :math:`\mu` the momentum, it is

    .. math::
        \frac{2}{\lambda}, \qquad
        \frac{2 (1 + \mu)}{\lambda}, \qquad
        \frac{2 (1 + \mu)}{(1 + 2 \mu) \lambda}, \qquad
        \frac{2 (1 + \mu)}{(1 - \mu) \lambda}

    for gradient descent (``"gd"``), a sum of gradients (``"heavy_ball"``, as in
    ``optax.sgd(momentum=...)``), Nesterov's form of it (``"nesterov"``), and a running mean of
    gradients (``"ema"``, as in ``optax.ema`` and Adam's ``b1``). For Adam take the sharpness of
    the preconditioned Hessian.

    Args:
      sharpness: :math:`\lambda`, of any shape.
      kind: ``"gd"``, ``"heavy_ball"``, ``"nesterov"`` or ``"ema"``. Static.
      momentum: :math:`\mu` in ``[0, 1)``; zero for ``"gd"``.

    Returns:
      Like ``sharpness``, infinite where that is not positive.

    Raises:
      ValueError: if ``kind`` is unknown, or ``momentum`` a number that does not fit it.

    Examples:
      >>> from gradax import schedules
      >>> for kind in ("heavy_ball", "nesterov", "ema"):
      ...     print(schedules.stable_learning_rate(10.0, kind, momentum=0.9).round(4))
      0.38
      0.1357
      3.8

    References:
      Cohen et al., `Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability
      <https://arxiv.org/abs/2103.00065>`_, 2021.
    """
    _check("stable_learning_rate", kind, momentum)
    sharpness = jnp.asarray(sharpness)
    positive = sharpness > 0
    return jnp.where(positive, _LIMITS[kind](momentum) / jnp.where(positive, sharpness, 1), jnp.inf)


class StabilityCapState(NamedTuple):
    r"""State of :func:`cap_by_stability`.

    Attributes:
      count: ``int32[]``, number of updates made.
      vector: like params, the unit vector of the power iteration.
      sharpness: ``float[]``, the last :math:`\lambda`; zero before the first.
      scale: ``float[]``, the factor :math:`s` of the latest update.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    vector: optax.Params
    sharpness: jax.Array
    scale: jax.Array


@catalogue.register("direction", PAPER, needs=("grad_fn",), example={"learning_rate": 0.05})
def cap_by_stability(
    learning_rate: optax.ScalarOrSchedule,
    *,
    every: int = 10,
    num_iters: int = 4,
    margin: jax.typing.ArrayLike = 0.9,
    kind: str = "gd",
    momentum: jax.typing.ArrayLike = 0.0,
    key: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Shortens updates whose learning rate the sharpness of the loss makes unstable.

    Every so often a few power iterations renew the largest eigenvalue :math:`\lambda` of the
    Hessian on the batch at hand. With :math:`\eta_{max}(\lambda)` as in
    :func:`stable_learning_rate`, updates are multiplied by

    .. math::
        s = \min\Bigl(1, \frac{\rho \, \eta_{max}(\lambda)}{\eta}\Bigr), \qquad
        s = 1 \text{ if } \lambda \le 0 .

    It stands behind the member that applies the learning rate. As long as :math:`s = 1` updates
    pass bit for bit. Beyond the limit training would bounce off the walls of the valley, which by
    itself leads it to flatter places: the cap takes that away, so it is for runs that diverge, not
    a default. A batch is sharper than the whole data, hence the margin.

    A renewal calls ``grad_fn`` once and costs about ``1 + num_iters`` gradients, the first one
    more; in between nothing is computed, except under :func:`jax.vmap`, which renews every time.
    A sharpness that is not finite is ignored.

    Args:
      learning_rate: :math:`\eta`, the one that was applied: a number or a schedule of the count.
      every: number of updates from one renewal to the next, the first at count 0. Static.
      num_iters: power iterations of a renewal, from the last vector; the first makes 20 at
        least. Static.
      margin: :math:`\rho \in (0, 1]`, the share of the limit that is allowed.
      kind: as in :func:`stable_learning_rate`. Static.
      momentum: as in :func:`stable_learning_rate`.
      key: a JAX key or an integer, for the random start of the power iteration. Static.

    Returns:
      A transformation whose state is a :class:`StabilityCapState`. It needs params and the extra
      ``grad_fn``; that of a whole tree, so it does not go inside ``optax.masked``.

    Raises:
      ValueError: if an argument is out of its range.
      MissingExtraError: in ``update``, without ``grad_fn``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * w**2))
      >>> rate = 0.3  # above 2 / 10
      >>> tx = optax.chain(optax.sgd(rate), gradax.schedules.cap_by_stability(rate))
      >>> w = jnp.ones(2)
      >>> state = tx.init(w)
      >>> for _ in range(40):
      ...     updates, state = tx.update(grad_fn(w), state, w, grad_fn=grad_fn)
      ...     w = optax.apply_updates(w, updates)
      >>> bool(jnp.all(jnp.abs(w) < 1e-2)), f"{rate * optax.tree.get(state, 'scale'):.3f}"
      (True, '0.180')

    References:
      Cohen et al., `Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability
      <https://arxiv.org/abs/2103.00065>`_, 2021.
    """
    who = "cap_by_stability"
    _validate.learning_rate(who, learning_rate)
    _validate.integer(who, "every", every, at_least=1)
    _validate.integer(who, "num_iters", num_iters, at_least=1)
    _validate.interval(who, "margin", margin, "(0, 1]")
    _check(who, kind, momentum)

    def init_fn(params):
        dtype = wide_dtype(*jax.tree.leaves(params))
        return StabilityCapState(
            count=jnp.zeros([], jnp.int32),
            vector=random_direction(who, params, key),
            sharpness=jnp.zeros([], dtype),
            scale=jnp.ones([], dtype),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        params = _extras.require_params(who, params)
        grad_fn = _extras.require(who, "grad_fn", grad_fn)

        def renewed():
            most = max(num_iters, _FIRST_ITERS)
            value, vector = hessian_top_eigenvalue(
                grad_fn,
                params,
                state.vector,
                num_iters=jnp.where(state.count == 0, most, num_iters),
            )
            usable = jnp.isfinite(value)
            kept = optax.tree.where(usable, vector, state.vector)
            return jnp.where(usable, value, state.sharpness), kept

        sharpness, vector = jax.lax.cond(
            state.count % every == 0, renewed, lambda: (state.sharpness, state.vector)
        )
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        limit = margin * stable_learning_rate(sharpness, kind, momentum)
        # Selected, so that a rate of zero divides nothing.
        scale = jnp.where(rate > limit, limit / jnp.where(rate > limit, rate, 1), 1)
        scale = scale.astype(state.scale.dtype)
        capped = jax.tree.map(lambda u: scale.astype(u.dtype) * u, updates)
        return capped, StabilityCapState(
            optax.safe_increment(state.count), vector, sharpness, scale
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
