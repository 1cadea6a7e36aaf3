"""DADAO: gradient steps and pairwise averages at independent random times, with acceleration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue
from gradax._extras import require, require_params
from gradax._wide import wide, wide_dtype, widen

from .. import axis
from ..rounds._wire import tree_bytes
from ._dadao_events import EDGE, GRADIENT, NOTHING, DadaoEvents, check_events, dadao_events
from ._dadao_flow import (
    Constants,
    Six,
    approach,
    exchange,
    flow,
    make_constants,
    make_flow,
    take_step,
)
from ._mixing import is_inexact

_PAPER = catalogue.Paper(
    title="DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization",
    authors="Nabli and Oyallon",
    year=2022,
    arxiv="2208.00779",
)
#: A ring of four at its least rates, for the catalogue.
_RING = [[0, 1], [1, 2], [2, 3], [0, 3]]
_RING_RATE, _RING_CHI1 = 0.6124, 0.8165


class DadaoState(NamedTuple):
    """State of :func:`dadao`, one node's.

    Attributes:
      count: ``int32[]``, number of updates made.
      time: ``float[]``, the time at which params and the variables below stand.
      x_tilde: like params, in float32 at least; the accelerated copy of the parameters.
      y: like ``x_tilde``, the dual variable of the gradients.
      y_tilde: like ``x_tilde``, its accelerated copy.
      z: like ``x_tilde``, the dual variable of the disagreement.
      z_tilde: like ``x_tilde``, its accelerated copy.
      wire_bytes: ``int32[]``, what the node sent in its last update.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    time: jax.Array
    x_tilde: optax.Params
    y: optax.Updates
    y_tilde: optax.Updates
    z: optax.Updates
    z_tilde: optax.Updates
    wire_bytes: jax.Array


class _Event(NamedTuple):
    """What an update does to this node.

    Attributes:
      time: at which the node stands afterwards.
      before: time that passes before the event, or ``None``.
      after: time that passes after it, or ``None``.
      steps: whether the node makes a gradient step.
      meets: whether it exchanges with another node.
      difference: own value less the other node's, from own value; zero if it meets nobody.
      grad: the gradient at the parameters of the time of the event.
    """

    time: jax.Array
    before: jax.Array | None
    after: jax.Array | None
    steps: jax.Array
    meets: jax.Array
    difference: Callable[[jax.Array], jax.Array]
    grad: Callable[[optax.Params], optax.Updates]


@catalogue.register(
    "final",
    _PAPER,
    needs=("axis",),
    example=lambda: {
        "strong_convexity": 0.5,
        "smoothness": 2.0,
        "events": dadao_events(0, _RING, _RING_RATE, 4, num_events=10_000),
        "chi1": _RING_CHI1,
        "axis_name": "nodes",
    },
    exceptions={
        "converges_rosenbrock": "made for strongly convex losses, whose constants it is given"
    },
)
def dadao(
    strong_convexity: jax.typing.ArrayLike,
    smoothness: jax.typing.ArrayLike,
    events: DadaoEvents | None,
    chi1: jax.typing.ArrayLike,
    axis_name: axis.AxisName,
    *,
    chi2: jax.typing.ArrayLike | None = None,
    x_tilde_init: str = "params",
) -> optax.GradientTransformationExtraArgs:
    r"""DADAO: accelerated and asynchronous; nodes meet in pairs, at random times.

    Every node makes gradient steps at times of a Poisson process of rate one, and every edge
    averages its two ends at the times of another; none waits for another one. Between events a
    node's six variables follow a linear flow that supplies the acceleration:

    .. math::
        x' &= \eta (\tilde x - x), & y' &= \alpha (\tilde y - y), & z' &= \alpha (\tilde z - z), \\
        \tilde x' &= \eta (x - \tilde x), & \tilde y' &= -\theta (y + z + \nu \tilde x),
        & \tilde z' &= \tilde\alpha (z - \tilde z).

    A gradient event, with :math:`d = \nabla f_i(x_i) - \nu x_i - \tilde y_i`, and an exchange of
    :math:`i` and :math:`j`, with :math:`m = y_i + z_i - y_j - z_j`, move

    .. math::
        x_i &\mathrel{-}= \gamma d, & \tilde x_i &\mathrel{-}= \tilde\gamma d,
        & \tilde y_i &\mathrel{+}= (\delta + \tilde\delta) d; \\
        z_i &\mathrel{-}= \beta m, & \tilde z_i &\mathrel{-}= \tilde\beta m,
        & z_j &\mathrel{+}= \beta m, \quad \tilde z_j \mathrel{+}= \tilde\beta m.

    All constants follow from :math:`\mu, L, \chi_1`. The expected squared error falls at least
    like :math:`\exp(-\eta t)`, :math:`\eta = \sqrt{\mu / L} / (8 \sqrt 2)`, if :math:`\chi_1
    \chi_2 \le 1/2`; below that it may diverge. One unit of time is one gradient per node.

    Two ways to run it, with the same update:

    * **Event by event** (extras ``time``, ``kind`` and ``grad_fn``): only the nodes that an event
      touches are updated; each is first brought to the time of the event, and its gradient is
      taken there. This is what ``simulate`` does with the cohort of :func:`dadao_cohort` or
      :func:`dadao_stream`, at a cost per event that does not grow with the number of nodes.
    * **In lock-step** (``events``): update number ``k`` applies entry ``k`` of the list to all
      nodes and brings them to the time of the next one, where the next gradient is taken. Every
      node computes a gradient in every update, whether it is used or not; the lists of
      :func:`dadao_ticks` have many events in an entry. After the list nothing happens.

    Params differ in time between nodes in the first way; :func:`dadao_params` brings them to a
    common one. It is a complete optimizer and stands alone in its chain.

    Args:
      strong_convexity: :math:`\mu > 0`, the least of the nodes' losses.
      smoothness: :math:`L \ge \mu`, the greatest of the nodes' losses.
      events: list of :func:`dadao_events` or :func:`dadao_ticks`, beginning with the start at
        time 0. ``None`` if events come as extras only.
      chi1: of the graph and its rates, from ``topology.graph_chi``.
      axis_name: axis of the nodes, or of those that an event touches.
      chi2: likewise; if given, :math:`\chi_1 \chi_2 \le 1/2` is checked.
      x_tilde_init: where :math:`\tilde x` starts, at ``"params"`` or at ``"zeros"``.

    Returns:
      A transformation with a :class:`DadaoState`; it needs params and the axis. An extra
      ``round`` replaces the count of updates.

    Raises:
      ValueError: if a constant is out of range, :math:`\chi_1 \chi_2` is too large, times
        decrease, nodes or kinds of events are out of range; at trace time if a node of an event
        lies beyond the axis, or there are more than two participants in an event.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, numpy as np
      >>> federated, topology = gradax.federated, gradax.federated.topology
      >>> pairs = topology.edges(topology.ring(4))
      >>> rates = topology.uniform_edge_rates(pairs, 4)
      >>> events = federated.dadao_events(0, pairs, rates, 4, num_events=3000)
      >>> tx = federated.dadao(1.0, 2.0, events, *topology.graph_chi(pairs, rates, 4)[:1], "nodes")
      >>> numbers = np.arange(4.0, dtype=np.float32)
      >>> result = federated.simulate(
      ...     tx, None, jnp.array(0.0), federated.data.padded(numbers, [[0], [1], [2], [3]]),
      ...     rounds=len(events.times), cohort=federated.dadao_cohort(events, 4),
      ...     batch_size=None, segment=1000, grad_fn=lambda x, batch: 1.5 * (x - batch.mean()),
      ... )
      >>> result.params.round(2).tolist()
      [1.5, 1.5, 1.5, 1.5]

    References:
      Nabli and Oyallon, `DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization
      <https://arxiv.org/abs/2208.00779>`_, 2023.
    """
    _check_constants(strong_convexity, smoothness, chi1, chi2)
    _validate.one_of("dadao", "x_tilde_init", x_tilde_init, ("params", "zeros"))
    axis.names(axis_name)
    c = make_constants(strong_convexity, smoothness, chi1)
    entries = None if events is None else _Entries(events, axis_name)

    def init_fn(params):
        zeros = lambda leaf: jnp.zeros_like(leaf, dtype=wide(jnp.result_type(leaf)))

        def copy(leaf):
            if x_tilde_init == "zeros" or isinstance(leaf, jax.ShapeDtypeStruct):
                return zeros(leaf)
            return jnp.array(widen(leaf), copy=True)

        return DadaoState(
            count=jnp.zeros([], jnp.int32),
            time=jnp.zeros([], _time_dtype(params)),
            x_tilde=jax.tree.map(copy, params),
            y=jax.tree.map(zeros, params),
            y_tilde=jax.tree.map(zeros, params),
            z=jax.tree.map(zeros, params),
            z_tilde=jax.tree.map(zeros, params),
            wire_bytes=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates, state, params=None, *, time=None, kind=None, grad_fn=None, active=None, **extra
    ):
        params = require_params("dadao", params)
        if time is None and entries is not None:
            event = entries.at(state, extra.get("round"), updates)
        else:
            time, kind = require("dadao", "time", time), require("dadao", "kind", kind)
            grad_fn = require("dadao", "grad_fn", grad_fn)
            event = _touched(state, time, kind, active, grad_fn, axis_name)
        return _apply(event, updates, state, params, c)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dadao_params(
    params: optax.Params,
    state: DadaoState,
    strong_convexity: jax.typing.ArrayLike,
    smoothness: jax.typing.ArrayLike,
    time: jax.typing.ArrayLike | None = None,
) -> optax.Params:
    r"""Brings the parameters of all nodes to a common time, as they are to be evaluated.

    In an event-by-event run every node stands at the time of its own last event. Over a span
    :math:`t`, :math:`x` moves by :math:`(1 - e^{-2 \eta t}) (\tilde x - x) / 2`.

    Args:
      params: of one node, or of all with a leading axis.
      state: the node's, or those of all.
      strong_convexity: as for :func:`dadao`.
      smoothness: as for :func:`dadao`.
      time: which time; the latest of the nodes' own by default.

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.dadao(1.0, 8.0, None, 1.0, "nodes")
      >>> state = tx.init(jnp.array(0.0))
      >>> round(float(federated.dadao_params(jnp.array(1.0), state, 1.0, 8.0, time=2.0)), 4)
      0.9412
    """
    time = jnp.max(state.time) if time is None else jnp.asarray(time, state.time.dtype)
    nearer = approach(make_constants(strong_convexity, smoothness, 1.0), time - state.time)

    def later(x, x_tilde):
        if not is_inexact(x):
            return x
        share = nearer.reshape(nearer.shape + (1,) * (jnp.ndim(x) - nearer.ndim))
        return (widen(x) + share * (x_tilde - widen(x))).astype(x.dtype)

    return jax.tree.map(later, params, state.x_tilde)


def _check_constants(strong_convexity, smoothness, chi1, chi2):
    numbers = {"strong_convexity": strong_convexity, "smoothness": smoothness}
    for name, value in (numbers | {"chi1": chi1, "chi2": chi2}).items():
        _validate.interval("dadao", name, value, "(0, inf)")
    known = lambda *values: all(isinstance(value, int | float) for value in values)
    if known(strong_convexity, smoothness) and smoothness < strong_convexity:
        raise ValueError(
            f"dadao: smoothness must be >= strong_convexity, got {smoothness} < {strong_convexity}."
        )
    if known(chi1, chi2) and chi1 * chi2 > 0.5 * (1 + 1e-6):
        raise ValueError(
            f"dadao: chi1 * chi2 must be <= 1/2, got {chi1 * chi2:.6g}: multiply the rates of the "
            f"edges by {(2 * chi1 * chi2) ** 0.5:.4g} or more."
        )


def _time_dtype(params):
    return wide_dtype(*filter(is_inexact, jax.tree.leaves(params)))


def _apply(event: _Event, updates, state: DadaoState, params, c: Constants):
    """Flows to the event, lets it happen, flows on; leaf by leaf."""
    fields = params, state.x_tilde, state.y, state.y_tilde, state.z, state.z_tilde
    now = jax.tree.map(lambda *leaves: Six(*map(widen, leaves)), *fields)
    if event.before is not None:
        now = _flow_all(now, event.before, c)
    at_event = jax.tree.map(lambda six, x: six.x.astype(x.dtype), now, params, is_leaf=_is_six)

    def happen(six, grad):
        stepped = take_step(six, widen(grad), c)
        stays = lambda new, old: jnp.where(event.steps, new, old)
        six = Six(*map(stays, stepped, six))
        return exchange(six, event.difference(six.y + six.z), c)

    now = jax.tree.map(happen, now, event.grad(at_event), is_leaf=_is_six)
    if event.after is not None:
        now = _flow_all(now, event.after, c)

    def emit(six, update, x):
        return (six.x - widen(x) if is_inexact(x) else update).astype(x.dtype)

    emitted = jax.tree.map(emit, now, updates, params, is_leaf=_is_six)
    kept = {
        name: jax.tree.map(
            lambda six, old, name=name: getattr(six, name).astype(old.dtype),
            now,
            getattr(state, name),
            is_leaf=_is_six,
        )
        for name in Six._fields[1:]
    }
    return emitted, state._replace(
        count=optax.safe_increment(state.count),
        time=jnp.asarray(event.time, state.time.dtype),
        wire_bytes=jnp.where(event.meets, jnp.int32(tree_bytes(state.y)), 0),
        **kept,
    )


def _flow_all(tree: Any, time: jax.Array, c: Constants) -> Any:
    coefficients = make_flow(c, time)
    return jax.tree.map(lambda six: flow(six, coefficients, c), tree, is_leaf=_is_six)


def _is_six(node: Any) -> bool:
    return isinstance(node, Six)


def _touched(state, time, kind, active, grad_fn, axis_name) -> _Event:
    """An event whose nodes, and nobody else, stand under the axis."""
    if axis.size(axis_name) > 2:
        raise ValueError(
            "dadao: an event touches two nodes at most, but the axis "
            f"{axis_name!r} has {axis.size(axis_name)} participants."
        )
    active = jnp.array(True) if active is None else active
    time = jnp.asarray(time, state.time.dtype)
    meets = (kind == EDGE) & active
    sign = jnp.where(meets, 1 - 2 * axis.index(axis_name), 0)

    def grad(params):
        # ``kind`` is the same for all lanes: a branch under vmap too.
        zeros = lambda params: jax.tree.map(jnp.zeros_like, params)
        return jax.lax.cond(kind == GRADIENT, grad_fn, zeros, params)

    return _Event(
        time=time,
        before=time - state.time,
        after=None,
        steps=(kind == GRADIENT) & active,
        meets=meets,
        difference=_opposite(sign, axis_name),
        grad=grad,
    )


def _opposite(sign: jax.Array, axis_name: axis.AxisName) -> Callable[[jax.Array], jax.Array]:
    """Own value less the other's, where two nodes have opposite signs and all others zero."""

    def difference(value):
        own = jnp.where(sign == 0, 0, value)  # what others hold may be infinite
        scalar = sign.astype(jnp.finfo(value.dtype).dtype)
        return scalar * axis.weighted_sum(own, scalar, axis_name)

    return difference


class _Entries:
    """The list of events as tables, to be looked up by all nodes in lock-step.

    Args:
      events: the list.
      axis_name: axis of all nodes.
    """

    def __init__(self, events: DadaoEvents, axis_name: axis.AxisName):
        events = check_events("dadao", events)
        if (np.asarray(events.kind[0]) != NOTHING).any() or events.times[0] != 0:
            raise ValueError(
                "dadao: events must begin with an entry of kind 2 at time 0, as dadao_events and "
                "dadao_ticks make it."
            )
        self._axis_name, self._in_ticks = axis_name, events.kind.ndim == 2
        self._nodes, self._last = events.num_nodes, len(events.times)
        # Beyond the list nothing happens and no time passes.
        end = lambda table, fill: np.concatenate([table, np.full_like(table[:1], fill)])
        self._kind, self._i, self._j = (
            end(table, fill) for table, fill in zip(events[1:], (NOTHING, 0, 0), strict=True)
        )
        last = events.times[-1]
        self._times = np.concatenate([events.times[1:], [last, last]])
        self._waits = np.append(np.diff(events.times), [0.0, 0.0])

    def at(self, state: DadaoState, round: Any, updates: optax.Updates) -> _Event:
        """The entry of the update that is being made, as this node sees it."""
        if self._nodes > axis.size(self._axis_name):
            raise ValueError(
                f"dadao: events are for {self._nodes} nodes or more, but the axis "
                f"{self._axis_name!r} has {axis.size(self._axis_name)} participants."
            )
        at = jnp.minimum(state.count if round is None else round, self._last)
        kind, i, j = (jnp.asarray(table)[at] for table in (self._kind, self._i, self._j))
        me = axis.index(self._axis_name)
        is_first, is_second = (kind == EDGE) & (i == me), (kind == EDGE) & (j == me)
        if self._in_ticks:
            partner = me + jnp.sum(is_first * (j - me) + is_second * (i - me))
            meets, difference = partner != me, _gathered(partner, self._axis_name)
        else:
            meets = is_first | is_second
            sign = is_first.astype(jnp.int32) - is_second
            difference = _opposite(sign, self._axis_name)
        pick = lambda table: jnp.asarray(table, state.time.dtype)[at]
        return _Event(
            time=pick(self._times),
            before=None,
            after=pick(self._waits),
            steps=jnp.any((kind == GRADIENT) & (i == me)),
            meets=meets,
            difference=difference,
            grad=lambda params: updates,
        )


def _gathered(partner: jax.Array, axis_name: axis.AxisName) -> Callable[[jax.Array], jax.Array]:
    """Own value less that of the partner, which is the node itself if it meets nobody."""

    def difference(value):
        other = axis.all_gather(value, axis_name)[partner]
        return jnp.where(partner == axis.index(axis_name), 0, value - other)

    return difference
