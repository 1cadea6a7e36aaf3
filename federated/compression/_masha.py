"""MASHA: extragradient with a snapshot, so that only compressed differences have to travel."""

import jax
import optax

from gradax.catalogue import Paper, register

from .. import axis
from . import _memory
from ._compressor import Compressor
from ._masha_step import Projection, Uplink, make_masha
from ._quantize import no_compression, sign_l1

#: Where the method comes from.
PAPER = Paper(
    "Distributed Methods with Compressed Communication for Solving Variational Inequalities, "
    "with Theoretical Guarantees",
    "Beznosikov et al.",
    2021,
    "2110.03313",
)


@register(
    "final",
    PAPER,
    needs=("axis", "grad_fn"),
    example={
        "learning_rate": 5e-4,
        "compressor": no_compression(),
        "axis_name": "nodes",
        "tau": 0.5,
    },
)
def masha1(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    axis_name: axis.AxisName,
    *,
    tau: jax.typing.ArrayLike,
    server_compressor: Compressor | None = None,
    key: jax.Array | int = 0,
    projection: Projection | None = None,
    reuse_grads: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""MASHA1: solves variational inequalities with unbiased compressors.

    Nodes look for a common zero of :math:`F = \frac1M \sum_m F_m`. They share the parameters
    :math:`z`, a snapshot :math:`w` and :math:`F(w)`, and node :math:`m` keeps its own
    :math:`F_m(w)`. A step sends compressed differences only,

    .. math::
        z_{k+1/2} &= \tau z_k + (1-\tau) w_k - \gamma F(w_k), \\
        z_{k+1} &= z_{k+1/2} - \gamma Q_s\Bigl(\frac1M \sum_m
        Q_m\bigl(F_m(z_{k+1/2}) - F_m(w_k)\bigr)\Bigr),

    and with probability :math:`1-\tau` the snapshot moves, :math:`w_{k+1} = z_{k+1}`, for which
    all send :math:`F_m(w)` in full; otherwise :math:`w_{k+1} = w_k`. The differences vanish at
    the solution, and with them what compression spoils: for a strongly monotone :math:`F` it
    converges linearly, where extragradient on compressed operators stalls.

    With :math:`1-\tau` the share of numbers that the compressor keeps, both kinds of messages
    cost the same on average. :func:`masha1_learning_rate` gives a safe rate. Gradients of a
    min-max problem become :math:`F` by :func:`gradax.optimizers.minmax` around this
    transformation; in ``simulate`` pass ``batch_size=None``, since the differences vanish only if
    :math:`F_m` is the same function in every step. Three copies of params, and for a step one
    value of ``grad_fn`` beside the gradient that comes in.

    Args:
      learning_rate: :math:`\gamma > 0`, a number or a schedule of the count.
      compressor: :math:`Q_m`, unbiased.
      axis_name: axis of the nodes. All take part in every step, start alike and stay equal.
      tau: :math:`\tau` in [0, 1), the probability that the snapshot stays.
      server_compressor: :math:`Q_s`, unbiased, for what a server sends back; it draws the same
        on all nodes.
      key: JAX key or integer, of coins and compressors. Nodes need keys of their own: initialize
        with :func:`init_participants`.
      projection: for constrained problems, a function of parameters that maps both points,
        :math:`z_{k+1/2}` and :math:`z_{k+1}`, to the nearest that is allowed.
      reuse_grads: take :math:`F_m(w)` from the incoming gradient. Otherwise incoming gradients
        are ignored, and ``grad_fn`` is called once more in the steps that move the snapshot only:
        cheaper where nobody else needs the gradient, as in ``simulate`` without a loss. Static.

    Returns:
      A transformation with the state :class:`MashaState`; it needs params, the axis and
      ``grad_fn``, the node's :math:`F_m`. An extra ``refresh``, a boolean equal on all nodes,
      replaces the coin of this step.

    Raises:
      TypeError: if a compressor is none.
      ValueError: if an argument is out of range or a compressor is biased; at trace time if some
        nodes have no lane, as with ``cohort=`` in ``simulate``.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx = federated.masha1(0.1, federated.rand_k(0.5, scaled=True), "nodes", tau=0.5)
      >>> def step(z, state, a):
      ...     field = lambda z: jnp.array([z[1], -z[0]]) + z - a
      ...     updates, state = tx.update(field(z), state, z, grad_fn=field)
      ...     return optax.apply_updates(z, updates), state
      >>> step = jax.jit(jax.vmap(step, axis_name="nodes"))
      >>> a = jnp.array([[0.0, 3.0], [4.0, 1.0]])  # the mean field is zero at (0, 2)
      >>> z = jnp.zeros((2, 2))
      >>> state = federated.init_participants(tx, z[0], jnp.arange(2))
      >>> for _ in range(300):
      ...     z, state = step(z, state, a)
      >>> z.round(3).tolist()
      [[0.0, 2.0], [0.0, 2.0]]

    References:
      Beznosikov et al., `Distributed Methods with Compressed Communication for Solving Variational
      Inequalities, with Theoretical Guarantees <https://arxiv.org/abs/2110.03313>`_, 2021.
    """
    for one in _given(compressor, server_compressor):
        _memory.check_compressor("masha1", one)
        if not one.is_unbiased:
            raise ValueError(
                f"masha1: compressor must be unbiased, but {one!r} is not; for rand_k set "
                "scaled=True, for contractive compressors use masha2."
            )
    uplink = Uplink(compressor, server_compressor, axis_name, has_memory=False)
    return make_masha("masha1", learning_rate, tau, key, uplink, reuse_grads, projection)


@register(
    "final",
    PAPER,
    needs=("axis", "grad_fn"),
    example={
        "learning_rate": 5e-4,
        "compressor": sign_l1(),
        "axis_name": "nodes",
        "tau": 0.5,
    },
)
def masha2(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    axis_name: axis.AxisName,
    *,
    tau: jax.typing.ArrayLike,
    server_compressor: Compressor | None = None,
    key: jax.Array | int = 0,
    reuse_grads: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""MASHA2: solves variational inequalities with contractive compressors.

    Like :func:`masha1`, but what a compressor leaves out is remembered and sent later, by the
    nodes (:math:`e_m`) and by the server (:math:`e_s`):

    .. math::
        v_m &= \gamma \bigl(F_m(z_{k+1/2}) - F_m(w_k)\bigr) + e_m, \qquad
        c_m = C_m(v_m), \qquad e_m \leftarrow v_m - c_m, \\
        v &= \frac1M \sum_m c_m + e_s, \qquad c = C_s(v), \qquad e_s \leftarrow v - c, \qquad
        z_{k+1} = z_{k+1/2} - c.

    The rate that theory allows, :func:`masha2_learning_rate`, is very small; a hundred times more
    has worked. The memories are in the units of parameters, as :func:`error_feedback` keeps them.
    Five copies of params, four without a compressor at the server.

    Args:
      learning_rate: as in :func:`masha1`; theory knows constant rates only.
      compressor: :math:`C_m`, contractive, such as :func:`top_k`.
      axis_name: as in :func:`masha1`.
      tau: as in :func:`masha1`.
      server_compressor: :math:`C_s`, contractive.
      key: as in :func:`masha1`.
      reuse_grads: as in :func:`masha1`. Static.

    Returns:
      As :func:`masha1`.

    Raises:
      TypeError: if a compressor is none.
      ValueError: as :func:`masha1`, or if a compressor is not contractive.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx = federated.masha2(0.1, federated.top_k(0.5), "nodes", tau=0.5)
      >>> def step(z, state, a):
      ...     field = lambda z: jnp.array([z[1], -z[0]]) + z - a
      ...     updates, state = tx.update(field(z), state, z, grad_fn=field)
      ...     return optax.apply_updates(z, updates), state
      >>> step = jax.jit(jax.vmap(step, axis_name="nodes"))
      >>> a = jnp.array([[0.0, 3.0], [4.0, 1.0]])  # the mean field is zero at (0, 2)
      >>> z = jnp.zeros((2, 2))
      >>> state = federated.init_participants(tx, z[0], jnp.arange(2))
      >>> for _ in range(300):
      ...     z, state = step(z, state, a)
      >>> bool(jnp.abs(z - jnp.array([0.0, 2.0])).max() < 1e-3)
      True

    References:
      Beznosikov et al., `Distributed Methods with Compressed Communication for Solving Variational
      Inequalities, with Theoretical Guarantees <https://arxiv.org/abs/2110.03313>`_, 2021.
    """
    for one in _given(compressor, server_compressor):
        _memory.check_contractive("masha2", one)
    uplink = Uplink(compressor, server_compressor, axis_name, has_memory=True)
    return make_masha("masha2", learning_rate, tau, key, uplink, reuse_grads)


def _given(compressor, server_compressor):
    """The compressors to be checked: the second may be missing."""
    return (compressor,) if server_compressor is None else (compressor, server_compressor)
