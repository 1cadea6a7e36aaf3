"""Momentum of the server inside local steps: what FedCM and MoFedSAM share."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, average, local_steps, skip_empty
from ._units import divided, rate_of, steps_of

FEDCM = Paper(
    "FedCM: Federated Learning with Client-level Momentum", "Xu et al.", 2021, "2106.10874"
)


@register("direction", FEDCM, needs=("broadcast",), example={"alpha": 0.5})
def server_momentum(alpha: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    r"""Mixes what the server broadcasts into the updates: :math:`\alpha g + (1 - \alpha) m`.

    A member of local chains: :math:`g` comes in, :math:`m` is the extra ``broadcast``, in
    gradient units.

    Args:
      alpha: :math:`\alpha` in ``(0, 1]``, the share of the updates.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: if ``alpha`` is a number outside ``(0, 1]``.
      MissingExtraError: if ``update`` receives no ``broadcast``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.server_momentum(0.25)
      >>> updates, _ = tx.update(jnp.array(4.0), tx.init(None), broadcast=jnp.array(8.0))
      >>> float(updates)
      7.0

    References:
      Xu et al., `FedCM: Federated Learning with Client-level Momentum
      <https://arxiv.org/abs/2106.10874>`_, 2021.
    """
    _validate.interval("server_momentum", "alpha", alpha, "(0, 1]")

    def mix(update, momentum):
        share = jnp.asarray(alpha, update.dtype)
        return share * update + (1 - share) * momentum.astype(update.dtype)

    def update_fn(updates, state, params=None, *, broadcast=None, **extras):
        del params, extras
        broadcast = require("server_momentum", "broadcast", broadcast)
        return jax.tree.map(mix, updates, broadcast), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


class MomentumServerState(NamedTuple):
    """State of the server of :func:`fedcm` and :func:`mofedsam`.

    Attributes:
      broadcast: like params, minus the last mean displacement divided by the learning rate of
        its round, so the sum of a client's directions over its local steps.
      inner: state of the server's optimizer.
    """

    broadcast: optax.Updates
    inner: optax.OptState


def _spread_over_steps(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Tells local steps the broadcast sum of directions as one step's direction."""
    inner = optax.with_extra_args_support(inner)

    def update_fn(updates, state, params=None, *, broadcast=None, **extras):
        steps = steps_of("server_momentum", extras.get("batches"), extras.get("num_steps"))
        direction = divided(require("server_momentum", "broadcast", broadcast), steps)
        return inner.update(updates, state, params, broadcast=direction, **extras)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _momentum_server(
    who: str, learning_rate: optax.ScalarOrSchedule, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Keeps the mean displacement in gradient units; the model moves as ``inner`` says."""
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return MomentumServerState(optax.tree.zeros_like(params), inner.init(params))

    def update_fn(updates, state, params=None, *, round=None, **extras):
        # The rate of this very round: a client would have to know that of the last one.
        sum_of_directions = divided(updates, rate_of(who, learning_rate, round))
        updates, inner_state = inner.update(updates, state.inner, params, round=round, **extras)
        return updates, MomentumServerState(sum_of_directions, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def momentum_algorithm(
    who: str,
    learning_rate: optax.ScalarOrSchedule,
    members: tuple[optax.GradientTransformation, ...],
    server: optax.GradientTransformation | None,
    weighting: Literal["examples", "uniform"],
    axis_name: AxisName,
) -> Algorithm:
    r"""Local steps along mixed directions, and the server that tells them its last one.

    Args:
      who: name of the algorithm.
      learning_rate: :math:`\eta_l`, which turns displacements into gradients.
      members: of the local chain.
      server: the server's optimizer, or ``None``.
      weighting: as in ``fedavg``.
      axis_name: the axis of clients.

    Returns:
      The algorithm.
    """
    inner: Any = optax.sgd(1.0) if server is None else server
    return Algorithm(
        client=_spread_over_steps(local_steps(optax.chain(*members))),
        aggregate=average(axis_name, weighting),
        server=skip_empty(_momentum_server(who, learning_rate, inner)),
        publishes=("broadcast",),
        axis_name=axis_name,
    )
