"""SCAFFOLD: local steps without client drift."""

import optax

from gradax import _validate
from gradax.catalogue import register

from ..axis import AxisName
from ..rounds import (
    Algorithm,
    add_correction,
    average,
    client_optimizer,
    local_steps,
    skip_empty,
)
from ._control_variates import (
    CONTROLS,
    SCAFFOLD,
    Control,
    control_variates,
    control_variates_server,
    track_mean_gradient,
)
from ._units import rated_optimizer


@register("algorithm", SCAFFOLD, example={"learning_rate": 0.1})
def scaffold(
    learning_rate: optax.ScalarOrSchedule | None = None,
    control: Control = "mean_gradient",
    *,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""SCAFFOLD: every local gradient is corrected by what all clients know of theirs.

    Client :math:`i` keeps an estimate :math:`c_i` of its own gradient, the server the mean
    :math:`c` of all estimates, both zero at first. A local step is

    .. math::
        y \leftarrow y - \eta_l \bigl(\nabla f_i(y) - c_i + c\bigr);

    :func:`control_variates` says how :math:`c_i` is renewed after the last one. Clients that
    are away keep theirs, and :math:`c` moves by the share of those who are there. Two models
    travel each way. Fixed points are those of the mean loss, for any number of local steps. A
    round of nobody changes nothing.

    Args:
      learning_rate: :math:`\eta_l`, as in :func:`fedavg`.
      control: how :math:`c_i` is renewed: ``"mean_gradient"``, ``"displacement"`` or
        ``"large_batch"``, see :func:`control_variates`.
      client: as in :func:`fedavg`; receives the corrected gradient. With
        ``control="displacement"`` give both: ``learning_rate`` then only says how
        displacements become gradients.
      server: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Clients are weighted uniformly; each keeps one copy of the parameters.

    Raises:
      ValueError: if ``control`` is unknown, a number is out of range, or not exactly one of
        ``learning_rate`` and ``client`` is given.

    Examples:
      FedAvg stays at -0.457 on these two clients; the mean loss has its minimum at -0.5:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.scaffold(0.1), loss_fn, jnp.array(2.0), clients, rounds=60, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      -0.5

    References:
      Karimireddy et al., `SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
      <https://arxiv.org/abs/1910.06378>`_, 2019.
    """
    _validate.one_of("scaffold", "control", control, CONTROLS)
    if control == "displacement" and learning_rate is not None:
        optimizer = rated_optimizer("scaffold", learning_rate, client)
    else:
        optimizer = client_optimizer("scaffold", learning_rate, client)
    chain = optax.chain(add_correction(), optimizer)
    if control == "mean_gradient":
        steps = local_steps(optax.chain(track_mean_gradient(), chain), emit=("mean_gradient",))
    else:
        steps = local_steps(chain)
    rate = learning_rate if control == "displacement" else None
    return Algorithm(
        client=control_variates(steps, control, learning_rate=rate),
        aggregate=average(axis_name, "uniform"),
        server=skip_empty(control_variates_server(optax.sgd(1.0) if server is None else server)),
        publishes=("broadcast",),
        axis_name=axis_name,
    )
