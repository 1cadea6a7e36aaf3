"""What dishonest participants send: test tools for robust rules.

An attack sees the honest messages, a pytree ``honest`` whose leaves have a leading axis of
``h`` participants, and returns one tree without that axis: what all attackers send. Attacks
are pure functions; fix their parameters with ``functools.partial`` and put them before an
aggregation with :func:`gradax.federated.inject_attack`.

>>> import jax.numpy as jnp
>>> from gradax.federated import attacks
>>> honest = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
>>> attacks.inner_product(honest, tau=3.0).tolist()
[-3.0, -1.0]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradax import _validate
from gradax._wide import widen

from . import rules
from ._rows import append_copies, count_rows, inexact_leaves, mean_of_rows


def sign_flip(honest: Any) -> Any:
    """Sends minus the mean of the honest messages.

    Args:
      honest: pytree with a leading axis of honest participants.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there is no honest message.
    """
    return jax.tree.map(jnp.negative, rules.mean(honest))


def inner_product(honest: Any, tau: jax.typing.ArrayLike = 2.0) -> Any:
    r"""Sends :math:`-\tau` times the mean of the honest messages ("fall of empires").

    A small :math:`\tau` such as 0.1 hides near the honest messages and still points the wrong
    way.

    Args:
      honest: pytree with a leading axis of honest participants.
      tau: factor :math:`\tau`.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there is no honest message.

    References:
      Xie et al., `Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
      Manipulation <https://arxiv.org/abs/1903.03936>`_, 2019.
    """
    return jax.tree.map(
        lambda leaf: jnp.negative(tau * leaf).astype(leaf.dtype), rules.mean(honest)
    )


def a_little_is_enough(honest: Any, tau: jax.typing.ArrayLike = 1.5) -> Any:
    r"""Sends the mean plus :math:`\tau` standard deviations of every coordinate.

    Args:
      honest: pytree with a leading axis of at least two honest participants.
      tau: factor :math:`\tau` of the sample standard deviation.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there are fewer than two honest messages.

    References:
      Baruch et al., `A Little Is Enough: Circumventing Defenses For Distributed Learning
      <https://arxiv.org/abs/1902.06156>`_, 2019.
    """
    h = count_rows("a_little_is_enough", honest)
    if h < 2:
        raise ValueError(f"a_little_is_enough: honest must hold at least 2 messages, got {h}.")

    def of_leaf(leaf):
        wide = widen(jnp.asarray(leaf))
        mean = mean_of_rows(wide)
        variance = mean_of_rows(jnp.abs(wide - mean) ** 2) * h / (h - 1)
        return (mean + tau * jnp.sqrt(variance)).astype(leaf.dtype)

    return jax.tree.map(of_leaf, honest)


def mimic(honest: Any, k: int = 0) -> Any:
    """Sends a copy of one honest message, to give it more weight than it has.

    Args:
      honest: pytree with a leading axis of ``h`` honest participants.
      k: whom to copy, in ``[0, h)``.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if ``k`` is out of range.

    References:
      Karimireddy et al., `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
      <https://arxiv.org/abs/2006.09365>`_, 2020.
    """
    h = count_rows("mimic", honest)
    _validate.integer("mimic", "k", k, at_least=0)
    if k >= h:
        raise ValueError(f"mimic: k must lie in [0, {h}), got {k}.")
    return jax.tree.map(lambda leaf: leaf[k], honest)


def gaussian(
    honest: Any,
    key: jax.Array,
    mu: jax.typing.ArrayLike = 0.0,
    sigma: jax.typing.ArrayLike = 1.0,
) -> Any:
    r"""Sends noise: independent draws from :math:`N(\mu, \sigma^2)`.

    Args:
      honest: pytree with a leading axis of honest participants; only its shapes count.
      key: JAX key of this draw.
      mu: mean :math:`\mu`.
      sigma: standard deviation :math:`\sigma \ge 0`.

    Returns:
      A tree like one message; integer leaves are zero.

    Raises:
      ValueError: if ``sigma`` is a negative number, or there is no honest message.
    """
    _validate.interval("gaussian", "sigma", sigma, "[0, inf)")
    count_rows("gaussian", honest)
    leaves, structure = jax.tree.flatten(honest)
    keys = jax.random.split(key, max(len(leaves), 1))

    def of_leaf(leaf, leaf_key):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros_like(leaf[0])
        noise = jax.random.normal(leaf_key, leaf.shape[1:], leaf.dtype)
        return (mu + sigma * noise).astype(leaf.dtype)

    noises = [of_leaf(leaf, leaf_key) for leaf, leaf_key in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(structure, noises)


def label_flip_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Turns label ``y`` into ``num_classes - 1 - y``: what attackers train on.

    Args:
      labels: integer labels in ``[0, num_classes)``.
      num_classes: number of classes.

    Returns:
      Labels of the same shape and dtype.

    Raises:
      ValueError: if ``num_classes`` is no integer above 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import attacks
      >>> attacks.label_flip_targets(jnp.array([0, 9, 4]), num_classes=10).tolist()
      [9, 0, 5]
    """
    _validate.integer("label_flip_targets", "num_classes", num_classes, at_least=2)
    return num_classes - 1 - labels


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
) -> jax.Array:
    r"""Finds the factor with which an attack moves a rule furthest from the honest mean.

    A line search over :math:`\tau` in ``evals`` evaluations of the damage
    :math:`\|\mathrm{rule}(\text{honest}, f \times \mathrm{attack}_\tau) - \bar m\|`. It steps
    upwards by ``delta``, which doubles as long as the damage grows; after the first failure
    each further step is ``ratio`` times the one before.

    Args:
      attack: ``attack(honest, tau=...)``, such as :func:`a_little_is_enough`.
      rule: ``rule(rows, f)``, such as :func:`gradax.federated.rules.trimmed_mean`.
      honest: pytree with a leading axis of honest participants.
      f: number of attackers, at least 1.
      evals: number of evaluations, the first at ``start``.
      start: first factor.
      delta: first step.
      ratio: factor of the steps after the first failure, in ``(0, 1)``.

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
    """
    _validate.integer("search_factor", "f", f, at_least=1)
    _validate.integer("search_factor", "evals", evals, at_least=1)
    _validate.interval("search_factor", "ratio", ratio, "(0, 1)")
    _validate.interval("search_factor", "delta", delta, "(0, inf)")
    centre = rules.mean(honest)

    def damage(tau):
        lie = attack(honest, tau=tau)
        rows = jax.tree.map(lambda leaf, row: append_copies(leaf, row, f), honest, lie)
        difference = jax.tree.map(jnp.subtract, rule(rows, f), centre)
        parts = inexact_leaves(difference)
        return jnp.sqrt(sum(jnp.sum(jnp.abs(widen(part)) ** 2) for part in parts))

    def probe(_, search):
        best, best_damage, step, expanding = search
        value = damage(best + step)
        better = value > best_damage
        expanding = expanding & better
        best = jnp.where(better, best + step, best)
        best_damage = jnp.where(better, value, best_damage)
        return best, best_damage, step * jnp.where(expanding, 2.0, ratio), expanding

    start = jnp.asarray(start, jnp.result_type(float))
    step = jnp.asarray(delta, start.dtype)
    first = (start, damage(start).astype(start.dtype), step, jnp.array(True))
    return jax.lax.fori_loop(1, evals, probe, first)[0]
