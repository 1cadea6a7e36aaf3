"""DFedSAM: decentralized federated averaging whose local steps look for flat minima."""

import jax
import optax

from gradax import _validate, catalogue
from gradax.optimizers import sam_gradient

from .. import axis
from ..rounds import local_steps, scale_by_round_rate
from ._gossip import _RING, gossip
from ._graphs import MatrixLike


@catalogue.register(
    "alias",
    catalogue.Paper(
        title="Improving the Model Consistency of Decentralized Federated Learning",
        authors="Shi et al.",
        year=2023,
        arxiv="2302.04083",
    ),
    needs=("batches", "grad_fn", "axis"),
    example={"learning_rate": 1e-3, "mixing": _RING, "axis_name": "nodes", "rho": 1e-3},
    exceptions={"schedule_equals_float": "a schedule is one of the round, an extra of its own"},
)
def dfedsam(
    learning_rate: optax.ScalarOrSchedule,
    mixing: MatrixLike,
    axis_name: axis.AxisName,
    rho: jax.typing.ArrayLike = 0.05,
    gossip_steps: int = 1,
    momentum: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""DFedSAM: local steps along the gradient uphill, then an average with the neighbours.

    One update is one round. From :math:`y = x_i`, for each of its batches a node makes the step

    .. math::
        y \leftarrow y - \eta \, \nabla f_i\Bigl(y + \rho
        \tfrac{\nabla f_i(y)}{\lVert \nabla f_i(y) \rVert + 10^{-12}}\Bigr),

    both gradients on that batch; then :math:`x_i^+ = \sum_j (W^Q)_{ij} y_j`. Models from flat
    minima suffer less from being averaged. With :math:`Q > 1` it is the paper's DFedSAM-MGS
    (multiple gossip steps), which brings the nodes closer together at :math:`Q` times the
    communication. With ``rho=0`` it is decentralized FedAvg.

    A round costs two gradients per batch. In ``simulate``, the number of local steps is
    ``num_steps``.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the **round** (the extra ``round``).
      mixing: as in :func:`gossip`; a sparse matrix works too.
      axis_name: axis of the nodes.
      rho: radius :math:`\rho \ge 0` of the ascent.
      gossip_steps: :math:`Q`, how often models are mixed per round. Static.
      momentum: decay of heavy-ball momentum within a round; it starts afresh each round.

    Returns:
      The chained transformation; it needs params, the axis, and the extras ``batches`` and
      ``grad_fn(params, batch=...)``. It keeps no copy of params.

    Raises:
      ValueError: as :func:`gossip`, or if ``learning_rate``, ``rho`` or ``momentum`` is out of
        range.
      MissingExtraError: without ``batches`` or ``grad_fn``.

    Examples:
      Eight nodes on a ring that each hold one number agree on the mean:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> numbers = np.arange(8.0, dtype=np.float32)
      >>> nodes = federated.data.padded(numbers, [np.array([i]) for i in range(8)])
      >>> W = federated.topology.metropolis_weights(federated.topology.ring(8))
      >>> result = federated.simulate(
      ...     federated.dfedsam(0.1, W, "nodes", rho=0.01, gossip_steps=4),
      ...     lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
      ...     jnp.array(0.0),
      ...     nodes,
      ...     rounds=30,
      ...     num_steps=5,
      ... )
      >>> round(float(result.params.mean()), 1)
      3.5

    References:
      Shi et al., `Improving the Model Consistency of Decentralized Federated Learning
      <https://arxiv.org/abs/2302.04083>`_, 2023.
    """
    _validate.learning_rate("dfedsam", learning_rate)
    _validate.interval("dfedsam", "rho", rho, "[0, inf)")
    _validate.integer("dfedsam", "gossip_steps", gossip_steps, at_least=1)
    _validate.interval("dfedsam", "momentum", momentum, "[0, 1)")
    trace = [] if momentum is None else [optax.trace(momentum)]
    steps = optax.chain(sam_gradient(rho, eps=1e-12), *trace, scale_by_round_rate(learning_rate))
    return optax.chain(
        local_steps(steps), gossip(mixing, axis_name, order="atc", steps=gossip_steps)
    )
