"""A rule on stacked rows as the aggregate of an algorithm."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, catalogue

from .. import axis
from . import rules
from ._rows import Count


class RobustAggregateState(NamedTuple):
    """State of :func:`robust_aggregate` and its short forms.

    Attributes:
      shared_key: key of the next draw, the same for all participants; ``None`` if nothing is
        drawn.
      wire_copies: ``int32[]``, to how many others a node sent its message in the last update,
        where there is no server.
    """

    shared_key: jax.Array | None
    wire_copies: jax.Array


@catalogue.register(
    "aggregate",
    catalogue.Paper(
        title="Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
        authors="Allouah et al.",
        year=2023,
        arxiv="2302.01772",
    ),
    needs=("axis",),
    example={"rule": functools.partial(rules.meamed, f=1), "axis_name": "clients"},
)
def robust_aggregate(
    rule: Callable[..., Any],
    axis_name: axis.AxisName,
    pre: Sequence[Callable[..., Any]] = (),
    *,
    per_leaf: bool = False,
    key: jax.Array | int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Combines the messages of all participants with a rule that bears liars.

    Stands in the ``aggregate`` place of an algorithm, or in the chain of nodes without a
    server, which then all receive the same. Participants with the extra ``active=False`` do
    not count: the rule bears ``f`` liars among those who are there, and gives zero in a round
    in which so few are there that ``f`` might outvote the others.

    All messages are gathered. Where the participants are lanes of ``vmap`` the rule is computed
    once for all, on a mesh once on every device.

    Args:
      rule: a function of :mod:`gradax.federated.rules`, its parameters fixed with
        ``functools.partial``, or one's own ``rule(rows, active=...)``. One that takes no
        ``active`` sees absent participants as rows of infinity, so it must bear them as faulty.
      axis_name: axis of the participants.
      pre: pre-aggregators, such as ``functools.partial(rules.nnm, f=2)``, applied in this
        order before the rule. One of one's own that takes ``active`` returns a pair, the rows
        and which of them are there.
      per_leaf: whether every array of the message is judged on its own, so that a liar may be
        believed in one and not in another. Static.
      key: JAX key or integer seed, needed if a pre-aggregator draws (``bucketing``).

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if an argument is out of range or ``key`` is missing; at trace time what the
        rule raises, for instance if ``2 f >= n``.

    Examples:
      >>> import functools, gradax, jax, jax.numpy as jnp
      >>> rules = gradax.federated.rules
      >>> mix, rule = (functools.partial(r, f=1) for r in (rules.nnm, rules.trimmed_mean))
      >>> tx = gradax.federated.robust_aggregate(rule, "clients", pre=(mix,))
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> rows = jnp.array([1.0, 2.0, 3.0, jnp.nan])
      >>> jax.vmap(combine, axis_name="clients")(rows).tolist()
      [2.0, 2.0, 2.0, 2.0]

    References:
      Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
      <https://arxiv.org/abs/2302.01772>`_, 2023.
    """
    pre = tuple(pre)
    for name, function in (("rule", rule), *(("pre", member) for member in pre)):
        if not callable(function):
            raise ValueError(f"robust_aggregate: {name} must be callable, got {function!r}.")
    axis.names(axis_name)
    drawing = any(_draws(member) for member in pre)
    if drawing:
        _keys.as_key("robust_aggregate", key)

    def combine(rows, active, draw):
        for number, member in enumerate(pre):
            extra = {"key": jax.random.fold_in(draw, number)} if _draws(member) else {}
            mixed, knows = _call(member, rows, active, **extra)
            rows, active = mixed if knows else (mixed, active)
        return _call(rule, rows, active)[0]

    def init_fn(params):
        del params
        shared_key = _keys.as_key("robust_aggregate", key) if drawing else None
        return RobustAggregateState(shared_key, jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, active=None, **extra):
        del params, extra
        rows, there = gathered(updates, active, axis_name)
        new_key, draw = None, None
        if drawing:
            new_key, draw = jax.random.split(_in_common(state.shared_key, there, axis_name))
        of_tree = lambda rows: combine(rows, there, draw)
        if not jax.tree.leaves(rows):
            result = updates
        elif per_leaf:
            result = jax.tree.map(of_tree, rows)
        else:
            result = of_tree(rows)
        copies = wire_copies(there, axis_name)
        return like(result, updates), RobustAggregateState(new_key, copies)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gathered(updates: Any, active: Any, axis_name: axis.AxisName) -> tuple[Any, Any]:
    """Stacks the messages of all participants, and who is there (``None`` if nobody says)."""
    rows = axis.all_gather(jax.tree.map(jnp.asarray, updates), axis_name)
    return rows, None if active is None else axis.all_gather(jnp.asarray(active), axis_name)


def like(result: Any, updates: Any) -> Any:
    """Brings a result to the floating dtypes of the updates."""

    def cast(leaf, own):
        dtype = jnp.result_type(own)
        return leaf.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else leaf

    return jax.tree.map(cast, result, updates)


def wire_copies(there: jax.Array | None, axis_name: axis.AxisName) -> jax.Array:
    """To how many others everybody sends, ``int32[]``."""
    present = axis.size(axis_name) if there is None else jnp.sum(there)
    return jnp.maximum(jnp.asarray(present, jnp.int32) - 1, 0)


def of_first(tree: Any, there: jax.Array | None, axis_name: axis.AxisName) -> Any:
    """What the first participant that is there has, for everybody.

    Under ``vmap`` the result is not batched, so that what follows is computed once.
    """
    first = 0 if there is None else jnp.argmax(there)
    return jax.tree.map(lambda rows: rows[first], axis.all_gather(tree, axis_name))


def _in_common(key, there, axis_name):
    data = of_first(jax.random.key_data(key), there, axis_name)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _parameters(function):
    return inspect.signature(function).parameters


def _draws(member):
    """Whether a pre-aggregator takes a ``key`` and has neither that nor an order."""
    fixed = getattr(member, "keywords", {})
    return "key" in _parameters(member) and not {"key", "perm"} & set(fixed)


def _call(function, rows, active, **extra):
    """Calls a rule or pre-aggregator; also says whether it knows who is there."""
    takes = _parameters(function)
    swallows = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    if active is None:
        return function(rows, **extra), False
    if "active" in takes or swallows:
        return function(rows, active=active, **extra), True
    return function(jax.tree.map(Count.of(len(active), active).clear, rows), **extra), False
