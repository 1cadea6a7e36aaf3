"""MoNNA: momentum and nearest-neighbour averaging, for peers of which some lie."""

import jax
import optax

from gradax import _validate, catalogue

from .. import axis
from ..robust._stateful import Attack
from ._nearest import PAPER, nearest_neighbor_average


@catalogue.register(
    "alias", PAPER, needs=("axis",), example={"learning_rate": 1e-3, "f": 1, "axis_name": "nodes"}
)
def monna(
    learning_rate: optax.ScalarOrSchedule,
    f: int,
    axis_name: axis.AxisName,
    momentum: jax.typing.ArrayLike = 0.9,
    num_responses: int | None = None,
    *,
    attack: Attack | None = None,
    key: jax.Array | int | None = None,
    steps: int = 1,
    num_nodes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MoNNA: a momentum step, then the average of the models nearest to one's own.

    .. math::
        m_i^t = \beta m_i^{t-1} + (1 - \beta) g_i^t, \qquad
        y_i = x_i^t - \eta_t m_i^t,

    and :math:`x_i^{t+1}` is the :func:`nearest_neighbor_average` of the :math:`y_j`. Momentum
    shrinks the noise in which attackers can hide, the choice of neighbours bounds what they
    can inject. There is no server, and the momentum does not travel.

    Args:
      learning_rate: step per update, a number or a schedule of the count.
      f: number of dishonest nodes to bear, below half of them. Static.
      axis_name: axis of the nodes.
      momentum: :math:`\beta` in ``[0, 1)``, without bias correction; 0.99 in the paper's long
        runs.
      num_responses: as in :func:`nearest_neighbor_average`.
      attack: as in :func:`nearest_neighbor_average`, to simulate dishonest nodes.
      key: as in :func:`nearest_neighbor_average`.
      steps: how often models are averaged per update; the paper's algorithm does it once. Static.
      num_nodes: as in :func:`nearest_neighbor_average`, to have ``f`` checked at once.
        Static.

    Returns:
      The chained transformation; one copy of params for the momentum.

    Raises:
      ValueError: if an argument is out of range; with ``num_nodes`` at once, otherwise at trace
        time, if ``2 f >= n``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> federated = gradax.federated
      >>> tx = federated.monna(0.1, 1, "nodes", attack=federated.attacks.sign_flip)
      >>> targets = jnp.array([[0.9, 2.0], [1.1, 2.0], [1.0, 1.9], [1.0, 2.1], [0.0, 0.0]])
      >>> x = jnp.zeros_like(targets)
      >>> state = jax.vmap(tx.init)(x)
      >>> update = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
      >>> for _ in range(100):
      ...     updates, state = update(x - targets, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.allclose(x[:4], jnp.array([1.0, 2.0]), atol=0.1))
      True

    References:
      Farhadkhani et al., `Robust Collaborative Learning with Linear Gradient Overhead
      <https://arxiv.org/abs/2209.10931>`_, 2022.
    """
    _validate.learning_rate("monna", learning_rate)
    _validate.interval("monna", "momentum", momentum, "[0, 1)")
    return optax.chain(
        optax.ema(momentum, debias=False),
        optax.scale_by_learning_rate(learning_rate),
        nearest_neighbor_average(
            f, axis_name, num_responses, attack, key, steps=steps, num_nodes=num_nodes
        ),
    )
