"""FedProx: FedAvg with a proximal pull towards the start of the round."""

from typing import Literal

import jax
import optax

from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, add_proximal, client_optimizer
from ._fedavg import fedavg


@register(
    "algorithm",
    Paper("Federated Optimization in Heterogeneous Networks", "Li et al.", 2018, "1812.06127"),
    example={"learning_rate": 0.1, "prox_weight": 0.1},
)
def fedprox(
    learning_rate: optax.ScalarOrSchedule | None = None,
    prox_weight: jax.typing.ArrayLike = 0.1,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedProx: FedAvg whose local losses are pulled towards the start of the round.

    Every local loss gets the term :math:`\frac{\mu}{2} \lVert y - x \rVert^2`, so the local
    direction is :math:`\nabla f_i(y) + \mu (y - x)`; the server is FedAvg's.

    Args:
      learning_rate: as in :func:`fedavg`.
      prox_weight: :math:`\mu \ge 0`; the paper tries 0.001 to 1.
      client: as in :func:`fedavg`; receives the direction with the proximal term.
      server: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm; ``prox_weight=0`` is FedAvg.

    Raises:
      ValueError: if a rate or weight is negative.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.fedprox(0.1, 0.5), loss_fn, jnp.array(2.0), clients, rounds=1, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      1.165

    References:
      Li et al., `Federated Optimization in Heterogeneous Networks
      <https://arxiv.org/abs/1812.06127>`_, 2018.
    """
    optimizer = client_optimizer("fedprox", learning_rate, client)
    return fedavg(
        client=optax.chain(add_proximal(prox_weight), optimizer),
        server=server,
        weighting=weighting,
        axis_name=axis_name,
    )
