"""Attackers inside a simulation: the last participants lie about their messages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate, catalogue
from gradax._extras import require_params

from .. import axis
from . import attacks
from ._robust_aggregate import of_first
from ._stateful import Attack, Liars


class InjectAttackState(NamedTuple):
    """State of :func:`inject_attack`.

    Attributes:
      shared_key: key of the next draw, the same for all participants; ``None`` if the attack
        draws nothing.
      shared_memory: state of the attack, the same for all participants; ``()`` if it has none.
    """

    shared_key: jax.Array | None
    shared_memory: Any


@catalogue.register(
    "direction",
    catalogue.Paper(
        title="Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation",
        authors="Xie et al.",
        year=2019,
        arxiv="1903.03936",
    ),
    needs=("axis",),
    example={"attack": attacks.mimic, "f": 1, "axis_name": "nodes"},
)
def inject_attack(
    attack: Attack,
    f: int,
    axis_name: axis.AxisName,
    on: str = "updates",
    key: jax.Array | int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the messages of the last ``f`` participants by an attack; for tests.

    The attack sees the messages of the others, the honest ones, and all attackers send the
    same vector. Stands before the aggregation or the mixing. The attackers' own parameters
    follow the lie; leave them out when you evaluate.

    Args:
      attack: a function of :mod:`gradax.federated.attacks`, its parameters fixed with
        ``functools.partial``: ``attack(honest)``, or ``attack(honest, key=...)``; or a
        :class:`gradax.federated.attacks.StatefulAttack`, such as ``learned_mimic()``.
      f: number of attackers, from 0 to one less than the size of the axis.
      axis_name: axis of the participants.
      on: ``"updates"`` attacks what travels in an algorithm with a server; ``"models"``
        attacks ``params + updates``, which nodes without a server exchange.
      key: JAX key or integer seed, for an attack that draws (``gaussian``).

    Returns:
      A transformation with the state :class:`InjectAttackState`; it needs the axis, and
      params if ``on="models"``.

    Raises:
      ValueError: if an argument is out of range or ``key`` is missing; at trace time if
        nobody is honest.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> federated = gradax.federated
      >>> tx = federated.inject_attack(federated.attacks.sign_flip, 1, "clients")
      >>> send = lambda u: tx.update(u, tx.init(u))[0]
      >>> jax.vmap(send, axis_name="clients")(jnp.array([1.0, 2.0, 3.0])).tolist()
      [1.0, 2.0, -1.5]

    References:
      Xie et al., `Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
      Manipulation <https://arxiv.org/abs/1903.03936>`_, 2019.
    """
    liars = Liars.of("inject_attack", attack)
    _validate.integer("inject_attack", "f", f, at_least=0)
    _validate.one_of("inject_attack", "on", on, ("updates", "models"))
    axis.names(axis_name)
    if liars.draws:
        _keys.as_key("inject_attack", key)

    def lie(messages, state, there):
        """The attackers' vector, and the next state."""
        n = axis.size(axis_name)
        if f >= n:
            raise ValueError(f"inject_attack: f must be below the {n} participants, got {f}.")
        honest = jax.tree.map(lambda rows: rows[: n - f], messages)
        # Gathered so that under vmap the vector is made once, not once per participant.
        next_key, draw, memory = None, None, of_first(state.shared_memory, there, axis_name)
        if liars.draws:
            impl = jax.random.key_impl(state.shared_key)
            common = of_first(jax.random.key_data(state.shared_key), there, axis_name)
            next_key, draw = jax.random.split(jax.random.wrap_key_data(common, impl=impl))
        vector, memory = liars.send(honest, memory, draw)
        return vector, InjectAttackState(next_key, memory)

    def init_fn(params):
        own_key = _keys.as_key("inject_attack", key) if liars.draws else None
        return InjectAttackState(own_key, liars.init(params))

    def update_fn(updates, state, params=None, *, active=None, **extra):
        del extra
        base = require_params("inject_attack", params) if on == "models" else None
        if f == 0 or not jax.tree.leaves(updates):
            return updates, state
        message = updates if base is None else optax.apply_updates(base, updates)
        there = None if active is None else axis.all_gather(jnp.asarray(active), axis_name)
        vector, state = lie(axis.all_gather(message, axis_name), state, there)
        if base is not None:
            vector = jax.tree.map(jnp.subtract, vector, base)
        attacks_now = axis.index(axis_name) >= axis.size(axis_name) - f
        sent = jax.tree.map(
            lambda lied, own: jnp.where(attacks_now, lied, own).astype(own.dtype), vector, updates
        )
        return sent, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
