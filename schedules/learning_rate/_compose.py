"""Schedules made of schedules, and small answers about them."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue
from gradax._validate import integer, interval, learning_rate, one_of


def scale_schedule(schedule: optax.Schedule, factor: jax.typing.ArrayLike) -> optax.Schedule:
    """Multiplies a schedule by a constant.

    Args:
      schedule: a function of the count.
      factor: the constant, of any sign; may be traced.

    Returns:
      ``count -> factor * schedule(count)``.

    Raises:
      ValueError: if ``schedule`` is not a function of the count.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> half = schedules.scale_schedule(optax.linear_schedule(1.0, 0.0, 4), 0.5)
      >>> [float(half(count)) for count in range(5)]
      [0.5, 0.375, 0.25, 0.125, 0.0]
    """
    _require_schedule("scale_schedule", schedule)
    return lambda count: factor * schedule(count)


def multiply_schedules(*schedules: optax.Schedule) -> optax.Schedule:
    """Multiplies schedules with each other, count by count.

    Args:
      *schedules: functions of the count, at least one.

    Returns:
      The product, a function of the count.

    Raises:
      ValueError: if none is given, or one is not a function of the count.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> line = optax.linear_schedule(1.0, 0.0, 4)
      >>> square = schedules.multiply_schedules(line, line)
      >>> [float(square(count)) for count in range(5)]
      [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    if not schedules:
        raise ValueError("multiply_schedules: schedules must hold at least one, got none.")
    for schedule in schedules:
        _require_schedule("multiply_schedules", schedule)
    return lambda count: math.prod(schedule(count) for schedule in schedules)


def with_warmup(
    schedule: optax.Schedule, warmup_steps: int, init_value: jax.typing.ArrayLike = 0.0
) -> optax.Schedule:
    """Puts a linear warm-up before a schedule, which then begins at its own count 0.

    Args:
      schedule: a function of the count; the warm-up rises to ``schedule(0)``.
      warmup_steps: length of the warm-up, a Python integer; 0 returns ``schedule`` itself.
      init_value: value at count 0.

    Returns:
      A function of the count: the line below ``warmup_steps``, and
      ``schedule(count - warmup_steps)`` from there on.

    Raises:
      ValueError: if ``schedule`` is not a function of the count or ``warmup_steps`` is negative.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> schedule = schedules.with_warmup(optax.linear_schedule(1.0, 0.0, 4), warmup_steps=2)
      >>> [float(schedule(count)) for count in range(7)]
      [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
      Goyal et al., `Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour
      <https://arxiv.org/abs/1706.02677>`_, 2017.
    """
    _require_schedule("with_warmup", schedule)
    integer("with_warmup", "warmup_steps", warmup_steps, at_least=0)
    if warmup_steps == 0:
        return schedule

    def rise(count):
        return init_value + (schedule(0) - init_value) * (count * (1.0 / warmup_steps))

    return optax.join_schedules([rise, schedule], [warmup_steps])


@catalogue.register(
    "schedule",
    catalogue.Paper(
        title="MiniCPM: Unveiling the Potential of Small Language Models with Scalable "
        "Training Strategies",
        authors="Hu et al.",
        year=2024,
        arxiv="2404.06395",
    ),
    example={"peak_value": 0.1, "warmup_steps": 10, "stable_steps": 70, "decay_steps": 20},
)
def warmup_stable_decay_schedule(
    peak_value: jax.typing.ArrayLike,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    init_value: jax.typing.ArrayLike = 0.0,
    end_value: jax.typing.ArrayLike = 0.0,
    decay: str = "linear",
) -> optax.Schedule:
    r"""Rises in a line, stays, then decays: a run can be prolonged before its decay begins.

    With :math:`z \in [0, 1]` the part of the decay that has passed, its shape is
    :math:`1 - z` (``"linear"``), :math:`(1 + \cos \pi z) / 2` (``"cosine"``) or
    :math:`1 - \sqrt{z}` (``"sqrt"``), between ``peak_value`` and ``end_value``.

    Args:
      peak_value: the value at ``count = warmup_steps``, and until the decay.
      warmup_steps: updates that lead to it, a Python integer; may be 0.
      stable_steps: updates at the peak, a Python integer; may be 0.
      decay_steps: updates of the decay, a Python integer.
      init_value: value at count 0, if there is a warm-up.
      end_value: value from ``warmup_steps + stable_steps + decay_steps`` on.
      decay: ``"linear"``, ``"cosine"`` or ``"sqrt"``.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if a value is negative, a number of steps is too small, or ``decay`` unknown.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.warmup_stable_decay_schedule(1.0, 2, 3, 4)
      >>> [float(schedule(count)) for count in range(10)]
      [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
      Hu et al., `MiniCPM: Unveiling the Potential of Small Language Models with Scalable
      Training Strategies <https://arxiv.org/abs/2404.06395>`_, 2024. Hägele et al., `Scaling
      Laws and Compute-Optimal Training Beyond Fixed Training Durations
      <https://arxiv.org/abs/2405.18392>`_, 2024 (the square-root shape).
    """
    who = "warmup_stable_decay_schedule"
    for name, value in (("peak", peak_value), ("init", init_value), ("end", end_value)):
        learning_rate(who, value, f"{name}_value")
    integer(who, "warmup_steps", warmup_steps, at_least=0)
    integer(who, "stable_steps", stable_steps, at_least=0)
    integer(who, "decay_steps", decay_steps, at_least=1)
    shapes = {
        "linear": lambda z: 1.0 - z,
        "cosine": lambda z: 0.5 * (1.0 + jnp.cos(jnp.pi * z)),
        "sqrt": lambda z: 1.0 - jnp.sqrt(z),
    }
    one_of(who, "decay", decay, shapes)

    def from_peak(count):
        elapsed = jnp.clip(count - stable_steps, 0, decay_steps)
        shape = shapes[decay](elapsed * (1.0 / decay_steps))
        falling = shape * peak_value + (1.0 - shape) * end_value
        # Both ends are selected, since rounding would miss them by a little.
        falling = jnp.where(elapsed == decay_steps, end_value, falling)
        return jnp.where(elapsed == 0, peak_value, falling)

    return with_warmup(from_peak, warmup_steps, init_value)


def epochs(n: float, dataset_size: int, batch_size: int, drop_last: bool = True) -> int:
    """Converts epochs to updates, for arguments such as ``num_steps`` and ``warmup_steps``.

    Args:
      n: number of epochs, whole or not.
      dataset_size: number of training examples.
      batch_size: examples per update.
      drop_last: whether the last, smaller batch of an epoch is left out.

    Returns:
      The number of updates, rounded to the nearest integer if ``n`` is not whole.

    Raises:
      ValueError: if ``n`` is negative, a size is below 1, or an epoch holds no full batch.

    Examples:
      >>> from gradax import schedules
      >>> schedules.epochs(3, dataset_size=1000, batch_size=128)
      21
      >>> schedules.epochs(3, dataset_size=1000, batch_size=128, drop_last=False)
      24
    """
    if not isinstance(n, numbers.Real):
        raise ValueError(f"epochs: n must be a number, got {n!r}.")
    interval("epochs", "n", n, "[0, inf)")
    integer("epochs", "dataset_size", dataset_size, at_least=1)
    integer("epochs", "batch_size", batch_size, at_least=1)
    updates = dataset_size // batch_size if drop_last else -(-dataset_size // batch_size)
    if updates == 0:
        raise ValueError(
            f"epochs: batch_size must not exceed dataset_size = {dataset_size} "
            f"with drop_last=True, got {batch_size}."
        )
    return round(n * updates)


def current_learning_rate(state: Any) -> jax.Array:
    """Reads the learning rate of the last update out of an optimizer state.

    Looks first at ``hyperparams["learning_rate"]``, which ``optax.inject_hyperparams`` keeps,
    then at state fields called ``learning_rate``. A plain ``optax.sgd(schedule)`` keeps only a
    count: wrap it, as in ``optax.inject_hyperparams(optax.sgd)(schedule)``.

    Args:
      state: state of a transformation, however nested.

    Returns:
      The value, a scalar array (with the axes of a stacked state, if there are any).

    Raises:
      KeyError: if no learning rate is found, with the fields that are there; or if several are,
        with their places, so that the state of one member can be passed instead.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import schedules
      >>> tx = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 4))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     _, state = tx.update(params, state)
      >>> float(schedules.current_learning_rate(state))
      0.5
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    named = {tuple(_key_name(key) for key in path): leaf for path, leaf in flat}
    for ending in (("hyperparams", "learning_rate"), ("learning_rate",)):
        found = {
            path: leaf
            for path, leaf in named.items()
            if path[-len(ending) :] == ending and "hyperparams_states" not in path
        }
        if len(found) > 1:
            places = ", ".join(".".join(path) for path in found)
            raise KeyError(f"current_learning_rate: several learning rates, at {places}.")
        if found:
            return next(iter(found.values()))
    fields = sorted({name for path in named for name in path if not name.isdigit()})
    raise KeyError(f"current_learning_rate: no learning_rate in the state, only {fields}.")


def _key_name(key: Any) -> str:
    """Name of one step of a path through a tree: attribute, dictionary key or index."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))


def _require_schedule(who: str, schedule: Any) -> None:
    stateful = isinstance(schedule, optax.schedules.StatefulSchedule)
    if stateful or not callable(schedule):
        kind = "a stateful schedule" if stateful else repr(schedule)
        raise ValueError(f"{who}: schedule must be a function of the count, got {kind}.")
