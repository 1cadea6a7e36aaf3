"""FedAvg: local training, then the mean of the displacements."""

from typing import Literal

import optax

from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, average, client_optimizer, local_steps


@register(
    "algorithm",
    Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan et al.",
        2016,
        "1602.05629",
    ),
    example={"learning_rate": 0.1},
)
def fedavg(
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedAvg: clients train locally from the common parameters; the server averages.

    With local displacements :math:`\Delta_i` and weights :math:`w_i` (numbers of examples),

    .. math::
        x \leftarrow x + \frac{\sum_i w_i \Delta_i}{\sum_i w_i}.

    Args:
      learning_rate: :math:`\eta_l` of plain local SGD: a number or a schedule of the round.
      client: instead of ``learning_rate``, the clients' optimizer, such as
        ``optax.sgd(0.1, momentum=0.9)``; its state starts afresh every round.
      server: what the server does with minus the mean; ``optax.sgd(1.0)`` by default.
      weighting: ``"examples"`` as in the paper, or ``"uniform"``.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if not exactly one of ``learning_rate`` and ``client`` is given, or the rate
        is negative.

    Examples:
      Two clients, two steps each, as worked by hand:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.fedavg(0.1), loss_fn, jnp.array(2.0), clients, rounds=1, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      1.14

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized
      Data <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    return Algorithm(
        client=local_steps(client_optimizer("fedavg", learning_rate, client)),
        aggregate=average(axis_name, weighting),
        server=optax.sgd(1.0) if server is None else server,
        axis_name=axis_name,
    )
