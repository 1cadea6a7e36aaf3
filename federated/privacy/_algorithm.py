"""An algorithm that says how much noise its rounds hold."""

from collections.abc import Callable
from typing import Any, Literal

from ..rounds import Algorithm

#: Whose presence is hidden.
Unit = Literal["client", "example"]


class PrivateAlgorithm(Algorithm):
    """An :class:`Algorithm` together with the noise of its rounds, from which epsilon follows.

    What ``_replace`` returns is a plain algorithm: with another client, aggregate or server
    nothing is promised any more. Give those to the factory instead.

    Args:
      algorithm: the three chains.
      noise_multiplier: ``noise_multiplier(round, num_steps)``, the standard deviation of the
        noise on a round's sum over what one unit contributes to it at most.
      unit: ``"client"`` or ``"example"``: whose presence the noise hides.
      min_clients: participants without whom the noise is smaller than that.

    Examples:
      >>> from gradax import federated
      >>> algorithm = federated.dp_fedavg(0.1, 1.0, 1.1, expected_clients=10, key=0)
      >>> algorithm.noise_multiplier(round=0, num_steps=5)
      1.1
    """

    noise_multiplier: Callable[[int, int], float]
    unit: Unit
    min_clients: int

    def __new__(
        cls,
        algorithm: Algorithm,
        noise_multiplier: Callable[[int, int], float],
        unit: Unit = "client",
        min_clients: int = 0,
    ) -> "PrivateAlgorithm":
        """Adds the promise to the chains."""
        self = super().__new__(cls, *algorithm)
        self.noise_multiplier, self.unit = noise_multiplier, unit
        self.min_clients = min_clients
        return self

    def _replace(self, **changes: Any) -> Algorithm:  # type: ignore[override]
        """Replaces parts, and with them the promise."""
        return Algorithm(*self)._replace(**changes)
