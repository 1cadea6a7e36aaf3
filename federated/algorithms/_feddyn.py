"""FedDyn: a proximal term whose bias a linear term of each client removes."""

import jax
import optax

from gradax import _validate
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, client_optimizer
from ._dual import dual_algorithm


@register(
    "algorithm",
    Paper("Federated Learning Based on Dynamic Regularization", "Acar et al.", 2021, "2111.04263"),
    example={"learning_rate": 0.1},
)
def feddyn(
    learning_rate: optax.ScalarOrSchedule | None = None,
    prox_weight: jax.typing.ArrayLike = 0.1,
    *,
    client: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedDyn: proximal local steps, corrected so that local and common minima agree.

    The paper minimizes :math:`f_i(y) - \langle \lambda_i, y \rangle + \tfrac{\alpha}{2} \lVert
    y - x \rVert^2` and keeps a sum :math:`h` on the server. With :math:`p_i = -\lambda_i /
    \alpha` and :math:`H = -h / \alpha`, both zero at first, a local step and the round's end are

    .. math::
        y &\leftarrow y - \eta_l \bigl(\nabla f_i(y) + \alpha (p_i + y - x)\bigr), \qquad
        p_i \leftarrow p_i + \Delta_i, \\
        H &\leftarrow H + \tfrac{S}{N} \bar\Delta, \qquad x \leftarrow x + \bar\Delta + H

    for :math:`S` active clients of :math:`N`; :math:`H` is the mean of all :math:`p_i`. One
    model travels each way. The server has no rate of its own: another one than 1 would break
    the relation between :math:`H` and the duals. A round of nobody changes nothing.

    Args:
      learning_rate: :math:`\eta_l`, as in :func:`fedavg`.
      prox_weight: :math:`\alpha > 0`. With a tiny weight and few steps :math:`H` grows large; 0
        would not be FedAvg, since :math:`H` still moves.
      client: as in :func:`fedavg`; receives the corrected direction.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Clients are weighted uniformly; each keeps one copy of the parameters.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.feddyn(0.1, 0.5), loss_fn, jnp.array(2.0), clients, rounds=100, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      -0.5

    References:
      Acar et al., `Federated Learning Based on Dynamic Regularization
      <https://arxiv.org/abs/2111.04263>`_, 2021.
    """
    _validate.interval("feddyn", "prox_weight", prox_weight, "(0, inf)")
    optimizer = client_optimizer("feddyn", learning_rate, client)
    return dual_algorithm(optax.identity(), optimizer, prox_weight, axis_name)
