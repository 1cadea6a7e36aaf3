"""Min-max problems as one vector field: the gradient, its sign turned for who maximizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue

PAPER = catalogue.Paper(
    title="A Variational Inequality Perspective on Generative Adversarial Networks",
    authors="Gidel et al.",
    year=2018,
    arxiv="1802.10551",
)

#: Extras that are gradients, or functions that return gradients like params.
_GRADIENTS = (
    "grad",
    "per_example_grads",
    "grad_fn",
    "full_grad_fn",
    "large_batch_grad_fn",
    "per_example_grad_fn",
)


class MinMax(NamedTuple):
    """Parameters of two players with one loss.

    Attributes:
      min: any tree, of the player who minimizes.
      max: any tree, of the player who maximizes.
    """

    min: Any
    max: Any


@catalogue.register("function", PAPER)
def minmax_operator(grads: Any, is_max: Any = None) -> Any:
    r"""Turns the gradient of a min-max problem into the operator whose zero is sought.

    For :math:`\min_x \max_y f(x, y)` it is

    .. math::
        F(x, y) = (\nabla_x f(x, y), -\nabla_y f(x, y)),

    monotone if :math:`f` is convex in :math:`x` and concave in :math:`y`. Integer leaves stay
    as they are.

    Args:
      grads: gradient of :math:`f`, a tree; or a function that returns one, such as ``grad_fn``.
      is_max: which leaves are maximized: a tree of Python booleans like ``grads`` or like the
        upper part of it, or a function of the tree that returns one. By default the tree must
        be a :class:`MinMax`, and its field ``max`` is.

    Returns:
      The operator's value, a tree like ``grads``; or a function that returns it and takes the
      arguments of ``grads``.

    Raises:
      ValueError: if ``is_max`` is missing for another tree than a :class:`MinMax`, or does not
        consist of Python booleans.

    Examples:
      >>> import jax
      >>> from gradax import optimizers
      >>> z = optimizers.MinMax(2.0, 5.0)
      >>> field = optimizers.minmax_operator(jax.grad(lambda z: z.min * z.max))
      >>> [float(part) for part in field(z)]
      [5.0, -2.0]

    References:
      Gidel et al., `A Variational Inequality Perspective on Generative Adversarial Networks
      <https://arxiv.org/abs/1802.10551>`_, 2018.
    """
    if callable(grads):
        return lambda *args, **kwargs: minmax_operator(grads(*args, **kwargs), is_max)
    # The mask comes first: it may say one word for a whole branch.
    return jax.tree.map(_turned, _mask(grads, is_max), grads)


def _mask(grads, is_max):
    if is_max is None:
        if not isinstance(grads, MinMax):
            raise ValueError(
                "minmax_operator: is_max must say which leaves are maximized, unless params are "
                f"a MinMax; got None and {type(grads).__name__}."
            )
        return MinMax(min=False, max=True)
    mask = is_max(grads) if callable(is_max) else is_max
    wrong = [flag for flag in jax.tree.leaves(mask) if not isinstance(flag, bool)]
    if wrong:
        raise ValueError(
            f"minmax_operator: is_max must consist of Python booleans, got {wrong[0]!r}."
        )
    return mask


def _turned(flag, branch):
    def leaf(g):
        return -g if flag and jnp.issubdtype(jnp.result_type(g), jnp.inexact) else g

    return jax.tree.map(leaf, branch)


@catalogue.register("wrapper", PAPER, example={"inner": optax.sgd(1e-3), "is_max": False})
def minmax(
    inner: optax.GradientTransformation,
    is_max: Any | Callable[[Any], Any] = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs a method on a min-max problem: descends for some leaves, ascends for others.

    It hands :func:`minmax_operator` of the incoming gradients to ``inner``, likewise of the extras
    ``grad``, ``grad_fn``, ``full_grad_fn``, ``large_batch_grad_fn``, ``per_example_grads`` and
    ``per_example_grad_fn``. Loops that differentiate a loss, such as ``gradax.make_step`` and
    ``simulate``, so play games without a change. Methods that compare losses do not fit.

    With plain descent inside, both players' steps are simultaneous, which diverges on bilinear
    games; :func:`extragradient` and ``optimistic_gradient_descent`` do not.

    Args:
      inner: transformation, given the operator for a gradient.
      is_max: as in :func:`minmax_operator`.

    Returns:
      A transformation with the state of ``inner``.

    Raises:
      ValueError: in ``update``, as :func:`minmax_operator`.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> from gradax import optimizers
      >>> loss_fn = lambda z, batch: z.min * z.max
      >>> tx = optimizers.minmax(optax.optimistic_gradient_descent(0.3))
      >>> z, step = optimizers.MinMax(jnp.array(1.0), jnp.array(1.0)), gradax.make_step(loss_fn, tx)
      >>> state = tx.init(z)
      >>> for _ in range(200):
      ...     z, state, _ = step(z, state, None)
      >>> bool(abs(z.min) + abs(z.max) < 1e-3)
      True

    References:
      Gidel et al., `A Variational Inequality Perspective on Generative Adversarial Networks
      <https://arxiv.org/abs/1802.10551>`_, 2018.
    """
    inner = optax.with_extra_args_support(inner)

    def update_fn(updates, state, params=None, **extra):
        turned = {
            name: minmax_operator(extra[name], is_max)
            for name in _GRADIENTS
            if extra.get(name) is not None
        }
        return inner.update(minmax_operator(updates, is_max), state, params, **extra | turned)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
