"""RERCE-Fed: consensus ADMM over noisy links, and the textbook method it is compared with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, average, skip_empty
from ._admm_local import Rule, admm_local
from ._admm_solvers import RERCE, LocalSolver, gradient_solver
from ._shares import add_share

#: For examples: a few steps of descent.
_SOLVER = gradient_solver(optax.sgd(1e-2), num_steps=2)


class ExtrapolateState(NamedTuple):
    """State of :func:`extrapolate`.

    Attributes:
      mean: like params, the last mean :math:`z` of the clients' models; zero at first.
    """

    mean: optax.Params


@register(
    "final",
    RERCE,
    exceptions={"converges_rosenbrock": "alone it is momentum of weight one along a curved valley"},
)
def extrapolate() -> optax.GradientTransformationExtraArgs:
    r"""The server of RERCE-Fed: goes as far beyond the new mean as the mean has moved.

    With :math:`z_t` the point to which the aggregate leads,

    .. math::
        s_t = 2 z_t - z_{t-1}, \qquad z_{-1} = 0.

    As it is the server of an algorithm it receives :math:`s_{t-1} - z_t` as updates, and its
    parameters are :math:`s`; the state holds :math:`z`.

    Returns:
      A transformation with an :class:`ExtrapolateState`, to be used without a further rate.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, s = federated.extrapolate(), jnp.array(0.0)
      >>> step, state = tx.update(jnp.array(-3.0), tx.init(s), s)
      >>> float(step), float(state.mean)
      (6.0, 3.0)

    References:
      Lari et al., `Noise-Robust and Resource-Efficient ADMM-based Federated Learning
      <https://arxiv.org/abs/2409.13451>`_, 2024.
    """

    def init_fn(params):
        return ExtrapolateState(optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, **extras):
        del extras
        if params is None:
            raise ValueError("extrapolate needs params; call tx.update(grads, state, params).")
        mean = jax.tree.map(lambda p, u: (p - u).astype(p.dtype), params, updates)
        beyond = lambda z, old, p: 2 * z - old - p
        return jax.tree.map(beyond, mean, state.mean, params), ExtrapolateState(mean)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class LatestMessageState(NamedTuple):
    """State of the last member of a client with ``continual=True``.

    Attributes:
      latest: like params, this client's last message as the server received it.
    """

    latest: optax.Params


class LatestMeanState(NamedTuple):
    """State of the server with ``continual=True``.

    Attributes:
      mean: like params, the mean of the latest messages of **all** clients.
    """

    mean: optax.Params


def _send_change() -> optax.GradientTransformation:
    """Emits by how much the message differs from the last one."""

    def init_fn(params):
        return LatestMessageState(optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None):
        latest = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
        return jax.tree.map(jnp.subtract, latest, state.latest), LatestMessageState(latest)

    return optax.GradientTransformation(init_fn, update_fn)


def _mean_of_latest() -> optax.GradientTransformationExtraArgs:
    """The server of the continual form: keeps the mean of everybody's latest message."""

    def init_fn(params):
        return LatestMeanState(optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, *, num_active=None, num_clients=None, **extras):
        del extras
        everybody = {"num_active": num_active, "num_clients": num_clients}
        mean = add_share("rerce_fed", state.mean, updates, **everybody)
        return jax.tree.map(jnp.subtract, mean, params), LatestMeanState(mean)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@register(
    "algorithm",
    RERCE,
    example={"prox_weight": 1.0, "solver": _SOLVER},
)
def rerce_fed(
    prox_weight: jax.typing.ArrayLike,
    solver: LocalSolver,
    continual: bool = False,
    *,
    uplink: optax.GradientTransformation | None = None,
    downlink: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""RERCE-Fed: ADMM without dual variables, for noisy links and few clients a round.

    Every client keeps a model :math:`x_i` of its own. In round 0 it sends the minimum of its
    regularized loss; later it hears one vector :math:`s`, solves
    :math:`\nabla f_i(x_i^+) + \rho x_i^+ = \nabla f_i(x_i) + \rho s` and sends :math:`x_i^+`;
    the server computes

    .. math::
        z_t = \tfrac{1}{S} \sum_{i \text{ active}} x_i, \qquad s_t = 2 z_t - z_{t-1}.

    Without noise and with everybody present this is the textbook method
    (:func:`consensus_admm`) iterate by iterate. Under noise it uses one noisy vector once in a
    round, where the textbook method uses it for the model and for the dual variable. In small
    experiments that changed the result by a decibel or less; ``continual=True`` gained ten.

    **Where it settles.** Every consensus of the clients is a fixed point, not only the
    optimum. All present and no noise: it converges to the optimum. Some present: it settles
    near it. Noise on the links: the consensus drifts like a random walk, so the error grows
    with the number of rounds; stop early or let the noise fall.

    With ``continual=True`` clients go on while they are not scheduled, with what they heard
    last (see :func:`admm_local`), and the server averages the latest messages of **all**
    clients. Let everybody take part in the first round then::

        first = simulate(algorithm, loss_fn, params, data, rounds=1)
        result = simulate(algorithm, loss_fn, params, data, rounds=100, cohort=4,
                          state=first.state)

    The common parameters of a simulation are :math:`s`, what is sent; pass
    ``readout=federated.rerce_params`` to evaluate and return :math:`z`. One model goes up and
    one comes down.

    Args:
      prox_weight: :math:`\rho > 0`.
      solver: :func:`least_squares_solver` or :func:`gradient_solver`; float64 is advisable
        where many digits are wanted.
      continual: whether clients that are not scheduled go on.
      uplink: what happens to messages on their way up: noise such as
        ``federated.add_gaussian_noise(0.1, key=1)``, or a compressor.
      downlink: likewise for the vector on its way down; give noises of their own keys.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Clients are weighted uniformly; each keeps one copy of the parameters,
      or three if ``continual``.

    Raises:
      ValueError: if ``prox_weight`` is not positive.
      TypeError: if ``solver`` is no :class:`LocalSolver`.

    Examples:
      The weighted least-squares solution of two clients that observe one number:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> H, y = [np.ones((1, 1))] * 2, [np.array([1.0]), np.array([-1.0])]
      >>> solver = federated.least_squares_solver(H, y, weights=[1.0, 3.0])
      >>> clients = federated.data.padded({"y": np.stack(y)}, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch["y"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.rerce_fed(1.0, solver), loss_fn, jnp.zeros(1), clients, rounds=60,
      ...     readout=federated.rerce_params,
      ... )
      >>> round(float(result.params[0]), 4)
      -0.5

    References:
      Lari et al., `Noise-Robust and Resource-Efficient ADMM-based Federated Learning
      <https://arxiv.org/abs/2409.13451>`_, 2024.
    """
    rule: Rule = "continual" if continual else "eliminated"
    members = [admm_local(prox_weight, solver, rule, downlink=downlink)]
    members += [uplink] if uplink is not None else []
    members += [_send_change()] if continual else []
    return Algorithm(
        client=optax.chain(*members),
        aggregate=average(axis_name, "uniform"),
        server=skip_empty(_mean_of_latest() if continual else extrapolate()),
        axis_name=axis_name,
    )


def rerce_params(state: Any) -> optax.Params:
    """Reads the mean of the models from the state of a run of :func:`rerce_fed`.

    Args:
      state: a ``SimState``.

    Returns:
      A tree like params; with ``continual=True`` the mean of the extrapolated models.

    Raises:
      KeyError: if the state is of another algorithm.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> server = federated.extrapolate().init(jnp.zeros(2))
      >>> federated.rerce_params(server).tolist()
      [0.0, 0.0]
    """
    mean = optax.tree_utils.tree_get(getattr(state, "server", state), "mean")
    if mean is None:
        raise KeyError("rerce_params: this is no state of rerce_fed.")
    return mean


@register(
    "algorithm",
    Paper(
        "Distributed Optimization and Statistical Learning via the Alternating Direction Method "
        "of Multipliers",
        "Boyd et al.",
        2011,
        url="https://stanford.edu/~boyd/papers/admm_distr_stats.html",
    ),
    example={"prox_weight": 1.0, "solver": _SOLVER},
)
def consensus_admm(
    prox_weight: jax.typing.ArrayLike,
    solver: LocalSolver,
    *,
    uplink: optax.GradientTransformation | None = None,
    downlink: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""Consensus ADMM with a dual variable at every client.

    A client hears the mean :math:`z` of the models of those who took part last and does

    .. math::
        \pi_i \leftarrow \pi_i + \rho (x_i - z), \qquad
        x_i \leftarrow \arg\min_x f_i(x) + \langle \pi_i, x \rangle
        + \tfrac{\rho}{2} \lVert x - z \rVert^2 .

    Both uses of :math:`z` see the noise of the link, and the dual variable adds it up; see
    :func:`rerce_fed`. Without noise and with everybody present it converges
    to the minimum of the mean loss for any convex losses and any :math:`\rho`.

    Args:
      prox_weight: :math:`\rho > 0`.
      solver: as in :func:`rerce_fed`.
      uplink: as in :func:`rerce_fed`.
      downlink: as in :func:`rerce_fed`.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Clients are weighted uniformly; each keeps two copies of the parameters.

    Raises:
      ValueError: if ``prox_weight`` is not positive.
      TypeError: if ``solver`` is no :class:`LocalSolver`.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> H, y = [np.ones((1, 1))] * 2, [np.array([1.0]), np.array([-1.0])]
      >>> solver = federated.least_squares_solver(H, y, weights=[1.0, 3.0])
      >>> clients = federated.data.padded({"y": np.stack(y)}, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch["y"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.consensus_admm(1.0, solver), loss_fn, jnp.zeros(1), clients, rounds=60
      ... )
      >>> round(float(result.params[0]), 4)
      -0.5

    References:
      Boyd et al., `Distributed Optimization and Statistical Learning via the Alternating
      Direction Method of Multipliers
      <https://stanford.edu/~boyd/papers/admm_distr_stats.html>`_, 2011.
    """
    client = admm_local(prox_weight, solver, "dual", downlink=downlink)
    return Algorithm(
        client=client if uplink is None else optax.chain(client, uplink),
        aggregate=average(axis_name, "uniform"),
        server=skip_empty(optax.sgd(1.0)),
        axis_name=axis_name,
    )
