"""Attackers inside a simulation: the last participants lie about their messages."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate, catalogue
from gradax._extras import require_params

from .. import axis
from . import attacks


class InjectAttackState(NamedTuple):
    """State of :func:`inject_attack`.

    Attributes:
      shared_key: key of the next draw, the same for all participants; ``None`` if the attack
        draws nothing.
    """

    shared_key: jax.Array | None


def draws(attack: Callable[..., Any]) -> bool:
    """Whether an attack takes a ``key`` that has not been fixed yet."""
    parameters = inspect.signature(attack).parameters
    return "key" in parameters and "key" not in getattr(attack, "keywords", {})


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
    attack: Callable[..., Any],
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
        ``functools.partial``: ``attack(honest)``, or ``attack(honest, key=...)``.
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
    if not callable(attack):
        raise ValueError(f"inject_attack: attack must be callable, got {attack!r}.")
    _validate.integer("inject_attack", "f", f, at_least=0)
    _validate.one_of("inject_attack", "on", on, ("updates", "models"))
    axis.names(axis_name)
    drawing = draws(attack)
    if drawing:
        _keys.as_key("inject_attack", key)

    def lie(messages, key):
        """The attackers' vector, and the next key."""
        n = axis.size(axis_name)
        if f >= n:
            raise ValueError(f"inject_attack: f must be below the {n} participants, got {f}.")
        honest = jax.tree.map(lambda rows: rows[: n - f], messages)
        if not drawing:
            return attack(honest), None
        # Gathered so that under vmap the vector is drawn once, not once per participant.
        common = jax.random.wrap_key_data(
            axis.all_gather(jax.random.key_data(key), axis_name)[0], impl=jax.random.key_impl(key)
        )
        return attack(honest, key=jax.random.split(common)[1]), jax.random.split(key)[0]

    def init_fn(params):
        del params
        return InjectAttackState(_keys.as_key("inject_attack", key) if drawing else None)

    def update_fn(updates, state, params=None, **extra):
        del extra
        base = require_params("inject_attack", params) if on == "models" else None
        if f == 0 or not jax.tree.leaves(updates):
            return updates, state
        message = updates if base is None else optax.apply_updates(base, updates)
        vector, next_key = lie(axis.all_gather(message, axis_name), state.shared_key)
        if base is not None:
            vector = jax.tree.map(jnp.subtract, vector, base)
        attacks_now = axis.index(axis_name) >= axis.size(axis_name) - f
        sent = jax.tree.map(
            lambda lied, own: jnp.where(attacks_now, lied, own).astype(own.dtype), vector, updates
        )
        return sent, InjectAttackState(next_key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
