"""FedSAM and MoFedSAM: local steps along the gradient of a point uphill."""

from typing import Literal

import jax
import optax

from gradax import _validate
from gradax.catalogue import Paper, register
from gradax.optimizers import sam_gradient

from ..axis import AxisName
from ..rounds import Algorithm, client_optimizer
from ._fedavg import fedavg
from ._momentum import momentum_algorithm, server_momentum
from ._units import rated_optimizer

_FEDSAM = Paper(
    "Generalized Federated Learning via Sharpness Aware Minimization",
    "Qu et al.",
    2022,
    "2206.02618",
)


@register("algorithm", _FEDSAM, example={"learning_rate": 0.1})
def fedsam(
    learning_rate: optax.ScalarOrSchedule | None = None,
    rho: jax.typing.ArrayLike = 0.1,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedSAM: FedAvg whose clients look for flat minima.

    Each local step uses the gradient at a point uphill, on the same batch,

    .. math::
        q = \nabla f_i\Bigl(y + \rho \tfrac{\nabla f_i(y)}{\lVert \nabla f_i(y) \rVert}\Bigr),

    so it costs two gradients. The norm is that of the whole tree; a zero gradient stays zero.

    Args:
      learning_rate: as in :func:`fedavg`.
      rho: :math:`\rho \ge 0`, radius of the perturbation; 0 is FedAvg.
      client: as in :func:`fedavg`; receives :math:`q`.
      server: as in :func:`fedavg`.
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
      ...     federated.fedsam(0.1, 0.1), loss_fn, jnp.array(2.0), clients, rounds=1, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      1.105

    References:
      Qu et al., `Generalized Federated Learning via Sharpness Aware Minimization
      <https://arxiv.org/abs/2206.02618>`_, 2022.
    """
    _validate.interval("fedsam", "rho", rho, "[0, inf)")
    optimizer = client_optimizer("fedsam", learning_rate, client)
    return fedavg(
        client=optax.chain(sam_gradient(rho, eps=1e-7), optimizer),
        server=server,
        weighting=weighting,
        axis_name=axis_name,
    )


@register("algorithm", _FEDSAM, example={"learning_rate": 0.1})
def mofedsam(
    learning_rate: optax.ScalarOrSchedule,
    rho: jax.typing.ArrayLike = 0.1,
    alpha: jax.typing.ArrayLike = 0.1,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""MoFedSAM: FedCM whose clients use the gradient of FedSAM.

    With the gradient :math:`q` of :func:`fedsam` and the momentum :math:`m` of :func:`fedcm`
    a local step goes along :math:`\alpha q + (1 - \alpha) m`.

    Args:
      learning_rate: as in :func:`fedcm`.
      rho: :math:`\rho \ge 0`, radius of the perturbation; 0 is FedCM.
      alpha: :math:`\alpha` in ``(0, 1]``; 1 is FedSAM.
      client: as in :func:`fedcm`.
      server: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> federated.mofedsam(0.1).publishes
      ('broadcast',)

    References:
      Qu et al., `Generalized Federated Learning via Sharpness Aware Minimization
      <https://arxiv.org/abs/2206.02618>`_, 2022.
    """
    _validate.interval("mofedsam", "rho", rho, "[0, inf)")
    _validate.interval("mofedsam", "alpha", alpha, "(0, 1]")
    optimizer = rated_optimizer("mofedsam", learning_rate, client)
    members = sam_gradient(rho, eps=1e-7), server_momentum(alpha), optimizer
    return momentum_algorithm("mofedsam", learning_rate, members, server, weighting, axis_name)
