"""DP-FedAvg: federated averaging that hides whether a client took part."""

import math
from typing import Literal

import jax
import optax

from gradax import _keys, _validate
from gradax.catalogue import register

from ..axis import AxisName
from ..rounds import Algorithm, average, client_optimizer, local_steps
from ._algorithm import PrivateAlgorithm
from ._clip import clip_contribution
from ._noise import add_gaussian_noise
from ._papers import DP_FEDAVG


@register(
    "algorithm",
    DP_FEDAVG,
    example={
        "learning_rate": 0.1,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 0.1,
        "expected_clients": 4.0,
        "key": 0,
    },
)
def dp_fedavg(
    learning_rate: optax.ScalarOrSchedule | None,
    l2_norm_clip: float,
    noise_multiplier: float,
    expected_clients: float,
    key: jax.Array | int,
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    noise: Literal["central", "local"] = "central",
    min_clients: int | None = None,
    weighting: Literal["uniform"] = "uniform",
    axis_name: AxisName = "clients",
) -> PrivateAlgorithm:
    r"""DP-FedAvg: displacements are clipped, and the sum of them gets Gaussian noise.

    With the displacements :math:`\Delta_i` of those who take part, each of :math:`N` clients
    with probability :math:`q`,

    .. math::
        x \leftarrow x + \frac{1}{q N} \Bigl( \sum_i \Delta_i \min\bigl(1,
        C / \lVert \Delta_i \rVert\bigr) + \mathcal N\bigl(0, (z C)^2\bigr) \Bigr).

    A client moves the sum by :math:`C` at most, whatever its data and however long it trains, so
    a round is one event for the accountant. The divisor is the **expected** number of clients:
    the true one is private. Take part by :func:`poisson_cohort`, and pass
    ``privacy=PrivacyAccount(...)`` to :func:`simulate` to see epsilon beside every round.

    With ``noise="local"`` every client adds :math:`\mathcal N(0, (z C)^2 / S)` before it sends,
    where :math:`S` is ``min_clients``: nobody sees a message without noise, and the sum of at
    least :math:`S` messages has the noise of above. A server that looks at single messages is
    kept from less than that.

    Args:
      learning_rate: of plain local SGD, a number or a schedule of the round, or ``None`` with
        ``client=``.
      l2_norm_clip: :math:`C > 0`, on the norm of a displacement over all leaves.
      noise_multiplier: :math:`z \ge 0`; see :func:`calibrate_noise`.
      expected_clients: :math:`q N > 0`.
      key: random key or seed of the noise.
      client: instead of ``learning_rate``, the clients' optimizer.
      server: what the server does with minus the noisy mean; ``optax.sgd(1.0)`` by default. Any
        optimizer may stand here: what follows the noise is as private as the noisy mean.
      noise: ``"central"``, on the server, or ``"local"``.
      min_clients: :math:`S`, for local noise.
      weighting: ``"uniform"``; see Raises.
      axis_name: the axis of clients.

    Returns:
      The algorithm, which knows its noise multiplier.

    Raises:
      ValueError: if a number is out of range; if clients shall be weighted by examples, for
        then one of them could move the sum by more than :math:`C`.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> clients = federated.data.padded(np.arange(8.0), np.arange(8)[:, None])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> algorithm = federated.dp_fedavg(0.1, 9.0, 0.001, expected_clients=8, key=0)
      >>> result = federated.simulate(
      ...     algorithm, loss_fn, jnp.array(0.0), clients, rounds=30, num_steps=5
      ... )
      >>> round(float(result.params), 1)
      3.5

    References:
      McMahan et al., `Learning Differentially Private Recurrent Language Models
      <https://arxiv.org/abs/1710.06963>`_, 2017.
    """
    who = "dp_fedavg"
    _validate.interval(who, "l2_norm_clip", l2_norm_clip, "(0, inf]")
    _validate.interval(who, "noise_multiplier", noise_multiplier, "[0, inf)")
    _validate.interval(who, "expected_clients", expected_clients, "(0, inf)")
    _validate.one_of(who, "noise", noise, ("central", "local"))
    if weighting != "uniform":
        raise ValueError(
            f"{who}: weighting must be 'uniform', got {weighting!r}: the noise fits a sum to "
            "which every client contributes a norm of l2_norm_clip at most."
        )
    if math.isinf(l2_norm_clip) and noise_multiplier > 0:
        raise ValueError(
            f"{who}: l2_norm_clip must be finite where there is noise, got {l2_norm_clip}."
        )
    if (noise == "local") != (min_clients is not None):
        raise ValueError(
            f"{who}: give min_clients with noise='local' and only then, got {min_clients!r}."
        )
    _keys.as_key(who, key)
    stddev = l2_norm_clip * noise_multiplier if noise_multiplier else 0.0
    train = local_steps(client_optimizer(who, learning_rate, client))
    serve = optax.sgd(1.0) if server is None else server
    chain, last = [train, clip_contribution(l2_norm_clip)], [serve]
    if min_clients is not None:
        _validate.integer(who, "min_clients", min_clients, at_least=1)
        chain.append(add_gaussian_noise(stddev / min_clients**0.5, key, axis_name))
    else:
        last.insert(0, add_gaussian_noise(stddev / expected_clients, key))
    algorithm = Algorithm(
        client=optax.chain(*chain),
        aggregate=average(axis_name, "uniform", divisor=expected_clients),
        server=optax.chain(*last),
        axis_name=axis_name,
    )
    constant = lambda round, num_steps: float(noise_multiplier)
    return PrivateAlgorithm(algorithm, constant, "client", min_clients or 0)
