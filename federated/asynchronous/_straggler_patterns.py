"""Which workers may be late when: the models for which sequential codes are made."""

import functools

import numpy as np
import numpy.typing as npt

from gradax import _validate


def check_model(who: str, n: int, B: int, W: int, lam: int) -> None:
    """Raises unless ``1 <= B < W`` and ``0 <= lam <= n``."""
    _validate.integer(who, "n", n, at_least=1)
    _validate.integer(who, "B", B, at_least=1)
    _validate.integer(who, "W", W, at_least=2)
    _validate.integer(who, "lam", lam, at_least=0)
    if W <= B:
        raise ValueError(f"{who}: W must be above B = {B}, got {W}.")
    if lam > n:
        raise ValueError(f"{who}: lam must be at most n = {n}, got {lam}.")


def conforms(stragglers: npt.ArrayLike, B: int, W: int, lam: int) -> bool:
    """Tells whether a pattern keeps to the bursty straggler model ``(B, W, lam)``.

    In every window of ``W`` consecutive rounds at most ``lam`` different workers are late, and
    the first and the last late round of each of them lie at most ``B - 1`` apart.

    Args:
      stragglers: ``bool[n, rounds]``.
      B: as above.
      W: as above.
      lam: as above.

    Returns:
      Whether it does.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import coding
      >>> late = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool)
      >>> coding.conforms(late, B=1, W=3, lam=1), coding.conforms(late, B=1, W=4, lam=1)
      (True, False)
    """
    rounds = list(np.asarray(stragglers, bool).T)
    return all(conforms_next(rounds[:r], late, B, W, lam) for r, late in enumerate(rounds))


def conforms_next(earlier: list[np.ndarray], late: np.ndarray, B: int, W: int, lam: int) -> bool:
    """The model's conditions on one round, given the rounds before."""
    window = earlier[max(0, len(earlier) - W + 1) :]
    union = functools.reduce(np.logical_or, window, late)
    # Further back than B - 1 rounds, within the window, nobody may have been late who is now.
    old = window[: max(0, len(window) - B + 1)]
    again = functools.reduce(np.logical_or, old, np.zeros_like(late)) & late
    return bool(union.sum() <= lam and not again.any())


def conforms_arbitrary(stragglers: npt.ArrayLike, N: int, W: int, lam: int) -> bool:
    """Tells whether a pattern keeps to the arbitrary straggler model ``(N, W, lam)``.

    In every window of ``W`` consecutive rounds at most ``lam`` different workers are late, each
    at most ``N`` times. :class:`MSGC` with ``B`` and ``W`` decodes all patterns of the model
    ``(B, W + B - 1, lam)``, too.

    Args:
      stragglers: ``bool[n, rounds]``.
      N: as above.
      W: as above.
      lam: as above.

    Returns:
      Whether it does.
    """
    late = np.asarray(stragglers, bool)
    windows = [late[:, r : r + W] for r in range(max(1, late.shape[1] - W + 1))]
    return all(
        window.any(axis=1).sum() <= lam and window.sum(axis=1).max(initial=0) <= N
        for window in windows
    )
