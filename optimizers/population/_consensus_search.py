"""What consensus-based methods share: state, consensus, draws, and the form of an update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate
from gradax._extras import require_params
from gradax.federated import axis

from ._consensus_point import softmin_weight, weighted_mean
from ._individual import Sampler, movable, own_value, put_back, split_keys


class ConsensusState(NamedTuple):
    """State of :func:`cbo` and :func:`consensus_hopping`.

    Attributes:
      count: ``int32[]``, number of updates made.
      shared_key: of the next draws, the same for all individuals; each folds its number in.
      consensus: like params, the answer of the search: the consensus of the individuals as
        they were before the last update; zeros before the first one.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    shared_key: jax.Array
    consensus: optax.Params


def at(value: Any, t: jax.Array) -> Any:
    """A number, or the value of a schedule at a count."""
    return value(t) if callable(value) else value


def consensus_search(
    who: str,
    move: Callable[[Any, Any, jax.Array, optax.Updates], Any],
    *,
    alpha: optax.ScalarOrSchedule,
    sampler: Sampler,
    key: jax.Array | int,
    axis_name: axis.AxisName,
) -> optax.GradientTransformationExtraArgs:
    """Makes a method whose individuals move by their gap to the consensus and by chance.

    Args:
      who: public name of the method, for messages.
      move: ``move(gap, noise, t, updates)``, the individual's update from its gap (it minus the
        consensus), random numbers like it, the count of updates and the incoming updates. Gap
        and noise hold the inexact leaves only, in float32 at least.
      alpha: inverse temperature of the consensus, a number or a schedule of the count.
      sampler: draws numbers of mean zero and variance one.
      key: random key or seed, the same for all individuals.
      axis_name: axis of the population.

    Returns:
      A transformation with a :class:`ConsensusState`.

    Raises:
      ValueError: if an argument cannot work.
    """
    _validate.learning_rate(who, alpha, "alpha")
    axis.names(axis_name)
    _keys.as_key(who, key)
    if not callable(sampler):
        raise ValueError(
            f"{who}: sampler must be a function of key, shape and dtype, got {sampler!r}."
        )

    def init_fn(params):
        zeros = optax.tree.zeros_like(params)
        return ConsensusState(jnp.zeros([], jnp.int32), _keys.as_key(who, key), zeros)

    def update_fn(
        updates,
        state,
        params=None,
        *,
        value=None,
        value_fn=None,
        round=None,
        active=None,
        client_id=None,
        **extra,
    ):
        del extra
        params = require_params(who, params)
        loss, mine = own_value(who, params, value, value_fn), movable(params)
        t = state.count if round is None else jnp.asarray(round, jnp.int32)
        weight = softmin_weight(loss, at(alpha, t), axis_name, active)
        consensus = weighted_mean(mine, weight, axis_name)
        gap = jax.tree.map(jnp.subtract, mine, consensus)
        next_key, own_key = split_keys(state.shared_key, axis_name, client_id)
        noise = optax.tree.random_like(own_key, gap, sampler)
        out = put_back(move(gap, noise, t, updates), params, jnp.zeros_like)
        if active is not None:
            out = jax.tree.map(lambda u: jnp.where(active, u, 0), out)
        consensus = put_back(consensus, params, jnp.asarray)
        return out, ConsensusState(optax.safe_increment(state.count), next_key, consensus)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
