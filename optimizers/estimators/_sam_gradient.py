"""sam_gradient: the gradient at the worst point nearby, from sharpness-aware minimization."""

import jax
import optax

from gradax import _extras, _validate, catalogue

PAPER = catalogue.Paper(
    title="Sharpness-Aware Minimization for Efficiently Improving Generalization",
    authors="Foret et al.",
    year=2020,
    arxiv="2010.01412",
)


@catalogue.register("producer", PAPER, needs=("grad_fn",), example={"rho": 1e-3})
def sam_gradient(
    rho: jax.typing.ArrayLike,
    *,
    merge: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the gradient by the one at a point uphill, on the same batch.

    .. math::
        q = \nabla f\Bigl(w + \rho \frac{g}{\|g\| + \epsilon}\Bigr), \qquad
        u = (1 - \alpha) \, g + \alpha \, q

    with the incoming gradient :math:`g` and the norm over the whole tree. One more gradient a
    step and no state: it stands at the head of any chain, also inside local steps. A zero
    gradient moves nothing.

    Args:
      rho: radius :math:`\rho \ge 0` of the ascent; 0 gives the gradient back.
      merge: weight :math:`\alpha` of the gradient uphill, in ``[0, 1]``.
      eps: :math:`\epsilon > 0`, added to the norm.

    Returns:
      A stateless transformation that needs params and the extra ``grad_fn``: a function of
      params that returns the gradient on the batch that ``updates`` come from.

    Raises:
      ValueError: if a constant is out of its range.
      MissingExtraError: in ``update``, without ``grad_fn``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * w**2))
      >>> w, tx = jnp.array([3.0, 0.4]), gradax.optimizers.sam_gradient(0.5)
      >>> u, _ = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
      >>> print(u)
      [3.3 8. ]

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving Generalization
      <https://arxiv.org/abs/2010.01412>`_, 2020.

      Qu et al., `Generalized Federated Learning via Sharpness Aware Minimization
      <https://arxiv.org/abs/2206.02618>`_, 2022.
    """
    _validate.interval("sam_gradient", "rho", rho, "[0, inf)")
    _validate.interval("sam_gradient", "merge", merge, "[0, 1]")
    _validate.interval("sam_gradient", "eps", eps, "(0, inf)")

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        _extras.require_params("sam_gradient", params)
        grad_fn = _extras.require("sam_gradient", "grad_fn", grad_fn)
        step = rho / (optax.tree.norm(updates) + eps)
        uphill = jax.tree.map(lambda w, g: (w + step * g).astype(w.dtype), params, updates)
        mix = lambda g, q: ((1.0 - merge) * g + merge * q).astype(g.dtype)
        return jax.tree.map(mix, updates, grad_fn(uphill)), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
