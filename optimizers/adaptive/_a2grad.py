"""A2Grad: accelerated stochastic gradient steps, damped where the gradient is noisy."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._wide import real_dtype, wide_dtype, widen

PAPER = catalogue.Paper(
    title="Optimal Adaptive and Accelerated Stochastic Gradient Descent",
    authors="Deng et al.",
    year=2018,
    arxiv="1810.00553",
)


class A2GradState(NamedTuple):
    """State of :func:`a2grad`.

    Attributes:
      count: ``int32[]``, number :math:`k` of updates made.
      lead: like params, :math:`x_k - y_k`: how far the point that takes the steps is ahead of
        params.
      mean_grad: like params, the mean of all gradients so far.
      v: the sum :math:`v_{k-1}` of squared deviations, real; like params, or one scalar for each
        leaf with ``per_leaf_norm``.
      s: like ``v``, the moving average :math:`s_{k-1}` of the variant ``"exp"``, else ``None``.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    lead: optax.Updates
    mean_grad: optax.Updates
    v: optax.Updates
    s: optax.Updates | None


class _Weights(NamedTuple):
    """Scalars that depend on the count alone.

    Attributes:
      fresh: of the gradient in the mean.
      keep: of the old sum of squared deviations.
      base: the denominator of a step without noise.
      noise: of the root of ``v`` in the denominator.
      lead: of the old lead in the new one.
      pull: of the move of x in the new lead.
      ahead: of the new lead in the step of y.
      back: of the move of x in the step of y.
    """

    fresh: jax.Array
    keep: jax.typing.ArrayLike
    base: jax.Array
    noise: jax.typing.ArrayLike
    lead: jax.Array
    pull: jax.Array
    ahead: jax.Array
    back: jax.Array


def _weights(k: jax.Array, variant: str, smoothness: Any, beta: Any) -> _Weights:
    return _Weights(
        fresh=1 / (k + 1),
        keep=(k / (k + 1)) ** 2 if variant == "inc" else 1.0,
        base=2 * smoothness / (k + 1),
        noise=beta * jnp.sqrt(k + 1) if variant == "exp" else beta,
        lead=(k + 1) / (k + 3),
        pull=k * (k + 1) / ((k + 2) * (k + 3)),
        ahead=2 / (k + 1),
        back=2 / (k + 2),
    )


@catalogue.register("final", PAPER, example={"variant": "uni"})
def a2grad(
    variant: str,
    smoothness: jax.typing.ArrayLike = 10.0,
    beta: jax.typing.ArrayLike = 10.0,
    rho: jax.typing.ArrayLike = 0.5,
    per_leaf_norm: bool = False,
) -> optax.GradientTransformation:
    r"""A2Grad: Nesterov's acceleration with steps that shrink with the noise of the gradient.

    With :math:`a_k = 2 / (k + 2)` for :math:`k = 0, 1, \dots`, the mean :math:`\bar g_k` of all
    gradients up to :math:`g_k` and the deviation :math:`d_k = g_k - \bar g_k`,

    .. math::
        c_k &= \frac{1}{2 L / (k + 1) + \beta h_k}, \qquad x_{k+1} = x_k - c_k g_k, \\
        y_{k+1} &= (1 - a_{k+1}) (y_k - a_k c_k g_k) + a_{k+1} x_{k+1} .

    Params are :math:`y_k`, and :math:`x_0 = y_0`. Three averages of the squared deviations give
    three variants:

    .. math::
        \text{uni:} \quad & v_k = v_{k-1} + d_k^2, & h_k &= \sqrt{v_k} \\
        \text{inc:} \quad & v_k = \tfrac{k^2}{(k+1)^2} v_{k-1} + d_k^2, & h_k &= \sqrt{v_k} \\
        \text{exp:} \quad & v_k = \max(v_{k-1}, \rho s_{k-1} + (1 - \rho) d_k^2),
            & h_k &= \sqrt{(k + 1) v_k}

    where :math:`s_k` is the second argument of the maximum. There is no learning rate: put it
    last in a chain. The state holds three copies of params, with ``"exp"`` four. The paper proves
    its rate for another average of the iterates than params, which
    :func:`a2grad_averaged_params` computes.

    Args:
      variant: ``"uni"``, ``"inc"`` or ``"exp"``. Static.
      smoothness: Lipschitz constant :math:`L > 0` of the gradient; the first update is
        :math:`-g_0 / (2 L)`.
      beta: weight :math:`\beta \ge 0` of the noise; 0 leaves Nesterov's method.
      rho: decay :math:`\rho` of the variant ``"exp"``, in ``[0, 1)``; the others ignore it.
      per_leaf_norm: sum squared deviations over each leaf, so that its elements share one step,
        as most implementations do; in the paper every element has its own. Static.

    Returns:
      A transformation whose state is an :class:`A2GradState`; params are not read. Updates have
      the dtype of the gradients.

    Raises:
      ValueError: if a constant is out of its range or the variant unknown.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda y: jnp.sum(jnp.array([1.0, 0.1]) * y**2)
      >>> y, tx = jnp.array([1.0, -2.0]), gradax.optimizers.a2grad("inc", smoothness=2.0)
      >>> state = tx.init(y)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(y), state)
      ...     y = optax.apply_updates(y, updates)
      >>> bool(loss(y) < 1e-2)
      True

    References:
      Deng et al., `Optimal Adaptive and Accelerated Stochastic Gradient Descent
      <https://arxiv.org/abs/1810.00553>`_, 2018.
    """
    _validate.one_of("a2grad", "variant", variant, ("uni", "inc", "exp"))
    _validate.interval("a2grad", "smoothness", smoothness, "(0, inf)")
    _validate.interval("a2grad", "beta", beta, "[0, inf)")
    _validate.interval("a2grad", "rho", rho, "[0, 1)")

    def accumulate(square, v, s, w):
        if variant != "exp":
            return w.keep * v + square, s
        s = s + (1 - rho) * (square - s)
        return jnp.maximum(v, s), s

    def leaf_step(g, lead, mean, v, s, w):
        # With x = y + lead, the recursion of y and x becomes one of lead alone: it starts at
        # zero, and neither params nor a copy of them are needed.
        mean = mean + w.fresh * (g - mean)
        square = jnp.real((g - mean) * jnp.conj(g - mean))
        v, s = accumulate(jnp.sum(square) if per_leaf_norm else square, v, s, w)
        # Where the last operation on a new slot reads a single array, such as a factor before the
        # brackets would, XLA repeats it in every kernel that uses the slot, and copies the old
        # one first. So each of them ends in a sum.
        move = lambda v: g / (w.base + w.noise * jnp.sqrt(v))
        lead = w.lead * lead - w.pull * move(v)
        # The barrier hides that this is the same: a second division is cheaper than an array.
        step = w.ahead * lead - w.back * move(jax.lax.optimization_barrier(v))
        return step, lead, mean, v, s

    def init_fn(params):
        noise = lambda leaf: jnp.zeros_like(
            leaf, dtype=real_dtype(leaf), shape=() if per_leaf_norm else None
        )
        return A2GradState(
            count=jnp.zeros([], jnp.int32),
            lead=optax.tree.zeros_like(params),
            mean_grad=optax.tree.zeros_like(params),
            v=jax.tree.map(noise, params),
            s=jax.tree.map(noise, params) if variant == "exp" else None,
        )

    def update_fn(updates, state, params=None):
        del params
        grads, treedef = jax.tree.flatten(updates)
        noise = state.v if state.s is None else state.s
        slots = map(jax.tree.leaves, (state.lead, state.mean_grad, state.v, noise))
        # Once for each dtype, not for each leaf.
        weights = functools.cache(
            lambda dtype: _weights(state.count.astype(dtype), variant, smoothness, beta)
        )

        def row(*old):
            g, lead, mean, v, s = map(widen, old)
            new = leaf_step(g, lead, mean, v, s, weights(wide_dtype(g)))
            return [leaf.astype(before.dtype) for leaf, before in zip(new, old, strict=True)]

        rows = [row(*old) for old in zip(grads, *slots, strict=True)]
        steps, lead, mean_grad, v, s = (
            jax.tree.unflatten(treedef, [row[place] for row in rows]) for place in range(5)
        )
        count = optax.safe_increment(state.count)
        return steps, A2GradState(count, lead, mean_grad, v, None if state.s is None else s)

    return optax.GradientTransformation(init_fn, update_fn)


@catalogue.register("function", PAPER)
def a2grad_averaged_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    r"""Computes the average of A2Grad's iterates for which its rate is proved.

    .. math::
        \bar x_k = \frac{y_k - a_k x_k}{1 - a_k} = y_k - \frac{2}{k} (x_k - y_k)

    For a convex loss with :math:`L`-Lipschitz gradient, exact gradients and ``beta=0``,
    :math:`f(\bar x_k) - f^* \le 2 L \|x_0 - x^*\|^2 / (k (k + 1))`.

    Args:
      state: an :class:`A2GradState`, or a state that contains one, such as that of a chain.
      params: the parameters :math:`y_k` that belong to the state.

    Returns:
      A tree like params; before the first update params themselves.

    Raises:
      ValueError: if ``state`` does not contain exactly one :class:`A2GradState`.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> y, tx = jnp.array([1.0, -2.0]), gradax.optimizers.a2grad("uni", smoothness=1.0)
      >>> updates, state = tx.update(y, tx.init(y))
      >>> print(gradax.optimizers.a2grad_averaged_params(state, y + updates))
      [ 0.5 -1. ]

    References:
      Deng et al., `Optimal Adaptive and Accelerated Stochastic Gradient Descent
      <https://arxiv.org/abs/1810.00553>`_, 2018.
    """
    is_ours = lambda node: isinstance(node, A2GradState)
    found = [node for node in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(node)]
    if len(found) != 1:
        raise ValueError(
            f"a2grad_averaged_params: state must contain one A2GradState, got {len(found)}."
        )
    (ours,) = found

    def leaf_average(y, lead):
        # At k = 0 the lead is zero.
        k = jnp.maximum(ours.count, 1).astype(wide_dtype(y))
        return (y - 2 / k * lead).astype(y.dtype)

    return jax.tree.map(leaf_average, params, ours.lead)
