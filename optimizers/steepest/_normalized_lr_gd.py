"""Normalized LR+GD: logistic regression whose huge steps are those of a perceptron."""

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import widen
from gradax.federated import axis

PAPER = catalogue.Paper(
    title="From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent "
    "with Large Step Sizes",
    authors="Tyurin",
    year=2024,
    arxiv="2412.08424",
)

_ADAPTIVE = catalogue.Paper(
    title="Minimax Optimal Convergence of Gradient Descent in Logistic Regression via Large and "
    "Adaptive Stepsizes",
    authors="Zhang et al.",
    year=2025,
    arxiv="2504.04105",
)


def _scale_by(updates: optax.Updates, factor: jax.Array) -> optax.Updates:
    return jax.tree.map(lambda u: (u * factor).astype(u.dtype), updates)


def _mean_sigmoid(margins, axis_name):
    # The negated argument, not one minus a sigmoid: it stays exact for large margins.
    mean = jnp.mean(jax.nn.sigmoid(-widen(margins)))
    return mean if axis_name is None else axis.mean(mean, axis_name)


@catalogue.register("direction", PAPER, needs=("margins",))
def normalize_by_mean_sigmoid(
    axis_name: str | tuple[str, ...] | None = None,
    eps: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient of the logistic loss by the mean probability of a mistake.

    With the margins :math:`m_i = y_i f_w(a_i)` of the examples, :math:`y_i \in \{-1, 1\}`,

    .. math::
        u = \frac{1}{\epsilon + \frac1n \sum_i p_i} \nabla
        \frac1n \sum_i \log(1 + e^{-m_i}), \qquad p_i = \frac{1}{1 + e^{m_i}},

    which for linear :math:`f` is a convex combination of the :math:`-y_i a_i`. It costs one
    mean; the gradient has to be that of the same examples. Where all margins are so large that
    the mean is zero in floating point, so is the gradient, and the update is zero.

    Args:
      axis_name: named axis of participants over which the mean is taken too, each counting the
        same; average the gradient over it before. ``None`` for the mean of this participant.
      eps: :math:`\epsilon \ge 0`, bounds the factor.

    Returns:
      A stateless transformation that needs the extra ``margins``, an array of any shape; params
      are not read.

    Raises:
      ValueError: if ``eps`` is negative, ``margins`` are missing or the axis is not bound.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx = gradax.optimizers.normalize_by_mean_sigmoid()
      >>> g, margins = jnp.array([0.5, -0.25]), jnp.zeros(4)
      >>> print(tx.update(g, tx.init(g), margins=margins)[0])
      [ 1.  -0.5]

    References:
      Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
      with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_, 2024.
    """
    who = "normalize_by_mean_sigmoid"
    _validate.interval(who, "eps", eps, "[0, inf)")

    def update_fn(updates, state, params=None, *, margins=None, **extra_args):
        del params, extra_args
        mean = _mean_sigmoid(_extras.require(who, "margins", margins), axis_name)
        divisor = mean + jnp.asarray(eps, mean.dtype)
        normal = divisor >= jnp.finfo(mean.dtype).tiny
        factor = jnp.where(normal, 1 / jnp.where(normal, divisor, 1), 0)
        return _scale_by(updates, factor), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


@catalogue.register("alias", PAPER, needs=("margins",), example={"learning_rate": 5e-4})
def normalized_lr_gd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    axis_name: str | tuple[str, ...] | None = None,
    eps: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Logistic regression with large steps, whose bound does not grow with the data.

    .. math::
        w_{t+1} = w_t - \frac{\gamma}{\frac1n \sum_i p_i} \nabla f(w_t),
        \qquad p_i = \frac{1}{1 + e^{m_i}}.

    On separable data of margin :math:`\mu` and radius :math:`R` all of the :math:`n` examples
    are classified after at most
    :math:`R^2/\mu^2 + 2 \log(2n - 1) / (\gamma \mu^2)` steps from zero; the larger
    :math:`\gamma`, the better the bound. Count mistakes, the loss says little here. On
    mini-batches it is a heuristic.

    Args:
      learning_rate: :math:`\gamma > 0`, a number or a schedule of the count.
      axis_name: as in :func:`normalize_by_mean_sigmoid`.
      eps: as in :func:`normalize_by_mean_sigmoid`.

    Returns:
      The chained transformation; it needs the extra ``margins``.

    Raises:
      ValueError: if a constant is out of its range or ``margins`` are missing.

    Examples:
      The loss hands its margins to :func:`gradax.make_step` in ``aux``.

      >>> import gradax, jax, jax.numpy as jnp, numpy as np
      >>> def loss_fn(w, batch):
      ...     margins = batch["y"] * (batch["a"] @ w)
      ...     return -jnp.mean(jax.nn.log_sigmoid(margins)), {"margins": margins}
      >>> batch = {"a": jnp.array([[1.0, -1.0], [-1.0, -4.0]]), "y": jnp.array([1.0, -1.0])}
      >>> w, tx = jnp.zeros(2), gradax.optimizers.normalized_lr_gd(1.0)
      >>> step, state = gradax.make_step(loss_fn, tx), tx.init(w)
      >>> for _ in range(2):
      ...     w, state, metrics = step(w, state, batch)
      ...     print(np.asarray(w).round(4))
      [1.  1.5]
      [2.     0.5073]

    References:
      Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
      with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_, 2024.
    """
    _validate.interval("normalized_lr_gd", "learning_rate", learning_rate, "(0, inf)")
    _validate.interval("normalized_lr_gd", "eps", eps, "[0, inf)")
    return optax.chain(
        normalize_by_mean_sigmoid(axis_name, eps),
        optax.scale_by_learning_rate(learning_rate),
    )


@catalogue.register("direction", _ADAPTIVE, needs=("value",), example={"eps": 1.0})
def normalize_by_value(
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient by the loss, so that steps grow as the loss falls.

    .. math::
        u = \frac{\nabla f(w)}{f(w) + \epsilon}

    is the gradient of :math:`\log(f + \epsilon)`. For the logistic loss on separable data it
    behaves like :func:`normalize_by_mean_sigmoid`, and needs no margins. It is meant for losses
    that are positive and may come near zero.

    Args:
      eps: :math:`\epsilon \ge 0`; with 0 a loss of zero divides by zero.

    Returns:
      A stateless transformation that needs the extra ``value``; params are not read.

    Raises:
      ValueError: if ``eps`` is negative or ``value`` is missing.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx, g = gradax.optimizers.normalize_by_value(eps=0.0), jnp.array([1.0, -3.0])
      >>> print(tx.update(g, tx.init(g), value=0.5)[0])
      [ 2. -6.]

    References:
      Zhang et al., `Minimax Optimal Convergence of Gradient Descent in Logistic Regression via
      Large and Adaptive Stepsizes <https://arxiv.org/abs/2504.04105>`_, 2025.
    """
    _validate.interval("normalize_by_value", "eps", eps, "[0, inf)")

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        loss = widen(_extras.require("normalize_by_value", "value", value))
        return _scale_by(updates, 1 / (loss + jnp.asarray(eps, loss.dtype))), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
