"""Who takes part in a round.

A cohort is a list of client numbers of fixed length; the number ``num_clients`` means nobody.
One rule covers sampling, dropouts, padding of the last chunk and lists of events.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradax import _validate


class Draw(NamedTuple):
    """The cohort of one round.

    Attributes:
      ids: ``int32[size]``, clients; ``num_clients`` means nobody.
      lane: extras for each lane, leaves ``[size, ...]`` (such as ``weight``).
      shared: extras for all, never batched.
      num_cut: ``int32[]``, drawn clients that were left out: for want of room, or because they
        failed or were late.
      num_scored: ``int32[]``, clients that received the parameters and reported their loss.
    """

    ids: jax.Array
    lane: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)
    shared: dict[str, Any] = {}  # noqa: RUF012
    num_cut: jax.Array | int = 0
    num_scored: jax.Array | int = 0


class Sampling(NamedTuple):
    """What is known of how a rule draws, for the accounting of privacy.

    Attributes:
      kind: ``"poisson"``, everybody independently, or ``"fixed"``, sets of one size, all
        equally likely.
      rate: probability of a client to take part.
      draw: the rule of which this is known; a cohort with another one is a different cohort.
    """

    kind: Literal["poisson", "fixed"]
    rate: float
    draw: Callable[..., Any]


class Cohort(NamedTuple):
    """A rule that draws the participants of each round.

    Attributes:
      size: number of lanes of a draw.
      num_clients: number of clients it draws from.
      init: ``init() -> state``, a pytree that is saved with the run.
      draw: ``draw(state, key, round) -> (Draw, state)``, pure.
      uses_losses: whether ``draw`` takes the keyword ``losses_fn`` too: a function without
        arguments that returns ``float[num_clients]``, the mean loss of every client's examples
        under the common parameters. It costs a pass over all data where it is called.
      sampling: what an accountant may assume about ``draw``, or ``None``.
    """

    size: int
    num_clients: int
    init: Callable[[], Any]
    draw: Callable[..., tuple[Draw, Any]]
    uses_losses: bool = False
    sampling: Sampling | None = None


def _stateless(size, num_clients, ids_of) -> Cohort:
    def draw(state, key, round):
        del round
        return Draw(ids_of(key).astype(jnp.int32)), state

    return Cohort(size, num_clients, lambda: (), draw)


def _check_size(who: str, num_clients: int, size: int) -> None:
    _validate.integer(who, "num_clients", num_clients, at_least=1)
    _validate.integer(who, "size", size, at_least=1)
    if size > num_clients:
        raise ValueError(
            f"{who}: size must not exceed the number of clients, {num_clients}, got {size}."
        )


def _few_of_many(key: jax.Array, num_clients: int, size: int) -> jax.Array:
    """Draws different clients by drawing again whoever was drawn before.

    Which places are drawn again depends on where numbers agree, not on the numbers. So the
    outcome would be as likely with the clients renamed: all ordered draws are equally likely.
    """
    places = jnp.arange(size, dtype=jnp.int32)

    def repeated(ids):
        ordered, place = lax.sort((ids, places), num_keys=2)
        again = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] == ordered[:-1]])
        return jnp.zeros(size, bool).at[place].set(again, unique_indices=True)

    def draw_again(carry):
        key, ids, missing = carry
        key, this = jax.random.split(key)
        fresh = jax.random.randint(this, (size,), 0, num_clients, jnp.int32)
        ids = jnp.where(missing, fresh, ids)
        return key, ids, repeated(ids)

    start = key, places, jnp.ones(size, bool)
    return lax.while_loop(lambda carry: jnp.any(carry[2]), draw_again, start)[1]


def uniform_cohort(num_clients: int, size: int) -> Cohort:
    """Draws ``size`` different clients, each set equally likely.

    A small cohort of more than a thousand clients is drawn in time that depends on its size
    alone.

    Args:
      num_clients: number of clients.
      size: participants per round.

    Returns:
      The rule.

    Raises:
      ValueError: if ``size`` exceeds ``num_clients``.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.uniform_cohort(num_clients=5, size=5)
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> sorted(draw.ids.tolist())
      [0, 1, 2, 3, 4]
    """
    _check_size("uniform_cohort", num_clients, size)
    # Shuffling all clients is quick for few, and where most of them are drawn.
    if num_clients <= 1000 or 4 * size > num_clients:
        ids_of = lambda key: jax.random.choice(key, num_clients, (size,), replace=False)
    else:
        ids_of = lambda key: _few_of_many(key, num_clients, size)
    cohort = _stateless(size, num_clients, ids_of)
    return cohort._replace(sampling=Sampling("fixed", size / num_clients, cohort.draw))


def weighted_cohort(num_clients: int, size: int, weights: np.ndarray) -> Cohort:
    """Draws ``size`` different clients one after the other, with probabilities by weight.

    Args:
      num_clients: number of clients.
      size: participants per round.
      weights: ``[num_clients]``, not negative, at least ``size`` of them positive.

    Returns:
      The rule.

    Raises:
      ValueError: if sizes do not fit or the weights are no weights.

    Examples:
      >>> import jax, numpy as np
      >>> from gradax import federated
      >>> cohort = federated.weighted_cohort(3, 2, np.array([1.0, 0.0, 1.0]))
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> sorted(draw.ids.tolist())
      [0, 2]
    """
    _check_size("weighted_cohort", num_clients, size)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (num_clients,):
        raise ValueError(
            f"weighted_cohort: weights must have shape ({num_clients},), got {weights.shape}."
        )
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or np.sum(weights > 0) < size:
        raise ValueError(
            "weighted_cohort: weights must be finite and not negative, with at least "
            f"size={size} of them positive, got {weights}."
        )
    probabilities = jnp.asarray(weights / weights.sum(), jnp.float32)
    ids_of = lambda key: jax.random.choice(
        key, num_clients, (size,), replace=False, p=probabilities
    )
    return _stateless(size, num_clients, ids_of)


def poisson_size(num_clients: int, rate: float) -> int:
    """How many lanes a draw needs so that it is cut with probability below 1e-12.

    Args:
      num_clients: number of clients.
      rate: probability of each to take part.

    Returns:
      The number of lanes.
    """
    from scipy import stats  # slow to import, and needed only here

    return min(num_clients, int(stats.binom.isf(1e-12, num_clients, rate)) + 1)


def poisson_cohort(num_clients: int, rate: float, max_size: int | None = None) -> Cohort:
    r"""Lets every client take part with probability ``rate``, independently of the others.

    The number of participants is binomial; the draw is padded to ``max_size`` lanes. A draw
    that is larger is cut to the clients with the smallest numbers, and says so in ``num_cut``;
    by default a draw is cut with probability below :math:`10^{-12}`.

    Args:
      num_clients: number of clients.
      rate: probability :math:`q` to take part, in ``(0, 1]``.
      max_size: lanes of a draw.

    Returns:
      The rule.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.poisson_cohort(num_clients=1000, rate=0.01)
      >>> cohort.size < 50
      True
    """
    _validate.integer("poisson_cohort", "num_clients", num_clients, at_least=1)
    _validate.interval("poisson_cohort", "rate", rate, "(0, 1]")
    if max_size is None:
        max_size = poisson_size(num_clients, rate)
    _check_size("poisson_cohort", num_clients, max_size)

    def draw(state, key, round):
        del round
        taking_part = jax.random.bernoulli(key, rate, (num_clients,))
        (ids,) = jnp.nonzero(taking_part, size=max_size, fill_value=num_clients)
        cut = jnp.maximum(jnp.sum(taking_part) - max_size, 0).astype(jnp.int32)
        return Draw(ids.astype(jnp.int32), num_cut=cut), state

    sampling = Sampling("poisson", rate, draw)
    return Cohort(max_size, num_clients, lambda: (), draw, sampling=sampling)


def scheduled_cohort(
    num_clients: int,
    ids: np.ndarray,
    lane: Mapping[str, np.ndarray] | None = None,
    shared: Mapping[str, np.ndarray] | None = None,
) -> Cohort:
    """Plays back a list of cohorts that was made beforehand.

    Args:
      num_clients: number of clients.
      ids: ``[rounds, size]``; ``num_clients`` means nobody. Rounds beyond the list start it
        again.
      lane: extras for each lane, leaves ``[rounds, size, ...]``.
      shared: extras for all, leaves ``[rounds, ...]``.

    Returns:
      The rule.

    Raises:
      ValueError: if a number is out of range or lengths differ.

    Examples:
      >>> import jax, numpy as np
      >>> from gradax import federated
      >>> cohort = federated.scheduled_cohort(4, np.array([[0, 1], [2, 4]]))
      >>> cohort.draw(cohort.init(), jax.random.key(0), 1)[0].ids.tolist()
      [2, 4]
    """
    _validate.integer("scheduled_cohort", "num_clients", num_clients, at_least=1)
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"scheduled_cohort: ids must be integers [rounds, size], got {ids.dtype}{ids.shape}."
        )
    if ids.min() < 0 or ids.max() > num_clients:
        raise ValueError(
            f"scheduled_cohort: ids must lie in [0, {num_clients}] ({num_clients} means "
            f"nobody), got {ids.min()} to {ids.max()}."
        )
    for row in ids:
        present = row[row < num_clients]
        if len(np.unique(present)) != len(present):
            raise ValueError(f"scheduled_cohort: a client occurs twice in the round {row}.")
    lane, shared = dict(lane or {}), dict(shared or {})
    for name, leaf in {**lane, **shared}.items():
        if len(leaf) != len(ids):
            raise ValueError(
                f"scheduled_cohort: {name} must have {len(ids)} rounds, got {len(leaf)}."
            )
    for name, leaf in lane.items():
        if np.shape(leaf)[:2] != ids.shape:
            raise ValueError(
                f"scheduled_cohort: {name} must have shape [{ids.shape[0]}, {ids.shape[1]}, ...], "
                f"got {np.shape(leaf)}."
            )

    def draw(state, key, round):
        del key
        at = lambda table: jnp.asarray(table)[round % len(ids)]
        pick = lambda extras: {name: at(table) for name, table in extras.items()}
        return Draw(at(ids.astype(np.int32)), pick(lane), pick(shared)), state

    return Cohort(ids.shape[1], num_clients, lambda: (), draw)
