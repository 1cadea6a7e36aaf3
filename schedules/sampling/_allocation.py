"""A budget of samples, shared out among items by how noisy their gradients are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate, catalogue

from ._vector import vector

_NEYMAN = catalogue.Paper(
    title="On the Two Different Aspects of the Representative Method",
    authors="Neyman",
    year=1934,
    url="https://doi.org/10.2307/2342192",
)
_GVM = catalogue.Paper(
    title="Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection "
    "Sampling and RL",
    authors="Yao et al.",
    year=2025,
    arxiv="2505.02391",
)
_CURES = catalogue.Paper(
    title="CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning LLMs",
    authors="Zeng et al.",
    year=2025,
    arxiv="2510.01037",
)


def _shares(who: str, what: str, weights: jax.Array) -> jax.Array:
    """Weights over their sum; if all are zero a ValueError, or zeros where they are traced."""
    if not isinstance(weights, jax.core.Tracer) and not np.any(np.asarray(weights) > 0):
        raise ValueError(f"{who}: {what} must be positive for one item at least, got {weights}.")
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)


@catalogue.register("function", _NEYMAN, example={"std": (1.0, 3.0), "budget": 8})
def neyman_allocation(
    std: jax.typing.ArrayLike,
    budget: jax.typing.ArrayLike,
    cost: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Numbers of samples per item that give their mean the least variance.

    They minimise :math:`\sum_i \sigma_i^2 / n_i` under :math:`\sum_i c_i n_i = N`:

    .. math::
        n_i = N \frac{\sigma_i / \sqrt{c_i}}{\sum_j \sigma_j \sqrt{c_j}}

    Args:
      std: ``[items]``, standard deviations :math:`\sigma_i \ge 0` of one sample.
      budget: :math:`N \ge 0`; may be traced.
      cost: ``[items]``, cost :math:`c_i > 0` of one sample; ``None`` for one each.

    Returns:
      ``float[items]``, the real :math:`n_i`; :func:`round_to_budget` makes integers of them.

    Raises:
      ValueError: if all deviations are zero, or a number is out of its range. Traced deviations
        that are all zero get zeros.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.neyman_allocation([1.0, 3.0], budget=8))
      [2. 6.]
      >>> print(schedules.neyman_allocation([1.0, 3.0], budget=70, cost=[1.0, 4.0]).round())
      [10. 15.]

    References:
      Neyman, `On the Two Different Aspects of the Representative Method
      <https://doi.org/10.2307/2342192>`_, 1934.
    """
    who = "neyman_allocation"
    std = vector(who, "std", std, "[0, inf)")
    _validate.interval(who, "budget", budget, "[0, inf)")
    if cost is None:
        return _shares(who, "std", std) * budget
    cost = vector(who, "cost", cost, "(0, inf)", std.shape[0])
    return _shares(who, "std", std * jnp.sqrt(cost)) * budget / cost


@catalogue.register(
    "function", _GVM, example={"grad_norm": (1.0, 2.0), "accept_rate": (0.9, 0.3), "budget": 8}
)
def gvm_allocation(
    grad_norm: jax.typing.ArrayLike,
    accept_rate: jax.typing.ArrayLike,
    budget: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike = 1e-3,
    beta: jax.typing.ArrayLike = 2.0,
    filter_threshold: jax.typing.ArrayLike | None = None,
    filter_insufficient: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Numbers of samples per item for rejection sampling, where only accepted ones count.

    They minimise :math:`\sum_i G_i^2 / (p_i n_i) \cdot (1 + \alpha / p_i^\beta)^{-1}` under
    :math:`\sum_i n_i = N`, so that hard items get more, and hopeless ones not all:

    .. math::
        n_i \propto \frac{G_i}{\sqrt{p_i + \alpha / p_i^{\beta - 1}}}, \qquad
        n_i = 0 \text{ if } p_i = 0.

    Estimate :math:`p_i` and :math:`G_i` from a few samples of every item, 8 or 16.

    Args:
      grad_norm: ``[items]``, :math:`G_i \ge 0`: the mean, over accepted samples, of the norm of
        the log-probability's gradient (not the norm of the mean).
      accept_rate: ``[items]``, :math:`p_i` in ``[0, 1]``.
      budget: :math:`N \ge 0`; may be traced.
      alpha: :math:`\alpha \ge 0`, how much hopeless items are held back.
      beta: :math:`\beta`, how steeply.
      filter_threshold: items with a larger :math:`p_i` get nothing; ``None`` for no such rule.
      filter_insufficient: items that could expect fewer accepted samples than this get nothing,
        and the others share what is left; ``None`` for no such rule.

    Returns:
      ``float[items]``, the real :math:`n_i`; :func:`round_to_budget` makes integers of them.

    Raises:
      ValueError: if no item is left to sample, or a number is out of its range. Traced items of
        which none is left get zeros.

    Examples:
      >>> from gradax import schedules
      >>> counts = schedules.gvm_allocation([1.0, 2.0, 4.0], [1.0, 0.25, 0.0625], budget=100)
      >>> [round(float(count), 1) for count in counts]
      [5.2, 20.6, 74.2]

    References:
      Yao et al., `Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in
      Rejection Sampling and RL <https://arxiv.org/abs/2505.02391>`_, 2025.
    """
    who = "gvm_allocation"
    norm = vector(who, "grad_norm", grad_norm, "[0, inf)")
    rate = vector(who, "accept_rate", accept_rate, "[0, 1]", norm.shape[0])
    for name, value in (("budget", budget), ("alpha", alpha)):
        _validate.interval(who, name, value, "[0, inf)")
    _validate.interval(who, "beta", beta, "(-inf, inf)")
    _validate.interval(who, "filter_threshold", filter_threshold, "[0, 1]")
    _validate.interval(who, "filter_insufficient", filter_insufficient, "[0, inf)")
    usable = rate > 0
    safe = jnp.where(usable, rate, 1)
    if filter_threshold is not None:
        usable &= rate <= filter_threshold
    weights = jnp.where(usable, norm / jnp.sqrt(safe + alpha / safe ** (beta - 1)), 0)
    what = "grad_norm * accept_rate of what no filter drops"
    shares = _shares(who, what, weights)
    if filter_insufficient is not None:
        enough = shares * budget * rate >= filter_insufficient
        shares = _shares(who, what, jnp.where(enough, weights, 0))
    return shares * budget


@catalogue.register(
    "function",
    _CURES,
    example={"grad_norms": np.array([[1.0, 2.0, 1.0]]), "correct": np.array([[1, 0, 1]])},
)
def policy_gradient_std(
    grad_norms: jax.typing.ArrayLike,
    correct: jax.typing.ArrayLike,
    mean_gap: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Standard deviation of an item's policy gradient, from samples with a reward of 0 or 1.

    The gradient of one sample is :math:`(r - p)\, g` with :math:`g` that of its log-probability.
    Over correct (c) and wrong (w) samples, and with the success rate :math:`p`,

    .. math::
        \sigma^2 = p (1 - p)^2\, \overline{\|g_c\|^2} + p^2 (1 - p)\, \overline{\|g_w\|^2}
                   - p^2 (1 - p)^2\, d^2, \qquad d = \|\overline{g_c} - \overline{g_w}\|.

    Unless it is given, :math:`d` is replaced by the smaller
    :math:`\overline{\|g_c\|} - \overline{\|g_w\|}`, for which norms suffice; :math:`\sigma` is
    then estimated too high rather than too low. It is zero for items that always or never
    succeed.

    Args:
      grad_norms: ``[..., samples]``, norms of the gradients :math:`g`.
      correct: ``[..., samples]``, rewards, zero or one.
      mean_gap: ``[...]``, the distance :math:`d`, if it is known.

    Returns:
      ``float[...]``, one :math:`\sigma` for each item.

    Raises:
      ValueError: if shapes differ, there is no sample, or a norm is negative.

    Examples:
      >>> from gradax import schedules
      >>> grad_norms = [[1.0, 2.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]]
      >>> print(schedules.policy_gradient_std(grad_norms, [[1, 0, 1, 0], [1, 1, 1, 1]]).round(3))
      [1.031 0.   ]

    References:
      Zeng et al., `CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning
      LLMs <https://arxiv.org/abs/2510.01037>`_, 2025.
    """
    who = "policy_gradient_std"
    if np.shape(grad_norms) != np.shape(correct) or not np.shape(grad_norms)[-1:] > (0,):
        raise ValueError(
            f"{who}: grad_norms and correct must have the same shape [..., samples], got "
            f"{np.shape(grad_norms)} and {np.shape(correct)}."
        )
    if not isinstance(grad_norms, jax.core.Tracer):
        _validate.interval(who, "grad_norms", float(np.min(grad_norms, initial=0)), "[0, inf)")
    norms = jnp.asarray(grad_norms, float)
    right = jnp.asarray(correct).astype(norms.dtype)

    def mean(values, mask):
        return jnp.sum(values * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)

    p = jnp.mean(right, axis=-1)
    q = 1 - p
    if mean_gap is None:
        mean_gap = mean(norms, right) - mean(norms, 1 - right)
    variance = p * q**2 * mean(norms**2, right) + p**2 * q * mean(norms**2, 1 - right)
    return jnp.sqrt(jnp.maximum(variance - (p * q * mean_gap) ** 2, 0))


class BetaPosterior(NamedTuple):
    """A Beta distribution for the success rate of each item.

    Attributes:
      a: ``float[items]``, one more than the number of successes.
      b: ``float[items]``, one more than the number of failures.
    """

    a: jax.Array
    b: jax.Array

    @property
    def mean(self) -> jax.Array:
        """The expected success rates, ``float[items]``."""
        return self.a / (self.a + self.b)


@catalogue.register("function", _CURES, example={"accepted": (0, 4), "total": (4, 4)})
def beta_posterior(accepted: jax.typing.ArrayLike, total: jax.typing.ArrayLike) -> BetaPosterior:
    r"""What successes and failures tell about success rates, from a uniform prior.

    It is :math:`\operatorname{Beta}(s_i + 1,\, t_i - s_i + 1)` with the mean
    :math:`(s_i + 1) / (t_i + 2)`. Keep the counts over rounds and add to them; to forget old
    rounds, multiply both by a factor below one first.

    Args:
      accepted: ``[items]``, numbers of successes :math:`s_i`, whole or not.
      total: ``[items]``, or one for all: numbers of trials :math:`t_i`.

    Returns:
      A :class:`BetaPosterior`.

    Raises:
      ValueError: if a count is negative or there are more successes than trials.

    Examples:
      >>> from gradax import schedules
      >>> posterior = schedules.beta_posterior([0, 2, 4], total=4)
      >>> [round(float(mean), 4) for mean in posterior.mean]
      [0.1667, 0.5, 0.8333]

    References:
      Zeng et al., `CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning
      LLMs <https://arxiv.org/abs/2510.01037>`_, 2025.
    """
    accepted, total = _counts("beta_posterior", accepted, total)
    return BetaPosterior(accepted + 1, total - accepted + 1)


def _counts(who: str, accepted: Any, total: Any) -> tuple[jax.Array, jax.Array]:
    successes = vector(who, "accepted", accepted, "[0, inf)")
    size = successes.shape[0]
    trials = total if np.ndim(total) else jnp.full(size, total)
    trials = vector(who, "total", trials, "[0, inf)", size)
    traced = any(isinstance(x, jax.core.Tracer) for x in (successes, trials))
    if not traced and np.any(np.asarray(successes) > np.asarray(trials)):
        raise ValueError(f"{who}: accepted must not exceed total, got {successes} of {trials}.")
    return successes, trials


@catalogue.register("function", _CURES, example={"accepted": (0, 4), "total": (4, 4)})
def variance_prompt_probs(
    accepted: jax.typing.ArrayLike,
    total: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 0.1,
    *,
    reference: bool = False,
) -> jax.Array:
    r"""Probabilities with which to pick items: those of uncertain outcome most often.

    With the mean :math:`\tilde p_i` of :func:`beta_posterior`,

    .. math::
        \Pr(i) \propto \exp\Bigl(\tfrac{1}{\tau} \sqrt{\tilde p_i (1 - \tilde p_i)}\Bigr).

    Args:
      accepted: ``[items]``, numbers of successes, whole or not.
      total: ``[items]``, or one for all: numbers of trials.
      temperature: :math:`\tau > 0`, the smaller the pickier; may be traced.
      reference: use the authors' temperatures :math:`\tau_i = 100 (s_i + 1)` instead, one for
        each item, which are so high that picking is almost uniform. Static.

    Returns:
      ``float[items]``, adding up to one.

    Raises:
      ValueError: if a count is negative, there are more successes than trials, or the
        temperature is not positive.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.variance_prompt_probs([0, 2, 4], total=4).round(4))
      [0.1795 0.6411 0.1795]

    References:
      Zeng et al., `CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning
      LLMs <https://arxiv.org/abs/2510.01037>`_, 2025.
    """
    who = "variance_prompt_probs"
    accepted, total = _counts(who, accepted, total)
    _validate.interval(who, "temperature", temperature, "(0, inf]")
    mean = BetaPosterior(accepted + 1, total - accepted + 1).mean
    tau = (accepted + 1) / 0.01 if reference else temperature
    return jax.nn.softmax(jnp.sqrt(mean * (1 - mean)) / tau)


@catalogue.register("function", _GVM, example={"shares": (0.3, 0.7), "budget": 4})
def round_to_budget(
    shares: jax.typing.ArrayLike, budget: jax.typing.ArrayLike, *, min_count: int = 0
) -> jax.Array:
    """Turns shares into whole numbers that add up to the budget exactly.

    Every number is rounded to the nearest integer (halves to the even one). What is missing
    then is given, one each, to those that lost most by it, and what is too much is taken from
    those that gained most; of equals the first ones. Everything runs under jit, with a stable
    sort.

    Args:
      shares: ``[items]``, not negative, in any unit.
      budget: the sum, a whole number; may be traced.
      min_count: given to every item first, and the shares apply to the rest. An item that is
        never sampled biases an estimate over all of them. Static.

    Returns:
      ``int32[items]``. If all shares are zero and traced, items are treated alike.

    Raises:
      ValueError: if all shares are zero, one is negative, or the budget is negative or smaller
        than ``min_count`` for each.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.round_to_budget([0.5, 0.25, 0.25], budget=5))
      [3 1 1]
      >>> print(schedules.round_to_budget([1.0, 0.0, 0.0], budget=10, min_count=2))
      [6 2 2]

    References:
      Yao et al., `Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in
      Rejection Sampling and RL <https://arxiv.org/abs/2505.02391>`_, 2025.
    """
    who = "round_to_budget"
    weights = vector(who, "shares", shares, "[0, inf)")
    size = weights.shape[0]
    _validate.integer(who, "min_count", min_count, at_least=0)
    if isinstance(budget, jax.core.Tracer):
        budget = budget.astype(jnp.int32)
    else:
        _validate.integer(who, "budget", np.asarray(budget).item(), at_least=size * min_count)
    rest = budget - size * min_count
    fractions = _shares(who, "shares", weights)
    wanted = rest * jnp.where(jnp.sum(fractions) > 0, fractions, 1 / size)
    counts = jnp.round(wanted)
    residual = wanted - counts
    counts = counts.astype(jnp.int32)
    missing = rest - jnp.sum(counts)
    # The rank of each item by what it lost, or gained, through rounding.
    order = jnp.argsort(-jnp.sign(missing) * residual, stable=True)
    rank = jnp.zeros(size, jnp.int32).at[order].set(jnp.arange(size, dtype=jnp.int32))
    return (min_count + counts + jnp.where(rank < jnp.abs(missing), jnp.sign(missing), 0)).astype(
        jnp.int32
    )
