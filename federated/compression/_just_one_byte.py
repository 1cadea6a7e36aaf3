"""Just One Byte: nodes that send one byte a step and replay what everybody else computed."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _keys, _validate, catalogue
from gradax._wide import wide, wide_dtype

from .. import axis
from ._byte_code import ABSENT, PAPER, check_log_scale, decode_byte, encode_byte

#: ``(key, params) -> direction``, the key being that of a step, machine and sample.
DirectionFn = Callable[[jax.Array, optax.Params], optax.Updates]


class JustOneByteState(NamedTuple):
    """State of :func:`just_one_byte`.

    Attributes:
      count: ``int32[]``, number of steps made.
      shared_key: the key from which everybody draws everybody's directions.
      last_codes: ``uint8[num_samples]``, what this machine sent last; numbers of the parameters'
        width with ``quantize=False``.
      log: ``[log_length, num_samples]``, what this machine sent in every step; where it sent
        nothing stands 128 (or NaN). ``None`` if nothing is kept.
      wire_bytes: ``int32[]``, bytes this machine sent in the last step.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    shared_key: jax.Array
    last_codes: jax.Array
    log: jax.Array | None
    wire_bytes: jax.Array


@catalogue.register(
    "final",
    PAPER,
    needs=("axis", "value_fn"),
    example={"learning_rate": 3e-4, "axis_name": "nodes"},
)
def just_one_byte(
    learning_rate: optax.ScalarOrSchedule,
    axis_name: axis.AxisName,
    *,
    eps: jax.typing.ArrayLike = 1e-3,
    num_samples: int = 1,
    reduce: str = "mean",
    quantize: bool = True,
    log_scale: float = 8.0,
    key: jax.Array | int = 0,
    log_length: int = 0,
    direction_fn: DirectionFn | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Descends along random directions; machines exchange one byte for each.

    In step :math:`t` machine :math:`m` measures the slope of its own loss along directions
    :math:`z_{tms}` that everybody can draw from the common key, and sends it as a byte
    (:func:`encode_byte`). Everybody, the sender included, then applies what was received:

    .. math::
        p_{ms} = \frac{\ell_m(\theta + \epsilon z_{tms}) - \ell_m(\theta - \epsilon z_{tms})}
                      {2 \epsilon},
        \qquad
        \theta \leftarrow \theta - \frac{\eta}{R} \sum_{m, s}
        \operatorname{decode}(\operatorname{encode}(p_{ms}))\, z_{tms}.

    No gradient is formed. A step costs two losses per sample, and to draw the directions of all
    machines again, one leaf at a time; ``num_samples`` bytes per machine travel, whatever the
    size of the model. Machines that start alike stay equal bit by bit (on one kind of hardware),
    and so does one that catches up by :func:`replay_bytes`. Needs parameters in float32: the
    small steps vanish in less. Integer leaves do not move.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      axis_name: axis of the machines.
      eps: :math:`\epsilon > 0`, how far the loss is measured from :math:`\theta`.
      num_samples: directions per machine and step. Static.
      reduce: :math:`R`, in terms of the number :math:`M S` of directions of the machines that
        take part: ``"mean"`` for :math:`M S`, ``"sqrt"`` for its root, ``"sum"`` for 1.
      quantize: send bytes; otherwise the numbers themselves.
      log_scale: of the byte. Static.
      key: JAX key or integer seed, the same for all machines.
      log_length: steps of which the state keeps what this machine sent, one byte per sample;
        :func:`byte_log` collects them. Static.
      direction_fn: draws :math:`z` from a key, ``direction_fn(key, params)``, a tree like
        params; by default standard normal numbers. Static.

    Returns:
      A transformation with the state :class:`JustOneByteState`. It needs ``value_fn``, params
      and the axis, and ignores gradients, which may be ``None``. With several samples it calls
      ``value_fn(params, batch=batches[s])`` if there is an extra ``batches`` (as ``simulate``
      passes it), else ``value_fn(params, s)`` if that takes a second argument, else all samples
      share the batch. A machine with the extra ``active=False`` sends nothing and follows what
      the others send; an extra ``round`` replaces the count, ``client_id`` the place on the
      axis.

    Raises:
      ValueError: if an argument is out of range; at trace time if params or ``value_fn`` are
        missing or the axis is not bound.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> tx = gradax.federated.just_one_byte(0.05, "nodes")
      >>> def step(x, state, target):
      ...     value_fn = lambda x: jnp.sum((x - target) ** 2)
      ...     updates, state = tx.update(None, state, x, value_fn=value_fn)
      ...     return optax.apply_updates(x, updates), state
      >>> step = jax.jit(jax.vmap(step, axis_name="nodes"))
      >>> targets = jnp.array([[0.0, 1.0], [2.0, 1.0]])
      >>> x = jnp.zeros((2, 2))
      >>> state = jax.vmap(tx.init)(x)
      >>> for _ in range(200):
      ...     x, state = step(x, state, targets)
      >>> bool((x[0] == x[1]).all()), bool(jnp.abs(x[0] - 1.0).max() < 0.3)
      (True, True)

    References:
      Zelikman et al., `Just One Byte (per gradient) <https://arxiv.org/abs/2306.10015>`_, 2023.
    """
    who = "just_one_byte"
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "eps", eps, "(0, inf)")
    _validate.integer(who, "num_samples", num_samples, at_least=1)
    _validate.integer(who, "log_length", log_length, at_least=0)
    axis.names(axis_name)
    _keys.as_key(who, key)
    replay = _Replay(who, learning_rate, reduce, log_scale, direction_fn)

    def measure(params, shared_key, t, number, value_fn, batches, dtype):
        """The slopes of this machine's loss along its directions, ``[num_samples]``."""
        value = _per_sample(value_fn, num_samples, batches)

        def slope(_, s):
            direction = replay.direction(shared_key, t, number, s, params)
            above, below = (value(_moved(params, direction, sign * eps), s) for sign in (1, -1))
            return None, (above.astype(dtype) - below.astype(dtype)) / (2 * eps)

        return jax.lax.scan(slope, None, jnp.arange(num_samples))[1].astype(dtype)

    def message(slopes, active):
        """What a machine sends, and what stands there if it does not."""
        sent = encode_byte(slopes, log_scale) if quantize else _finite(slopes)
        return sent if active is None else jnp.where(active, sent, _nothing(sent.dtype))

    def init_fn(params):
        dtype = jnp.uint8 if quantize else _number_dtype(params)
        empty = lambda *shape: jnp.full(shape, _nothing(dtype), dtype)
        return JustOneByteState(
            count=jnp.zeros([], jnp.int32),
            shared_key=_keys.as_key(who, key),
            last_codes=empty(num_samples),
            log=empty(log_length, num_samples) if log_length else None,
            wire_bytes=jnp.zeros([], jnp.int32),
        )

    def update_fn(updates, state, params=None, *, value_fn=None, active=None, **extra):
        del updates
        params = _extras.require_params(who, params)
        value_fn = _extras.require(who, "value_fn", value_fn)
        number = extra.get("client_id")
        number = axis.index(axis_name) if number is None else jnp.asarray(number)
        t, shared_key = _in_common(state, extra.get("round"), axis_name)
        dtype = _number_dtype(params)
        slopes = measure(params, shared_key, t, number, value_fn, extra.get("batches"), dtype)
        sent = message(slopes, active)
        codes, numbers = axis.all_gather((sent, number), axis_name)
        out = replay.update(params, codes, numbers, t, shared_key)
        size = jnp.int32(sent.size * sent.dtype.itemsize)
        return out, JustOneByteState(
            count=optax.safe_increment(t),
            shared_key=state.shared_key,
            last_codes=sent,
            log=state.log.at[t].set(sent, mode="drop") if log_length else None,
            wire_bytes=size if active is None else jnp.where(active, size, 0),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register("function", PAPER)
def replay_bytes(
    params: optax.Params,
    byte_log: jax.typing.ArrayLike,
    key: jax.Array | int,
    learning_rate: optax.ScalarOrSchedule,
    *,
    start: int = 0,
    reduce: str = "mean",
    log_scale: float = 8.0,
    direction_fn: DirectionFn | None = None,
) -> optax.Params:
    """Repeats a training run from the bytes that were exchanged: no data, no losses.

    Every step does the arithmetic of :func:`just_one_byte` in its order, so that the result
    equals the parameters of those who were there bit by bit, on the same kind of hardware. A
    machine that joins late replays from the common start; one that comes back from where it
    left, with ``start``.

    Args:
      params: parameters before the first of these steps.
      byte_log: ``uint8[steps, machines, num_samples]``, the rows ``last_codes`` of all machines
        in the order of the axis, or :func:`byte_log`; 128 marks who took no part. Numbers
        instead of bytes if the run was one with ``quantize=False``, then NaN marks them.
      key: as in the run.
      learning_rate: as in the run.
      start: number of steps made before. Static.
      reduce: as in the run.
      log_scale: as in the run. Static.
      direction_fn: as in the run. Static.

    Returns:
      Parameters after these steps.

    Raises:
      ValueError: if an argument is out of range or the log has not three axes.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> tx = gradax.federated.just_one_byte(0.1, "nodes", key=3, log_length=20)
      >>> start = jnp.array([1.0, -2.0])
      >>> def train(scale):
      ...     value_fn = lambda x: scale * jnp.sum(x**2)
      ...     def step(carry, _):
      ...         x, state = carry
      ...         updates, state = tx.update(None, state, x, value_fn=value_fn)
      ...         return (optax.apply_updates(x, updates), state), None
      ...     return jax.lax.scan(step, (start, tx.init(start)), length=20)[0]
      >>> x, state = jax.jit(jax.vmap(train, axis_name="nodes"))(jnp.array([0.5, 1.5]))
      >>> log = gradax.federated.byte_log(state)
      >>> caught_up = gradax.federated.replay_bytes(start, log, 3, 0.1)
      >>> log.shape, bool((caught_up == x[0]).all())
      ((20, 2, 1), True)

    References:
      Zelikman et al., `Just One Byte (per gradient) <https://arxiv.org/abs/2306.10015>`_, 2023.
    """
    who = "replay_bytes"
    _validate.learning_rate(who, learning_rate)
    _validate.integer(who, "start", start, at_least=0)
    codes = jnp.asarray(byte_log)
    if codes.ndim != 3:
        raise ValueError(
            f"{who}: byte_log must have the axes [steps, machines, samples], got {codes.shape}."
        )
    replay = _Replay(who, learning_rate, reduce, log_scale, direction_fn)
    shared_key, numbers = _keys.as_key(who, key), jnp.arange(codes.shape[1])

    def step(params, row):
        update = replay.update(params, row[0], numbers, row[1], shared_key)
        return optax.apply_updates(params, update), None

    counts = start + jnp.arange(codes.shape[0], dtype=jnp.int32)
    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(lambda params, rows: jax.lax.scan(step, params, rows)[0])(
        params, (codes, counts)
    )


def byte_log(state: Any, num_steps: int | None = None) -> jax.Array:
    """Collects what all machines sent from their states, for :func:`replay_bytes`.

    Args:
      state: states of all machines, leaves with a leading axis of machines, as ``vmap`` and
        ``simulate`` keep them; may hold the :class:`JustOneByteState` anywhere within.
      num_steps: only the first ones; by default as many as were made.

    Returns:
      ``[num_steps, machines, num_samples]``.

    Raises:
      ValueError: if there is no such state, or its ``log_length`` is less than ``num_steps``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.just_one_byte(0.1, "nodes", log_length=100)
      >>> state = jax.vmap(tx.init)(jnp.zeros((4, 2)))
      >>> gradax.federated.byte_log(state).shape
      (0, 4, 1)
    """
    is_ours = lambda node: isinstance(node, JustOneByteState)
    nodes = jax.tree.leaves(state, is_leaf=is_ours)
    found = [node for node in nodes if is_ours(node) and node.log is not None]
    if len(found) != 1:
        raise ValueError(
            "byte_log: state must hold one JustOneByteState with log_length > 0, but there are "
            f"{len(found)}."
        )
    steps = int(jnp.max(found[0].count)) if num_steps is None else num_steps
    _validate.integer("byte_log", "num_steps", steps, at_least=0)
    length = found[0].log.shape[1]
    if steps > length:
        raise ValueError(f"byte_log: num_steps must be at most log_length = {length}, got {steps}.")
    return jnp.swapaxes(found[0].log, 0, 1)[:steps]


class _Replay:
    """From codes to an update: the one place where both training and replay compute it."""

    def __init__(self, who, learning_rate, reduce, log_scale, direction_fn):
        _validate.one_of(who, "reduce", reduce, ("mean", "sqrt", "sum"))
        check_log_scale(who, log_scale)
        self._rate, self._reduce, self._log_scale = learning_rate, reduce, log_scale
        self._draw = direction_fn or _normal

    def direction(self, shared_key, t, number, s, params):
        """The direction of a step, machine and sample."""
        own = shared_key
        for part in (t, number, s):
            own = jax.random.fold_in(own, part)
        return self._draw(own, params)

    def update(self, params, codes, numbers, t, shared_key):
        """Adds up the directions; machines outside, samples inside."""
        machines, samples = codes.shape
        factors = self._factors(codes, t, _number_dtype(params)).reshape(-1)

        def add(i, total):
            m, s = i // samples, i % samples
            direction = self.direction(shared_key, t, numbers[m], s, params)
            scaled = lambda sum, z: sum + factors[i].astype(_real(sum.dtype)) * z.astype(sum.dtype)
            return _on_inexact(scaled, total, direction)

        zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), _sum_dtype(x)), params)
        # The number of rounds is not known to the compiler. It would otherwise unroll a single
        # one, and where it does it may fuse the product with the sum that the caller makes,
        # rounding once where a replay rounds twice.
        rounds = jnp.where(t < 0, 0, machines * samples)
        total = jax.lax.fori_loop(0, rounds, add, zeros)
        return jax.tree.map(lambda u, x: u.astype(jnp.result_type(x)), total, params)

    def _factors(self, codes, t, dtype):
        """Minus the rate times the numbers that were sent, over their number."""
        if codes.dtype == jnp.uint8:
            present, slopes = codes != ABSENT, decode_byte(codes, self._log_scale, dtype)
        else:
            present = ~jnp.isnan(codes)
            slopes = jnp.where(present, codes, 0).astype(dtype)
        count = jnp.maximum(jnp.sum(present), 1).astype(dtype)
        over = {"mean": count, "sqrt": jnp.sqrt(count), "sum": jnp.ones([], dtype)}[self._reduce]
        rate = self._rate(t) if callable(self._rate) else self._rate
        return -(jnp.asarray(rate, dtype) / over) * slopes


def _in_common(state, round, axis_name):
    """The step's number and key, under ``vmap`` computed once for all machines."""
    t, raw = axis.all_gather((state.count, jax.random.key_data(state.shared_key)), axis_name)
    key = jax.random.wrap_key_data(raw[0], impl=jax.random.key_impl(state.shared_key))
    # The largest: who has just joined has counted nothing yet.
    return (jnp.max(t) if round is None else jnp.asarray(round, jnp.int32)), key


def _per_sample(value_fn, num_samples, batches):
    """Brings ``value_fn`` into the form ``(params, s)``."""
    if batches is not None and _takes(value_fn, "batch"):
        length = len(jax.tree.leaves(batches)[0])
        pick = lambda s: jax.tree.map(lambda leaf: leaf[s % length], batches)
        return lambda params, s: value_fn(params, batch=pick(s))
    if num_samples > 1 and _takes_two(value_fn):
        return value_fn
    return lambda params, s: value_fn(params)


def _takes(function, name):
    parameters = inspect.signature(function).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return anything or name in parameters


def _takes_two(function):
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    one = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in one for kind in kinds) > 1


def _moved(params, direction, by):
    move = lambda x, z: (x + by * z.astype(_sum_dtype(x))).astype(jnp.result_type(x))
    return _on_inexact(move, params, direction)


def _on_inexact(function, tree, other):
    """Maps over the leaves that are no integers; those stay."""
    choose = lambda x, z: function(x, z) if _is_inexact(x) else x
    return jax.tree.map(choose, tree, other)


def _normal(key, params):
    """Standard normal numbers, one key for each leaf."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))

    def draw(own, leaf):
        if not _is_inexact(leaf):
            return jnp.zeros(jnp.shape(leaf))
        numbers = jax.random.normal(own, jnp.shape(leaf), _sum_dtype(leaf))
        # Complex numbers of variance one have parts of a half.
        return math.sqrt(2) * numbers if jnp.iscomplexobj(leaf) else numbers

    return jax.tree.unflatten(tree, map(draw, keys, leaves))


def _is_inexact(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _sum_dtype(leaf):
    dtype = jnp.result_type(leaf)
    return wide(dtype) if _is_inexact(leaf) else dtype


def _real(dtype):
    return jnp.finfo(dtype).dtype


def _number_dtype(params):
    """The dtype of slopes: that of the widest leaf, float32 at least."""
    return wide_dtype(*filter(_is_inexact, jax.tree.leaves(params)))


def _finite(slopes):
    return jnp.where(jnp.isfinite(slopes), slopes, 0)


def _nothing(dtype):
    """What stands in a log for a machine that sent nothing."""
    return ABSENT if dtype == jnp.uint8 else jnp.nan
