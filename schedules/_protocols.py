"""What schedules that listen are made of: controllers, samplers and bandits.

Each is a pair or triple of pure functions, as an ``optax.GradientTransformation`` is one. Their
states are pytrees of arrays with fixed shapes, so that they run inside jit and scan, and a state
that is saved and restored goes on where it was.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Controller(NamedTuple):
    """A rule that sets a quantity from what it observes, such as a batch size.

    Attributes:
      init: ``() -> state``.
      update: ``(state, observation, ...) -> state``; the state carries the quantity by name.
    """

    init: Callable[[], Any]
    update: Callable[..., Any]


class Sampler(NamedTuple):
    """Decides what comes next: examples, domains, tasks.

    Attributes:
      init: ``(key) -> state``; the key is a JAX key or an integer.
      sample: ``(state) -> (choice, state)``.
    """

    init: Callable[[jax.typing.ArrayLike], Any]
    sample: Callable[[Any], tuple[Any, Any]]


class Bandit(NamedTuple):
    """Chooses from a grid, and learns from the costs of what it chose.

    Attributes:
      init: ``(key) -> state``; the key is a JAX key or an integer.
      value: ``(state) -> value``, the choice in force.
      update: ``(state, cost, ...) -> state`` with the next choice.
    """

    init: Callable[[jax.typing.ArrayLike], Any]
    value: Callable[[Any], jax.Array]
    update: Callable[..., Any]
