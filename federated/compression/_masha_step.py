"""One step of MASHA: from the operator at two points to the next parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _extras, _keys, _validate
from gradax._wide import widen

from .. import axis
from . import _memory
from ._compressor import Compressor

#: Maps parameters to the nearest ones that are allowed.
Projection = Callable[[optax.Params], optax.Params]

_LARGEST = np.iinfo(np.int32).max


class MashaState(NamedTuple):
    r"""State of :func:`masha1` and :func:`masha2`.

    Attributes:
      count: ``int32[]``, number of updates made.
      key: this node's key, ``None`` if its compressor draws nothing.
      shared_key: the key of draws in common: of the coin, and of the server's compressor.
      pending: ``bool[]``, whether the snapshot moves to the parameters before the next step.
      snapshot: like params, the snapshot :math:`w`.
      local_operator: like params, the node's :math:`F_m(w)`.
      mean_operator: like params, :math:`F(w)`.
      error: like params, float32 at least, what the node has left out; ``None`` for
        :func:`masha1`.
      server_error: likewise of the server, the same for all; ``None`` without a compressor.
      code: state of the node's compressor.
      server_code: state of the server's compressor.
      wire_bytes: ``int32[]``, what this node sent in the last update.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: jax.Array | None
    shared_key: jax.Array
    pending: jax.Array
    snapshot: optax.Params
    local_operator: optax.Updates
    mean_operator: optax.Updates
    error: optax.Updates | None
    server_error: optax.Updates | None
    code: optax.OptState
    server_code: optax.OptState
    wire_bytes: jax.Array


@dataclasses.dataclass(frozen=True)
class Uplink:
    """How differences reach the server and what comes back.

    Attributes:
      compressor: of the nodes.
      server_compressor: of the server, if any.
      axis_name: axis of the nodes.
      has_memory: whether what is left out is sent later.
    """

    compressor: Compressor
    server_compressor: Compressor | None
    axis_name: axis.AxisName
    has_memory: bool

    def init(self, params: optax.Params) -> dict[str, Any]:
        """Makes the fields of :class:`MashaState` that belong to the compressors."""
        server = self.server_compressor
        memory = lambda wanted: _memory.memory(params) if wanted and self.has_memory else None
        return {
            "error": memory(True),
            "server_error": memory(server is not None),
            "code": self.compressor.init(params),
            "server_code": server.init(params) if server else (),
        }

    def mean(self, tree: Any) -> Any:
        """Averages over all nodes."""
        return axis.mean(tree, self.axis_name)

    def send(
        self, difference: Any, state: MashaState, rate: Any, server_key: jax.Array
    ) -> tuple[Any, dict[str, Any]]:
        """Sends the nodes' differences to the server and back.

        Args:
          difference: of a node's operator, in float32 at least.
          state: before the step.
          rate: the learning rate.
          server_key: of the server's draws, equal for all.

        Returns:
          What is to be taken off the parameters, and the fields of the state that change.
        """
        now, later = _memory.split(state.key)
        value = difference
        if self.has_memory:
            value = _memory.map_inexact(lambda d, e: rate * d + e, difference, state.error)
        sent = _memory.on_the_wire(value, state.local_operator)
        mean, own, code = self.compressor.mean(now, sent, state.code, self.mean)
        fields = {"key": later, "code": code}
        if self.has_memory:
            fields["error"] = _lacking(value, own, state.error)
        if self.server_compressor is not None:
            mean, more = self._send_back(self.server_compressor, mean, state, server_key)
            fields |= more
        scale = 1 if self.has_memory else rate
        return _memory.map_inexact(lambda c: scale * widen(c), mean), fields

    def _send_back(self, compressor, mean, state, key):
        """What the nodes receive, and the server's fields of the state."""
        if self.has_memory:
            mean = _memory.map_inexact(lambda m, e: widen(m) + e, mean, state.server_error)
        sent = _memory.on_the_wire(mean, state.local_operator)
        own_key = key if compressor.is_random else None
        received, code = compressor.compress(own_key, sent, state.server_code)
        fields = {"server_code": code}
        if self.has_memory:
            fields["server_error"] = _lacking(mean, received, state.server_error)
        return received, fields


def _lacking(value, received, old):
    """What of a value was not received, in the dtype in which it is remembered."""
    return _memory.map_inexact(lambda e, v, c: (v - widen(c)).astype(e.dtype), old, value, received)


def make_masha(
    who: str,
    learning_rate: optax.ScalarOrSchedule,
    tau: jax.typing.ArrayLike,
    key: jax.Array | int,
    uplink: Uplink,
    reuse_grads: bool,
    projection: Projection | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Builds :func:`masha1` or :func:`masha2`, whose arguments these are.

    Args:
      who: public name of the factory.
      learning_rate: step size.
      tau: probability that the snapshot stays.
      key: of all draws.
      uplink: the compressors.
      reuse_grads: whether incoming gradients serve for the snapshot.
      projection: of both points.

    Returns:
      The transformation.

    Raises:
      ValueError: if a number is out of range.
    """
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "learning_rate", learning_rate, "(0, inf)")
    _validate.interval(who, "tau", tau, "[0, 1)")
    axis.names(uplink.axis_name)

    def allowed(point, like):
        point = _memory.on_the_wire(point, like)
        return point if projection is None else projection(point)

    def init_fn(params):
        zeros = lambda: optax.tree.zeros_like(params)
        return MashaState(
            count=jnp.zeros([], jnp.int32),
            key=_memory.own_key(who, uplink.compressor, key),
            shared_key=_keys.as_key(who, key),
            pending=jnp.array(True),
            snapshot=zeros(),
            local_operator=zeros(),
            mean_operator=zeros(),
            wire_bytes=jnp.zeros([], jnp.int32),
            **uplink.init(params),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, refresh=None, **extra):
        params = _extras.require_params(who, params)
        grad_fn = _extras.require(who, "grad_fn", grad_fn)
        _check_everybody(who, uplink.axis_name, extra.get("num_clients"))
        in_common = _once(state.shared_key, uplink.axis_name)
        shared_key, coin_key, server_key = jax.random.split(in_common, 3)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        state = _renewed(state, params, uplink, lambda: updates if reuse_grads else grad_fn(params))
        ahead = _look_ahead(params, state, tau, rate)
        difference = _memory.map_inexact(
            lambda f, g: widen(f) - widen(g), grad_fn(allowed(ahead, params)), state.local_operator
        )
        correction, fields = uplink.send(difference, state, rate, server_key)
        end = _memory.map_inexact(lambda x, c: x - c, ahead, correction)
        end = end if projection is None else allowed(end, params)
        updates = jax.tree.map(lambda x, z: (x - widen(z)).astype(z.dtype), end, params)
        coin = jax.random.bernoulli(coin_key, 1 - tau) if refresh is None else refresh
        count, pending = optax.safe_increment(state.count), jnp.asarray(coin, bool)
        return updates, state._replace(
            count=count, shared_key=shared_key, pending=pending, **fields
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _renewed(state, params, uplink, operator):
    """The state after the snapshot's move, if one is due; else nothing is computed or sent."""
    like = lambda tree, old: jax.tree.map(lambda x, y: x.astype(y.dtype), tree, old)

    def move():
        local = like(operator(), state.local_operator)
        return params, local, like(uplink.mean(local), state.mean_operator)

    stay = lambda: (state.snapshot, state.local_operator, state.mean_operator)
    pending = _once(state.pending, uplink.axis_name)
    snapshot, local, mean = lax.cond(pending, move, stay)
    size = _memory.compressed_bytes(uplink.compressor, params)
    full = jnp.minimum(_memory.full_bytes(params), _LARGEST - size)
    return state._replace(
        snapshot=snapshot,
        local_operator=local,
        mean_operator=mean,
        wire_bytes=size + jnp.where(pending, full, 0),
    )


def _look_ahead(params, state, tau, rate):
    """The point between parameters and snapshot, and a step from there; float32 at least."""
    blend = lambda z, w: tau * widen(z) + (1 - tau) * widen(w)
    centre = _memory.map_inexact(blend, params, state.snapshot)
    return _memory.map_inexact(lambda x, f: x - rate * widen(f), centre, state.mean_operator)


def _once(leaf, axis_name):
    """What is equal for all nodes, as one for all lanes: a branch on it remains a branch."""
    for name in reversed(axis.names(axis_name)):
        if not axis.is_manual(name):
            leaf = lax.all_gather(leaf, name)[0]
    return leaf


def _check_everybody(who, axis_name, num_clients):
    size = axis.size(axis_name)
    if isinstance(num_clients, int) and size != num_clients:
        raise ValueError(
            f"{who}: all {num_clients} nodes must take part in every step, but the axis "
            f"{axis_name!r} has {size} participants; leave cohort=None."
        )
