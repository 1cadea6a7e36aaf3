"""An empirical lower bound on epsilon: can an attacker tell whether a canary took part?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _keys, _validate
from gradax.catalogue import register

from .. import axis
from ..rounds import Algorithm, as_transformation
from ..rounds._participants import fold_keys
from ._papers import AUDIT


class AuditResult(NamedTuple):
    """What :func:`audit_epsilon` found.

    Attributes:
      epsilon: lower bound, at least 0, that holds with the stated confidence.
      threshold: score at which the attacker decides.
      detected: share of the runs with the canary that lie on its side of the threshold.
      false_alarms: share of the runs without.
    """

    epsilon: float
    threshold: float
    detected: float
    false_alarms: float


@register("function", AUDIT)
def audit_epsilon(
    release: Callable[[jax.Array, jax.Array], jax.Array],
    delta: float,
    *,
    num_trials: int = 2000,
    confidence: float = 0.99,
    key: jax.Array | int = 0,
) -> AuditResult:
    r"""Bounds epsilon from below by attacking: a bound above the reported epsilon shows a fault.

    ``release`` is run many times with the canary and many times without. Half of the runs choose
    a threshold on its score; on the other half, with the rates of detection :math:`p` and of
    false alarms :math:`q`, both bounded by Clopper and Pearson's intervals,

    .. math::
        \varepsilon \ge \log \frac{p - \delta}{q}.

    A bound below the reported epsilon proves nothing: the attack may be weak, and with few
    trials no bound exceeds the logarithm of their number. A large ``delta`` (0.01) is easier to
    test; compare with :func:`dp_epsilon` at the same one.

    Args:
      release: ``release(key, present)``: a whole run with the randomness of ``key``, in which
        the canary takes part if the boolean ``present``; returns a score, ``float[]``, higher
        with it. Is vmapped. See :func:`canary_release`.
      delta: at which epsilon was reported.
      num_trials: runs with the canary, and as many without.
      confidence: that the bound holds, in ``(0, 1)``.
      key: random key or seed; the result depends on nothing else.

    Returns:
      The bound and how it came about.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      A release that tells everything:

      >>> from gradax import federated
      >>> found = federated.audit_epsilon(lambda key, present: 1.0 * present, delta=0.01)
      >>> found.epsilon > 5
      True

    References:
      Jagielski et al., `Auditing Differentially Private Machine Learning: How Private is
      Private SGD? <https://arxiv.org/abs/2006.07709>`_, 2020.
    """
    who = "audit_epsilon"
    _validate.interval(who, "delta", delta, "[0, 1)")
    _validate.interval(who, "confidence", confidence, "(0, 1)")
    _validate.integer(who, "num_trials", num_trials, at_least=4)
    keys = jax.random.split(_keys.as_key(who, key), (2, num_trials))
    trials = jax.jit(jax.vmap(release, (0, None)))
    without, present = (
        np.asarray(trials(own, jnp.asarray(here)), np.float64)
        for own, here in zip(keys, (False, True), strict=True)
    )
    half = num_trials // 2
    # One side of the interval for each of the two rates.
    level = (1 - confidence) / 2
    candidates = np.unique(np.quantile(np.r_[present[:half], without[:half]], np.arange(200) / 200))
    bounds = [_bound(present[:half], without[:half], at, delta, level) for at in candidates]
    threshold = float(candidates[int(np.argmax(bounds))])
    return AuditResult(
        epsilon=max(_bound(present[half:], without[half:], threshold, delta, level), 0.0),
        threshold=threshold,
        detected=float(np.mean(present[half:] > threshold)),
        false_alarms=float(np.mean(without[half:] > threshold)),
    )


def _bound(present, without, threshold, delta, level) -> float:
    """The bound of a threshold, from whichever side of it says more."""
    detected, alarms = np.sum(present > threshold), np.sum(without > threshold)
    above = _log_ratio(detected, len(present), alarms, len(without), delta, level)
    missed, quiet = len(present) - detected, len(without) - alarms
    return max(above, _log_ratio(quiet, len(without), missed, len(present), delta, level))


def _log_ratio(often, of, seldom, out_of, delta, level) -> float:
    from scipy import stats  # slow to import

    least = stats.beta.ppf(level, often, of - often + 1) if often else 0.0
    most = stats.beta.ppf(1 - level, seldom + 1, out_of - seldom) if seldom < out_of else 1.0
    return float(np.log((least - delta) / most)) if least > delta else -np.inf


def canary_release(
    algorithm: Algorithm,
    params: optax.Params,
    num_rounds: int,
    sampling_rate: float = 1.0,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes a run of an algorithm with a server in which a client shouts in one direction.

    Two clients: the canary, whose gradient is huge and always the same, so that clipping leaves
    as much of it as of any client; and one whose gradient is zero. The score is how far the
    parameters went in the canary's direction. The chains are the algorithm's own, noise and all;
    its server should be linear (``optax.sgd``).

    Args:
      algorithm: such as :func:`dp_fedavg`.
      params: where to begin; a few numbers will do, noise is alike in all of them.
      num_rounds: number of rounds.
      sampling_rate: probability of the canary to take part in a round.

    Returns:
      ``release(key, present)`` for :func:`audit_epsilon`.

    Raises:
      ValueError: if a number is out of range or the algorithm has no server.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> algorithm = federated.dp_fedavg(1.0, 1.0, 0.0, expected_clients=1, key=0)
      >>> release = federated.canary_release(algorithm, jnp.zeros(4), num_rounds=3)
      >>> [round(float(release(jax.random.key(0), present)), 3) for present in (False, True)]
      [0.0, 3.0]
    """
    who = "canary_release"
    _validate.integer(who, "num_rounds", num_rounds, at_least=1)
    _validate.interval(who, "sampling_rate", sampling_rate, "(0, 1]")
    names = axis.names(algorithm.axis_name)
    if algorithm.server is None or len(names) > 1:
        raise ValueError(f"{who}: algorithm must have a server and one axis.")
    tx = as_transformation(algorithm)
    length = sum(leaf.size for leaf in jax.tree.leaves(params)) ** 0.5
    shout = jax.tree.map(lambda p: jnp.full_like(p, -1e6 / length), params)

    def client(loud, key, present):
        gradient = jax.tree.map(lambda g: g * loud.astype(g.dtype), shout)
        grad_fn = lambda params, *_, batch=None: gradient
        noise_key, draw_key = jax.random.split(key)
        own = jax.random.bits(jax.random.fold_in(noise_key, loud))
        # Every trial has noise of its own; what is common to all clients stays common.
        state = fold_keys(tx.init(params), own, common=jax.random.bits(noise_key))

        def one(carry, number):
            x, state = carry
            here = jax.random.bernoulli(jax.random.fold_in(draw_key, number), sampling_rate)
            extras = {"grad_fn": grad_fn, "batches": jnp.zeros(1), "client_id": loud}
            active = ~loud | (present & here)
            updates, state = tx.update(gradient, state, x, active=active, **extras)
            return (optax.apply_updates(x, updates), state), None

        (x, _), _ = lax.scan(one, (params, state), jnp.arange(num_rounds))
        went = jax.tree.map(lambda new, old: jnp.sum(new - old), x, params)
        return sum(jax.tree.leaves(went)) / length

    def release(key: jax.Array, present: Any) -> jax.Array:
        both = jax.vmap(client, (0, None, None), axis_name=names[0])
        return both(jnp.array([True, False]), key, jnp.asarray(present))[0]

    return release
