"""Compressed messages, with and without a memory of what was left out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax._wide import widen
from gradax.catalogue import Paper, register

from .. import axis
from ..rounds import average
from . import _memory
from ._compressor import Compressor
from ._quantize import natural_compression, sign_l1
from ._select import top_k

_FEEDBACK = Paper(
    "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
    "Karimireddy et al.",
    2019,
    "1901.09847",
)
_QSGD = Paper(
    "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
    "Alistarh et al.",
    2016,
    "1610.02132",
)


class CompressState(NamedTuple):
    """State of :func:`compress_updates` and :func:`compressed_mean`.

    Attributes:
      key: this participant's key, ``None`` if the compressor draws nothing.
      code: state of the compressor.
      wire_bytes: ``int32[]``, size of the last message.
    """

    key: jax.Array | None
    code: optax.OptState
    wire_bytes: jax.Array


class ErrorFeedbackState(NamedTuple):
    """State of :func:`error_feedback` and :func:`ef14`.

    Attributes:
      key: this participant's key, ``None`` if the compressor draws nothing.
      code: state of the compressor.
      error: like params, float32 at least, what has been left out so far, :math:`e_i`.
      wire_bytes: ``int32[]``, size of the last message.
    """

    key: jax.Array | None
    code: optax.OptState
    error: optax.Updates
    wire_bytes: jax.Array


@register("direction", _QSGD, example={"compressor": natural_compression()})
def compress_updates(
    compressor: Compressor, key: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Sends the updates through a compressor, :math:`D_i = C(u_i)`.

    A member of a client's chain. Unbiased compressors can do without more; with others use
    :func:`error_feedback`.

    Args:
      compressor: the compressor.
      key: JAX key or integer, for compressors that draw.

    Returns:
      A transformation with the state :class:`CompressState`.

    Raises:
      TypeError: if ``compressor`` is none.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, x = federated.compress_updates(federated.sign_l1()), jnp.array([1.0, -3.0])
      >>> updates, state = tx.update(x, tx.init(x))
      >>> updates.tolist(), int(state.wire_bytes)
      ([2.0, -2.0], 5)

    References:
      Alistarh et al., `QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding
      <https://arxiv.org/abs/1610.02132>`_, 2016.
    """
    return _without_memory("compress_updates", compressor, key, None)


@register(
    "direction",
    _QSGD,
    needs=("axis",),
    example={"compressor": natural_compression(), "axis_name": "clients"},
)
def compressed_mean(
    compressor: Compressor, axis_name: axis.AxisName, key: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Averages compressed updates over the participants, :math:`\frac1n \sum_i C(u_i)`.

    With a biased compressor this may stop far from the optimum, or diverge: :func:`ef14`,
    :func:`ef21` and :func:`scale_by_econtrol` do not.

    Args:
      compressor: the compressor.
      axis_name: the axis of participants.
      key: JAX key or integer, for compressors that draw. Every participant needs another one:
        initialize with :func:`init_participants`.

    Returns:
      A transformation with the state :class:`CompressState`. The extras ``weight`` and
      ``active`` act as in :func:`average`; who is not active keeps its state.

    Raises:
      TypeError: if ``compressor`` is none.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.compressed_mean(federated.top_k(k=1), "clients")
      >>> mean = lambda u: tx.update(u, tx.init(u))[0]
      >>> jax.vmap(mean, axis_name="clients")(jnp.array([[3.0, 1.0], [2.0, 4.0]]))[0].tolist()
      [1.5, 2.0]

    References:
      Alistarh et al., `QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding
      <https://arxiv.org/abs/1610.02132>`_, 2016.
    """
    return _without_memory("compressed_mean", compressor, key, axis_name)


@register("direction", _FEEDBACK, example={"compressor": sign_l1()})
def error_feedback(
    compressor: Compressor, key: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Compresses the updates and adds what was left out to the next ones.

    .. math::
        D_i = C(e_i + u_i), \qquad e_i \leftarrow e_i + u_i - D_i.

    It emits the message :math:`D_i` and uses no collective: a member of a client's chain, as in
    ``chain(local_steps(optax.sgd(0.1)), error_feedback(top_k(0.01)))``. The memory is float32 at
    least; what the rounding to a narrower dtype of the updates takes away is remembered too.

    The updates should be in the units of parameters, displacements say, whenever a learning rate
    changes in time: put its scaling before this member, not behind it.

    Args:
      compressor: contractive.
      key: JAX key or integer, for compressors that draw.

    Returns:
      A transformation with the state :class:`ErrorFeedbackState`; one copy of params.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: if it is not contractive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, u = federated.error_feedback(federated.top_k(k=1)), jnp.array([3.0, 2.0])
      >>> sent, state = tx.update(u, tx.init(u))
      >>> sent.tolist(), state.error.tolist()
      ([3.0, 0.0], [0.0, 2.0])
      >>> tx.update(u, state)[0].tolist()
      [0.0, 4.0]

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient Compression Schemes
      <https://arxiv.org/abs/1901.09847>`_, 2019.
    """
    return _with_memory("error_feedback", compressor, key, None)


@register(
    "direction",
    _FEEDBACK,
    needs=("axis",),
    example={"compressor": top_k(0.5), "axis_name": "clients"},
)
def ef14(
    compressor: Compressor, axis_name: axis.AxisName, key: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Averages compressed updates with error feedback: :func:`error_feedback`, then a mean.

    With :math:`\bar e` the mean of the memories and a constant rate :math:`\eta`, the points
    :math:`x - \eta \bar e` move as those of uncompressed descent. Where participants' gradients
    differ at the optimum, a constant rate leaves an error that :func:`ef21` does not have; where
    they are noisy, it bears the noise better.

    Args:
      compressor: contractive.
      axis_name: the axis of participants.
      key: as in :func:`compressed_mean`.

    Returns:
      A transformation with the state :class:`ErrorFeedbackState`; one copy of params. The extras
      ``weight`` and ``active`` act as in :func:`average`; who is not active keeps its state.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: if it is not contractive.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.ef14(federated.top_k(k=1), "clients")
      >>> mean = lambda u: tx.update(u, tx.init(u))[0]
      >>> jax.vmap(mean, axis_name="clients")(jnp.array([[3.0, 1.0], [2.0, 4.0]]))[0].tolist()
      [1.5, 2.0]

    References:
      Seide et al., 1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
      Distributed Training of Speech DNNs, 2014.

      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient Compression Schemes
      <https://arxiv.org/abs/1901.09847>`_, 2019.
    """
    return _with_memory("ef14", compressor, key, axis_name)


def _without_memory(who, compressor, key, axis_name):
    _memory.check_compressor(who, compressor)
    combine = _averaging(axis_name)

    def init_fn(params):
        own_key = _memory.own_key(who, compressor, key)
        return CompressState(own_key, compressor.init(params), jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, weight=None, active=None, **extra):
        del params, extra
        now, later = _memory.split(state.key)
        out, _, code = compressor.mean(now, updates, state.code, combine(weight, active))
        new = CompressState(later, code, _memory.compressed_bytes(compressor, updates))
        return out, new if axis_name is None else _memory.where(active, new, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _with_memory(who, compressor, key, axis_name):
    _memory.check_contractive(who, compressor)
    combine = _averaging(axis_name)

    def init_fn(params):
        own_key = _memory.own_key(who, compressor, key)
        error, code = _memory.memory(params), compressor.init(params)
        return ErrorFeedbackState(own_key, code, error, jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, weight=None, active=None, **extra):
        del params, extra
        now, later = _memory.split(state.key)
        total = _memory.map_inexact(lambda u, e: widen(u) + e, updates, state.error)
        sent = _memory.on_the_wire(total, updates)
        mean, own, code = compressor.mean(now, sent, state.code, combine(weight, active))
        left = lambda e, v, d: v - widen(d)
        error = _memory.map_inexact(left, state.error, total, own)
        size = _memory.compressed_bytes(compressor, updates)
        new = ErrorFeedbackState(later, code, error, size)
        return mean, new if axis_name is None else _memory.where(active, new, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _averaging(axis_name):
    """``combine(weight, active)`` makes the function that averages a tree over the axis."""
    if axis_name is None:
        return lambda weight, active: lambda tree: tree
    aggregate = average(axis_name)

    def combine(weight, active):
        extras = {"weight": weight, "active": active}
        return lambda tree: aggregate.update(tree, optax.EmptyState(), **extras)[0]

    return combine
