"""Exponentiated gradient: weights are multiplied, and never change their sign."""

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import wide

from ._mirror import require_real

PAPER = catalogue.Paper(
    title="Brain-like learning with exponentiated gradients",
    authors="Cornford et al.",
    year=2024,
    url="https://doi.org/10.1101/2024.10.25.620272",
)

_SIGNS = "a multiplied weight keeps its sign, and the minimum lies on the other side of zero"
_ZERO = "a weight that starts at zero stays at zero"
_EXCEPTIONS = {
    "converges_parabola": _SIGNS,
    "converges_matrix_parabola": _ZERO,
    "converges_mixed_tree": _ZERO,
    "converges_rosenbrock": _ZERO,
}


@catalogue.register("final", PAPER, example={"max_exponent": 1.0}, exceptions=_EXCEPTIONS)
def signed_exponentiate(
    max_exponent: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""Turns additive steps into multiplicative ones that keep every weight's sign.

    A step :math:`z`, already times minus the learning rate, becomes

    .. math::
        w \leftarrow w \odot \exp(\operatorname{sign}(w) \odot z), \qquad
        \log|w| \leftarrow \log|w| + \operatorname{sign}(w) \odot z .

    It is the last stage of a chain, and makes any optimizer multiplicative. To first order the
    step is :math:`|w| z`: large weights move much, small ones little. A weight that is exactly
    zero stays zero, so biases that start at zero never move, and a weight that has to cross
    zero cannot; draw half of the signs positive, or split such a weight into two.

    Args:
      max_exponent: bound on :math:`|z|`, positive, or ``None`` for none. In float32 exponents
        above 88 overflow, and one below -16.6 rounds the weight to zero, where it stays.

    Returns:
      A stateless transformation; it needs params. Updates have the dtype of the incoming ones.

    Raises:
      ValueError: if ``max_exponent`` is a number that is not positive, or params are complex.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> tx = optax.chain(optax.scale(-0.1), gradax.optimizers.signed_exponentiate())
      >>> w, g = jnp.array([2.0, -2.0, 0.5]), jnp.array([1.0, 1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(w), w)
      >>> print((w + updates).round(4))
      [ 1.8097 -2.2103  0.6107]

    References:
      Cornford et al., `Brain-like learning with exponentiated gradients
      <https://doi.org/10.1101/2024.10.25.620272>`_, 2024.

      Shetty et al., `Dale meets Langevin: A Multiplicative Denoising Diffusion Model
      <https://arxiv.org/abs/2510.02730>`_, 2025.
    """
    _validate.interval("signed_exponentiate", "max_exponent", max_exponent, "(0, inf)")

    def leaf_update(z, w):
        dtype = wide(w.dtype)
        exponent = jnp.sign(w).astype(dtype) * z.astype(dtype)
        if max_exponent is not None:
            limit = jnp.asarray(max_exponent, dtype)
            exponent = jnp.clip(exponent, -limit, limit)
        return (w.astype(dtype) * jnp.expm1(exponent)).astype(z.dtype)

    def update(updates, params):
        _extras.require_params("signed_exponentiate", params)
        require_real("signed_exponentiate", params)
        return jax.tree.map(leaf_update, updates, params)

    return optax.stateless(update)


def _add_sign_decay(weight_decay):
    """Adds a constant pull towards zero, which is a relative one after exponentiation."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()

    def leaf_update(g, w):
        return g + jnp.asarray(weight_decay, g.dtype) * jnp.sign(w).astype(g.dtype)

    def update(updates, params):
        _extras.require_params("exponentiated_gradient", params)
        require_real("exponentiated_gradient", params)
        return jax.tree.map(leaf_update, updates, params)

    return optax.stateless(update)


@catalogue.register("alias", PAPER, example={"learning_rate": 1e-2}, exceptions=_EXCEPTIONS)
def exponentiated_gradient(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: jax.typing.ArrayLike = 0.0,
    *,
    max_exponent: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies every weight by an exponential of its gradient: signs never change.

    .. math::
        w_{t+1} = w_t \odot \exp(-\eta \operatorname{sign}(w_t) \odot d_t), \qquad
        d_t = \mu d_{t-1} + g_t + \lambda \operatorname{sign}(w_t).

    The decay multiplies :math:`|w|` by :math:`\exp(-\eta\lambda)` in a step. It is mirror descent
    with the potential :math:`\sum |w| \log |w| - |w|`, and good at finding few relevant weights
    among many, from a start that is small but not zero.

    Args:
      learning_rate: :math:`\eta \ge 0`, a number or a schedule of the count.
      momentum: decay :math:`\mu` in ``[0, 1)``, or ``None`` for no momentum and no state.
      nesterov: look one step of momentum ahead. Static.
      weight_decay: :math:`\lambda \ge 0`.
      max_exponent: as in :func:`signed_exponentiate`.

    Returns:
      The chained transformation; it needs params.

    Raises:
      ValueError: if a constant is out of its range, or params are complex.

    Examples:
      Two of four weights matter. The others are driven towards zero, and stay positive.

      >>> import gradax, jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0], [1.0, 1.0, -1.0, 1.0]])
      >>> loss_fn = lambda w, x: jnp.mean((x @ w - x @ jnp.array([1.0, 2.0, 0.0, 0.0])) ** 2)
      >>> w, tx = jnp.full(4, 0.1), gradax.optimizers.exponentiated_gradient(0.1)
      >>> step, state = gradax.make_step(loss_fn, tx), tx.init(w)
      >>> for _ in range(300):
      ...     w, state, metrics = step(w, state, x)
      >>> bool(metrics["loss"] < 1e-3), bool(jnp.all(w > 0))
      (True, True)

    References:
      Cornford et al., `Brain-like learning with exponentiated gradients
      <https://doi.org/10.1101/2024.10.25.620272>`_, 2024.
    """
    who = "exponentiated_gradient"
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    _validate.interval(who, "weight_decay", weight_decay, "[0, inf)")
    _validate.interval(who, "max_exponent", max_exponent, "(0, inf)")
    return optax.chain(
        _add_sign_decay(weight_decay),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(learning_rate),
        signed_exponentiate(max_exponent),
    )
