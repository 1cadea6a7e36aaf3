"""Consensus-based optimization: individuals drift to the consensus and diffuse around it."""

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._wide import inner_product, wide_dtype
from gradax.federated import axis

from ._consensus_point import CBO_PAPER
from ._consensus_search import at, consensus_search
from ._individual import Sampler, movable


@catalogue.register(
    "final",
    CBO_PAPER,
    needs=("value", "axis"),
    # The four individuals of the conformance battery are too few to search without a gradient.
    example={"sigma": 0.3, "use_gradient": True},
)
def cbo(
    lam: jax.typing.ArrayLike = 1.0,
    sigma: optax.ScalarOrSchedule = 0.7,
    alpha: optax.ScalarOrSchedule = 100.0,
    dt: jax.typing.ArrayLike = 0.1,
    noise: str = "isotropic",
    *,
    diffusion_at: str = "before",
    use_gradient: bool = False,
    sampler: Sampler = jax.random.normal,
    key: jax.Array | int = 0,
    axis_name: axis.AxisName = "population",
) -> optax.GradientTransformationExtraArgs:
    r"""Consensus-based optimization (CBO), a search without gradients; stands last in a chain.

    With the gap :math:`d_i = x_i - \bar x` to the consensus of :func:`consensus_point` and
    independent standard normal :math:`\xi_i`, every individual makes the step

    .. math::
        x_i^+ = x_i - \lambda \, \Delta t \, d_i
            + \sigma \sqrt{\Delta t} \, s_i \odot \xi_i,
        \qquad
        s_i = \|d_i\|_2 \text{ (isotropic)}, \quad s_i = |d_i| \text{ (anisotropic)}.

    The norm is over all leaves together. Around a consensus that stays where it is, the squared
    gap changes by the factor :math:`(1 - \lambda \Delta t)^2 + \sigma^2 \Delta t \, d` per step
    in :math:`d` dimensions, without the last :math:`d` if anisotropic: take the anisotropic form
    for more than a few dimensions.

    Individuals must start apart: if all are equal they stay so. All losses of one step must be
    taken on the same examples, or else the weights compare batches. The answer is the
    consensus, which the state holds, not an individual.

    Incoming updates are ignored unless ``use_gradient``. Nothing may rescale what this emits;
    adding it gives the new individual up to one rounding. An individual with the extra
    ``active=False`` stays where it is, and nobody counts it.

    Args:
      lam: drift :math:`\lambda > 0`. With ``lam * dt == 1`` individuals jump to the consensus.
      sigma: noise :math:`\sigma \ge 0`, a number or a schedule of the count.
      alpha: inverse temperature :math:`\alpha \ge 0`, in units of one over the loss, a number
        or a schedule of the count.
      dt: length :math:`\Delta t > 0` of a step.
      noise: ``"isotropic"`` or ``"anisotropic"``.
      diffusion_at: ``"before"`` takes :math:`s_i` from the gap as it stands, ``"after_drift"``
        from that which the drift leaves, which is the same as
        :math:`\sigma |1 - \lambda \Delta t|`.
      use_gradient: add the incoming updates to the step, such as those of ``optax.sgd``.
      sampler: ``sampler(key, shape, dtype)`` draws :math:`\xi`: independent numbers of mean
        zero and variance one.
      key: random key or seed, the same for all individuals; each draws numbers of its own.
      axis_name: axis of the population.

    Returns:
      A transformation with a :class:`ConsensusState`; it needs params, the axis and ``value``,
      or ``value_fn`` (as ``simulate`` passes it), from which it computes the loss. An extra
      ``round`` replaces the count of updates in schedules. Integer leaves do not move.

    Raises:
      ValueError: if an argument is out of range; at trace time if ``value`` is missing or no
        real scalar, or the axis is not bound.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda x: jnp.sum((x - 1.0) ** 2)
      >>> tx = gradax.optimizers.cbo()
      >>> x = jax.random.normal(jax.random.key(1), (20, 2))
      >>> def step(carry, _):
      ...     x, state = carry
      ...     update = lambda x, state: tx.update(None, state, x, value=loss(x))
      ...     updates, state = jax.vmap(update, axis_name="population")(x, state)
      ...     return (optax.apply_updates(x, updates), state), None
      >>> (x, state), _ = jax.lax.scan(step, (x, jax.vmap(tx.init)(x)), length=200)
      >>> print(state.consensus[0].round(1))
      [1. 1.]

    References:
      Pinnau et al., `A Consensus-Based Model for Global Optimization and its Mean-Field Limit
      <https://arxiv.org/abs/1604.05648>`_, 2016.

      Riedl et al., `Gradient is All You Need?
      <https://arxiv.org/abs/2306.09778>`_, 2023.
    """
    _validate.interval("cbo", "lam", lam, "(0, inf)")
    _validate.interval("cbo", "dt", dt, "(0, inf)")
    _validate.learning_rate("cbo", sigma, "sigma")
    _validate.one_of("cbo", "noise", noise, ("isotropic", "anisotropic"))
    _validate.one_of("cbo", "diffusion_at", diffusion_at, ("before", "after_drift"))

    def spread(gap):
        if noise == "anisotropic":
            return jax.tree.map(jnp.abs, gap)
        leaves = jax.tree.leaves(gap)
        norm = jnp.sqrt(inner_product(leaves, leaves, wide_dtype(*leaves)))
        return jax.tree.map(lambda _: norm, gap)

    def move(gap, xi, t, updates):
        drift = jnp.multiply(lam, dt)
        drifted = jax.tree.map(lambda d: -drift * d, gap)
        left = gap if diffusion_at == "before" else jax.tree.map(jnp.add, gap, drifted)
        width = at(sigma, t) * jnp.sqrt(dt)
        diffuse = lambda d, s, x: d + width * s * x
        out = jax.tree.map(diffuse, drifted, spread(left), xi)
        return jax.tree.map(jnp.add, out, movable(updates)) if use_gradient else out

    return consensus_search("cbo", move, alpha=alpha, sampler=sampler, key=key, axis_name=axis_name)
