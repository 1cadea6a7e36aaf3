"""How long clients take: the same laws for schedules made on the host and for clocks in a scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradax import _validate

_KINDS = ("fixed", "exponential", "lognormal", "trace")

#: Durations that differ by less than this share are equal: 3 * 0.2 is 0.6, whatever floats say.
TOLERANCE = 1e-9


class Clock(NamedTuple):
    """How long each client takes for each of its jobs.

    Attributes:
      kind: ``"fixed"``, ``"exponential"``, ``"lognormal"`` or ``"trace"``.
      times: ``float64[clients]``, the time or mean time of each client; of a trace
        ``float64[clients, jobs]``.
      spread: of ``"lognormal"``, the deviation of the logarithm.
    """

    kind: str
    times: np.ndarray
    spread: float = 0.0

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.times)

    @property
    def mean(self) -> np.ndarray:
        """Mean time of each client, ``float64[clients]``."""
        return self.times.mean(axis=1) if self.kind == "trace" else self.times

    def mean_windows(self, window: float) -> np.ndarray:
        """Mean over a client's jobs of the number of windows that a job touches.

        Args:
          window: length of a window.

        Returns:
          ``float64[clients]``, at least one.
        """
        if self.kind == "exponential":
            return -1 / np.expm1(-window / self.times)
        if self.kind == "lognormal":
            return np.array([self._mean_of_lognormal(mean / window) for mean in self.times])
        windows = whole_windows(self.times, window)
        return windows.mean(axis=1) if self.kind == "trace" else windows.astype(np.float64)

    def _mean_of_lognormal(self, mean: float) -> float:
        """Of the rounded-up number: the sum over all k of the chance that it exceeds k."""
        if self.spread == 0:
            return float(whole_windows(np.array(mean), 1.0))
        from scipy import stats  # slow to import, and needed only here

        law = stats.lognorm(self.spread, scale=mean * np.exp(-(self.spread**2) / 2))
        return 1.0 + float(law.sf(np.arange(1, int(law.isf(1e-13)) + 2)).sum())

    def draw(self, rng: np.random.Generator, ids: np.ndarray, jobs: np.ndarray) -> np.ndarray:
        """Durations of jobs, on the host.

        Args:
          rng: source of randomness.
          ids: ``int[k]``, clients.
          jobs: ``int[k]``, how many jobs each has done before.

        Returns:
          ``float64[k]``.
        """
        if self.kind == "trace":
            return self.times[ids, jobs % self.times.shape[1]]
        times = self.times[ids]
        if self.kind == "exponential":
            return times * rng.exponential(size=len(ids))
        if self.kind == "lognormal":
            noise = rng.normal(size=len(ids))
            return times * np.exp(self.spread * noise - self.spread**2 / 2)
        return times

    def sample(self, key: jax.Array, ids: jax.Array, jobs: jax.Array) -> jax.Array:
        """Durations of jobs, within a compiled function.

        A client's draw depends on ``key`` and its number, not on its place in ``ids``.

        Args:
          key: random key.
          ids: ``int32[k]``, clients; numbers beyond the last one get its durations.
          jobs: ``int32[k]``, how many jobs each has done before; only a trace looks at it.

        Returns:
          ``float32[k]``.
        """
        table = jnp.asarray(self.times, jnp.float32)
        if self.kind == "trace":
            return table.at[ids, jobs % table.shape[1]].get(mode="clip")
        times = table.at[ids].get(mode="clip")
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(ids)
        if self.kind == "exponential":
            return times * jax.vmap(lambda own: jax.random.exponential(own, dtype=jnp.float32))(
                keys
            )
        if self.kind == "lognormal":
            noise = jax.vmap(lambda own: jax.random.normal(own, dtype=jnp.float32))(keys)
            return times * jnp.exp(self.spread * noise - self.spread**2 / 2)
        return times


def client_clock(kind: str, times: npt.ArrayLike, *, spread: float = 0.5) -> Clock:
    r"""Describes how long clients take.

    Args:
      kind: ``"fixed"``: client :math:`i` always takes ``times[i]``; ``"exponential"`` or
        ``"lognormal"``: independent draws with these means; ``"trace"``: recorded durations,
        played one after the other and round again.
      times: ``[clients]``, positive; for ``"trace"`` ``[clients, jobs]``.
      spread: of ``"lognormal"``, the deviation :math:`\sigma \ge 0` of the logarithm.

    Returns:
      The clock.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> from gradax import federated
      >>> clock = federated.client_clock("exponential", [1.0, 2.0])
      >>> clock.mean_windows(2.0).round(3).tolist()
      [1.157, 1.582]
    """
    _validate.one_of("client_clock", "kind", kind, _KINDS)
    _validate.interval("client_clock", "spread", spread, "[0, inf)")
    table, axes = np.array(times, np.float64), 2 if kind == "trace" else 1
    if table.ndim != axes or not table.size:
        wanted = "[clients, jobs]" if kind == "trace" else "[clients]"
        raise ValueError(f"client_clock: times must have the axes {wanted}, got {table.shape}.")
    if not (np.isfinite(table) & (table > 0)).all():
        raise ValueError("client_clock: times must be positive and finite.")
    return Clock(kind, table, float(spread) if kind == "lognormal" else 0.0)


def as_clock(times: Clock | npt.ArrayLike) -> Clock:
    """Takes numbers for fixed times.

    Args:
      times: a clock, or ``[clients]``.

    Returns:
      The clock.
    """
    return times if isinstance(times, Clock) else client_clock("fixed", times)


def whole_windows(durations: np.ndarray, window: float) -> np.ndarray:
    """Number of windows that durations touch, at least one, safe against rounding.

    Args:
      durations: any shape.
      window: length of a window.

    Returns:
      ``int64``, the same shape.
    """
    ratio = durations / window
    return np.maximum(np.ceil(ratio * (1 - TOLERANCE)), 1).astype(np.int64)
