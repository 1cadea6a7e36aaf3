"""AdaGrad-Norm: AdaGrad with one step size for all coordinates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._wide import inner_product, wide_dtype

PAPER = catalogue.Paper(
    title="AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes",
    authors="Ward et al.",
    year=2018,
    arxiv="1806.01811",
)


class AdaGradNormState(NamedTuple):
    """State of :func:`scale_by_adagrad_norm`.

    Attributes:
      sum_of_squares: real scalar, float32 at least: :math:`S_t`.
    """

    sum_of_squares: jax.Array


@catalogue.register("direction", PAPER)
def scale_by_adagrad_norm(
    initial_accumulator_value: jax.typing.ArrayLike = 1e-2,
    eps: jax.typing.ArrayLike = 1e-10,
) -> optax.GradientTransformation:
    r"""Divides gradients by the root of the sum of their squared norms so far.

    .. math::
        S_t = S_{t-1} + \|g_t\|^2, \qquad u_t = \frac{g_t}{\sqrt{S_t} + \epsilon},

    with the norm over all leaves. The state is one scalar.

    Args:
      initial_accumulator_value: :math:`S_0 \ge 0`.
      eps: :math:`\epsilon > 0`, added outside the square root.

    Returns:
      A transformation whose state is an :class:`AdaGradNormState`; params unused.

    Raises:
      ValueError: if an argument is a number out of its range.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx = gradax.optimizers.scale_by_adagrad_norm(initial_accumulator_value=0.0)
      >>> g = jnp.array([3.0, 4.0])
      >>> step, state = tx.update(g, tx.init(g))
      >>> print(step, state.sum_of_squares)
      [0.6 0.8] 25.0

    References:
      Ward, Wu and Bottou, `AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes
      <https://arxiv.org/abs/1806.01811>`_, 2018.
    """
    _check("scale_by_adagrad_norm", initial_accumulator_value, eps)

    def init_fn(params):
        dtype = wide_dtype(*jax.tree.leaves(params))
        return AdaGradNormState(jnp.array(initial_accumulator_value, dtype))

    def update_fn(updates, state, params=None):
        del params
        leaves, dtype = jax.tree.leaves(updates), state.sum_of_squares.dtype
        total = state.sum_of_squares + inner_product(leaves, leaves, dtype)
        factor = 1.0 / (jnp.sqrt(total) + eps)
        step = jax.tree.map(lambda g: (factor * g).astype(g.dtype), updates)
        return step, AdaGradNormState(total)

    return optax.GradientTransformation(init_fn, update_fn)


def _check(who, initial_accumulator_value, eps):
    _validate.interval(who, "initial_accumulator_value", initial_accumulator_value, "[0, inf)")
    _validate.interval(who, "eps", eps, "(0, inf)")


@catalogue.register("alias", PAPER, example={"learning_rate": 1.0})
def adagrad_norm(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: jax.typing.ArrayLike = 1e-2,
    eps: jax.typing.ArrayLike = 1e-10,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad-Norm, ready to use: converges without knowing the smoothness or the noise.

    .. math::
        w_{t+1} = w_t - \frac{\eta}{\sqrt{S_t} + \epsilon} \, g_t, \qquad
        S_t = S_{t-1} + \|g_t\|^2 .

    With batches that :func:`~gradax.schedules.adaptive_batch_size` grows it is AdAdaGrad-Norm.

    Args:
      learning_rate: :math:`\eta`, in units of params: a number or a schedule of the count.
      initial_accumulator_value: as in :func:`scale_by_adagrad_norm`.
      eps: as in :func:`scale_by_adagrad_norm`.

    Returns:
      The chained transformation.

    Raises:
      ValueError: if an argument is a number out of its range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda x: jnp.sum(x**2)
      >>> x, tx = jnp.array([1.0, -2.0]), gradax.optimizers.adagrad_norm(1.0)
      >>> state = tx.init(x)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(x), state)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 1e-6)
      True

    References:
      Ward, Wu and Bottou, `AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes
      <https://arxiv.org/abs/1806.01811>`_, 2018.
    """
    _validate.learning_rate("adagrad_norm", learning_rate)
    _check("adagrad_norm", initial_accumulator_value, eps)
    return optax.chain(
        scale_by_adagrad_norm(initial_accumulator_value, eps),
        optax.scale_by_learning_rate(learning_rate),
    )
