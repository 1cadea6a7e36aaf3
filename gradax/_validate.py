"""Checks of constructor arguments: one sentence that names who, what, the rule and the value.

Only plain Python (and NumPy) numbers can be judged; traced values and schedules pass, since
hyper-parameters may come from ``optax.inject_hyperparams``.
"""

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax


def interval(who: str, name: str, value: Any, allowed: str) -> None:
    """Raises unless a number lies in an interval written as mathematics writes it.

    Args:
      who: public name of the factory.
      name: name of the argument.
      value: what was given; anything but a real Python number passes.
      allowed: such as ``"[0, 1)"``, ``"(0, inf)"``.

    Raises:
      ValueError: if ``value`` is a number outside ``allowed`` (NaN is outside of everything).

    Examples:
      >>> interval("adam", "b1", 0.9, "[0, 1)")
      >>> interval("adam", "b1", 1.0, "[0, 1)")
      Traceback (most recent call last):
      ValueError: adam: b1 must lie in [0, 1), got 1.0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return
    low, high = (float(end) for end in allowed[1:-1].split(","))
    number = float(value)
    above = number >= low if allowed[0] == "[" else number > low
    below = number <= high if allowed[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"{who}: {name} must lie in {allowed}, got {value}.")


def integer(who: str, name: str, value: Any, at_least: int) -> None:
    """Raises unless the argument is a Python integer of at least a given size.

    Args:
      who: public name of the factory.
      name: name of the argument.
      value: what was given.
      at_least: the smallest value allowed.

    Raises:
      ValueError: if ``value`` is no integer or is smaller.

    Examples:
      >>> integer("muon", "ns_steps", 0, at_least=1)
      Traceback (most recent call last):
      ValueError: muon: ns_steps must be an integer >= 1, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise ValueError(f"{who}: {name} must be an integer >= {at_least}, got {value!r}.")


def one_of(who: str, name: str, value: Any, options: Iterable[Any]) -> None:
    """Raises unless the argument is one of the options.

    Args:
      who: public name of the factory.
      name: name of the argument.
      value: what was given.
      options: what is accepted.

    Raises:
      ValueError: if ``value`` is none of them.

    Examples:
      >>> one_of("gossip", "order", "both", ("atc", "cta"))
      Traceback (most recent call last):
      ValueError: gossip: order must be one of 'atc', 'cta', got 'both'.
    """
    options = tuple(options)
    if value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{who}: {name} must be one of {listed}, got {value!r}.")


def learning_rate(who: str, value: Any, name: str = "learning_rate") -> None:
    """Raises unless a learning rate is a finite number >= 0, an array or a schedule.

    Controllers, samplers, bandits and stateful schedules are none of these: optax would call
    the last with the count in place of their state.

    Args:
      who: public name of the factory.
      value: what was given.
      name: name of the argument.

    Raises:
      ValueError: if ``value`` is a Python number below zero, infinite or NaN, a stateful
        schedule, or neither number nor array nor callable.

    Examples:
      >>> learning_rate("adamp", None)
      Traceback (most recent call last):
      ValueError: adamp: learning_rate must be a number, an array or a function of the count, \
got None.
    """
    if isinstance(value, optax.schedules.StatefulSchedule):
        raise ValueError(
            f"{who}: {name} must not be a stateful schedule, got {type(value).__name__}; pass it "
            f"through optax.inject_hyperparams."
        )
    is_number = isinstance(value, numbers.Real | np.ndarray | np.generic | jax.Array)
    if not (is_number or hasattr(value, "__jax_array__") or callable(value)):
        raise ValueError(
            f"{who}: {name} must be a number, an array or a function of the count, got {value!r}."
        )
    interval(who, name, value, "[0, inf)")
