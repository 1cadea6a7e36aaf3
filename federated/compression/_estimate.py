"""EF21 and EControl for participants with common parameters, and with a server."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen
from gradax.catalogue import register

from .. import axis
from ..rounds import Algorithm, average
from . import _memory
from ._compressor import Compressor
from ._quantize import sign_l1
from ._select import top_k
from ._uplink import (
    ECONTROL,
    EF21,
    AccumulateState,
    UplinkState,
    accumulate,
    econtrol_uplink,
    make_econtrol,
    make_ef21,
)


class EstimateState(NamedTuple):
    """State of :func:`ef21` and :func:`scale_by_econtrol`.

    Attributes:
      uplink: what this participant keeps, an :class:`UplinkState`.
      server: the mean of all estimates, an :class:`AccumulateState`, equal for all.
    """

    uplink: UplinkState
    server: AccumulateState


@register(
    "direction",
    EF21,
    needs=("axis",),
    example={"compressor": sign_l1(), "axis_name": "clients"},
)
def ef21(
    compressor: Compressor,
    axis_name: axis.AxisName,
    init: str = "full",
    key: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""EF21: the mean of estimates of the gradients, which compressed corrections keep up to date.

    .. math::
        h_i \leftarrow h_i + C(g_i - h_i), \qquad u = \frac1n \sum_i h_i.

    With full gradients it converges as fast as uncompressed descent does up to constants, however
    the participants differ; proved for rates up to :math:`1 / (L + \tilde L \sqrt{1-\delta} /
    (1 - \sqrt{1-\delta}))` with :math:`\tilde L` the root mean square of the smoothness
    constants. It suffers from noise in the gradients: average it away before this member with
    ``optax.ema``, or use :func:`scale_by_econtrol`.

    Args:
      compressor: contractive.
      axis_name: the axis of participants, whose parameters are equal.
      init: ``"full"`` sends the first gradient uncompressed; ``"compressed"`` begins with
        :math:`h_i = 0`.
      key: JAX key or integer, for compressors that draw. Every participant needs another one:
        initialize with :func:`init_participants`.

    Returns:
      A transformation with the state :class:`EstimateState`; two copies of params. Who has the
      extra ``active=False`` sends nothing, and its last estimate counts on.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: if it is not contractive, or ``init`` is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> ef21 = federated.ef21(federated.top_k(k=1), "clients")
      >>> tx, targets = optax.chain(ef21, optax.scale(-0.2)), jnp.array([[1.0, 5.0], [3.0, -1.0]])
      >>> state, x = jax.vmap(tx.init)(targets), jnp.zeros((2, 2))
      >>> update = jax.jit(jax.vmap(tx.update, axis_name="clients"))
      >>> for _ in range(100):
      ...     u, state = update(x - targets, state, x)
      ...     x = x + u
      >>> x[0].round(3).tolist()
      [2.0, 2.0]

    References:
      Richtarik et al., `EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
      Feedback <https://arxiv.org/abs/2106.05203>`_, 2021.
    """
    return _under_axis(make_ef21("ef21", compressor, init, key, axis_name), axis_name)


@register(
    "direction",
    ECONTROL,
    needs=("axis",),
    example={"compressor": top_k(0.5), "axis_name": "clients", "eta": 0.1},
)
def scale_by_econtrol(
    compressor: Compressor,
    axis_name: axis.AxisName,
    eta: jax.typing.ArrayLike | None = None,
    h_init: str = "full",
    key: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""EControl: EF21's estimates, and a memory of their errors fed back with a small gain.

    .. math::
        D_i = C(\eta e_i + g_i - h_i), \qquad
        e_i \leftarrow e_i + g_i - h_i - D_i, \qquad
        h_i \leftarrow h_i + D_i, \qquad u = \frac1n \sum_i h_i.

    Only :math:`D_i` travels. It bears both participants that differ and noisy gradients, whose
    effect falls with their number. With a constant rate and ``h_init="full"``, the points
    :math:`x` minus the rate times the mean :math:`e_i` move as those of uncompressed descent.

    Args:
      compressor: contractive.
      axis_name: the axis of participants, whose parameters are equal.
      eta: the gain, in [0, 1]; 0 is EF21. About :math:`\delta` is a good start, much more
        diverges. ``None`` takes what the theory asks for, :math:`\delta / (3 \sqrt{1 - \delta}
        (1 + \sqrt{1 - \delta}))`, which is careful.
      h_init: ``"full"`` sends the first gradient uncompressed; ``"zero"`` begins with
        :math:`h_i = 0`.
      key: as in :func:`ef21`.

    Returns:
      A transformation with the state :class:`EstimateState`; three copies of params. Who has
      the extra ``active=False`` sends nothing, and its last estimate counts on.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: if it is not contractive, ``eta`` is out of range, missing for a compressor
        without a constant, or ``h_init`` is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.scale_by_econtrol(federated.top_k(k=1), "clients", eta=0.1)
      >>> one_node = jax.vmap(tx.update, axis_name="clients")
      >>> state = jax.vmap(tx.init)(jnp.zeros((1, 2)))
      >>> for g in ([[3.0, 1.0]], [[2.0, 4.0]], [[2.0, 4.0]]):
      ...     direction, state = one_node(jnp.array(g), state)
      >>> [round(float(u), 4) for u in direction[0]]
      [1.9, 4.0]

    References:
      Gao et al., `EControl: Fast Distributed Optimization with Compression and Error Control
      <https://arxiv.org/abs/2311.05645>`_, 2023.
    """
    uplink = make_econtrol("scale_by_econtrol", compressor, eta, h_init, key, axis_name)
    return _under_axis(uplink, axis_name)


@register(
    "alias",
    ECONTROL,
    needs=("axis",),
    example={
        "learning_rate": 1e-3,
        "compressor": sign_l1(),
        "axis_name": "clients",
        "eta": 0.1,
    },
)
def econtrol(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    axis_name: axis.AxisName,
    eta: jax.typing.ArrayLike | None = None,
    h_init: str = "full",
    key: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """Descent by EControl: :func:`scale_by_econtrol`, then the learning rate.

    Args:
      learning_rate: step per update, a number or a schedule of the count.
      compressor: as in :func:`scale_by_econtrol`.
      axis_name: as in :func:`scale_by_econtrol`.
      eta: as in :func:`scale_by_econtrol`.
      h_init: as in :func:`scale_by_econtrol`.
      key: as in :func:`ef21`.

    Returns:
      The chained transformation.

    Raises:
      TypeError: if ``compressor`` is none.
      ValueError: as :func:`scale_by_econtrol`, or if the rate is negative.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.econtrol(0.2, federated.top_k(k=1), "clients", eta=0.1)
      >>> targets = jnp.array([[1.0, 5.0], [3.0, -1.0]])
      >>> state, x = jax.vmap(tx.init)(targets), jnp.zeros((2, 2))
      >>> update = jax.jit(jax.vmap(tx.update, axis_name="clients"))
      >>> for _ in range(200):
      ...     u, state = update(x - targets, state, x)
      ...     x = x + u
      >>> x[0].round(3).tolist()
      [2.0, 2.0]

    References:
      Gao et al., `EControl: Fast Distributed Optimization with Compression and Error Control
      <https://arxiv.org/abs/2311.05645>`_, 2023.
    """
    _validate.learning_rate("econtrol", learning_rate)
    return optax.chain(
        scale_by_econtrol(compressor, axis_name, eta, h_init, key),
        optax.scale_by_learning_rate(learning_rate),
    )


@register(
    "algorithm",
    ECONTROL,
    example={"learning_rate": 0.1, "uplink": econtrol_uplink(top_k(0.5))},
)
def compressed_sgd(
    learning_rate: optax.ScalarOrSchedule,
    uplink: optax.GradientTransformation,
    *,
    server: optax.GradientTransformation | None = None,
    axis_name: axis.AxisName = "clients",
) -> Algorithm:
    r"""Descent on a server that learns the clients' gradients from compressed corrections.

    A round: the clients of the cohort send what ``uplink`` makes of their gradients, the server
    adds the mean to its estimate of the mean gradient of all clients, and takes a step. The
    estimates of clients that do not take part count on.

    Args:
      learning_rate: of the server's step, a number or a schedule of the round.
      uplink: :func:`ef21_uplink` or :func:`econtrol_uplink`.
      server: a chain of directions to put before the rate, such as ``optax.trace(0.9)``.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if the rate is negative.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"a": np.array([[1.0, 5.0], [3.0, -1.0]])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(jnp.sum((x - batch["a"]) ** 2, axis=-1)) / 2
      >>> algorithm = federated.compressed_sgd(0.2, federated.ef21_uplink(federated.top_k(k=1)))
      >>> result = federated.simulate(
      ...     algorithm, loss_fn, jnp.zeros(2), clients, rounds=100, num_steps=1
      ... )
      >>> result.params.round(3).tolist(), result.history.column("bytes_up")[:2]
      ([2.0, 2.0], [16, 10])

    References:
      Gao et al., `EControl: Fast Distributed Optimization with Compression and Error Control
      <https://arxiv.org/abs/2311.05645>`_, 2023.
    """
    _validate.learning_rate("compressed_sgd", learning_rate)
    before = [] if server is None else [server]
    # Wide, so that the mean is not rounded before it is added up.
    to_server = optax.stateless(
        lambda updates, params: _memory.map_inexact(lambda u: -widen(u), updates)
    )
    return Algorithm(
        client=optax.chain(uplink, to_server),
        aggregate=average(axis_name, "uniform"),
        server=optax.chain(accumulate(), *before, optax.scale_by_learning_rate(learning_rate)),
        axis_name=axis_name,
    )


def _under_axis(uplink, axis_name):
    """Uplink, mean and accumulation in one, for participants with common parameters."""
    axis.names(axis_name)
    server = accumulate()

    def init_fn(params):
        return EstimateState(uplink.init(params), server.init(params))

    def update_fn(updates, state, params=None, *, active=None, **extra):
        del params, extra
        sent, new = uplink.update(updates, state.uplink)
        sent = _memory.map_inexact(widen, sent)
        if active is not None:  # who is absent sends nothing and keeps everything
            sent = _memory.where(active, sent, jax.tree.map(jnp.zeros_like, sent))
            new = _memory.where(active, new, state.uplink)
        mean = _memory.map_inexact(lambda d: axis.mean(d, axis_name), sent)
        total, server_state = server.update(mean, state.server)
        out = jax.tree.map(lambda x, u: x.astype(u.dtype), total, updates)
        return out, EstimateState(new, server_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
