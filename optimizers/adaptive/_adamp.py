"""AdamP: Adam whose steps do not lengthen scale-invariant weights."""

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue

from ._project_radial import PAPER, check_projection, project_radial


def _with_undelayed_gradient(
    adam: optax.GradientTransformation,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> optax.GradientTransformation:
    """Nesterov's look-ahead over Adam's own state.

    One bias correction serves both terms, unlike in ``optax.scale_by_adam(nesterov=True)``.
    """

    def update_fn(updates, state, params=None):
        _, state = adam.update(updates, state, params)
        ahead = optax.tree.update_moment(updates, state.mu, b1, 1)
        ahead = optax.tree.bias_correction(ahead, b1, state.count)
        nu_hat = optax.tree.bias_correction(state.nu, b2, state.count)
        leaf_direction = lambda m, v, g: (m / (jnp.sqrt(v) + eps)).astype(g.dtype)
        return jax.tree.map(leaf_direction, ahead, nu_hat, updates), state

    return optax.GradientTransformation(adam.init, update_fn)


@catalogue.register("alias", PAPER, example={"learning_rate": 1e-2})
def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: jax.typing.ArrayLike = 0.0,
    *,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    nesterov: bool = False,
    channel_axis: int = -1,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamP: Adam inside :func:`project_radial`, ready to use.

    .. math::
        w_{t+1} = (1 - \eta \lambda r) w_t - \eta \, \Pi(u_t), \qquad
        u_t = \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    where :math:`\Pi` removes the part along the weight wherever the gradient shows that the
    loss does not depend on the weight's norm, and leaves all else alone. With ``nesterov``,
    :math:`m_t` gives way to :math:`\beta_1 m_t + (1 - \beta_1) g_t`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      b1: decay :math:`\beta_1` of the first moment, in ``[0, 1)``.
      b2: decay :math:`\beta_2` of the second moment, in ``[0, 1)``.
      eps: :math:`\epsilon > 0`, used by Adam and by the projection.
      weight_decay: decoupled decay :math:`\lambda \ge 0`.
      delta: as in :func:`project_radial`.
      wd_ratio: as in :func:`project_radial`: the :math:`r` of projected leaves.
      nesterov: look one step ahead. Static.
      channel_axis: as in :func:`project_radial`.
      mu_dtype: dtype of the first moment; ``None`` means that of params.

    Returns:
      The chained transformation; it needs params.

    Raises:
      ValueError: if a constant is out of its range, or a leaf has no such ``channel_axis``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> direction = lambda w: w[:, 0] / jnp.linalg.norm(w)
      >>> loss = lambda w: jnp.sum((direction(w) - jnp.array([0.6, 0.8])) ** 2)
      >>> w, tx = jnp.array([[1.0], [0.0]]), gradax.optimizers.adamp(0.05)
      >>> state = tx.init(w)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> print(bool(loss(w) < 1e-4), bool(jnp.linalg.norm(w) < 1.1))
      True True

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights <https://arxiv.org/abs/2006.08217>`_, 2020.
    """
    _validate.learning_rate("adamp", learning_rate)
    _validate.interval("adamp", "b1", b1, "[0, 1)")
    _validate.interval("adamp", "b2", b2, "[0, 1)")
    check_projection("adamp", delta, wd_ratio, weight_decay, eps, channel_axis)
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)
    return optax.chain(
        project_radial(
            _with_undelayed_gradient(adam, b1, b2, eps) if nesterov else adam,
            delta=delta,
            wd_ratio=wd_ratio,
            weight_decay=weight_decay,
            eps=eps,
            channel_axis=channel_axis,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
