"""The clients' half of EF21 and EControl, which sends corrections, and the server's, which adds."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen
from gradax.catalogue import Paper, register

from .. import axis
from . import _memory
from ._compressor import Compressor
from ._select import top_k

EF21 = Paper(
    "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error Feedback",
    "Richtarik et al.",
    2021,
    "2106.05203",
)
ECONTROL = Paper(
    "EControl: Fast Distributed Optimization with Compression and Error Control",
    "Gao et al.",
    2023,
    "2311.05645",
)


class UplinkState(NamedTuple):
    """State of :func:`ef21_uplink` and :func:`econtrol_uplink`.

    Attributes:
      count: ``int32[]``, number of messages sent.
      key: this participant's key, ``None`` if the compressor draws nothing.
      code: state of the compressor.
      estimate: like params, float32 at least, the sum of what was sent, :math:`h_i`.
      error: like params, float32 at least, what the estimates lacked, :math:`e_i`; ``None`` for
        EF21.
      wire_bytes: ``int32[]``, size of the last message.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: jax.Array | None
    code: optax.OptState
    estimate: optax.Updates
    error: optax.Updates | None
    wire_bytes: jax.Array


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`.

    Attributes:
      total: like params, float32 at least, the sum of all updates.
    """

    total: optax.Updates


def make_ef21(who, compressor, init, key, axis_name=None):
    _validate.one_of(who, "init", init, ("full", "compressed"))
    return _uplink(who, compressor, None, init == "full", key, axis_name)


def make_econtrol(who, compressor, eta, h_init, key, axis_name=None):
    _validate.one_of(who, "h_init", h_init, ("full", "zero"))
    _memory.check_contractive(who, compressor)
    _validate.interval(who, "eta", eta, "[0, 1]")

    def gain(updates):
        if eta is not None:
            return eta
        if delta := compressor.delta(updates):
            return _careful_gain(delta)
        raise ValueError(f"{who}: {compressor!r} has no constant delta: give eta.")

    return _uplink(who, compressor, gain, h_init == "full", key, axis_name)


def _careful_gain(delta: float) -> float:
    """The gain for which EControl's rate is proved; with everything received any would do."""
    root = math.sqrt(1 - delta)
    return min(1.0, delta / (3 * root * (1 + root))) if root else 1.0


def _uplink(
    who: str,
    compressor: Compressor,
    gain: Callable[[Any], Any] | None,
    first_in_full: bool,
    key: jax.typing.ArrayLike,
    axis_name: axis.AxisName | None,
) -> optax.GradientTransformationExtraArgs:
    """A participant's half; ``gain=None`` keeps no errors. Under an axis factors are averaged."""
    _memory.check_contractive(who, compressor)
    mean = (lambda tree: tree) if axis_name is None else lambda tree: axis.mean(tree, axis_name)

    def init_fn(params):
        zero = jnp.zeros([], jnp.int32)
        error = None if gain is None else _memory.memory(params)
        own_key = _memory.own_key(who, compressor, key)
        estimate, code = _memory.memory(params), compressor.init(params)
        return UplinkState(zero, own_key, code, estimate, error, jnp.zeros([], jnp.int32))

    def wanted(updates, state):
        """What should be sent, if nothing were compressed."""
        if gain is None:
            return _memory.map_inexact(lambda g, h: widen(g) - h, updates, state.estimate)
        eta = gain(updates)
        lacking = lambda g, h, e: jnp.asarray(eta, e.dtype) * e + widen(g) - h
        return _memory.map_inexact(lacking, updates, state.estimate, state.error)

    def update_fn(updates, state, params=None, **extra):
        del params, extra
        now, later = _memory.split(state.key)
        target = _memory.on_the_wire(wanted(updates, state), updates)
        _, sent, code = compressor.mean(now, target, state.code, mean)
        size = _memory.compressed_bytes(compressor, updates)
        if first_in_full:
            first = state.count == 0
            sent = _memory.where(first, updates, sent)
            size = jnp.where(first, _memory.full_bytes(updates), size)
        error = state.error
        if gain is not None:
            lacks = lambda g, e, h, d: e + (widen(g) - h) - widen(d)
            error = _memory.map_inexact(lacks, updates, error, state.estimate, sent)
        estimate = _memory.map_inexact(lambda d, h: h + widen(d), sent, state.estimate)
        count = optax.safe_increment(state.count)
        return sent, UplinkState(count, later, code, estimate, error, size)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@register("function", EF21, example={"compressor": top_k(0.5)})
def ef21_uplink(
    compressor: Compressor, init: str = "full", key: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Emits compressed corrections of an estimate: a client's half of EF21.

    .. math::
        D_i = C(g_i - h_i), \qquad h_i \leftarrow h_i + D_i.

    For a client's chain, with :func:`accumulate` on the server; see :func:`compressed_sgd`.

    Args:
      compressor: contractive.
      init: ``"full"`` sends the first gradient uncompressed; ``"compressed"`` begins with
        :math:`h_i = 0`.
      key: JAX key or integer, for compressors that draw.

    Returns:
      A transformation with the state :class:`UplinkState`; one copy of params.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: if it is not contractive, or ``init`` is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.ef21_uplink(federated.top_k(k=1), init="compressed")
      >>> g = jnp.array([3.0, 2.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> second, state = tx.update(g, state)
      >>> first.tolist(), second.tolist()
      ([3.0, 0.0], [0.0, 2.0])

    References:
      Richtarik et al., `EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
      Feedback <https://arxiv.org/abs/2106.05203>`_, 2021.
    """
    return make_ef21("ef21_uplink", compressor, init, key)


@register("function", ECONTROL, example={"compressor": top_k(0.5), "eta": 0.1})
def econtrol_uplink(
    compressor: Compressor,
    eta: jax.typing.ArrayLike | None = None,
    h_init: str = "full",
    key: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Emits compressed corrections of an estimate and its errors: a client's half of EControl.

    .. math::
        D_i = C(\eta e_i + g_i - h_i), \qquad
        e_i \leftarrow e_i + g_i - h_i - D_i, \qquad
        h_i \leftarrow h_i + D_i.

    For a client's chain, with :func:`accumulate` on the server; see :func:`compressed_sgd`.

    Args:
      compressor: contractive.
      eta: as in :func:`scale_by_econtrol`.
      h_init: as in :func:`scale_by_econtrol`.
      key: JAX key or integer, for compressors that draw.

    Returns:
      A transformation with the state :class:`UplinkState`; two copies of params.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: as :func:`scale_by_econtrol`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.econtrol_uplink(federated.top_k(k=1), eta=0.1, h_init="zero")
      >>> sent, state = tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))
      >>> sent.tolist(), state.error.tolist()
      ([3.0, 0.0], [0.0, 2.0])

    References:
      Gao et al., `EControl: Fast Distributed Optimization with Compression and Error Control
      <https://arxiv.org/abs/2311.05645>`_, 2023.
    """
    return make_econtrol("econtrol_uplink", compressor, eta, h_init, key)


@register("function", EF21)
def accumulate() -> optax.GradientTransformationExtraArgs:
    r"""Adds updates up and emits the sum: the server's half of EF21 and EControl.

    If the mean of the corrections :math:`D_i` comes in, the mean of the estimates
    :math:`h_i` goes out. Where only some of the clients take part, the extras ``num_active`` and
    ``num_clients`` turn their mean into their share in that of all.

    Returns:
      A transformation with the state :class:`AccumulateState`; one copy of params. It emits
      float32 at least.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, u = federated.accumulate(), jnp.array(1.0)
      >>> _, state = tx.update(u, tx.init(u))
      >>> float(tx.update(u, state, num_active=1, num_clients=2)[0])
      1.5

    References:
      Richtarik et al., `EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
      Feedback <https://arxiv.org/abs/2106.05203>`_, 2021.
    """

    def update_fn(updates, state, params=None, *, num_active=None, num_clients=None, **extra):
        del params, extra
        known = num_active is not None and num_clients is not None
        share = num_active / num_clients if known else 1.0
        add = lambda u, total: total + jnp.asarray(share, total.dtype) * widen(u)
        total = _memory.map_inexact(add, updates, state.total)
        return total, AccumulateState(total)

    return optax.GradientTransformationExtraArgs(
        lambda params: AccumulateState(_memory.memory(params)), update_fn
    )
