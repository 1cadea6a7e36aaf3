"""Rates that the theory of MASHA allows."""

import math
from collections.abc import Sequence

import numpy as np

from gradax import _validate, catalogue

from ._masha import PAPER


def _constants(who, smoothness, strong_convexity, tau):
    """Lipschitz constants of the nodes, and their mean square."""
    values = np.atleast_1d(np.asarray(smoothness, np.float64))
    if values.ndim != 1 or not values.size or not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(
            f"{who}: smoothness must hold a positive number for each node, got {smoothness!r}."
        )
    _validate.interval(who, "strong_convexity", strong_convexity, "[0, inf)")
    _validate.interval(who, "tau", tau, "[0, 1)")
    return values, float(np.mean(values**2))


def _smaller(rate, monotone_rate, strong_convexity):
    return min(rate, monotone_rate / strong_convexity) if strong_convexity else rate


@catalogue.register("function", PAPER)
def masha1_learning_rate(
    smoothness: float | Sequence[float],
    strong_convexity: float,
    tau: float,
    omega: float = 0.0,
    server_omega: float = 0.0,
) -> float:
    r"""Computes the largest rate for which :func:`masha1` is proved to converge.

    With the Lipschitz constants :math:`L_m` of the nodes' operators, their mean square
    :math:`\tilde L^2`, :math:`q = 1 + \omega` of the compressors and the constant :math:`\mu` of
    strong monotonicity,

    .. math::
        C_q^2 = \frac{q_s}{M^2} \sum_m \bigl(q_m L_m^2 + (M - 1) \tilde L^2\bigr), \qquad
        \gamma = \min\Bigl(\frac{\sqrt{1-\tau}}{2 C_q}, \frac{1-\tau}{2 \mu}\Bigr);

    then :math:`\mathbb{E} \|z_k - z_*\|^2 \le 2 (1 - \mu \gamma / 2)^k \|z_0 - z_*\|^2`.

    Args:
      smoothness: :math:`L_m`, one number for each node.
      strong_convexity: :math:`\mu \ge 0`.
      tau: as in :func:`masha1`.
      omega: variance constant of the nodes' compressor, ``compressor.omega(params)``.
      server_omega: of the server's.

    Returns:
      The rate.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> omega = federated.rand_k(k=12, scaled=True).omega(40)
      >>> round(federated.masha1_learning_rate([9.0] * 10, 1.0, 0.7, omega), 4)
      0.0274

    References:
      Beznosikov et al., `Distributed Methods with Compressed Communication for Solving Variational
      Inequalities, with Theoretical Guarantees <https://arxiv.org/abs/2110.03313>`_, 2021.
    """
    who = "masha1_learning_rate"
    values, square = _constants(who, smoothness, strong_convexity, tau)
    for name, value in (("omega", omega), ("server_omega", server_omega)):
        _validate.interval(who, name, value, "[0, inf)")
    nodes = len(values)
    total = np.sum((1 + omega) * values**2 + (nodes - 1) * square)
    c_q = math.sqrt((1 + server_omega) * total) / nodes
    return _smaller(math.sqrt(1 - tau) / (2 * c_q), (1 - tau) / 2, strong_convexity)


@catalogue.register("function", PAPER)
def masha2_learning_rate(
    smoothness: float | Sequence[float],
    strong_convexity: float,
    tau: float,
    delta: float = 1.0,
    server_delta: float = 1.0,
) -> float:
    r"""Computes a rate for which :func:`masha2` is proved to converge; a very small one.

    .. math::
        \gamma = \min\Bigl(\frac{\delta \delta_s \sqrt{1-\tau}}{165\, \tilde L},
        \frac{1-\tau}{8 \mu}\Bigr)

    with the root mean square :math:`\tilde L` of the nodes' Lipschitz constants. A hundred times
    more has worked on games with random matrices.

    Args:
      smoothness: as in :func:`masha1_learning_rate`.
      strong_convexity: :math:`\mu \ge 0`.
      tau: as in :func:`masha2`.
      delta: contraction constant of the nodes' compressor, ``compressor.delta(params)``.
      server_delta: of the server's.

    Returns:
      The rate.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> delta = federated.top_k(k=12).delta(40)
      >>> round(federated.masha2_learning_rate([9.0] * 10, 1.0, 0.7, delta), 6)
      0.000111

    References:
      Beznosikov et al., `Distributed Methods with Compressed Communication for Solving Variational
      Inequalities, with Theoretical Guarantees <https://arxiv.org/abs/2110.03313>`_, 2021.
    """
    who = "masha2_learning_rate"
    _, square = _constants(who, smoothness, strong_convexity, tau)
    for name, value in (("delta", delta), ("server_delta", server_delta)):
        _validate.interval(who, name, value, "(0, 1]")
    rate = delta * server_delta * math.sqrt((1 - tau) / square) / 165
    return _smaller(rate, (1 - tau) / 8, strong_convexity)
