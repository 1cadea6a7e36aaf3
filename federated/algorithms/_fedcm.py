"""FedCM: the server's last direction in every local step."""

from typing import Literal

import jax
import optax

from gradax import _validate
from gradax.catalogue import register

from ..axis import AxisName
from ..rounds import Algorithm
from ._momentum import FEDCM, momentum_algorithm, server_momentum
from ._units import rated_optimizer


@register("algorithm", FEDCM, example={"learning_rate": 0.1})
def fedcm(
    learning_rate: optax.ScalarOrSchedule,
    alpha: jax.typing.ArrayLike = 0.1,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedCM: local steps follow a mix of the own gradient and the last common direction.

    .. math::
        y \leftarrow y - \eta_l \bigl(\alpha \nabla f_i(y) + (1 - \alpha) m\bigr), \qquad
        m \leftarrow -\frac{\bar\Delta}{K \eta_l},

    with :math:`m = 0` in the first round, which is thus FedAvg at the rate :math:`\alpha
    \eta_l`. No client keeps a state; down come the model and :math:`m`, so two models. The
    rate in :math:`m` is that of the round the displacement was made in. A client that makes
    fewer steps than others takes the same momentum in larger portions. A round of nobody
    changes nothing.

    Args:
      learning_rate: :math:`\eta_l` of local SGD: a number or a schedule of the round.
      alpha: :math:`\alpha` in ``(0, 1]``; 1 is FedAvg.
      client: what clients do with the mixed direction instead of SGD; ``learning_rate`` then
        only says how displacements become gradients.
      server: as in :func:`fedavg`; :math:`m` does not depend on it.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.fedcm(0.1, 0.5), loss_fn, jnp.array(2.0), clients, rounds=1, num_steps=2
      ... )
      >>> round(float(result.params), 4)  # two steps of size 0.05
      1.535

    References:
      Xu et al., `FedCM: Federated Learning with Client-level Momentum
      <https://arxiv.org/abs/2106.10874>`_, 2021.
    """
    _validate.interval("fedcm", "alpha", alpha, "(0, 1]")
    members = server_momentum(alpha), rated_optimizer("fedcm", learning_rate, client)
    return momentum_algorithm("fedcm", learning_rate, members, server, weighting, axis_name)
