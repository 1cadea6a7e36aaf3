"""Consensus hopping: a cloud of fixed width is drawn around the consensus in every step."""

import jax
import optax

from gradax import _validate, catalogue
from gradax.federated import axis

from ._consensus_search import at, consensus_search
from ._individual import Sampler

PAPER = catalogue.Paper(
    title="Gradient is All You Need? How Consensus-Based Optimization can be Interpreted as a "
    "Stochastic Relaxation of Gradient Descent",
    authors="Riedl et al.",
    year=2023,
    arxiv="2306.09778",
)


@catalogue.register("final", PAPER, needs=("value", "axis"), example={"sigma": 0.005, "alpha": 3e3})
def consensus_hopping(
    sigma: optax.ScalarOrSchedule = 0.5,
    alpha: optax.ScalarOrSchedule = 100.0,
    *,
    sampler: Sampler = jax.random.normal,
    key: jax.Array | int = 0,
    axis_name: axis.AxisName = "population",
) -> optax.GradientTransformationExtraArgs:
    r"""Consensus hopping, a descent without gradients; stands last in a chain.

    Every individual jumps to the consensus :math:`\bar x` of :func:`consensus_point` and from
    there by a standard normal :math:`\xi_i` times :math:`\sigma`,

    .. math:: x_i^+ = \bar x + \sigma \xi_i.

    For many individuals and large :math:`\alpha` the consensus makes a proximal step with the
    rate :math:`\tau = \alpha \sigma^2`, about :math:`\bar x^+ = \bar x - \tau \nabla E(\bar
    x^+)`. The width stays, so that the search can leave local minima narrower than it; the
    individuals never settle, the consensus in the state is the answer. All may start at one
    point. A schedule of ``sigma`` narrows the cloud.

    Incoming updates are ignored, and nothing may rescale what this emits. An individual with
    the extra ``active=False`` stays where it is, and nobody counts it. All losses of one step
    must be taken on the same examples.

    Args:
      sigma: width :math:`\sigma \ge 0` of the cloud, a number or a schedule of the count.
      alpha: inverse temperature :math:`\alpha \ge 0`, in units of one over the loss, a number
        or a schedule of the count.
      sampler: as in :func:`cbo`.
      key: random key or seed, the same for all individuals; each draws numbers of its own.
      axis_name: axis of the population.

    Returns:
      A transformation with a :class:`ConsensusState` and the needs of :func:`cbo`. Integer
      leaves do not move.

    Raises:
      ValueError: if an argument is out of range; at trace time if ``value`` is missing or no
        real scalar, or the axis is not bound.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda x: jnp.sum((x - 1.0) ** 2)
      >>> tx = gradax.optimizers.consensus_hopping(sigma=0.1)
      >>> x = jnp.zeros((50, 2))
      >>> def step(carry, _):
      ...     x, state = carry
      ...     update = lambda x, state: tx.update(None, state, x, value=loss(x))
      ...     updates, state = jax.vmap(update, axis_name="population")(x, state)
      ...     return (optax.apply_updates(x, updates), state), None
      >>> (x, state), _ = jax.lax.scan(step, (x, jax.vmap(tx.init)(x)), length=100)
      >>> bool(abs(state.consensus[0] - 1.0).max() < 0.05)
      True

    References:
      Riedl et al., `Gradient is All You Need?
      <https://arxiv.org/abs/2306.09778>`_, 2023.
    """
    _validate.learning_rate("consensus_hopping", sigma, "sigma")

    def move(gap, xi, t, updates):
        del updates
        return jax.tree.map(lambda d, x: at(sigma, t) * x - d, gap, xi)

    return consensus_search(
        "consensus_hopping", move, alpha=alpha, sampler=sampler, key=key, axis_name=axis_name
    )
