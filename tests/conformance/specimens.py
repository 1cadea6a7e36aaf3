"""Transformations that are broken in one way each: what the battery has to catch."""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gradax import catalogue, testing

RATE = 1e-2
PAPER = catalogue.Paper("A made-up method", "Nobody", 2020)


def descent(leaf_update=lambda u: -RATE * u, init=lambda params: ()):
    """Plain descent with one part replaced."""

    def update(updates, state, params=None, **extra):
        del params, extra
        return jax.tree.map(leaf_update, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def on_tree(tree_update):
    """Descent whose update is a function of the whole tree."""
    update = lambda updates, state, params=None, **_: (tree_update(updates), state)
    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def counting(init, advance):
    """Descent that carries something along."""

    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: -RATE * u, updates), advance(state, params, extra)

    return optax.GradientTransformationExtraArgs(init, update)


def entry(factory, example, needs=(), kind="alias"):
    """A catalogue entry that is not in the catalogue."""
    return catalogue.Entry(
        name="made_up",
        package="optimizers",
        room="adaptive",
        kind=kind,
        summary="",
        paper=PAPER,
        factory=factory,
        needs=needs,
        given_example=example,
        reexport_of=None,
        exceptions={},
    )


def listed(factory, **example):
    """The subject of a made-up catalogue entry."""
    needs = example.pop("needs", ())
    return testing.Subject.of(entry(factory, example, needs))


class Moments(NamedTuple):
    mu: Any
    nu: Any


def aliasing():
    """Both moments are the same zeros."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(zeros, zeros)

    return descent(init=init)


class Anchor(NamedTuple):
    anchor: Any


def keeps_params():
    """The state holds the caller's own buffers."""
    return descent(init=Anchor)


class Count(NamedTuple):
    count: Any


def wrapping_count():
    """Counts past the largest integer."""
    init = lambda params: Count(jnp.zeros([], jnp.int32))
    return counting(init, lambda state, *_: Count(state.count + 1))


def weakly_typed():
    """Begins with a Python number and goes on with an array: traced twice."""
    return counting(lambda params: Count(0), lambda state, *_: Count(jnp.int32(state.count + 1)))


_CALLS = []


def impure():
    """Remembers in Python how often it was called."""

    def update(u):
        _CALLS.append(None)
        return -RATE * u / (1 + len(_CALLS))

    return descent(update)


def knows_whether_it_is_traced():
    """Starts from other numbers inside of jit."""

    def fill(leaf):
        return jnp.full_like(leaf, isinstance(leaf, jax.core.Tracer))

    return descent(init=lambda params: Anchor(jax.tree.map(fill, params)))


@jax.custom_batching.custom_vmap
def _half(u):
    return 0.5 * u


@_half.def_vmap
def _half_of_the_batch(axis_size, in_batched, u):
    del axis_size, in_batched
    return 0.25 * u, True


def differs_in_a_batch():
    """Has a batching rule of its own, a wrong one."""
    return descent(lambda u: -RATE * _half(u))


def differs_on_devices():
    """Does nothing where its axis is one of devices."""

    def update(u):
        manual = "clients" in jax.sharding.get_abstract_mesh().manual_axes
        return jnp.zeros_like(u) if manual else -RATE * u

    return descent(update)


def ravels():
    """Works on one long vector, where leaves lose what is their own."""

    def update(updates):
        flat, unravel = ravel_pytree(updates)
        return unravel(-RATE * flat)

    def init(params):
        return Anchor(ravel_pytree(params)[0])

    return on_tree(update)._replace(init=init)


def first_leaf_counts():
    """Sizes its state after the first leaf."""
    return descent(init=lambda params: jnp.zeros(jax.tree.leaves(params)[0].shape))


def promotes(dtype):
    """Multiplies with a strongly typed constant."""
    return descent(lambda u: u * jnp.asarray(-RATE, dtype))


def keeps_value():
    """Stores the value in whatever dtype it comes."""
    init = lambda params: jnp.zeros([], jnp.float32)
    return counting(init, lambda state, params, extra: extra.get("value", state))


def drops_imaginary():
    """Keeps real parts only."""
    return descent(lambda u: -RATE * jnp.abs(u))


def pads_none():
    """Takes None for a number."""
    is_leaf = lambda leaf: leaf is None
    halve = lambda u: jnp.zeros([]) if u is None else -RATE * u
    return on_tree(lambda updates: jax.tree.map(halve, updates, is_leaf=is_leaf))


def sums_leaves():
    """Adds up leaves without a neutral element."""

    def update(updates):
        norms = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(updates)]
        total = functools.reduce(operator.add, norms)
        return jax.tree.map(lambda u: -RATE * u / (1 + total), updates)

    return on_tree(update)


def only_dicts():
    """Knows no container but dict."""
    return on_tree(lambda updates: {name: -RATE * u for name, u in updates.items()})


def renames_containers():
    """Gives back a list, whatever came in."""
    return on_tree(lambda updates: [-RATE * u for u in jax.tree.leaves(updates)])


def strict_arguments():
    """Knows one extra and refuses all others."""

    def update(updates, state, params=None, *, value=None):
        del params, value
        return jax.tree.map(lambda u: -RATE * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def stumbles_without_params():
    """Reads params without looking whether there are any."""

    def update(updates, state, params=None, **_):
        return jax.tree.map(lambda u, p: -RATE * (u + 0 * p), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def empty_tuples_are_leaves():
    """Takes the placeholder of a masked leaf for an array."""
    is_leaf = lambda node: isinstance(node, tuple)
    return on_tree(lambda updates: jax.tree.map(lambda u: -RATE * u, updates, is_leaf=is_leaf))


class Triple(optax.GradientTransformationExtraArgs):
    """Unpacks into three things, where optax.chain expects two."""

    __slots__ = ()

    def __iter__(self):
        yield from (self.init, self.update, None)


def triple():
    """A transformation with a field too many."""
    return Triple(*descent())


def divides_by_norm():
    """Divides by a global norm that may be zero, or wider than the leaf."""
    return on_tree(
        lambda updates: jax.tree.map(lambda u: -RATE * u / optax.tree.norm(updates), updates)
    )


def flattens():
    """Knows matrices, and makes one of everything that has more dimensions."""
    return descent(lambda u: -RATE * (u if u.ndim < 3 else u.reshape(u.shape[0], -1)))


def changes_state_dtype():
    """Begins with an integer and goes on with a float."""
    init = lambda params: Count(jnp.zeros([], jnp.int32))
    return counting(init, lambda state, *_: Count(state.count + 0.5))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Unknown:
    """A container that flax has no serialization for."""

    count: Any


def unknown_container():
    """Keeps its state in such a container."""
    return descent(init=lambda params: Unknown(jnp.zeros([])))


def local_state():
    """Its state class cannot be found again by name."""

    class Local(NamedTuple):
        count: Any

    return descent(init=lambda params: Local(jnp.zeros([])))


def float_of_params():
    """Needs the numbers of params in order to start."""
    return descent(init=lambda params: Anchor(float(optax.tree.norm(params))))


def needs_value_silently():
    """Looks an extra up without a word about it."""

    def update(updates, state, params=None, **extra):
        del params
        return jax.tree.map(lambda u: -RATE * u * extra["value"], updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def bare_pmean(axis_name="clients"):
    """Averages over an axis and leaves the explanation to JAX."""
    average = lambda updates: jax.lax.pmean(updates, axis_name)
    return on_tree(lambda updates: jax.tree.map(lambda u: -RATE * u, average(updates)))


def branches_on_a_number(learning_rate, weight_decay=1e-4):
    """Decides in Python about a hyper-parameter."""
    return optax.sgd(learning_rate) if weight_decay > 0 else optax.sgd(2 * learning_rate)


def wants_a_float(learning_rate):
    """Takes a schedule for a number."""
    rate = 1e-3 if callable(learning_rate) else learning_rate
    return optax.sgd(rate)


def leaves_float64():
    """Has a NumPy table in its state."""
    return descent(init=lambda params: jnp.asarray(np.linspace(0.0, 1.0, 3)))
