"""Clients that come and go: turns, chances of their own, hours of the day, and dropouts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from gradax import _validate
from gradax.catalogue import Paper, register

from ._cohort import Cohort, Draw, _check_size, poisson_size


@register(
    "function",
    Paper(
        "On the Convergence of Federated Averaging with Cyclic Client Participation",
        "Cho et al.",
        2023,
        "2302.03109",
    ),
    example={"num_clients": 8, "size": 2},
)
def cyclic_cohort(num_clients: int, size: int, groups: npt.ArrayLike | None = None) -> Cohort:
    """Lets groups of clients take turns; of a group, ``size`` members are drawn uniformly.

    Args:
      num_clients: number of clients.
      size: participants per round; all of a group that has fewer.
      groups: ``int[num_clients]``, the group of each client, 0 to the number of groups less
        one; by default blocks of ``size`` neighbours, so that everybody has a turn before
        anybody has a second one.

    Returns:
      The rule. In round ``t`` it is the turn of group ``t`` modulo the number of groups.

    Raises:
      ValueError: if ``size`` exceeds ``num_clients``, or a group is empty.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.cyclic_cohort(num_clients=5, size=2)
      >>> [cohort.draw((), jax.random.key(0), t)[0].ids.tolist() for t in range(4)]
      [[0, 1], [2, 3], [4, 5], [0, 1]]

    References:
      Cho et al., `On the Convergence of Federated Averaging with Cyclic Client Participation
      <https://arxiv.org/abs/2302.03109>`_, 2023.
    """
    _check_size("cyclic_cohort", num_clients, size)
    group = np.arange(num_clients) // size if groups is None else np.asarray(groups)
    if group.shape != (num_clients,) or group.dtype.kind not in "iu":
        raise ValueError(
            f"cyclic_cohort: groups must be {num_clients} integers, got {group.dtype}{group.shape}."
        )
    count = int(group.max()) + 1
    if group.min() < 0 or len(np.unique(group)) != count:
        raise ValueError(
            f"cyclic_cohort: groups must be numbered from 0 without a gap, got {np.unique(group)}."
        )

    def draw(state, key, round):
        here = jnp.asarray(group) == round % count
        return Draw(choose_among(key, here, size)), state

    return Cohort(size, num_clients, lambda: (), draw)


def bernoulli_cohort(num_clients: int, rates: npt.ArrayLike, max_size: int | None = None) -> Cohort:
    """Lets every client take part with a probability of its own, independently of the others.

    With one rate for all it is :func:`poisson_cohort`. A draw of nobody is not repeated: the
    round is empty (see :func:`skip_empty`), and the rates are what they are.

    Args:
      num_clients: number of clients.
      rates: ``[num_clients]``, in ``[0, 1]``, at least one of them positive.
      max_size: lanes of a draw; by default a larger draw has probability below 1e-12. Who finds
        no room counts as ``num_cut``.

    Returns:
      The rule.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.bernoulli_cohort(4, [1.0, 0.0, 0.0, 1.0])
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> [number for number in draw.ids.tolist() if number < 4]
      [0, 3]
    """
    who = "bernoulli_cohort"
    _validate.integer(who, "num_clients", num_clients, at_least=1)
    table = np.asarray(rates, np.float64)
    if table.shape != (num_clients,) or not ((table >= 0) & (table <= 1)).all() or not table.any():
        raise ValueError(
            f"{who}: rates must be {num_clients} numbers in [0, 1], not all zero, got {rates!r}."
        )
    if max_size is None:
        # Of all sums of coins with this mean, the one of equal coins has the heaviest tail.
        max_size = poisson_size(num_clients, float(table.mean()))
    _check_size(who, num_clients, max_size)

    def draw(state, key, round):
        del round
        taking_part = jax.random.bernoulli(key, jnp.asarray(table, jnp.float32))
        (ids,) = jnp.nonzero(taking_part, size=max_size, fill_value=num_clients)
        cut = jnp.maximum(jnp.sum(taking_part, dtype=jnp.int32) - max_size, 0)
        return Draw(ids.astype(jnp.int32), num_cut=cut), state

    return Cohort(max_size, num_clients, lambda: (), draw)


def diurnal_availability(
    num_clients: int,
    period: int = 24,
    *,
    low: float = 0.05,
    high: float = 0.95,
    zones: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    r"""Chances to find clients over a day: high when their devices are idle, at their own hour.

    With client :math:`i` in time zone :math:`z_i` of :math:`Z`, drawn uniformly,

    .. math::
        p_i(t) = l + (h - l)\, \tfrac{1}{2}
            \bigl(1 + \cos 2 \pi (t / T - z_i / Z)\bigr).

    Args:
      num_clients: number of clients.
      period: :math:`T`, rounds of a day.
      low: :math:`l`, the chance at the worst hour, in [0, 1].
      high: :math:`h`, the chance at the best hour, at least ``low``.
      zones: :math:`Z`, as many as rounds of a day by default; with one, all share their hours.
      seed: of the zones.

    Returns:
      ``float64[num_clients, period]``, for :func:`availability_cohort`.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> from gradax import federated
      >>> day = federated.diurnal_availability(1000, period=4, low=0.0, high=1.0, zones=1)
      >>> day[0].round(2).tolist()
      [1.0, 0.5, 0.0, 0.5]
    """
    who = "diurnal_availability"
    for name, value in (("num_clients", num_clients), ("period", period)):
        _validate.integer(who, name, value, at_least=1)
    _validate.interval(who, "low", low, "[0, 1]")
    _validate.interval(who, "high", high, f"[{low}, 1]")
    zones = period if zones is None else zones
    _validate.integer(who, "zones", zones, at_least=1)
    zone = np.random.default_rng(seed).integers(zones, size=(num_clients, 1))
    angle = 2 * np.pi * (np.arange(period) / period - zone / zones)
    return np.clip(low + (high - low) * (1 + np.cos(angle)) / 2, low, high)


def availability_cohort(availability: npt.ArrayLike, size: int) -> Cohort:
    """Draws ``size`` of the clients that can be reached, each set of them equally likely.

    Args:
      availability: ``[clients, rounds]``, a recorded trace of booleans, or chances in [0, 1]
        such as :func:`diurnal_availability` returns; played again from the start at its end.
      size: participants per round; all who can be reached if they are fewer, and perhaps nobody.

    Returns:
      The rule.

    Raises:
      ValueError: if sizes do not fit, or a chance is none.

    Examples:
      >>> import jax, numpy as np
      >>> from gradax import federated
      >>> trace = np.array([[True, False], [True, False], [False, True]])
      >>> cohort = federated.availability_cohort(trace, size=2)
      >>> [cohort.draw((), jax.random.key(0), t)[0].ids.tolist() for t in range(3)]
      [[0, 1], [2, 3], [0, 1]]
    """
    table = np.asarray(availability)
    if table.ndim != 2 or not table.size:
        raise ValueError(
            "availability_cohort: availability must have the axes [clients, rounds], got "
            f"{table.shape}."
        )
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError("availability_cohort: availability must lie in [0, 1].")
    num_clients, rounds = table.shape
    _check_size("availability_cohort", num_clients, size)
    by_round = table.T.astype(bool if table.dtype.kind == "b" else np.float32)

    def draw(state, key, round):
        reach_key, choice_key = jax.random.split(key)
        here = jnp.asarray(by_round)[round % rounds]
        if here.dtype != bool:
            here = jax.random.bernoulli(reach_key, here)
        return Draw(choose_among(choice_key, here, size)), state

    return Cohort(size, num_clients, lambda: (), draw)


def with_dropout(cohort: Cohort, rate: npt.ArrayLike) -> Cohort:
    """Lets clients that were drawn fail before they have sent anything.

    Args:
      cohort: who is drawn.
      rate: probability to fail, one for all or ``[num_clients]``, in ``[0, 1]``.

    Returns:
      The rule, with the state of ``cohort``. Who fails counts as ``num_cut`` and not as active.

    Raises:
      ValueError: if ``rate`` is out of range or has another shape.

    Examples:
      >>> import jax, numpy as np
      >>> from gradax import federated
      >>> everybody = federated.cyclic_cohort(num_clients=3, size=3)
      >>> cohort = federated.with_dropout(everybody, np.array([0.0, 1.0, 0.0]))
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> draw.ids.tolist(), int(draw.num_cut)
      ([0, 3, 2], 1)
    """
    if not isinstance(cohort, Cohort):
        raise ValueError(f"with_dropout: cohort must be a Cohort, got {cohort!r}.")
    nobody = cohort.num_clients
    table = np.asarray(rate, np.float64)
    if table.shape not in ((), (nobody,)) or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(
            f"with_dropout: rate must be one number in [0, 1] or {nobody} of them, got {rate!r}."
        )
    table = np.broadcast_to(table, (nobody,)).astype(np.float32)

    def draw(state, key, round, **given):
        draw_key, own_key = jax.random.split(key)
        drawn, state = cohort.draw(state, draw_key, round, **given)
        chance = jnp.asarray(table).at[drawn.ids].get(mode="clip")
        fails = jax.random.bernoulli(own_key, chance) & (drawn.ids < nobody)
        cut = (drawn.num_cut + jnp.sum(fails)).astype(jnp.int32)
        return drawn._replace(ids=jnp.where(fails, nobody, drawn.ids), num_cut=cut), state

    return cohort._replace(draw=draw, sampling=None)


def choose_among(key: jax.Array, here: jax.Array, size: int) -> jax.Array:
    """Draws different clients of those who are there, each set equally likely.

    Args:
      key: random key.
      here: ``bool[clients]``.
      size: how many.

    Returns:
      ``int32[size]``, ascending; filled up with the number of clients, nobody.
    """
    score = jnp.where(here, jax.random.uniform(key, here.shape), -1.0)
    score, ids = lax.top_k(score, size)
    return jnp.sort(jnp.where(score >= 0, ids, here.shape[0])).astype(jnp.int32)
