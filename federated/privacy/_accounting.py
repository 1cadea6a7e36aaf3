"""Epsilon of Gaussian noise over many rounds, by the package dp-accounting."""

import contextlib
import functools
import logging
import math
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from gradax import _optional, _validate
from gradax.catalogue import register

from ._papers import DP_SGD

#: How epsilon is computed: by Renyi divergences, or by the distribution of the privacy loss,
#: which is tighter and slower.
Accountant: TypeAlias = Literal["rdp", "pld"]
#: Who takes part: each one independently of the others, or a set of fixed size.
SamplingKind: TypeAlias = Literal["poisson", "fixed"]


class Event(NamedTuple):
    """A round as an accountant sees it.

    Attributes:
      sampling: how participants are drawn.
      rate: probability to take part.
      noise_multiplier: standard deviation of the noise over the sensitivity.
      num_clients: how many there are; needed for fixed-size sampling.
    """

    sampling: SamplingKind
    rate: float
    noise_multiplier: float
    num_clients: int | None


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """dp-accounting, without its remarks on orders that do not converge."""
    package = _optional.load("dp_accounting", "privacy", "accounting for privacy")
    for part in ("pld", "rdp"):
        _optional.load(f"dp_accounting.{part}", "privacy", "accounting for privacy")
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield package
    finally:
        log.disabled = before


def _dp_event(library, event: Event) -> Any:
    gaussian = library.GaussianDpEvent(event.noise_multiplier)
    if event.rate == 1:
        return gaussian
    if event.sampling == "poisson":
        return library.PoissonSampledDpEvent(event.rate, gaussian)
    population = event.num_clients or 0
    size = round(event.rate * population)
    return library.SampledWithoutReplacementDpEvent(population, size, gaussian)


def _relation(library, sampling):
    relations = library.NeighboringRelation
    return relations.REPLACE_ONE if sampling == "fixed" else relations.ADD_OR_REMOVE_ONE


@functools.lru_cache(maxsize=256)
def _renyi(event: Event) -> tuple[np.ndarray, np.ndarray]:
    """Orders, and the divergences of one round."""
    with installed() as library:
        accountant = library.rdp.RdpAccountant(
            neighboring_relation=_relation(library, event.sampling)
        )
        accountant.compose(_dp_event(library, event))
        return accountant.orders, accountant.rdp


def composed_epsilon(
    rounds: Iterable[tuple[Event, int]], delta: float, accountant: Accountant
) -> float:
    """Computes epsilon of several kinds of rounds.

    Args:
      rounds: events, and how often each happened; all with the same sampling.
      delta: probability with which epsilon may be exceeded.
      accountant: ``"rdp"`` or ``"pld"``.

    Returns:
      Epsilon; zero if nothing happened.
    """
    happened = [(event, count) for event, count in rounds if count]
    if not happened:
        return 0.0
    with installed() as library:
        if accountant == "rdp":
            orders = _renyi(happened[0][0])[0]
            total = np.sum([count * _renyi(event)[1] for event, count in happened], axis=0)
            return float(library.rdp.compute_epsilon(orders, total, delta)[0])
        pld = library.pld.PLDAccountant(_relation(library, happened[0][0].sampling))
        for event, count in happened:
            pld.compose(_dp_event(library, event), count)
        return float(pld.get_epsilon(delta))


def check_accounting(
    who: str,
    sampling_rate: float,
    delta: float,
    accountant: Accountant,
    sampling: SamplingKind,
    num_clients: int | None,
) -> None:
    """Raises unless an epsilon can be stated for these arguments.

    Args:
      who: public name of the function.
      sampling_rate: probability to take part.
      delta: of the guarantee.
      accountant: how epsilon is computed.
      sampling: how participants are drawn.
      num_clients: how many there are, if it is known.

    Raises:
      ValueError: naming the argument.
    """
    _validate.interval(who, "sampling_rate", sampling_rate, "(0, 1]")
    _validate.interval(who, "delta", delta, "(0, 1)")
    _validate.one_of(who, "accountant", accountant, ("rdp", "pld"))
    _validate.one_of(who, "sampling", sampling, ("poisson", "fixed"))
    if num_clients is not None:
        _validate.integer(who, "num_clients", num_clients, at_least=1)
        check_delta(who, delta, num_clients)
    if sampling == "poisson" or sampling_rate == 1:
        return
    if accountant == "pld":
        raise ValueError(f"{who}: accountant must be 'rdp' for sampling='fixed', got 'pld'.")
    if num_clients is None:
        raise ValueError(f"{who}: num_clients must be given for sampling='fixed'.")
    size = sampling_rate * num_clients
    if not math.isclose(size, round(size), rel_tol=1e-6) or round(size) < 1:
        raise ValueError(
            f"{who}: sampling_rate times num_clients must be a whole number for "
            f"sampling='fixed', got {size}."
        )


def check_delta(who: str, delta: float, units: int, what: str = "num_clients") -> None:
    """Raises unless delta is smaller than one over the number of those it protects."""
    if delta * units >= 1:
        raise ValueError(
            f"{who}: delta must be below 1 / {what} = {1 / units:.3g}, got {delta}: publishing "
            "the data of one of them, picked at random, would satisfy it."
        )


@register(
    "function",
    DP_SGD,
    example={"sampling_rate": 0.01, "noise_multiplier": 1.1, "num_rounds": 1000, "delta": 1e-5},
)
def dp_epsilon(
    sampling_rate: float,
    noise_multiplier: float,
    num_rounds: int,
    delta: float,
    accountant: Accountant = "rdp",
    *,
    sampling: SamplingKind = "poisson",
    num_clients: int | None = None,
) -> float:
    """Computes what a number of rounds with Gaussian noise reveal at most (extra ``privacy``).

    For DP-FedAvg a round is one event, however many local steps it has; for DP-SGD a step is.
    On the host, by the package dp-accounting.

    Args:
      sampling_rate: probability to take part in a round, in ``(0, 1]``; 1 means everybody.
      noise_multiplier: standard deviation of the noise on the sum over its **sensitivity**, how
        far one neighbour can move it. Poisson: neighbours have one client more or less, which
        moves a sum of vectors clipped to C by C. Fixed size: a client is replaced, which
        moves it by 2 C, so that noise of ``z * C`` has the multiplier ``z / 2``.
      num_rounds: number of rounds.
      delta: probability with which epsilon may be exceeded.
      accountant: ``"rdp"``; or ``"pld"``, tighter, some tenths of a second.
      sampling: ``"poisson"``, everybody independently; or ``"fixed"``, sets of
        ``sampling_rate * num_clients``.
      num_clients: how many there are; needed for fixed sizes, and to check ``delta``.

    Returns:
      Epsilon.

    Raises:
      ValueError: if a number is out of range; if ``noise_multiplier`` is zero, since without
        noise there is no epsilon; if ``delta`` is ``1 / num_clients`` or more.
      ImportError: without the extra ``privacy``.

    Examples:
      >>> from gradax import federated
      >>> round(federated.dp_epsilon(0.01, 1.1, 1000, 1e-5), 4)
      1.7118

    References:
      Abadi et al., `Deep Learning with Differential Privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.
    """
    who = "dp_epsilon"
    check_accounting(who, sampling_rate, delta, accountant, sampling, num_clients)
    _validate.interval(who, "noise_multiplier", noise_multiplier, "(0, inf)")
    _validate.integer(who, "num_rounds", num_rounds, at_least=0)
    event = Event(sampling, float(sampling_rate), float(noise_multiplier), num_clients)
    return composed_epsilon([(event, num_rounds)], delta, accountant)


@register(
    "function",
    DP_SGD,
    example={"target_epsilon": 1.0, "sampling_rate": 0.01, "num_rounds": 1000, "delta": 1e-5},
)
def calibrate_noise(
    target_epsilon: float,
    sampling_rate: float,
    num_rounds: int,
    delta: float,
    accountant: Accountant = "rdp",
    *,
    sampling: SamplingKind = "poisson",
    num_clients: int | None = None,
) -> float:
    """Finds the least noise with which rounds stay within an epsilon (extra ``privacy``).

    Args:
      target_epsilon: what may be spent, a positive number.
      sampling_rate: as in :func:`dp_epsilon`.
      num_rounds: number of rounds, at least one.
      delta: as in :func:`dp_epsilon`.
      accountant: as in :func:`dp_epsilon`.
      sampling: as in :func:`dp_epsilon`.
      num_clients: as in :func:`dp_epsilon`.

    Returns:
      The noise multiplier, as :func:`dp_epsilon` counts it, to a millionth; epsilon is the
      target at most.

    Raises:
      ValueError: as :func:`dp_epsilon`, or if the target needs a noise multiplier above a
        million.
      ImportError: without the extra ``privacy``.

    Examples:
      >>> from gradax import federated
      >>> round(federated.calibrate_noise(1.0, 0.01, 1000, 1e-5), 4)
      1.5131

    References:
      Abadi et al., `Deep Learning with Differential Privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.
    """
    who = "calibrate_noise"
    check_accounting(who, sampling_rate, delta, accountant, sampling, num_clients)
    _validate.interval(who, "target_epsilon", target_epsilon, "(0, inf)")
    _validate.integer(who, "num_rounds", num_rounds, at_least=1)

    def event_of(noise_multiplier):
        return Event(sampling, float(sampling_rate), float(noise_multiplier), num_clients)

    def enough(noise_multiplier):
        rounds = [(event_of(noise_multiplier), num_rounds)]
        return composed_epsilon(rounds, delta, accountant) <= target_epsilon

    low, high = 0.5, 1.0
    while not enough(high) and high < 1e6:
        low, high = high, 2 * high
    if high >= 1e6:
        raise ValueError(
            f"{who}: target_epsilon={target_epsilon} needs a noise multiplier above a million."
        )
    while enough(low):
        low, high = low / 2, low
    with installed() as library:
        kind = library.rdp.RdpAccountant if accountant == "rdp" else library.pld.PLDAccountant
        return library.calibrate_dp_mechanism(
            lambda: kind(neighboring_relation=_relation(library, sampling)),
            lambda z: library.SelfComposedDpEvent(_dp_event(library, event_of(z)), num_rounds),
            target_epsilon,
            delta,
            library.ExplicitBracketInterval(low, high),
        )
