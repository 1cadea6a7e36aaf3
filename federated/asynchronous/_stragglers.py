"""Who is late: models of stragglers, and the times that workers take."""

import numpy as np
import numpy.typing as npt

from gradax import _validate

_KINDS = ("markov", "iid", "trace")


def straggler_model(
    kind: str,
    n: int,
    num_rounds: int,
    *,
    enter: float = 0.05,
    leave: float = 0.5,
    probability: float = 0.05,
    trace: npt.ArrayLike | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Draws which workers are slow in which rounds.

    Args:
      kind: ``"markov"``, the Gilbert-Elliott model: each worker becomes slow with the probability
        ``enter`` per round and normal again with ``leave``, and begins as it is in the long run;
        ``"iid"``: slow with ``probability``, whatever was before; ``"trace"``: each worker plays
        a row of ``trace`` from a random place on, and round again.
      n: number of workers.
      num_rounds: number of rounds.
      enter: for ``"markov"``, in [0, 1].
      leave: for ``"markov"``, in (0, 1].
      probability: for ``"iid"``, in [0, 1].
      trace: for ``"trace"``, recorded states ``bool[workers, rounds]``; or recorded times, which
        are played likewise.
      seed: of the draw.

    Returns:
      ``bool[n, num_rounds]``, or the dtype of ``trace``.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> from gradax.federated import coding
      >>> slow = coding.straggler_model("markov", 100, 1000, enter=0.1, leave=0.4)
      >>> slow.shape, round(float(slow.mean()), 1)
      ((100, 1000), 0.2)

    References:
      Krishnan et al., `Sequential Gradient Coding For Straggler Mitigation
      <https://arxiv.org/abs/2211.13802>`_, 2022.
    """
    who = "straggler_model"
    _validate.one_of(who, "kind", kind, _KINDS)
    _validate.integer(who, "n", n, at_least=1)
    _validate.integer(who, "num_rounds", num_rounds, at_least=1)
    _validate.interval(who, "enter", enter, "[0, 1]")
    _validate.interval(who, "leave", leave, "(0, 1]")
    _validate.interval(who, "probability", probability, "[0, 1]")
    rng = np.random.default_rng(seed)
    if kind == "trace":
        return _play(np.asarray([] if trace is None else trace), n, num_rounds, rng)
    draws = rng.random((num_rounds, n))
    if kind == "iid":
        return np.less(draws.T, probability)
    states = [draws[0] < enter / (enter + leave)]
    for draw in draws[1:]:
        states.append(np.where(states[-1], draw >= leave, draw < enter))
    return np.stack(states, axis=1)


def _play(trace, n, num_rounds, rng):
    if trace.ndim != 2 or not trace.size:
        raise ValueError(
            f"straggler_model: trace must have the axes [workers, rounds], got {trace.shape}."
        )
    rows = rng.integers(len(trace), size=(n, 1))
    starts = rng.integers(trace.shape[1], size=(n, 1))
    return trace[rows, (starts + np.arange(num_rounds)) % trace.shape[1]]


def worker_times(
    slow: npt.ArrayLike,
    load: float,
    *,
    overhead: float = 0.2,
    per_load: float = 10.0,
    factor: float = 6.0,
    jitter: float = 0.3,
    seed: int = 0,
) -> np.ndarray:
    r"""Draws the times of the workers, :math:`(o + c\,L)\,U f`.

    Args:
      slow: ``bool[n, rounds]``, of :func:`straggler_model`.
      load: :math:`L`, share of the data on which a worker computes per round.
      overhead: :math:`o \ge 0`, time that does not depend on the load.
      per_load: :math:`c \ge 0`, time for all of the data.
      factor: :math:`f \ge 1`, how much longer a slow worker takes.
      jitter: :math:`U` is uniform on ``[1, 1 + jitter]``.
      seed: of the draw.

    Returns:
      ``float64[n, rounds]``.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import coding
      >>> coding.worker_times(np.array([[False, True]]), 0.1, jitter=0.0).round(2).tolist()
      [[1.2, 7.2]]
    """
    who = "worker_times"
    _validate.interval(who, "load", load, "[0, inf)")
    _validate.interval(who, "overhead", overhead, "[0, inf)")
    _validate.interval(who, "per_load", per_load, "[0, inf)")
    _validate.interval(who, "factor", factor, "[1, inf)")
    _validate.interval(who, "jitter", jitter, "[0, inf)")
    late = np.asarray(slow, bool)
    noise = np.random.default_rng(seed).uniform(1.0, 1.0 + jitter, late.shape)
    return (overhead + per_load * load) * noise * np.where(late, factor, 1.0)
