"""The state of a run: what it holds, how it begins, and whether it fits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..rounds._algorithm import Algorithm
from ..rounds._cohort import Cohort
from ..rounds._participants import init_participants


class SimState(NamedTuple):
    """Everything that a run carries from round to round, and all that is saved.

    Attributes:
      round: ``int32[]``, number of rounds made.
      key: the run's random key; round and client are folded in at use.
      params: the common parameters, or one row per node for peers.
      clients: state of the client chain, leaves ``[num_clients, ...]``.
      aggregate: state of the aggregate; for peers, leaves ``[num_clients, ...]``.
      server: state of the server's chain, or ``()``.
      cohort: state of the cohort rule.
    """

    round: jax.Array
    key: jax.Array
    params: optax.Params
    clients: optax.OptState
    aggregate: optax.OptState
    server: optax.OptState
    cohort: Any


def first_state(
    algorithm: Algorithm,
    num_clients: int,
    cohort: Cohort | None,
    params: optax.Params,
    key: jax.Array,
    replicate: bool = True,
) -> SimState:
    """Builds the state before the first round; nothing in it shares a buffer with ``params``.

    Args:
      algorithm: the algorithm.
      num_clients: number of clients or nodes.
      cohort: who takes part, or ``None`` for everybody.
      params: parameters of one participant, or one row per node (``replicate=False``).
      key: the run's random key.
      replicate: for peers, whether to give every node a copy of ``params``.

    Returns:
      The state.

    Raises:
      ValueError: if ``params`` should have one row per node and have not.
    """
    ids = jnp.arange(num_clients)
    # A dtype that is named is a strong one: a weak type would change within the scan.
    params = jax.tree.map(lambda x: jnp.array(x, jnp.asarray(x).dtype), params)
    zero, drawn = jnp.zeros([], jnp.int32), cohort.init() if cohort else ()
    if algorithm.server is not None:
        clients = init_participants(algorithm.client, params, ids)
        sides = algorithm.aggregate.init(params), algorithm.server.init(params)
        return SimState(zero, key, params, clients, *sides, drawn)
    if not replicate and any(x.shape[:1] != ids.shape for x in jax.tree.leaves(params)):
        raise ValueError(
            "simulate: with replicate=False params must have a leading axis of "
            f"{num_clients} nodes."
        )
    if replicate:
        copies = lambda x: jnp.repeat(jnp.asarray(x)[None], num_clients, axis=0)
        params = jax.tree.map(copies, params)
    row = jax.tree.map(lambda x: x[0], params)
    clients = init_participants(algorithm.client, row, ids)
    aggregate = init_participants(algorithm.aggregate, row, ids)
    return SimState(zero, key, params, clients, aggregate, (), drawn)


def check_state(
    state: SimState, like: SimState, algorithm: Algorithm, record: tuple[str, ...]
) -> None:
    """Raises unless a run can go on from a state.

    Args:
      state: the state.
      like: shapes of a first state of the run.
      algorithm: of the run.
      record: names of fields to record.

    Raises:
      ValueError: if it is another algorithm's, or a name to record is not one field.
    """
    shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    for name, part in like._asdict().items():
        theirs, ours = shapes(getattr(state, name)), shapes(part)
        if theirs != ours:
            raise ValueError(
                f"simulate: state= is of another run; {name}: {theirs} there, {ours} here."
            )
    states = like.clients, () if algorithm.server else like.aggregate
    for name in record:
        count = len(optax.tree_utils.tree_get_all_with_path(states, name))
        if count != 1:
            raise ValueError(
                f"simulate: record= must name one field of the participants' state, but "
                f"there are {count} named {name!r}."
            )
