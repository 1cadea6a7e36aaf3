"""directional_sharpness: the curvature of the loss along the way an optimizer is about to go."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue
from gradax._wide import wide_dtype, widen

PAPER = catalogue.Paper(
    title="Toward Understanding Why Adam Converges Faster Than SGD for Transformers",
    authors="Pan and Li",
    year=2023,
    arxiv="2306.00204",
)


@catalogue.register("function", PAPER)
def directional_sharpness(
    grad_fn: Callable[[optax.Params], optax.Updates],
    params: optax.Params,
    direction: optax.Updates,
) -> tuple[jax.Array, jax.Array]:
    r"""Curvature of the loss along a direction, and how much of the gradient lies in it.

    .. math::
        S(v) = \frac{v^\top \nabla^2 f(w) \, v}{\|v\|^2}, \qquad
        C(v) = \frac{\langle \nabla f(w), v \rangle}{\|v\|}

    A step of length :math:`\eta` against :math:`v` changes the loss by
    :math:`-\eta C + \tfrac12 \eta^2 S`, up to third order, so that :math:`C^2 / (2 S)` is the
    most that one step can win. Directions that lower :math:`S` more than :math:`C^2` allow
    faster progress: those of Adam, sign descent and coordinate-wise clipping, where few
    coordinates carry most of the curvature.

    Both are invariant to the length of :math:`v`, which is first divided by its largest
    magnitude, so that nothing overflows. A zero direction gives two zeros. The cost is one
    Hessian-vector product: about two gradients.

    Args:
      grad_fn: function of params that returns the gradient, as :func:`jax.grad` gives it.
      params: where to measure.
      direction: like params: a gradient or what a transformation made of it. With an update,
        which already points downhill, the correlation is negative.

    Returns:
      Sharpness and correlation, scalars of the widest real dtype of params, at least float32.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(jnp.array([1.0, 100.0]) * w**2))
      >>> w = jnp.array([1.0, 1.0])
      >>> for v in (grad_fn(w), jnp.sign(grad_fn(w))):
      ...     sharpness, correlation = gradax.optimizers.directional_sharpness(grad_fn, w, v)
      ...     print(f"{sharpness:.1f} {correlation:.1f}")
      100.0 100.0
      50.5 71.4

    References:
      Pan and Li, `Toward Understanding Why Adam Converges Faster Than SGD for Transformers
      <https://arxiv.org/abs/2306.00204>`_, 2023.
    """
    dtype = wide_dtype(*jax.tree.leaves(params))

    def inner(a, b):
        # Without conjugation: jax.grad of a complex leaf is already conjugated.
        products = jax.tree.map(lambda x, y: jnp.sum(jnp.real(widen(x) * widen(y))), a, b)
        return jnp.asarray(optax.tree.sum(products), dtype)

    unit = _divided_by_largest(direction, params, dtype)
    grads, curved = jax.jvp(grad_fn, (params,), (unit,))
    squared = inner(jax.tree.map(jnp.conj, unit), unit)
    squared = jnp.where(squared > 0, squared, 1)
    return inner(curved, unit) / squared, inner(grads, unit) / jnp.sqrt(squared)


def _divided_by_largest(direction, params, dtype):
    """The direction over its largest magnitude, in the dtypes of params."""
    largest = jnp.zeros([], dtype)
    for leaf in jax.tree.leaves(direction):
        largest = jnp.maximum(largest, jnp.max(jnp.abs(widen(leaf)), initial=0).astype(dtype))
    largest = jnp.where(largest > 0, largest, 1)
    scale = lambda v, w: (widen(v) / largest).astype(w.dtype)
    return jax.tree.map(scale, direction, params)
