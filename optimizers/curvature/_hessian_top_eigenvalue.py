"""hessian_top_eigenvalue: the sharpness of the loss, by power iteration."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._keys import as_key
from gradax._wide import inner_product, wide_dtype, widen

PAPER = catalogue.Paper(
    title="Hessian-based Analysis of Large Batch Training and Robustness to Adversaries",
    authors="Yao et al.",
    year=2018,
    arxiv="1802.08241",
)


@catalogue.register("function", PAPER)
def hessian_top_eigenvalue(
    grad_fn: Callable[[optax.Params], optax.Updates],
    params: optax.Params,
    vector: optax.Params | None = None,
    *,
    num_iters: jax.typing.ArrayLike = 20,
    tol: jax.typing.ArrayLike = 0.0,
    key: jax.typing.ArrayLike = 0,
) -> tuple[jax.Array, optax.Params]:
    r"""The eigenvalue of largest magnitude of the Hessian, with its sign, and its eigenvector.

    Power iteration on the Hessian :math:`H` of the loss at params: from a unit vector
    :math:`v_0`,

    .. math::
        \lambda_k = \langle v_k, H v_k \rangle, \qquad
        v_{k+1} = \frac{H v_k}{\|H v_k\|}.

    :math:`|\lambda_k|` never exceeds the magnitude of the true value, and approaches it the
    faster the larger its distance to the next eigenvalue is. After a small step of an optimizer
    pass the last vector again: a few iterations then follow the eigenvalue. If the largest
    magnitude belongs to a negative eigenvalue, that is what is returned.

    The gradient is linearized once, which keeps the intermediate values of one forward and
    backward pass; each iteration then costs about one gradient. Everything happens in the dtypes
    of params, scalars in float32 at least.

    Args:
      grad_fn: function of params that returns the gradient, as :func:`jax.grad` gives it.
      params: where to measure.
      vector: like params, :math:`v_0` up to its length, not zero. ``None`` draws one at random:
        a vector with a pattern, such as all ones, often lies where :math:`H` is zero.
      num_iters: number of Hessian-vector products at most; may be traced.
      tol: stop once :math:`|\lambda_k - \lambda_{k-1}|` is below ``tol`` times
        :math:`|\lambda_k|`; zero makes all iterations.
      key: a JAX key or an integer, for the random start.

    Returns:
      :math:`\lambda` of the last iteration, a scalar of the widest real dtype of params, float32
      at least, and the unit vector after it, like params. A vector that :math:`H` maps to zero,
      or beyond the largest number, stays as it is.

    Raises:
      ValueError: if ``num_iters`` is a Python number below one, or ``tol`` is negative.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, -2.0, 10.0]) * w**2)
      >>> w = jnp.ones(3)
      >>> value, v = gradax.optimizers.hessian_top_eigenvalue(jax.grad(loss), w)
      >>> print(value.round(3), jnp.abs(v).round(3))
      10.0 [0. 0. 1.]

    References:
      Yao et al., `Hessian-based Analysis of Large Batch Training and Robustness to Adversaries
      <https://arxiv.org/abs/1802.08241>`_, 2018.
    """
    who = "hessian_top_eigenvalue"
    if not isinstance(num_iters, jax.Array):
        _validate.integer(who, "num_iters", num_iters, at_least=1)
    _validate.interval(who, "tol", tol, "[0, inf)")
    dtype = wide_dtype(*jax.tree.leaves(params))
    if vector is None:
        vector = random_direction(who, params, key)
    _, hessian_times = jax.linearize(grad_fn, params)

    def not_done(carry):
        k, _, value, last = carry
        return (k < num_iters) & ~(jnp.abs(value - last) < tol * jnp.abs(value))

    def iterate(carry):
        k, v, last, _ = carry
        # jax.grad of a complex leaf is conjugated; v and the product are directions.
        product = jax.tree.map(jnp.conj, hessian_times(v))
        value = inner_product(jax.tree.leaves(v), jax.tree.leaves(product), dtype)
        return k + 1, unit(product, v, dtype), value, last

    start = unit(vector, vector, dtype)
    unknown = jnp.full([], jnp.nan, dtype)
    _, vector, value, _ = jax.lax.while_loop(not_done, iterate, (0, start, unknown, unknown))
    return value, vector


def random_direction(who: str, params: optax.Params, key: jax.typing.ArrayLike) -> optax.Params:
    """Draws a unit vector like params."""
    drawn = optax.tree.random_like(as_key(who, key), params)
    return unit(drawn, drawn, wide_dtype(*jax.tree.leaves(params)))


def unit(tree: optax.Params, otherwise: optax.Params, dtype: jax.typing.DTypeLike) -> optax.Params:
    """Divides a tree by its length, if that is positive and finite."""
    leaves = jax.tree.leaves(tree)
    length = jnp.sqrt(inner_product(leaves, leaves, dtype))
    usable = (length > 0) & jnp.isfinite(length)
    length = jnp.where(usable, length, 1)

    def scaled(leaf, old):
        shorter = widen(leaf) / length.astype(jnp.promote_types(old.dtype, jnp.float32))
        return jnp.where(usable, shorter, widen(old)).astype(old.dtype)

    return jax.tree.map(scaled, tree, otherwise)
