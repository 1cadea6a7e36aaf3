"""Attacks with a memory, and one face for those with and without."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class StatefulAttack(NamedTuple):
    """An attack that remembers: a pair of functions, as in a gradient transformation.

    Attributes:
      init: ``init(message) -> state``, from a tree like one message.
      update: ``update(honest, state) -> (vector, state)``, where the leaves of ``honest`` have
        a leading axis of honest participants and ``vector`` has none.

    Examples:
      The mean of the round before, too late by one:

      >>> import gradax, jax, jax.numpy as jnp
      >>> attacks = gradax.federated.attacks
      >>> late = attacks.StatefulAttack(
      ...     init=jnp.zeros_like, update=lambda honest, before: (before, honest.mean(axis=0))
      ... )
      >>> tx, u = gradax.federated.inject_attack(late, 1, "clients"), jnp.array([1.0, 3.0, 9.0])
      >>> step = jax.vmap(tx.update, axis_name="clients")
      >>> sent, state = step(u, jax.vmap(tx.init)(u))
      >>> step(u, state)[0].tolist()
      [1.0, 3.0, 2.0]
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any], tuple[Any, Any]]


Attack = Callable[..., Any] | StatefulAttack


class Liars(NamedTuple):
    """Any attack, in one form.

    Attributes:
      draws: whether ``send`` needs a key.
      init: ``init(message) -> memory``.
      send: ``send(honest, memory, key) -> (vector, memory)``.
    """

    draws: bool
    init: Callable[[Any], Any]
    send: Callable[[Any, Any, jax.Array | None], tuple[Any, Any]]

    @classmethod
    def of(cls, who: str, attack: Attack) -> "Liars":
        """Takes either kind of attack.

        Args:
          who: name of the caller, for the message.
          attack: a function or a :class:`StatefulAttack`.

        Returns:
          The common form; a function remembers nothing.

        Raises:
          ValueError: if it is neither.
        """
        if isinstance(attack, StatefulAttack):
            return cls(
                False, attack.init, lambda honest, memory, key: attack.update(honest, memory)
            )
        if not callable(attack):
            raise ValueError(f"{who}: attack must be callable or a StatefulAttack, got {attack!r}.")
        drawing = _draws(attack)

        def send(honest, memory, key):
            return (attack(honest, key=key) if drawing else attack(honest)), memory

        return cls(drawing, lambda message: (), send)


def _draws(attack: Callable[..., Any]) -> bool:
    """Whether an attack takes a ``key`` that has not been fixed yet."""
    parameters = inspect.signature(attack).parameters
    return "key" in parameters and "key" not in getattr(attack, "keywords", {})
