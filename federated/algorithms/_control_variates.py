"""Control variates of clients and of the server, which take the drift out of local steps."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require, require_params
from gradax._wide import wide, widen
from gradax.catalogue import Paper, register

from ..rounds import LocalResult
from ._shares import add_share
from ._units import divided, rate_of, steps_of

SCAFFOLD = Paper(
    "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    "Karimireddy et al.",
    2019,
    "1910.06378",
)

#: What a client's control becomes at the end of a round.
Control = Literal["mean_gradient", "displacement", "large_batch"]
CONTROLS = ("mean_gradient", "displacement", "large_batch")


class MeanGradientState(NamedTuple):
    """State of :func:`track_mean_gradient`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      mean_gradient: like params, in single precision at least: their mean.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mean_gradient: optax.Updates


def track_mean_gradient() -> optax.GradientTransformation:
    """Passes updates through and keeps the mean of all that it saw.

    Stands first in a local chain; ``local_steps(..., emit=("mean_gradient",))`` hands the mean
    of a round out.

    Returns:
      A transformation with a :class:`MeanGradientState`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.track_mean_gradient()
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient in (1.0, 2.0, 6.0):
      ...     _, state = tx.update(jnp.array(gradient), state)
      >>> round(float(state.mean_gradient), 5)
      3.0
    """

    def init_fn(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p.dtype)), params)
        return MeanGradientState(jnp.zeros([], jnp.int32), zeros)

    def update_fn(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        move = lambda mean, u: mean + (widen(u) - mean) / count.astype(mean.dtype)
        mean = jax.tree.map(move, state.mean_gradient, updates)
        return updates, MeanGradientState(count, mean)

    return optax.GradientTransformation(init_fn, update_fn)


class ControlVariatesState(NamedTuple):
    """State of :func:`control_variates`.

    Attributes:
      control: like params, this client's control variate :math:`c_i`.
      inner: state of the inner transformation.
    """

    control: optax.Updates
    inner: optax.OptState


class ControlledMessage(NamedTuple):
    """What a client of SCAFFOLD sends, and the server receives the mean of.

    Attributes:
      displacement: like params, :math:`y_K - x`.
      control_change: like params, the change of :math:`c_i`.
    """

    displacement: optax.Updates
    control_change: optax.Updates


@register("function", SCAFFOLD, needs=("batches", "grad_fn", "broadcast"))
def control_variates(
    inner: optax.GradientTransformation,
    control: Control = "mean_gradient",
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Wraps local steps: corrects their gradients by :math:`c - c_i`, then renews :math:`c_i`.

    The server's :math:`c` is the extra ``broadcast``. When the local steps are done, with the
    displacement :math:`\Delta_i` after :math:`K` steps,

    - ``"mean_gradient"``: :math:`c_i` is the mean of the round's raw gradients, which
      ``inner`` emits under that name (:func:`track_mean_gradient`). With plain SGD it equals
      the next one; it needs no rate and ignores weight decay.
    - ``"displacement"``: :math:`c_i \leftarrow c_i - c - \Delta_i / (K \eta_l)`, the paper's
      second option. With weight decay or momentum inside, the control absorbs them.
    - ``"large_batch"``: :math:`c_i \leftarrow \nabla f_i(x)` on a large batch, the paper's
      first option; costs one more gradient, of the extra ``full_grad_fn``.

    Args:
      inner: :func:`local_steps` of a chain that holds :func:`add_correction`.
      control: how :math:`c_i` is renewed.
      learning_rate: :math:`\eta_l`, a number or a schedule of the round; for
        ``"displacement"`` only.

    Returns:
      A transformation with a :class:`ControlVariatesState` that emits a
      :class:`ControlledMessage`.

    Raises:
      ValueError: if ``control`` is unknown, ``"displacement"`` has no rate, or
        ``"mean_gradient"`` is not emitted by ``inner``.
      MissingExtraError: without ``broadcast``, or without ``full_grad_fn`` where it is used.

    Examples:
      One step on :math:`3 (x + 1)^2 / 2` from 2, the server's control being 4:

      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> chain = optax.chain(federated.add_correction(), optax.sgd(0.1))
      >>> tx = federated.control_variates(
      ...     federated.local_steps(chain), "displacement", learning_rate=0.1
      ... )
      >>> x, grad_fn = jnp.array(2.0), lambda x, batch=None: 3 * (x + 1)
      >>> message, state = tx.update(
      ...     x, tx.init(x), x, grad_fn=grad_fn, batches=jnp.zeros(1), broadcast=jnp.array(4.0)
      ... )
      >>> round(float(message.displacement), 4), round(float(state.control), 4)
      (-1.3, 9.0)

    References:
      Karimireddy et al., `SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
      <https://arxiv.org/abs/1910.06378>`_, 2019.
    """
    _validate.one_of("control_variates", "control", control, CONTROLS)
    if control == "displacement":
        _validate.learning_rate("control_variates", learning_rate)
    renew = _RENEWALS[control](learning_rate)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ControlVariatesState(optax.tree.zeros_like(params), inner.init(params))

    def update_fn(updates, state, params=None, *, broadcast=None, **extras):
        params = require_params("control_variates", params)
        broadcast = require("control_variates", "broadcast", broadcast)
        correction = jax.tree.map(jnp.subtract, broadcast, state.control)
        result, inner_state = inner.update(
            updates, state.inner, params, **{**extras, "correction": correction}
        )
        emitted = isinstance(result, LocalResult)
        displacement = result.displacement if emitted else result
        fields = result.fields if emitted else {}
        renewed = renew(state.control, correction, displacement, fields, params, extras)
        renewed = jax.tree.map(lambda new, old: new.astype(old.dtype), renewed, state.control)
        change = jax.tree.map(jnp.subtract, renewed, state.control)
        message = ControlledMessage(displacement, change)
        return message, ControlVariatesState(renewed, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _mean_gradient(learning_rate):
    del learning_rate

    def renew(control, correction, displacement, fields, params, extras):
        del control, correction, displacement, params, extras
        if "mean_gradient" not in fields:
            raise ValueError(
                'control_variates: control="mean_gradient" needs local_steps(..., '
                'emit=("mean_gradient",)) of a chain that begins with track_mean_gradient().'
            )
        return fields["mean_gradient"]

    return renew


def _displacement(learning_rate):
    def renew(control, correction, displacement, fields, params, extras):
        del fields, params
        rate = rate_of("control_variates", learning_rate, extras.get("round"))
        steps = steps_of("control_variates", extras.get("batches"), extras.get("num_steps"))
        directions = divided(displacement, rate * steps)
        # At a rate of zero nothing was learned.
        new = lambda c, d, old: jnp.where(jnp.asarray(rate > 0), -(c + d), old)
        return jax.tree.map(new, correction, directions, control)

    return renew


def _large_batch(learning_rate):
    del learning_rate

    def renew(control, correction, displacement, fields, params, extras):
        del control, correction, displacement, fields
        return require("control_variates", "full_grad_fn", extras.get("full_grad_fn"))(params)

    return renew


_RENEWALS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "mean_gradient": _mean_gradient,
    "displacement": _displacement,
    "large_batch": _large_batch,
}


class ControlVariatesServerState(NamedTuple):
    """State of :func:`control_variates_server`.

    Attributes:
      broadcast: like params, the mean :math:`c` over **all** clients of their controls.
      inner: state of the inner transformation.
    """

    broadcast: optax.Updates
    inner: optax.OptState


@register("function", SCAFFOLD, needs=("num_active", "num_clients"))
def control_variates_server(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""The server of SCAFFOLD: keeps and publishes the mean of all controls.

    With :math:`S` active clients of :math:`N`,

    .. math::
        c \leftarrow c + \tfrac{S}{N} \cdot \text{mean of the changes of } c_i,

    while the mean displacement goes to ``inner``.

    Args:
      inner: what the server does with minus the mean displacement, such as ``optax.sgd(1.0)``.

    Returns:
      A transformation of minus the mean :class:`ControlledMessage`, with a
      :class:`ControlVariatesServerState`. Its algorithm must list ``"broadcast"`` in
      ``publishes`` and weight clients uniformly.

    Raises:
      MissingExtraError: if ``update`` receives no ``num_active`` or ``num_clients``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> server, x = federated.control_variates_server(optax.sgd(1.0)), jnp.array(0.0)
      >>> minus_mean = federated.ControlledMessage(jnp.array(-2.0), jnp.array(-8.0))
      >>> step, state = server.update(minus_mean, server.init(x), x, num_active=1, num_clients=4)
      >>> float(step), float(state.broadcast)
      (2.0, 2.0)

    References:
      Karimireddy et al., `SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
      <https://arxiv.org/abs/1910.06378>`_, 2019.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ControlVariatesServerState(optax.tree.zeros_like(params), inner.init(params))

    def update_fn(updates, state, params=None, **extras):
        everybody = {name: extras.get(name) for name in ("num_active", "num_clients")}
        mean = add_share(
            "control_variates_server", state.broadcast, updates.control_change, **everybody
        )
        updates, inner_state = inner.update(updates.displacement, state.inner, params, **extras)
        return updates, ControlVariatesServerState(mean, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
