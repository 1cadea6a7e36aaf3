"""Hypentropy: mirror descent between gradient descent and exponentiated gradients."""

import math

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

from ._mirror import require_real

PAPER = catalogue.Paper(
    title="Exponentiated Gradient Meets Gradient Descent",
    authors="Ghai et al.",
    year=2019,
    arxiv="1902.01903",
)


@catalogue.register("final", PAPER, example={"learning_rate": 1e-3, "beta": 1.0})
def hypentropy(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplicative steps on large weights and additive ones on small weights.

    .. math::
        w_{t+1} = \beta \sinh\bigl(\operatorname{arcsinh}(w_t / \beta) - \eta g_t\bigr).

    To first order the step is :math:`\eta \sqrt{w^2 + \beta^2}\, g`: weights far below
    :math:`\beta` follow gradient descent with the rate :math:`\eta\beta`, weights far above
    follow exponentiated gradients, and any weight can cross zero. It is
    :func:`eg_plus_minus` without normalisation and without its state, for parts with
    :math:`4 w^+ w^- = \beta^2`.

    Args:
      learning_rate: :math:`\eta \ge 0`, a number or a schedule of the count.
      beta: :math:`\beta > 0`, the size of weights at which the two regimes meet.

    Returns:
      The chained transformation, stateless but for the count of a schedule; it is the last
      stage, and needs params. Weights stay below the largest number of their dtype.

    Raises:
      ValueError: if a constant is out of its range, or params are complex.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> def loss(w):
      ...     return jnp.sum((w - jnp.array([3.0, -1.0])) ** 2)
      >>> w, tx = jnp.zeros(2), gradax.optimizers.hypentropy(0.05)
      >>> for _ in range(200):
      ...     updates, _ = tx.update(jax.grad(loss)(w), tx.init(w), w)
      ...     w = optax.apply_updates(w, updates)
      >>> bool(loss(w) < 1e-6)
      True

    References:
      Ghai et al., `Exponentiated Gradient Meets Gradient Descent
      <https://arxiv.org/abs/1902.01903>`_, 2019.
    """
    _validate.learning_rate("hypentropy", learning_rate)
    _validate.interval("hypentropy", "beta", beta, "(0, inf)")

    def leaf_update(z, w):
        dtype, largest = wide(w.dtype), math.log(jnp.finfo(w.dtype).max) - 1
        b = jnp.asarray(beta, dtype)
        limit = largest - jnp.log(jnp.maximum(b, 1))
        before = jnp.arcsinh(w.astype(dtype) / b)
        step = jnp.clip(z.astype(dtype), -limit - before, limit - before)
        # The difference of two hyperbolic sines as a product, without cancellation.
        return (2 * b * jnp.cosh(before + step / 2) * jnp.sinh(step / 2)).astype(z.dtype)

    def update(updates, params):
        _extras.require_params("hypentropy", params)
        require_real("hypentropy", params)
        return jax.tree.map(leaf_update, updates, params)

    return optax.chain(optax.scale_by_learning_rate(learning_rate), optax.stateless(update))
