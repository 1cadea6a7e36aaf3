"""Gradients of every size, low precision, and whether it gets anywhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax.testing._compare import expect, finite
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, PARTICIPANTS, Subject

#: Most steps that a convergence run may take.
MAX_STEPS = 30_000

#: How near the minimum a run has to end, relative and absolute.
TOLERANCE = 3e-2

_SEGMENT = 50


class Problem(NamedTuple):
    """A function with a known minimum.

    Attributes:
      loss: the function.
      start: where a run begins.
      goal: where the minimum lies.
    """

    loss: Callable[[Any], jax.Array]
    start: Any
    goal: Any


def _squares(goal: Any) -> Callable[[Any], jax.Array]:
    def loss(params):
        square = lambda leaf, end: jnp.sum((leaf - end.astype(leaf.dtype)) ** 2)
        return sum(jax.tree.leaves(jax.tree.map(square, params, goal)))

    return loss


def _rosenbrock(params: jax.Array) -> jax.Array:
    return (1 - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2


def _parabola(goal: Any, start: Any) -> Problem:
    tree = lambda lists: jax.tree.map(
        lambda leaf: jnp.array(leaf, jnp.float32), lists, is_leaf=lambda x: isinstance(x, list)
    )
    return Problem(_squares(tree(goal)), tree(start), tree(goal))


def _walk(subject: Subject, problem: Problem, steps: int) -> list[list[Any]]:
    """Runs at every scale at once; ends early once one lies very near the goal, or all are lost.

    Returns:
      For each scale, the last parameters of each participant.
    """
    move = lambda params, by: jax.tree.map(lambda leaf: leaf - by.astype(leaf.dtype), params)
    run = subject.run(lambda params, weights, offset: problem.loss(move(params, offset)))
    # Searching needs a population that is spread out; everybody else begins at one point.
    searches = subject.room == "population"
    start = subject.lift(problem.start, spread=0.5 if searches else 0.0)
    scales = jnp.array(subject.scales)
    lanes = lambda function: jax.vmap(function) if scales.size > 1 else _unbatched(function)

    def begin(scale):
        del scale
        return start, run.init(start)

    def step(carry, _):
        return lanes(lambda p, s, scale: run.step(p, s, BOWL, scale))(*carry, scales), None

    def unfinished(carry):
        count, (params, _) = carry
        away = lanes(distance)(params)
        return (count < steps) & jnp.all(~(away < near)) & jnp.any(jnp.isfinite(away))

    near = 1e-2 if subject.has_axis else 1e-3

    def distance(params):
        error = lambda leaf, end: jnp.max(jnp.abs(leaf - end) / jnp.maximum(1, jnp.abs(end)))
        return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(error, params, problem.goal))))

    def segment(carry):
        count, state = carry
        return count + _SEGMENT, jax.lax.scan(step, state, length=_SEGMENT)[0]

    go = lambda: jax.lax.while_loop(unfinished, segment, (0, lanes(begin)(scales)))[1][0]
    ends = jax.device_get(jax.jit(go)())
    row = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], tree)
    single = [row(ends, k) for k in range(scales.size)]
    if not subject.has_axis:
        return [[end] for end in single]
    return [[row(end, k) for k in range(PARTICIPANTS)] for end in single]


def _unbatched(function):
    """Like vmap over one row, but keeps branches of lax.cond branches."""

    def lifted(*args):
        outcome = function(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], outcome)

    return lifted


def _converges(subject: Subject, problem: Problem) -> None:
    def arrives(end):
        pairs = zip(jax.tree.leaves(end), jax.tree.leaves(problem.goal), strict=True)
        return all(np.allclose(leaf, goal, TOLERANCE, TOLERANCE) for leaf, goal in pairs)

    ends = _walk(subject, problem, MAX_STEPS)
    expect(
        any(all(arrives(end) for end in participants) for participants in ends),
        f"After {MAX_STEPS} steps at scales {subject.scales} it stands at {ends}, "
        f"the minimum is at {problem.goal}.",
    )


@check()
def converges_parabola(subject: Subject) -> None:
    """A parabola of three variables, to 3e-2 in 30,000 steps at most."""
    _converges(subject, _PARABOLA)


@check()
def converges_matrix_parabola(subject: Subject) -> None:
    """A parabola of a 2x2 matrix, to 3e-2 in 30,000 steps at most."""
    _converges(subject, _parabola([[3.0, -2.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]))


@check()
def converges_mixed_tree(subject: Subject) -> None:
    """A parabola of a vector and a matrix, to 3e-2 in 30,000 steps at most."""
    goal = ([1.0, -1.0, 2.0], [[1.0, 0.0], [-1.0, 1.0]])
    _converges(subject, _parabola(goal, ([0.0, 0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])))


@check()
def converges_rosenbrock(subject: Subject) -> None:
    """Rosenbrock's function from the origin, to 3e-2 in 30,000 steps at most."""
    _converges(subject, Problem(_rosenbrock, jnp.zeros(2), jnp.ones(2)))


_PARABOLA = _parabola([1.0, -1.0, 1.0], [-1.0, 10.0, 1.0])


@check()
def bfloat16_progress(subject: Subject) -> None:
    """200 steps in bfloat16 end no higher than they began."""
    low = _PARABOLA._replace(start=_PARABOLA.start.astype(jnp.bfloat16))
    height = lambda params: float(_PARABOLA.loss(jnp.asarray(params, jnp.float32)))
    highest = lambda participants: np.nan_to_num(max(map(height, participants)), nan=np.inf)
    ends = [highest(participants) for participants in _walk(subject, low, 200)]
    expect(
        min(ends) <= height(low.start),
        f"The loss rose from {height(low.start)} to {min(ends)} in 200 steps.",
    )


def _stays_finite(subject: Subject, slope: float) -> None:
    params, state = subject.compiled.trajectory[0]
    for _ in range(2):
        params, state = subject.compiled.walk(params, state, (0.0, slope))
    finite(f"params after gradients of size {slope:g}", params)


@check()
def zero_gradient(subject: Subject) -> None:
    """Zero gradients give finite updates."""
    _stays_finite(subject, 0.0)


@check()
def tiny_gradient(subject: Subject) -> None:
    """Gradients of size 1e-25 give finite updates."""
    _stays_finite(subject, 1e-25)


@check()
def huge_gradient(subject: Subject) -> None:
    """Gradients of size 1e12 give finite updates."""
    _stays_finite(subject, 1e12)
