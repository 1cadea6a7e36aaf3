"""Several tasks and one model: a task for each step, and a transformation for each task."""

import operator
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _extras, _validate, catalogue
from gradax._keys import as_key
from gradax.schedules._protocols import Sampler

from ._vector import vector

Mode = Literal["random", "round_robin", "shuffled_cycles"]
MODES = ("random", "round_robin", "shuffled_cycles")

PAPER = catalogue.Paper(
    title="Alternating Gradient Descent and Mixture-of-Experts for Integrated Multimodal "
    "Perception",
    authors="Akbari et al.",
    year=2023,
    arxiv="2305.06324",
)


class AlternatingTasksState(NamedTuple):
    """State of :func:`alternating_tasks`.

    Attributes:
      key: typed key; the number of the step, or of the cycle, is folded in at use.
      count: ``int32[]``, number of tasks drawn.
    """

    key: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


@catalogue.register("sampler", PAPER, example={"num_tasks": 3})
def alternating_tasks(
    num_tasks: int, probs: jax.typing.ArrayLike | None = None, mode: Mode = "random"
) -> Sampler:
    r"""Decides which task the coming step trains.

    One task a step needs the memory of one task, and neither padding nor sums of losses that
    have nothing in common. Compile a step for each task, and let all share parameters and
    optimizer state:

    .. code-block:: python

       steps = [gradax.make_step(loss_fn, tx) for loss_fn in loss_fns]
       task, sampler_state = sampler.sample(sampler_state)
       params, opt_state, metrics = steps[int(task)](params, opt_state, batch_of(task))

    On average over the draws this descends :math:`\sum_k p_k \ell_k`. For
    :math:`\sum_k a_k \ell_k` instead, multiply the loss of task :math:`k` by :math:`a_k / p_k`,
    or give :func:`alternate` the transformation ``optax.chain(optax.scale(a / p), tx)`` for it.

    Args:
      num_tasks: number of tasks. Static.
      probs: ``[num_tasks]``, probabilities for ``"random"``; ``None`` for equal ones.
      mode: ``"random"`` draws every step by itself, ``"round_robin"`` takes turns, and
        ``"shuffled_cycles"`` takes every task once in each cycle, in a new order. Static.

    Returns:
      A :class:`Sampler` of ``int32[]``; its state is an :class:`AlternatingTasksState`.

    Raises:
      ValueError: if ``num_tasks`` is below 1, the mode unknown, or the probabilities do not add
        up to one, do not fit the number of tasks, or are given to another mode.

    Examples:
      >>> from gradax import schedules
      >>> sampler = schedules.alternating_tasks(3, mode="shuffled_cycles")
      >>> state, tasks = sampler.init(0), []
      >>> for _ in range(6):
      ...     task, state = sampler.sample(state)
      ...     tasks.append(int(task))
      >>> sorted(tasks[:3]), sorted(tasks[3:])
      ([0, 1, 2], [0, 1, 2])

    References:
      Akbari et al., `Alternating Gradient Descent and Mixture-of-Experts for Integrated
      Multimodal Perception <https://arxiv.org/abs/2305.06324>`_, 2023.
    """
    who = "alternating_tasks"
    _validate.integer(who, "num_tasks", num_tasks, at_least=1)
    _validate.one_of(who, "mode", mode, MODES)
    chances = _checked_probs(who, probs, num_tasks, mode)

    def task_at(key, count):
        if mode == "round_robin":
            return count % num_tasks
        if mode == "shuffled_cycles":
            order = jax.random.permutation(jax.random.fold_in(key, count // num_tasks), num_tasks)
            return order[count % num_tasks]
        return jax.random.choice(jax.random.fold_in(key, count), num_tasks, p=chances)

    def init(key):
        return AlternatingTasksState(as_key(who, key), jnp.zeros([], jnp.int32))

    def sample(state):
        task = task_at(state.key, state.count).astype(jnp.int32)
        return task, state._replace(count=optax.safe_increment(state.count))

    return Sampler(init, sample)


def _checked_probs(who, probs, num_tasks: int, mode: Mode) -> jax.Array | None:
    if probs is None:
        return None
    if mode != "random":
        raise ValueError(f"{who}: probs must be None unless mode='random', got {mode!r}.")
    chances = vector(who, "probs", probs, "[0, 1]", num_tasks)
    if not isinstance(probs, jax.core.Tracer) and abs(np.sum(probs, dtype=float) - 1) > 1e-6:
        raise ValueError(f"{who}: probs must add up to 1, got {probs}.")
    return chances


class AlternateState(NamedTuple):
    """State of :func:`alternate`.

    Attributes:
      count: ``int32[]``, number of updates made.
      inner_states: state of each task's transformation.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    inner_states: tuple[optax.OptState, ...]


@catalogue.register(
    "wrapper",
    PAPER,
    needs=("task",),
    example={"transforms": (optax.scale_by_adam(), optax.trace(0.9))},
)
def alternate(
    transforms: Sequence[optax.GradientTransformation], cycle: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Keeps a transformation for each task, of which only the current one runs.

    The others keep their states bit for bit, counters included. With one Adam for each task,
    for instance, the loss of one does not set the scale of the steps of another. With
    ``cycle=True`` the transformations take turns, as in alternating minimisation over blocks:
    hide the other blocks from each by ``optax.masked`` or set their updates to zero.

    Where the task is known when the update is traced, as in the step of
    :func:`gradax.make_step` for one task, nothing of the other transformations is compiled. A
    loss that returns ``(value, {"task": k})`` tells it.

    Args:
      transforms: one for each task. Static.
      cycle: take turns, one update each, instead of reading ``task``. Static.

    Returns:
      A transformation that needs the extra ``task``, a number below ``len(transforms)`` (for
      another one that is traced, nothing is updated), unless ``cycle``; its state is an
      :class:`AlternateState`. Other extra arguments, and params, are handed on. Updates have the
      dtype of the gradients.

    Raises:
      ValueError: if there is no transformation; in ``update``, if ``task`` is missing, or
        known and out of range.
      TypeError: if a member is no gradient transformation.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import schedules
      >>> tx = schedules.alternate([optax.scale(-1.0), optax.trace(0.5)])
      >>> grads = jnp.array([1.0, 2.0])
      >>> state = tx.init(grads)
      >>> for task in (1, 0, 1):
      ...     updates, state = tx.update(grads, state, task=task)
      ...     print(updates)
      [1. 2.]
      [-1. -2.]
      [1.5 3. ]

    References:
      Akbari et al., `Alternating Gradient Descent and Mixture-of-Experts for Integrated
      Multimodal Perception <https://arxiv.org/abs/2305.06324>`_, 2023.
    """
    transforms = tuple(transforms)
    if not transforms:
        raise ValueError("alternate: transforms must hold at least one, got none.")
    for tx in transforms:
        if not isinstance(tx, optax.GradientTransformation):
            raise TypeError(f"alternate: transforms must be gradient transformations, got {tx!r}.")
    members = [optax.with_extra_args_support(tx) for tx in transforms]

    def chosen(task, count):
        task = count % len(members) if cycle else _extras.require("alternate", "task", task)
        if isinstance(task, jax.core.Tracer):
            return task
        task = operator.index(task)
        if not 0 <= task < len(members):
            raise ValueError(f"alternate: task must lie in [0, {len(members) - 1}], got {task}.")
        return task

    def init_fn(params):
        return AlternateState(jnp.zeros([], jnp.int32), tuple(tx.init(params) for tx in members))

    def update_fn(updates, state, params=None, *, task=None, **extra_args):
        grads, inner_states = updates, list(state.inner_states)

        def run(number, inner_state):
            new, after = members[number].update(grads, inner_state, params, task=task, **extra_args)
            return jax.tree.map(lambda u, g: u.astype(g.dtype), new, grads), after

        now = chosen(task, state.count)
        if isinstance(now, int):
            updates, inner_states[now] = run(now, inner_states[now])
        else:
            updates = jax.tree.map(jnp.zeros_like, grads)
            # One branch for each state: a single switch over all of them would copy them all.
            for number, inner_state in enumerate(inner_states):
                updates, inner_states[number] = jax.lax.cond(
                    now == number,
                    lambda _, own, number=number: run(number, own),
                    lambda updates, own: (updates, own),
                    updates,
                    inner_state,
                )
        count = optax.safe_increment(state.count)
        return updates, AlternateState(count, tuple(inner_states))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
