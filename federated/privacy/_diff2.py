"""DIFF2: differences of gradients need less noise than gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradax import _keys, _validate
from gradax._extras import require, require_params
from gradax._wide import wide, widen
from gradax.catalogue import register

from .. import axis
from ..axis import AxisName
from ..rounds import peers
from ._algorithm import PrivateAlgorithm
from ._clip import clipped_sum, num_rows
from ._noise import add_normal
from ._papers import DIFF2


class PrivateDifferenceState(NamedTuple):
    """State of :func:`private_gradient_difference`, the same for all participants.

    Attributes:
      count: ``int32[]``, number of updates made.
      previous: like params, where the last update was made.
      estimate: like params, in single precision at least: the private gradient :math:`v`.
      shared_key: of the next draw.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    previous: optax.Params
    estimate: optax.Updates
    shared_key: jax.Array


def _distance(a, b):
    return optax.tree.norm(jax.tree.map(lambda x, y: widen(x) - widen(y), a, b))


def _subtract(a, b):
    return jax.tree.map(lambda x, y: widen(x) - widen(y), a, b)


def _check(who, restart_every, **numbers) -> None:
    for name, value in numbers.items():
        clip = name.startswith("clip")
        _validate.interval(who, name, value, "(0, inf)" if clip else "[0, inf)")
    if restart_every is not None:
        _validate.integer(who, "restart_every", restart_every, at_least=1)


_CLIPS = {"clip_gradient": 1e3, "clip_difference": 1e3}
_NOISE = {"noise_multiplier_gradient": 0.0, "noise_multiplier_difference": 0.0}


@register(
    "producer",
    DIFF2,
    needs=("per_example_grad_fn", "axis"),
    example={**_CLIPS, **_NOISE, "restart_every": 3, "key": 0, "axis_name": "clients"},
)
def private_gradient_difference(
    clip_gradient: jax.typing.ArrayLike,
    clip_difference: jax.typing.ArrayLike,
    noise_multiplier_gradient: jax.typing.ArrayLike,
    noise_multiplier_difference: jax.typing.ArrayLike,
    restart_every: int | None,
    key: jax.Array | int,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the gradient of all examples by private differences; stands first in a chain.

    Every :math:`T` updates the recursion starts from a gradient clipped to :math:`C_1`. In
    between, with the radius :math:`R = C_2 \lVert x_r - x_{r-1} \rVert`,

    .. math::
        v_r = v_{r-1} + \frac{1}{n} \Bigl( \sum_i \operatorname{clip}\bigl(
        \nabla \ell_i(x_r) - \nabla \ell_i(x_{r-1}), R \bigr) + \mathcal N(0, (z_2 R)^2) \Bigr),

    a sum over the examples of all participants. Short steps need little noise: a difference is
    as long as the step. The radius is known from released parameters alone, so it tells nothing.
    With :math:`C_1` above the gradients and :math:`C_2` above the smoothness nothing is clipped,
    and without noise :math:`v_r` is the gradient.

    Every update needs all examples, twice, and memory for a gradient of each. The draw is common
    to all participants: it hides examples from those who see parameters, not from those who hold
    the key.

    Args:
      clip_gradient: :math:`C_1 > 0`, for the gradients of a start.
      clip_difference: :math:`C_2 > 0`, for differences, per length of the step.
      noise_multiplier_gradient: :math:`z_1 \ge 0`: noise :math:`z_1 C_1` on the sum.
      noise_multiplier_difference: :math:`z_2 \ge 0`.
      restart_every: :math:`T \ge 1`; 1 is DP-GD, ``None`` never starts again. Static.
      key: random key or seed.
      axis_name: the axis of participants; ``None`` for one who holds all examples.

    Returns:
      A transformation with a :class:`PrivateDifferenceState`. It reads
      ``full_per_example_grad_fn(params)``, which :func:`simulate` supplies together with
      ``num_examples``, or ``per_example_grad_fn(params)``.

    Raises:
      ValueError: if a number is out of range or ``key`` is missing; in ``update``, without
        params.
      MissingExtraError: if ``update`` receives neither function.

    Examples:
      Without noise, and with nothing to clip, the mean gradient:

      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.private_gradient_difference(9.0, 9.0, 0.0, 0.0, 10, key=0)
      >>> grad_fn, state = lambda x: x - jnp.array([1.0, 3.0]), tx.init(jnp.array(0.0))
      >>> for x in (jnp.array(0.0), jnp.array(0.5)):
      ...     updates, state = tx.update(x, state, x, per_example_grad_fn=grad_fn)
      ...     print(updates)
      -2.0
      -1.5

    References:
      Murata and Suzuki, `DIFF2: Differential Private Optimization via Gradient Differences for
      Nonconvex Distributed Learning <https://arxiv.org/abs/2302.03884>`_, 2023.
    """
    who = "private_gradient_difference"
    _check(
        who,
        restart_every,
        clip_gradient=clip_gradient,
        clip_difference=clip_difference,
        noise_multiplier_gradient=noise_multiplier_gradient,
        noise_multiplier_difference=noise_multiplier_difference,
    )
    first = _keys.as_key(who, key)

    def init_fn(params):
        zeros = lambda: jax.tree.map(lambda p: jnp.zeros_like(p, wide(jnp.result_type(p))), params)
        start = optax.tree.zeros_like(params)
        count = jnp.zeros([], jnp.int32)
        return PrivateDifferenceState(count, start, zeros(), jnp.array(first, copy=True))

    def update_fn(updates, state, params=None, **extras):
        params = require_params(who, params)
        restart = state.count == 0
        if restart_every is not None:
            restart = state.count % restart_every == 0
        moved = _distance(params, state.previous)
        radius = jnp.where(restart, clip_gradient, clip_difference * moved)
        multiplier = jnp.where(restart, noise_multiplier_gradient, noise_multiplier_difference)
        total, count = _own_sum(who, params, state.previous, restart, radius, extras)
        if axis_name is not None:
            total, count = axis.sum((total, count), axis_name)
        key, own = jax.random.split(state.shared_key)
        noisy = add_normal(own, total, multiplier * radius)
        follow = lambda v, s: jnp.where(restart, 0, v) + s / count.astype(v.real.dtype)
        estimate = jax.tree.map(follow, state.estimate, noisy)
        direction = jax.tree.map(lambda v, like: v.astype(like.dtype), estimate, updates)
        kept = jax.tree.map(jnp.array, params)  # a copy: params and state may both be donated
        next_count = optax.safe_increment(state.count)
        return direction, PrivateDifferenceState(next_count, kept, estimate, key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _own_sum(who, params, previous, restart, radius, extras):
    """The clipped sum over this participant's examples, and their number."""
    grads = extras.get("full_per_example_grad_fn") or extras.get("per_example_grad_fn")
    grads = require(who, "per_example_grad_fn", grads)
    here = grads(params)
    wide_here = lambda: jax.tree.map(widen, here)
    rows = lax.cond(restart, wide_here, lambda: _subtract(here, grads(previous)))
    total = clipped_sum(rows, radius)
    count = jnp.asarray(extras.get("num_examples", num_rows(here)), jnp.float32)
    return total, count


@register(
    "algorithm",
    DIFF2,
    example={"learning_rate": 0.1, **_CLIPS, **_NOISE, "restart_every": 3, "key": 0},
)
def diff2(
    learning_rate: optax.ScalarOrSchedule,
    clip_gradient: float,
    clip_difference: float,
    noise_multiplier_gradient: float,
    noise_multiplier_difference: float,
    restart_every: int | None,
    key: jax.Array | int,
    axis_name: AxisName = "nodes",
) -> PrivateAlgorithm:
    """DIFF2 with gradient descent: nodes walk together along a private gradient.

    Gradient descent along :func:`private_gradient_difference`. All nodes take part in every
    round with all their examples, and hold the same parameters. What is hidden is an example.

    The gain over DP-GD (``restart_every=1``) is one of rates, for many examples; on the small
    problems of the reproductions it is not seen.

    Args:
      learning_rate: a number or a schedule of the count.
      clip_gradient: as in :func:`private_gradient_difference`.
      clip_difference: as there.
      noise_multiplier_gradient: as there.
      noise_multiplier_difference: as there.
      restart_every: as there.
      key: as there.
      axis_name: the axis of nodes.

    Returns:
      An algorithm without a server; each node keeps two copies of params.

    Raises:
      ValueError: if a number is out of range or ``key`` is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> nodes = federated.data.padded(np.arange(8.0), np.arange(8).reshape(4, 2))
      >>> result = federated.simulate(
      ...     federated.diff2(0.5, 9.0, 2.0, 0.0, 0.0, restart_every=10, key=0),
      ...     lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
      ...     jnp.array(0.0),
      ...     nodes,
      ...     rounds=30,
      ... )
      >>> result.params.tolist()
      [3.5, 3.5, 3.5, 3.5]

    References:
      Murata and Suzuki, `DIFF2: Differential Private Optimization via Gradient Differences for
      Nonconvex Distributed Learning <https://arxiv.org/abs/2302.03884>`_, 2023.
    """
    _validate.learning_rate("diff2", learning_rate)
    producer = private_gradient_difference(
        clip_gradient,
        clip_difference,
        noise_multiplier_gradient,
        noise_multiplier_difference,
        restart_every,
        key,
        axis_name,
    )
    chain = optax.chain(producer, optax.scale_by_learning_rate(learning_rate))
    noise = _noise_of(restart_every, noise_multiplier_gradient, noise_multiplier_difference)
    return PrivateAlgorithm(peers(chain, axis_name), noise, "example")


def _noise_of(restart_every, gradient, difference) -> Callable[[int, int], float]:
    """The noise multiplier of a round."""

    def noise(round, num_steps):
        del num_steps
        start = round == 0 if restart_every is None else round % restart_every == 0
        return gradient if start else difference

    return noise


class LocalPathState(NamedTuple):
    """State of :func:`bvr_l_sgd` behind the gradient, the same for all nodes.

    Attributes:
      count: ``int32[]``, number of rounds made.
      shared_key: of the next draws: who walks, and the noise on the way.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    shared_key: jax.Array


@register(
    "algorithm",
    DIFF2,
    example={"learning_rate": 0.1, **_CLIPS, **_NOISE, "restart_every": 3, "key": 0},
)
def bvr_l_sgd(
    learning_rate: optax.ScalarOrSchedule,
    clip_gradient: float,
    clip_difference: float,
    noise_multiplier_gradient: float,
    noise_multiplier_difference: float,
    restart_every: int | None,
    key: jax.Array | int,
    axis_name: AxisName = "nodes",
    *,
    clip_local: float | None = None,
    noise_multiplier_local: float | None = None,
) -> PrivateAlgorithm:
    r"""DIFF2 with BVR-L-SGD: one node, drawn each round, walks several steps for all.

    The private gradient :math:`v_r` of :func:`private_gradient_difference` starts a recursion on
    the batches of one node, drawn uniformly: :math:`u_0 = v_r`, and with the radius
    :math:`R_k = C_3 \lVert y_k - y_{k-1} \rVert` and :math:`b` examples in a batch

    .. math::
        u_k &= u_{k-1} + \tfrac{1}{b} \Bigl( \textstyle\sum_i \operatorname{clip}\bigl(
        \nabla \ell_i(y_k) - \nabla \ell_i(y_{k-1}), R_k\bigr) + \mathcal N(0, (z_3 R_k)^2)
        \Bigr), \\
        y_{k+1} &= y_k - \eta u_k, \qquad x_{r+1} = y_K.

    The path is released, hence its noise. Epsilon counts every local step as a full event:
    nothing is gained from which node walks nor from which examples a batch holds. Where the
    paper clips and adds noise in the local recursion was not to be checked against its code.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the round.
      clip_gradient: as in :func:`private_gradient_difference`.
      clip_difference: as there.
      noise_multiplier_gradient: as there.
      noise_multiplier_difference: as there.
      restart_every: as there.
      key: as there.
      axis_name: the axis of nodes.
      clip_local: :math:`C_3 > 0`; ``clip_difference`` by default.
      noise_multiplier_local: :math:`z_3 \ge 0`; that of differences by default.

    Returns:
      An algorithm without a server. It needs ``batches`` and ``per_example_grad_fn(params,
      batch=...)`` too.

    Raises:
      ValueError: if a number is out of range or ``key`` is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> nodes = federated.data.padded(np.arange(8.0), np.arange(8).reshape(4, 2))
      >>> result = federated.simulate(
      ...     federated.bvr_l_sgd(0.2, 9.0, 2.0, 0.0, 0.0, restart_every=10, key=0),
      ...     lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
      ...     jnp.array(0.0),
      ...     nodes,
      ...     rounds=30,
      ...     num_steps=3,
      ... )
      >>> [round(float(x), 2) for x in result.params]
      [3.5, 3.5, 3.5, 3.5]

    References:
      Murata and Suzuki, `DIFF2: Differential Private Optimization via Gradient Differences for
      Nonconvex Distributed Learning <https://arxiv.org/abs/2302.03884>`_, 2023.
    """
    who = "bvr_l_sgd"
    _validate.learning_rate(who, learning_rate)
    clip = clip_difference if clip_local is None else clip_local
    noise = (
        noise_multiplier_difference if noise_multiplier_local is None else noise_multiplier_local
    )
    # Two different streams from one key.
    gradient_key, path_key = jax.random.split(_keys.as_key(who, key))
    producer = private_gradient_difference(
        clip_gradient,
        clip_difference,
        noise_multiplier_gradient,
        noise_multiplier_difference,
        restart_every,
        gradient_key,
        axis_name,
    )
    _check(who, restart_every, clip_local=clip, noise_multiplier_local=noise)
    chain = optax.chain(producer, _local_path(learning_rate, clip, noise, path_key, axis_name))
    start = _noise_of(restart_every, noise_multiplier_gradient, noise_multiplier_difference)

    def noise_of(round, num_steps):
        multipliers = [start(round, num_steps), *[noise] * (num_steps - 1)]
        # Gaussian events compose like their precisions.
        return sum(z**-2 for z in multipliers) ** -0.5 if all(multipliers) else 0.0

    return PrivateAlgorithm(peers(chain, axis_name), noise_of, "example")


def _local_path(learning_rate, clip, noise, key, axis_name):
    """Local steps of one node for all, starting along the incoming updates."""
    who = "bvr_l_sgd"

    def init_fn(params):
        del params
        return LocalPathState(jnp.zeros([], jnp.int32), jnp.array(key, copy=True))

    def update_fn(updates, state, params=None, *, batches=None, **extras):
        params = require_params(who, params)
        batches = require(who, "batches", batches)
        grads = require(who, "per_example_grad_fn", extras.get("per_example_grad_fn"))
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        next_key, node_key, noise_key = jax.random.split(state.shared_key, 3)
        down = lambda y, u: jax.tree.map(lambda p, d: p - jnp.asarray(rate, d.dtype) * d, y, u)

        def step(carry, numbered):
            (y, before, u), (number, batch) = carry, numbered
            rows = _subtract(grads(y, batch=batch), grads(before, batch=batch))
            radius = clip * _distance(y, before)
            own = jax.random.fold_in(noise_key, number)
            noisy = add_normal(own, clipped_sum(rows, radius), noise * radius)
            by = num_rows(rows)
            u = jax.tree.map(lambda u, s: u + (s / by).astype(u.dtype), u, noisy)
            return (down(y, u), y, u), None

        steps = jax.tree.leaves(batches)[0].shape[0]
        numbered = (jnp.arange(1, steps), jax.tree.map(lambda b: b[1:], batches))
        first = (down(params, updates), params, updates)
        (end, _, _), _ = lax.scan(step, first, numbered)
        walks = axis.index(axis_name) == jax.random.randint(node_key, [], 0, axis.size(axis_name))
        walked = jax.tree.map(lambda y, x: jnp.where(walks, y - x, 0), end, params)
        total = axis.sum(walked, axis_name)
        return total, LocalPathState(optax.safe_increment(state.count), next_key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
