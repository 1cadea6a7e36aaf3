"""Nearest-neighbour averaging: every node averages only the models closest to its own."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate, catalogue
from gradax._extras import require_params
from gradax._wide import widen

from .. import axis
from ..robust import rules
from ..robust._robust_aggregate import of_first
from ..robust._rows import append_copies, check_faulty, count_rows, inexact_leaves
from ..robust._stateful import Attack, Liars
from ._mixing import check_alike, is_inexact

PAPER = catalogue.Paper(
    title="Robust Collaborative Learning with Linear Gradient Overhead",
    authors="Farhadkhani et al.",
    year=2022,
    arxiv="2209.10931",
)


class NearestNeighborState(NamedTuple):
    """State of :func:`nearest_neighbor_average`.

    Attributes:
      key: this node's key, for the draw of whom it hears and of an attack; ``None`` if
        nothing is drawn.
      wire_copies: ``int32[]``, how many others heard the node in the last update, added up
        over the steps; with ``num_responses`` their mean number.
      shared_memory: state of the attack, the same for all nodes; ``()`` if it has none.
    """

    key: jax.Array | None
    wire_copies: jax.Array
    shared_memory: Any


@catalogue.register("final", PAPER, needs=("axis",), example={"f": 1, "axis_name": "nodes"})
def nearest_neighbor_average(
    f: int,
    axis_name: axis.AxisName,
    num_responses: int | None = None,
    attack: Attack | None = None,
    key: jax.Array | int | None = None,
    *,
    steps: int = 1,
    num_nodes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Averages the models nearest to a node's own; stands last in a chain.

    With the half-step models :math:`y_j = x_j + u_j` of the :math:`r` nodes it hears,

    .. math::
        x_i^+ = \frac{1}{r - f} \sum_{j \in N_i} y_j,

    where :math:`N_i` holds the :math:`r - f` nodes with the smallest Euclidean distance
    :math:`\|y_j - y_i\|` over all parameters; node :math:`i` itself always belongs to it, ties
    go to the lower number. Models with a value that is not finite are infinitely far, and
    fewer are averaged if too few remain; a node whose own model is not finite keeps it. Nodes
    with the extra ``active=False`` are not heard.

    With several ``steps`` this is repeated, each time with the averages of the step before:
    honest nodes come closer to each other, and every step costs another model.

    Up to ``f`` nodes may send anything. The theory asks for few of them (about a tenth),
    experiments bear almost a fifth. Distances and sums are made in float32 at least; every
    node receives all models in the dtype of the parameters. Integer leaves pass through.

    Args:
      f: number of dishonest nodes to bear, below half of them. Static.
      axis_name: axis of the nodes.
      num_responses: number :math:`r` of models a node hears, its own included, the others
        drawn at random in each update; ``None`` means everybody. Static.
      attack: as in :func:`inject_attack`, on the models of the last ``f`` nodes, in every
        step; an attack that draws tells every receiver another lie.
      key: JAX key or integer seed, needed if ``num_responses`` is given or the attack draws.
        It belongs to the node: fold the node's number in if the state is not made by
        ``simulate``.
      steps: how often models are averaged per update. Static.
      num_nodes: number :math:`n` of nodes, if it is known: what ``f`` may be is then checked at
        once, and ``5 f >= n`` is warned of. Static.

    Returns:
      A transformation with the state :class:`NearestNeighborState`; it needs params and the
      axis.

    Raises:
      ValueError: if ``f``, ``steps`` or ``num_responses`` is out of range or ``key`` is
        missing; with ``num_nodes`` at once, otherwise at trace time, if ``2 f >= n`` or
        ``num_responses > n``; at trace time if there are not ``num_nodes`` nodes, or updates
        differ from params in structure or shapes.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> tx = gradax.federated.nearest_neighbor_average(1, "nodes")
      >>> def mix(x):
      ...     updates, _ = tx.update(jnp.zeros_like(x), tx.init(x), x)
      ...     return optax.apply_updates(x, updates)
      >>> jax.vmap(mix, axis_name="nodes")(jnp.array([0.0, 1.0, 2.0, 10.0]))[:3].tolist()
      [1.0, 1.0, 1.0]

    References:
      Farhadkhani et al., `Robust Collaborative Learning with Linear Gradient Overhead
      <https://arxiv.org/abs/2209.10931>`_, 2022.
    """
    who = "nearest_neighbor_average"
    axis.names(axis_name)
    _validate.integer(who, "f", f, at_least=0)
    _validate.integer(who, "steps", steps, at_least=1)
    if num_responses is not None:
        _validate.integer(who, "num_responses", num_responses, at_least=f + 1)
    liars = None if attack is None else Liars.of(who, attack)
    lying_at_random = liars is not None and liars.draws
    drawing = num_responses is not None or lying_at_random
    if drawing:
        _keys.as_key(who, key)

    def check_size(n):
        check_faulty(who, f, n)
        if num_responses is not None and num_responses > n:
            raise ValueError(f"{who}: num_responses must be at most n = {n}, got {num_responses}.")

    if num_nodes is not None:
        _validate.integer(who, "num_nodes", num_nodes, at_least=1)
        check_size(num_nodes)
        if f > 0 and 5 * f >= num_nodes:
            message = f"{who}: f = {f} of {num_nodes} nodes is a fifth or more: expect little."
            warnings.warn(message, stacklevel=2)

    def with_lies(liars, rows, memory, key):
        honest = jax.tree.map(lambda leaf: leaf[: len(leaf) - f], rows)
        vector, memory = liars.send(honest, memory, key)
        lie = lambda leaf, row: append_copies(leaf, row, f)
        return jax.tree.map(lie, honest, vector), memory

    def distances(rows, own, position):
        if axis.is_manual(axis_name) or lying_at_random:
            return _distances_to(rows, own)
        # Under vmap the matrix is computed once for all nodes, each then takes its row.
        return rules.squared_distances(rows)[position]

    def average(half, there, memory, response_key, attack_key):
        """The mean of the models nearest to ``half``, in the dtype of accumulation."""
        n, position = axis.size(axis_name), axis.index(axis_name)
        rows = axis.all_gather(half, axis_name)
        if liars is not None and f > 0:
            rows, memory = with_lies(liars, rows, memory, attack_key)
        finite = rules.finite_rows(rows)
        if there is not None:  # who is absent sends nothing
            finite &= there
        rows = rules.mask_rows(rows, finite)
        heard = finite
        if num_responses is not None:
            heard = finite & _draw_heard(response_key, n, position, num_responses)
        distance = jnp.where(heard, distances(rows, half, position), jnp.inf)
        weights = _nearest(distance, position, (num_responses or n) - f)

        def of_leaf(stack, own):
            if not is_inexact(own):
                return own
            own = widen(own)
            mean = axis.contract(weights.astype(jnp.finfo(own.dtype).dtype), widen(stack))
            return jnp.where(finite[position], mean, own)

        return jax.tree.map(of_leaf, rows, half), memory

    def init_fn(params):
        own_key = _keys.as_key(who, key) if drawing else None
        memory = () if liars is None else liars.init(params)
        return NearestNeighborState(own_key, jnp.zeros([], jnp.int32), memory)

    def update_fn(updates, state, params=None, *, active=None, num_clients=None, **extra):
        del extra
        params = require_params(who, params)
        check_alike(who, updates, params)
        lanes = axis.size(axis_name)
        check_size(lanes)
        found = num_clients if isinstance(num_clients, int) else lanes
        if num_nodes not in (None, found):
            raise ValueError(f"{who}: num_nodes = {num_nodes}, but there are {found} nodes.")
        keys = jax.random.split(state.key, 1 + 2 * steps) if drawing else [None] * (1 + 2 * steps)
        means = half = jax.tree.map(lambda x, u: jnp.asarray(x + u, x.dtype), params, updates)
        memory = state.shared_memory
        if inexact_leaves(half):
            there = None if active is None else axis.all_gather(jnp.asarray(active), axis_name)
            memory = of_first(memory, there, axis_name)
            for step in range(steps):
                # What travels has the dtype of the parameters, in every step.
                half = jax.tree.map(lambda mean, x: jnp.asarray(mean, x.dtype), means, params)
                own_keys = keys[1 + 2 * step : 3 + 2 * step]
                means, memory = average(half, there, memory, *own_keys)
            updates = jax.tree.map(_move, means, params, updates)
        heard_by = jnp.int32(steps * ((num_responses or lanes) - 1))
        return updates, NearestNeighborState(keys[0], heard_by, memory)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _move(mean, value, update):
    if not is_inexact(value):
        return update
    return (mean - value.astype(mean.dtype)).astype(value.dtype)


def _draw_heard(key, n, position, num_responses):
    """Marks the node itself and ``num_responses - 1`` others, drawn without replacement."""
    offsets = 1 + jax.lax.top_k(jax.random.uniform(key, (n - 1,)), num_responses - 1)[1]
    heard = jnp.zeros(n, bool).at[position].set(True)
    return heard.at[(position + offsets) % n].set(True)


def _distances_to(rows, own):
    total = jnp.zeros(count_rows("nearest_neighbor_average", rows))
    pairs = zip(inexact_leaves(rows), inexact_leaves(own), strict=True)
    for stack, leaf in pairs:
        difference = jnp.abs(widen(stack) - widen(leaf))
        total = total + jnp.sum(difference**2, axis=tuple(range(1, stack.ndim)))
    return jnp.where(jnp.isnan(total), jnp.inf, total)


def _nearest(distance, position, count):
    """Equal weights for the ``count`` smallest finite distances, the node's own first."""
    distance = distance.at[position].set(-1.0)
    chosen = jnp.argsort(distance, stable=True)[:count]
    weights = jnp.zeros_like(distance).at[chosen].set(1.0)
    weights = jnp.where(jnp.isfinite(distance), weights, 0.0)
    return weights / jnp.sum(weights)
