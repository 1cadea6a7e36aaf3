"""What a simulation has spent, and the refusal to state it where it is not known."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from gradax import _validate

from ..rounds import Algorithm, Cohort
from ._accounting import (
    Accountant,
    Event,
    SamplingKind,
    check_delta,
    composed_epsilon,
    installed,
)
from ._algorithm import PrivateAlgorithm

_WHO = "PrivacyAccount"
#: A cohort that is cut more often than this is not what was drawn.
_RARE = 1e-10


class Spending(NamedTuple):
    """Rounds of one kind.

    Attributes:
      noise_multiplier: standard deviation of the noise over what one unit contributes.
      num_clients: among whom participants were drawn.
      num_rounds: how many there were.
    """

    noise_multiplier: float
    num_clients: int
    num_rounds: int


@dataclasses.dataclass(frozen=True)
class PrivacyAccount:
    """What is claimed about a run; :func:`simulate` reports epsilon or refuses (extra ``privacy``).

    Say what you accounted for when you chose the noise. The simulation compares it with the
    cohort that runs, and adds ``epsilon`` to the rows of the history: what all rounds so far
    reveal of one client (or example, as the algorithm says). Only the parameters are that
    private: losses and counts in the history, the state, and what you evaluate on private data
    are not.

    Args:
      delta: probability with which epsilon may be exceeded; below one over the number of
        clients (or examples).
      sampling_rate: probability of a client to take part in a round; 1 means everybody.
      sampling: ``"poisson"`` for :func:`poisson_cohort`, ``"fixed"`` for a number of clients or
        :func:`uniform_cohort`. With fixed sizes neighbours differ by a replaced client, which
        moves a clipped sum twice as far; that is taken into account.
      accountant: ``"rdp"``; or ``"pld"``, tighter and slow, in the last row of each segment.
      max_epsilon: refuse to begin a run that would spend more.
      spent: by earlier rounds. To go on from ``state=``, pass the ``privacy`` of its result.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> clients = federated.data.padded(np.arange(100.0), np.arange(100)[:, None])
      >>> result = federated.simulate(
      ...     federated.dp_fedavg(0.1, 1.0, 2.0, expected_clients=10, key=0),
      ...     lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
      ...     jnp.array(0.0),
      ...     clients,
      ...     rounds=3,
      ...     cohort=federated.poisson_cohort(100, 0.1),
      ...     privacy=federated.PrivacyAccount(delta=1e-3, sampling_rate=0.1),
      ... )
      >>> [round(epsilon, 3) for epsilon in result.history.column("epsilon")]
      [0.25, 0.302, 0.345]
    """

    delta: float
    sampling_rate: float = 1.0
    sampling: SamplingKind = "poisson"
    accountant: Accountant = "rdp"
    max_epsilon: float | None = None
    spent: tuple[Spending, ...] = ()

    def __post_init__(self) -> None:
        """Checks the numbers."""
        _validate.interval(_WHO, "sampling_rate", self.sampling_rate, "(0, 1]")
        _validate.one_of(_WHO, "sampling", self.sampling, ("poisson", "fixed"))
        _validate.one_of(_WHO, "accountant", self.accountant, ("rdp", "pld"))
        _validate.interval(_WHO, "delta", self.delta, "(0, 1)")
        if (self.accountant, self.sampling) == ("pld", "fixed") and self.sampling_rate < 1:
            raise ValueError(f"{_WHO}: accountant must be 'rdp' for sampling='fixed', got 'pld'.")
        _validate.interval(_WHO, "max_epsilon", self.max_epsilon, "(0, inf)")

    @property
    def num_rounds(self) -> int:
        """Number of rounds that were charged."""
        return sum(part.num_rounds for part in self.spent)

    def epsilon(self) -> float:
        """Epsilon of all rounds that were charged."""
        return composed_epsilon(map(self._event, self.spent), self.delta, self.accountant)

    def charged(
        self, noise_multiplier: float, num_clients: int, num_rounds: int = 1
    ) -> "PrivacyAccount":
        """Charges rounds.

        Args:
          noise_multiplier: standard deviation of the noise over one contribution.
          num_clients: among whom participants were drawn.
          num_rounds: number of rounds.

        Returns:
          The account afterwards.
        """
        counts = {part[:2]: part.num_rounds for part in self.spent}
        kind = (noise_multiplier, num_clients)
        counts[kind] = counts.get(kind, 0) + num_rounds
        spent = tuple(Spending(*kind, count) for kind, count in counts.items())
        return dataclasses.replace(self, spent=spent)

    def _event(self, part: Spending) -> tuple[Event, int]:
        # A replaced client takes one contribution away and brings another.
        moved = 2 if self.sampling == "fixed" else 1
        z = part.noise_multiplier / moved
        return Event(self.sampling, self.sampling_rate, z, part.num_clients), part.num_rounds


class Ledger:
    """Charges the rounds of a simulation, after making sure that they are what is claimed.

    Args:
      account: the claim.
      algorithm: what runs.
      cohort: who takes part, or ``None`` for everybody.
      counts: numbers of examples of the clients.
      num_steps: local steps of a round.

    Raises:
      ValueError: if epsilon cannot be stated.
    """

    def __init__(
        self,
        account: PrivacyAccount,
        algorithm: Algorithm,
        cohort: Cohort | None,
        counts: jax.typing.ArrayLike,
        num_steps: int,
    ):
        if not isinstance(account, PrivacyAccount):
            raise TypeError(f"simulate: privacy must be a PrivacyAccount, got {account!r}.")
        if not isinstance(algorithm, PrivateAlgorithm):
            raise ValueError(
                "simulate: privacy= needs an algorithm that says what noise it holds, such as "
                "dp_fedavg or diff2; of a chain put together by hand, or of one of those after "
                "_replace, no epsilon can be stated."
            )
        with installed():  # or say so before the first round
            pass
        self.account, self._algorithm, self._num_steps = account, algorithm, num_steps
        self._num_clients = np.size(counts)
        units = int(np.sum(counts)) if algorithm.unit == "example" else self._num_clients
        check_delta("simulate: privacy", account.delta, units, f"number of {algorithm.unit}s")
        _check_sampling(account, algorithm, cohort, self._num_clients)
        if not self._noise(0) > 0:
            raise ValueError(
                "simulate: privacy= with a noise multiplier of 0: without noise there is no "
                "epsilon."
            )

    def begin(self, made: int, rounds: int) -> None:
        """Makes sure that all rounds so far are charged, and that the others may be.

        Args:
          made: rounds of the state to go on from.
          rounds: planned in total.

        Raises:
          ValueError: if the account is not of this state, or would be overdrawn.
        """
        if self.account.num_rounds != made:
            raise ValueError(
                f"simulate: privacy= accounts for {self.account.num_rounds} rounds, but the state "
                f"has made {made}: pass the privacy of the result that it comes from."
            )
        limit = self.account.max_epsilon
        if limit is None:
            return
        planned = self.account
        for number in range(made, rounds):
            planned = planned.charged(self._noise(number), self._num_clients)
        if planned.epsilon() > limit * (1 + 1e-9):  # calibrate_noise meets it to rounding
            raise ValueError(
                f"simulate: {rounds} rounds spend epsilon = {planned.epsilon():.4g}, more than "
                f"max_epsilon={limit}: take fewer rounds or more noise (calibrate_noise)."
            )

    def charge(self, made: int, rows: list[dict[str, Any]]) -> None:
        """Charges the rounds up to ``made`` and writes epsilon into their rows.

        Args:
          made: number of rounds made.
          rows: of the history; the last ones belong to the rounds that are charged.
        """
        each = self.account.accountant == "rdp"
        for number in range(self.account.num_rounds, made):
            self.account = self.account.charged(self._noise(number), self._num_clients)
            if each or number + 1 == made:
                rows[number - made]["epsilon"] = self.account.epsilon()

    def catch_up(self, made: int) -> None:
        """Charges rounds whose rows hold epsilon already, those of a checkpoint."""
        for number in range(self.account.num_rounds, made):
            self.account = self.account.charged(self._noise(number), self._num_clients)

    def _noise(self, number: int) -> float:
        return float(self._algorithm.noise_multiplier(number, self._num_steps))


def _check_sampling(account, algorithm, cohort, num_clients) -> None:
    """Raises unless the cohort draws as the account says."""
    claimed = account.sampling, account.sampling_rate
    ran = ("everybody", 1.0)
    if cohort is not None:
        drawn = cohort.sampling
        if drawn is None or drawn.draw is not cohort.draw:
            raise ValueError(
                "simulate: privacy= can account for poisson_cohort, uniform_cohort (or a number "
                "of clients) and everybody; of the sampling of this cohort nothing is known, and "
                "one that depends on the data protects nobody."
            )
        ran = drawn.kind, drawn.rate
    same_kind = ran[0] in ("everybody", claimed[0]) or ran[1] == claimed[1] == 1
    if not (same_kind and math.isclose(ran[1], claimed[1], rel_tol=1e-9)):
        raise ValueError(
            f"simulate: the sampling that runs is not the one that was accounted for: {ran[0]} at "
            f"rate {ran[1]:.6g} there, {claimed[0]} at rate {claimed[1]:.6g} in privacy=."
        )
    if algorithm.unit == "example" and ran[1] != 1:
        raise ValueError(
            "simulate: privacy= of an algorithm that hides examples needs everybody in every "
            f"round, got a cohort at rate {ran[1]:.6g}."
        )
    if ran[0] == "poisson" and cohort.size < num_clients:
        from scipy import stats  # slow to import

        if stats.binom.sf(cohort.size, num_clients, ran[1]) > _RARE:
            raise ValueError(
                f"simulate: privacy= with a poisson_cohort of max_size={cohort.size}, which cuts "
                "draws too often: what remains is no Poisson sampling. Leave max_size out."
            )
    surely = {"everybody": num_clients, "fixed": cohort and cohort.size}.get(ran[0], 0)
    if surely < algorithm.min_clients:
        raise ValueError(
            f"simulate: privacy= needs at least min_clients={algorithm.min_clients} participants "
            f"in every round for the noise to be what is claimed, got {surely} for sure."
        )
