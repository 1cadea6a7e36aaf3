"""The worst factor of an attack against a rule, found again while a run goes on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen

from . import rules
from ._rows import append_copies, inexact_leaves
from ._stateful import StatefulAttack


class OptimizedState(NamedTuple):
    """State of :func:`optimized`.

    Attributes:
      count: ``int32[]``, number of lies told.
      tau: ``float[]``, the factor found last.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    tau: jax.Array


def search_factor(
    attack: Callable[..., Any],
    rule: Callable[..., Any],
    honest: Any,
    f: int,
    *,
    evals: int = 20,
    start: jax.typing.ArrayLike = 0.0,
    delta: jax.typing.ArrayLike = 10.0,
    ratio: jax.typing.ArrayLike = 0.8,
    both_ways: bool = False,
) -> jax.Array:
    r"""Finds the factor with which an attack moves a rule furthest from the honest mean.

    A line search over :math:`\tau` in ``evals`` evaluations of the damage
    :math:`\|\mathrm{rule}(\text{honest}, f \times \mathrm{attack}_\tau) - \bar m\|`. It steps
    upwards by ``delta``, which doubles as long as the damage grows; after the first failure
    each further step is ``ratio`` times the one before.

    Then it goes on upwards from the best factor, which is the search of ByzFL; or
    ``both_ways``, from the last factor towards the best one and, once there, downwards, which
    with ``evals=16`` and ``delta=1.0`` is that of MoNNA's authors.

    Args:
      attack: ``attack(honest, tau=...)``, such as :func:`a_little_is_enough`.
      rule: ``rule(rows, f)``, such as :func:`gradax.federated.rules.trimmed_mean`.
      honest: pytree with a leading axis of honest participants.
      f: number of attackers, at least 1.
      evals: number of evaluations, the first at ``start``. Static.
      start: first factor, not negative.
      delta: first step.
      ratio: factor of the steps after the first failure, in ``(0, 1)``.
      both_ways: whether factors below the best one are tried, never below zero. Static.

    Returns:
      The best :math:`\tau` found, a float scalar.

    Raises:
      ValueError: if an argument is out of range or there is no honest message.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import attacks, rules
      >>> honest = jnp.array([[0.0], [1.0], [2.0]])
      >>> tau = attacks.search_factor(attacks.inner_product, rules.mean, honest, 1, evals=4)
      >>> float(tau)
      70.0

    References:
      Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
      <https://arxiv.org/abs/2302.01772>`_, 2023.
    """
    _check("search_factor", f, evals, start, delta, ratio)
    centre = rules.mean(honest)

    def damage(tau):
        lie = attack(honest, tau=tau)
        rows = jax.tree.map(lambda leaf, row: append_copies(leaf, row, f), honest, lie)
        difference = jax.tree.map(jnp.subtract, rule(rows, f), centre)
        parts = inexact_leaves(difference)
        return jnp.sqrt(sum(jnp.sum(jnp.abs(widen(part)) ** 2) for part in parts))

    def probe(_, search):
        best, best_damage, last, step, expanding = search
        tau = best + step
        if both_ways:
            inwards = jnp.where(last < best, last + step, _step_down(last, step))
            tau = jnp.where(expanding, tau, inwards)
        value = damage(tau)
        better = value > best_damage
        expanding = expanding & better
        best = jnp.where(better, tau, best)
        best_damage = jnp.where(better, value, best_damage)
        return best, best_damage, tau, step * jnp.where(expanding, 2.0, ratio), expanding

    start = jnp.asarray(start, jnp.result_type(float))
    step = jnp.asarray(delta, start.dtype)
    first = (start, damage(start).astype(start.dtype), start, step, jnp.array(True))
    return jax.lax.fori_loop(1, evals, probe, first)[0]


def optimized(
    attack: Callable[..., Any],
    rule: Callable[..., Any],
    f: int,
    *,
    every: int = 1,
    evals: int = 20,
    start: jax.typing.ArrayLike = 0.0,
    delta: jax.typing.ArrayLike = 10.0,
    ratio: jax.typing.ArrayLike = 0.8,
    both_ways: bool = False,
) -> StatefulAttack:
    """Fits the factor of an attack to the rule in force, again and again during a run.

    The attackers know the rule and all honest messages, and search with
    :func:`search_factor` before they send. A search costs ``evals`` calls of the rule.

    Args:
      attack: :func:`a_little_is_enough`, :func:`inner_product`, or one's own
        ``attack(honest, tau=...)``.
      rule: ``rule(rows, f)``, what the messages will go through:
        ``lambda rows, f: rules.krum(rules.nnm(rows, f), f)`` for a chain of two. Against MoNNA
        it is :func:`gradax.federated.rules.nearest_neighbor_average`, as the first node sees it.
      f: number of attackers, at least 1. Static.
      every: a new search in every so many updates; the factor is kept in between. Static.
      evals: as in :func:`search_factor`.
      start: as in :func:`search_factor`.
      delta: as in :func:`search_factor`.
      ratio: as in :func:`search_factor`.
      both_ways: as in :func:`search_factor`.

    Returns:
      A :class:`StatefulAttack` with the state :class:`OptimizedState`.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import attacks, rules
      >>> honest = jnp.array([[0.0], [1.0], [2.0]])
      >>> attack = attacks.optimized(attacks.inner_product, rules.mean, 1, evals=4)
      >>> vector, state = attack.update(honest, attack.init(honest[0]))
      >>> float(vector[0]), float(state.tau)
      (-70.0, 70.0)
    """
    _check("optimized", f, evals, start, delta, ratio)
    _validate.integer("optimized", "every", every, at_least=1)

    def search(honest):
        return search_factor(
            attack,
            rule,
            honest,
            f,
            evals=evals,
            start=start,
            delta=delta,
            ratio=ratio,
            both_ways=both_ways,
        )

    def init(message):
        del message
        tau = jnp.array(start, jnp.result_type(float))
        return OptimizedState(jnp.zeros([], jnp.int32), tau)

    def update(honest, state):
        due = state.count % every == 0
        tau = jax.lax.cond(due, lambda: search(honest), lambda: state.tau)
        vector = attack(honest, tau=tau)
        return vector, OptimizedState(optax.safe_increment(state.count), tau)

    return StatefulAttack(init, update)


def _check(who, f, evals, start, delta, ratio):
    _validate.integer(who, "f", f, at_least=1)
    _validate.integer(who, "evals", evals, at_least=1)
    _validate.interval(who, "start", start, "[0, inf)")
    _validate.interval(who, "delta", delta, "(0, inf)")
    _validate.interval(who, "ratio", ratio, "(0, 1)")


def _step_down(tau, step):
    """A step down, halved until it does not lead below zero."""
    halvings = jnp.ceil(jnp.log2(step / jnp.where(tau > 0, tau, step)))
    return jnp.where(tau > 0, jnp.maximum(tau - step * 2.0 ** -jnp.maximum(halvings, 0), 0), 0)
