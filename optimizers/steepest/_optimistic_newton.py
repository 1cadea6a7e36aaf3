"""Optimistic online Newton steps for exp-concave losses, on few parameters."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

from ._mirror import displacement, fresh, require_real
from ._optimistic_mirror_descent import PAPER


class OptimisticNewtonState(NamedTuple):
    """State of :func:`optimistic_newton`.

    Attributes:
      hat: like params, the secondary point, which no gradient is taken at.
      root: for each leaf of params, ``[*leaf.shape, d]`` in float32 at least, its rows of a
        matrix :math:`S` with :math:`S S^T = H^{-1}`, for :math:`d` parameters in all.
    """

    hat: optax.Params
    root: optax.Params


@catalogue.register(
    "final", PAPER, example={"diameter": 1.0, "lipschitz": 2.4e4, "exp_concavity": 1.0}
)
def optimistic_newton(
    diameter: jax.typing.ArrayLike,
    lipschitz: jax.typing.ArrayLike,
    exp_concavity: jax.typing.ArrayLike,
    *,
    max_size: int = 4096,
) -> optax.GradientTransformation:
    r"""Optimistic mirror descent in the norm of past gradients, for exp-concave losses.

    With :math:`\beta = \frac12 \min(1 / (4 G D), \alpha)`,

    .. math::
        H_t = \Bigl(1 + \frac{\beta G^2}{2}\Bigr) I + \frac{\beta}{2} \sum_{s<t} g_s g_s^T,
        \qquad \hat x_{t+1} = \hat x_t - H_t^{-1} g_t, \quad
        x_{t+1} = \hat x_{t+1} - H_{t+1}^{-1} g_t .

    There is no learning rate, and no projection: in a bounded domain the method projects in the
    norm of :math:`H_t`, which is a problem of its own; these are the unconstrained steps.

    A root of :math:`H_t^{-1}` is kept and updated, which costs three passes over a dense
    :math:`d \times d` matrix per step and no factorization, and keeps :math:`H_t^{-1}`
    positive whatever rounding does. It is meant for a few hundred parameters.

    Args:
      diameter: :math:`D > 0`, of the domain.
      lipschitz: :math:`G > 0`, bound on the norm of gradients. A large one makes for small steps.
      exp_concavity: :math:`\alpha > 0`: :math:`\exp(-\alpha f)` is concave.
      max_size: largest number :math:`d` of parameters that is accepted. Static.

    Returns:
      A transformation whose state is an :class:`OptimisticNewtonState`; it is the last stage
      and needs params.

    Raises:
      ValueError: if a constant is a number that is not positive, there are more parameters than
        ``max_size``, or params are complex.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> x, tx = jnp.array([1.0, 0.0]), gradax.optimizers.optimistic_newton(2.0, 1.0, 1.0)
      >>> updates, state = tx.update(jnp.array([1.0, -1.0]), tx.init(x), x)
      >>> print(state.hat.round(4), (x + updates).round(4))
      [0.0303 0.9697] [-0.884  1.884]

    References:
      Chen et al., `Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial
      Online Convex Optimization <https://arxiv.org/abs/2302.04552>`_, 2023.
    """
    who = "optimistic_newton"
    for name, value in (
        ("diameter", diameter),
        ("lipschitz", lipschitz),
        ("exp_concavity", exp_concavity),
    ):
        _validate.interval(who, name, value, "(0, inf)")
    _validate.integer(who, "max_size", max_size, at_least=1)

    def half_beta():
        return 0.25 * jnp.minimum(1 / (4 * lipschitz * diameter), exp_concavity)

    def init_fn(params):
        require_real(who, params)
        size = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))
        if size > max_size:
            raise ValueError(
                f"{who}: params must have at most max_size = {max_size} elements, got {size}."
            )
        scale = jax.lax.rsqrt(1 + half_beta() * lipschitz**2)
        return OptimisticNewtonState(jax.tree.map(fresh, params), _identity(params, scale))

    def update_fn(updates, state, params=None):
        _extras.require_params(who, params)
        factor = _transpose_times(state.root, updates)
        c = jnp.asarray(half_beta(), factor.dtype)
        growth = 1 + c * jnp.sum(factor**2)
        # S (I - shrink f f^T) is a root of the inverse of H + c g g^T, where f = S^T g.
        shrink = c / (jnp.sqrt(growth) * (1 + jnp.sqrt(growth)))
        step = jax.tree.map(lambda s: jnp.sum(s * factor.astype(s.dtype), axis=-1), state.root)

        def leaf_root(s, u):
            return s - (shrink.astype(s.dtype) * u)[..., None] * factor.astype(s.dtype)

        hat = jax.tree.map(lambda x, u: (x - u).astype(x.dtype), state.hat, step)
        target = jax.tree.map(lambda x, u: x - u / growth.astype(u.dtype), hat, step)
        root = jax.tree.map(leaf_root, state.root, step)
        return displacement(target, params), OptimisticNewtonState(hat, root)

    return optax.GradientTransformation(init_fn, update_fn)


def _identity(params, scale):
    """The scaled identity: each leaf's rows, laid out and sharded as the leaf is."""
    leaves, structure = jax.tree.flatten(params)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]

    def rows(leaf, offset):
        like = jnp.zeros_like(leaf, dtype=wide(jnp.result_type(leaf)))
        numbers = offset + jnp.arange(like.size).reshape(like.shape)
        ones = numbers[..., None] == jnp.arange(sum(sizes))
        return like[..., None] + ones * scale.astype(like.dtype)

    offsets = itertools.accumulate(sizes, initial=0)
    return jax.tree.unflatten(structure, map(rows, leaves, offsets))


def _transpose_times(root, grads):
    """The product of the transposed root and the gradient, ``[d]``, summed leaf by leaf."""
    parts = jax.tree.map(
        # Not a contraction: over a sharded axis that would ask for the sharding of its result.
        lambda s, g: jnp.sum(s * g.astype(s.dtype)[..., None], axis=tuple(range(g.ndim))),
        root,
        grads,
    )
    return sum(jax.tree.leaves(parts), jnp.zeros([], jnp.float32))
