"""Stateful schedules: what tells one from a function of the count."""

from typing import Any, TypeVar

State = TypeVar("State")


def require_state(who: str, state: Any, state_type: type[State]) -> State:
    """Returns the first argument of a stateful schedule's ``__call__``, if that is its state.

    A stateful schedule is callable, so optax takes one that is passed as a learning rate for a
    function of the count, and calls it with the count in place of its state.

    Args:
      who: public name of the factory that made the schedule.
      state: what ``__call__`` received.
      state_type: the NamedTuple that its ``init`` returns.

    Returns:
      ``state``, unchanged.

    Raises:
      TypeError: if it is anything else.

    Examples:
      >>> require_state("bandit_hyperparam", 3, tuple)
      Traceback (most recent call last):
      TypeError: bandit_hyperparam is a stateful schedule; pass it through \
optax.inject_hyperparams (it was called with a value of type int instead of its tuple).
    """
    if not isinstance(state, state_type):
        raise TypeError(
            f"{who} is a stateful schedule; pass it through optax.inject_hyperparams (it was "
            f"called with a value of type {type(state).__name__} instead of its "
            f"{state_type.__name__})."
        )
    return state
