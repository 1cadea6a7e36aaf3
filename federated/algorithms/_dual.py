"""Duals of clients: the correction that FedDyn and FedSpeed share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import (
    Algorithm,
    add_correction,
    add_proximal,
    average,
    local_steps,
    skip_empty,
)
from ._shares import add_share

_FEDDYN = Paper(
    "Federated Learning Based on Dynamic Regularization", "Acar et al.", 2021, "2111.04263"
)


class DualState(NamedTuple):
    """State of :func:`dual_correction`.

    Attributes:
      dual: like params, the sum :math:`p` of this client's displacements so far.
      inner: state of the inner transformation.
    """

    dual: optax.Updates
    inner: optax.OptState


@register(
    "wrapper",
    _FEDDYN,
    needs=("batches", "grad_fn"),
    example={"inner": local_steps(optax.sgd(1e-3)), "prox_weight": 0.1},
)
def dual_correction(
    inner: optax.GradientTransformation,
    prox_weight: jax.typing.ArrayLike,
    *,
    send_dual: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Corrects local steps by a dual variable, the sum of the client's own displacements.

    Wraps :func:`local_steps`: passes :math:`\beta p` inwards as the extra ``correction`` and
    adds the displacement :math:`\Delta` that comes back to :math:`p`. The scaled dual
    :math:`-\beta p` estimates the client's gradient.

    Args:
      inner: what emits the displacement; inside it, :func:`add_correction` and
        :func:`add_proximal` with the same weight say where the terms act.
      prox_weight: :math:`\beta > 0`.
      send_dual: emit :math:`\Delta + p` with the new :math:`p`, instead of :math:`\Delta`.

    Returns:
      A transformation with a :class:`DualState`.

    Raises:
      ValueError: if ``prox_weight`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> inner = federated.local_steps(optax.chain(federated.add_correction(), optax.sgd(0.5)))
      >>> tx, x = federated.dual_correction(inner, prox_weight=1.0), jnp.array(2.0)
      >>> extras = {"grad_fn": lambda x, batch: x, "batches": jnp.zeros(1)}
      >>> delta, state = tx.update(x, tx.init(x), x, **extras)
      >>> float(delta), float(state.dual)
      (-1.0, -1.0)

    References:
      Acar et al., `Federated Learning Based on Dynamic Regularization
      <https://arxiv.org/abs/2111.04263>`_, 2021.
    """
    _validate.interval("dual_correction", "prox_weight", prox_weight, "(0, inf)")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return DualState(optax.tree.zeros_like(params), inner.init(params))

    def update_fn(updates, state, params=None, **extras):
        scale = lambda p: jnp.asarray(prox_weight, p.dtype) * p
        correction = jax.tree.map(scale, state.dual)
        delta, inner_state = inner.update(
            updates, state.inner, params, **{**extras, "correction": correction}
        )
        dual = jax.tree.map(jnp.add, state.dual, delta)
        message = jax.tree.map(jnp.add, delta, dual) if send_dual else delta
        return message, DualState(dual, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class DualServerState(NamedTuple):
    """State of :func:`dual_server`.

    Attributes:
      mean_dual: like params, the mean :math:`H` over **all** clients of their duals.
    """

    mean_dual: optax.Updates


@register(
    "final",
    _FEDDYN,
    needs=("num_active", "num_clients"),
    exceptions={
        "converges_rosenbrock": "alone it integrates, without the proximal term of the clients "
        "that damps it"
    },
)
def dual_server() -> optax.GradientTransformationExtraArgs:
    r"""The server of FedDyn and FedSpeed: adds the mean dual of all clients.

    With :math:`S` active clients of :math:`N` and the uniform mean :math:`\bar\Delta` of their
    displacements,

    .. math::
        H \leftarrow H + \tfrac{S}{N} \bar\Delta, \qquad x \leftarrow x + \bar\Delta + H.

    As it is the server of an algorithm it receives :math:`-\bar\Delta` as updates.

    Returns:
      A transformation with a :class:`DualServerState`, to be used without a further rate.

    Raises:
      MissingExtraError: if ``update`` receives no ``num_active`` or ``num_clients``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, x = federated.dual_server(), jnp.array(0.0)
      >>> step, state = tx.update(jnp.array(-1.0), tx.init(x), x, num_active=1, num_clients=4)
      >>> float(step), float(state.mean_dual)
      (1.25, 0.25)

    References:
      Acar et al., `Federated Learning Based on Dynamic Regularization
      <https://arxiv.org/abs/2111.04263>`_, 2021.
    """

    def init_fn(params):
        return DualServerState(optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, *, num_active=None, num_clients=None, **extras):
        del params, extras
        everybody = {"num_active": num_active, "num_clients": num_clients}
        mean_dual = add_share("dual_server", state.mean_dual, updates, **everybody)
        step = jax.tree.map(jnp.subtract, mean_dual, updates)
        return step, DualServerState(mean_dual)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dual_algorithm(
    gradient: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    prox_weight: jax.typing.ArrayLike,
    axis_name: AxisName,
    *,
    send_dual: bool = False,
) -> Algorithm:
    """What FedDyn and FedSpeed share: corrected proximal steps and a server that adds duals.

    Args:
      gradient: makes the gradient of a local step.
      optimizer: what a local step does with the corrected direction.
      prox_weight: of the proximal term and of the dual.
      axis_name: the axis of clients.
      send_dual: clients send their duals and the server keeps none.

    Returns:
      The algorithm, with uniform weights.
    """
    members = gradient, add_proximal(prox_weight), add_correction(), optimizer
    return Algorithm(
        client=dual_correction(
            local_steps(optax.chain(*members)), prox_weight, send_dual=send_dual
        ),
        aggregate=average(axis_name, "uniform"),
        server=optax.sgd(1.0) if send_dual else skip_empty(dual_server()),
        axis_name=axis_name,
    )
