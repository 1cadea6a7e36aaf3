"""FedAMD: some clients renew a large-batch gradient, the others train along the mean of them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _validate
from gradax._extras import require, require_params
from gradax._wide import wide_dtype
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, SumAggregate, average, client_optimizer, local_steps
from ._recursive_gradient import recursive_gradient
from ._shares import add_share
from ._units import divided

#: How likely a client is to be an anchor: a number, one number for each client, or a function
#: of the round that returns either, or booleans.
AnchorSchedule: TypeAlias = jax.typing.ArrayLike | Callable[[Any], jax.typing.ArrayLike]


def sequential_anchors(period: int) -> Callable[[Any], Any]:
    """Makes everybody an anchor every so many rounds, and a miner in between.

    Args:
      period: rounds from one round of anchors to the next, at least 2. Static.

    Returns:
      A function of the round that returns a boolean, for :func:`fedamd`.

    Raises:
      ValueError: if ``period`` is smaller than 2: no client would ever move the model.

    Examples:
      >>> from gradax import federated
      >>> anchors = federated.sequential_anchors(3)
      >>> [anchors(round) for round in range(5)]
      [True, False, False, True, False]
    """
    _validate.integer("sequential_anchors", "period", period, at_least=2)
    return lambda round: round % period == 0


class BullseyeState(NamedTuple):
    """State of a client of :func:`fedamd`.

    Attributes:
      bullseye: like params, the large-batch gradient of the last time this client was an anchor.
      inner: state of the local steps.
    """

    bullseye: optax.Updates
    inner: optax.OptState


class RoleMessage(NamedTuple):
    """What a client of :func:`fedamd` sends: one tree, whose meaning depends on its role.

    Attributes:
      payload: like params, a miner's displacement or the change of an anchor's bullseye.
      miner: ``bool[]``.
    """

    payload: optax.Updates
    miner: jax.Array


class RoleMeans(NamedTuple):
    """Means over the active clients, those of the other role counting as zero.

    Attributes:
      displacement: like params.
      change: like params, of bullseyes.
      miners: scalar, the share of miners.
    """

    displacement: optax.Updates
    change: optax.Updates
    miners: jax.Array


class BullseyeServerState(NamedTuple):
    """State of the server of :func:`fedamd`.

    Attributes:
      broadcast: like params, the mean :math:`G` of the bullseyes of **all** clients.
      inner: state of the server's optimizer.
    """

    broadcast: optax.Updates
    inner: optax.OptState


def _is_anchor(anchor_schedule, extras) -> Any:
    """The role of this client in this round; everybody is an anchor in round 0."""
    round = require("fedamd", "round", extras.get("round"))
    chance = anchor_schedule(round) if callable(anchor_schedule) else anchor_schedule
    chance = jnp.asarray(chance)
    if chance.ndim:
        client_id = require("fedamd", "client_id", extras.get("client_id"))
        chance = chance.at[client_id].get(mode="clip")
    if chance.dtype != jnp.bool:
        # Local steps draw from the key itself.
        own = jax.random.fold_in(require("fedamd", "key", extras.get("key")), 1)
        chance = jax.random.uniform(own) < chance
    return (round == 0) | chance


def _anchor_or_miner(
    steps: optax.GradientTransformation, anchor_schedule: AnchorSchedule
) -> optax.GradientTransformationExtraArgs:
    """The client: draws its role, then takes a large-batch gradient or trains."""
    steps = optax.with_extra_args_support(steps)

    def init_fn(params):
        return BullseyeState(optax.tree.zeros_like(params), steps.init(params))

    def update_fn(updates, state, params=None, **extras):
        params = require_params("fedamd", params)
        full_grad_fn = require("fedamd", "full_grad_fn", extras.get("full_grad_fn"))

        def anchor(state):
            cast = lambda new, old: new.astype(old.dtype)
            bullseye = jax.tree.map(cast, full_grad_fn(params), state.bullseye)
            change = jax.tree.map(jnp.subtract, bullseye, state.bullseye)
            return change, state._replace(bullseye=bullseye)

        def miner(state):
            displacement, inner = steps.update(updates, state.inner, params, **extras)
            return displacement, state._replace(inner=inner)

        is_anchor = _is_anchor(anchor_schedule, extras)
        payload, state = lax.cond(is_anchor, anchor, miner, state)
        return RoleMessage(payload, ~is_anchor), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _average_by_role(axis_name: AxisName) -> SumAggregate:
    """The uniform mean over active clients, with the roles told apart."""
    mean = average(axis_name, "uniform")

    def partial(message, **extras):
        payload, miner = message
        keep = lambda role: jax.tree.map(lambda x: jnp.where(role, x, jnp.zeros_like(x)), payload)
        share = miner.astype(wide_dtype(*jax.tree.leaves(payload)))
        return mean.partial(RoleMeans(keep(miner), keep(~miner), share), **extras)

    return mean._replace(partial=partial)


def _bullseye_server(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keeps the mean of all bullseyes; moves the model if there was a miner."""
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return BullseyeServerState(optax.tree.zeros_like(params), inner.init(params))

    def update_fn(updates, state, params=None, **extras):
        everybody = {name: extras.get(name) for name in ("num_active", "num_clients")}
        broadcast = add_share("fedamd", state.broadcast, updates.change, **everybody)
        share = -updates.miners
        displacement = divided(updates.displacement, share)
        step, inner_state = inner.update(displacement, state.inner, params, **extras)
        step = jax.tree.map(lambda u: jnp.where(share > 0, u, jnp.zeros_like(u)), step)
        keep = lambda new, old: jnp.where(share > 0, new, old)
        inner_state = jax.tree.map(keep, inner_state, state.inner)
        return step, BullseyeServerState(broadcast, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_schedule(anchor_schedule: AnchorSchedule) -> None:
    if callable(anchor_schedule):
        return
    _validate.interval("fedamd", "anchor_schedule", anchor_schedule, "(0, 1)")
    if isinstance(anchor_schedule, np.ndarray | list | tuple):
        chances = np.asarray(anchor_schedule)
        if not (np.all((chances >= 0) & (chances <= 1)) and np.any(chances < 1)):
            raise ValueError(
                "fedamd: anchor_schedule must hold numbers in [0, 1], not all of them 1, got "
                f"{anchor_schedule}."
            )


@register(
    "algorithm",
    Paper(
        "Anchor Sampling for Federated Learning with Partial Client Participation",
        "Wu et al.",
        2022,
        "2206.05891",
    ),
    example={"learning_rate": 0.01, "anchor_schedule": 0.2},
)
def fedamd(
    learning_rate: optax.ScalarOrSchedule | None = None,
    anchor_schedule: AnchorSchedule = 0.2,
    server: optax.GradientTransformation | None = None,
    *,
    client: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedAMD: anchors renew their large-batch gradients, miners train along the mean of them.

    Every client keeps a *bullseye* :math:`v_i`, a gradient on a large batch; the server keeps
    and publishes the mean :math:`G` of all of them. In a round each active client is either

    - an anchor: :math:`v_i \leftarrow \nabla f_i(x)` on all its data, used from the next round
      on, and no training; or
    - a miner: :math:`K` steps along :func:`recursive_gradient`, which starts at :math:`G`, so
      that the first step is :math:`-\eta_l G` whatever the batch.

    The model moves by the mean displacement of the miners, and stays without one. With full
    gradients it converges to the optimum of the mean loss even if only some clients take part.
    With small batches and a large rate, stale bullseyes and the noise of the recursion can make
    it slower than FedAvg, or diverge.

    **The first round** makes everybody who takes part an anchor. Let all clients take part in
    it, as the method demands: play one round without ``cohort``, then go on with its state::

        first = simulate(algorithm, loss_fn, params, data, rounds=1)
        result = simulate(algorithm, loss_fn, params, data, rounds=100, cohort=10,
                          state=first.state)

    Otherwise :math:`v_i = 0` until a client is an anchor for the first time.

    Up goes one model (and a byte, the role); down come the model and :math:`G`, of which an
    anchor reads only the first. When clients run side by side both roles are computed and one
    is selected, unless the schedule returns a boolean, which is the same for all.

    Args:
      learning_rate: :math:`\eta_l`, as in :func:`fedavg`.
      anchor_schedule: who is an anchor. A number in ``(0, 1)`` is everybody's probability in
        every round; an array ``[num_clients]`` holds one for each client; a function of the
        round returns either, for that round, or booleans. ``sequential_anchors(5)`` makes all
        active clients anchors every fifth round.
      server: what the server does with minus the miners' mean; ``optax.sgd(1.0)`` by default.
      client: as in :func:`fedavg`; receives the recursive gradient.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Clients are weighted uniformly; each keeps one copy of the parameters.

    Raises:
      ValueError: if a number is out of range: with probability 1 for all no client would ever
        move the model, with 0 no bullseye would ever be renewed.
      MissingExtraError: in a round of one's own, without ``full_grad_fn``, ``round``, or, where
        it is used, ``key`` or ``client_id``.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> examples = {"h": np.array([1.0, 3.0]), "a": np.array([1.0, -1.0])}
      >>> clients = federated.data.padded(examples, [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2
      >>> algorithm = federated.fedamd(0.1, federated.sequential_anchors(2))
      >>> result = federated.simulate(
      ...     algorithm, loss_fn, jnp.array(2.0), clients, rounds=60, num_steps=2
      ... )
      >>> round(float(result.params), 4)
      -0.5

    References:
      Wu et al., `Anchor Sampling for Federated Learning with Partial Client Participation
      <https://arxiv.org/abs/2206.05891>`_, 2022.
    """
    _check_schedule(anchor_schedule)
    optimizer = client_optimizer("fedamd", learning_rate, client)
    steps = local_steps(optax.chain(recursive_gradient(), optimizer))
    return Algorithm(
        client=_anchor_or_miner(steps, anchor_schedule),
        aggregate=_average_by_role(axis_name),
        server=_bullseye_server(optax.sgd(1.0) if server is None else server),
        publishes=("broadcast",),
        axis_name=axis_name,
    )
