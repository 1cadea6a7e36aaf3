"""SGD whose learning rate falls once fluctuation and dissipation balance."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import inner_product, wide_dtype

from ._half_run import add_record, blank_blocks, half_run_means, ratio

PAPER = catalogue.Paper(
    title="Fluctuation-dissipation relations for stochastic gradient descent",
    authors="Yaida",
    year=2019,
    arxiv="1810.00004",
)

#: Records are numbered in int32, and a number is doubled to find its block.
_MOST_UPDATES = 2**30 - 1


@catalogue.register("function", PAPER)
def fdr_observables(
    params: optax.Params,
    grads: optax.Updates,
    velocity: optax.Updates,
    learning_rate: jax.typing.ArrayLike,
    *,
    momentum: jax.typing.ArrayLike = 0.0,
    dampening: jax.typing.ArrayLike = 0.0,
    reference: optax.Params | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""The two quantities whose means over a stationary run of SGD are equal.

    For :math:`v_{t+1} = \mu v_t + (1 - \nu) g_t` and
    :math:`\theta_{t+1} = \theta_t - \eta v_{t+1}`,

    .. math::
        O_L = \langle \theta_t - \theta_{ref}, g_t \rangle, \qquad
        O_R = \frac{(1 + \mu) \, \eta}{2 (1 - \nu)} \, \|v_{t+1}\|^2 .

    Their means agree as soon as the distribution of params and velocity no longer changes,
    whatever the loss and the noise. Before, :math:`O_R` is too small: params still drift.

    Args:
      params: :math:`\theta_t`, before the update.
      grads: like params, the gradient :math:`g_t` of the whole loss, with its L2 term.
      velocity: like params, :math:`v_{t+1}`, after it took the gradient up; its sign does not
        matter. Without momentum and dampening it is the gradient.
      learning_rate: :math:`\eta`.
      momentum: :math:`\mu` in ``[0, 1)``.
      dampening: :math:`\nu` in ``[0, 1)``; equal to :math:`\mu` for a running mean of gradients.
      reference: like params, :math:`\theta_{ref}`, any constant; ``None`` for zero.

    Returns:
      :math:`O_L` and :math:`O_R`, scalars of the widest real dtype of params, at least float32.

    Raises:
      ValueError: if a number is out of its range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> params, grads = jnp.array([1.0]), jnp.array([0.5])
      >>> left, right = schedules.fdr_observables(params, grads, grads, 0.1)
      >>> print(left, right)
      0.5 0.0125

    References:
      Yaida, `Fluctuation-dissipation relations for stochastic gradient descent
      <https://arxiv.org/abs/1810.00004>`_, 2019.
    """
    who = "fdr_observables"
    _validate.interval(who, "learning_rate", learning_rate, "[0, inf)")
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    _validate.interval(who, "dampening", dampening, "[0, 1)")
    dtype = wide_dtype(*jax.tree.leaves(params))
    pairing = lambda a, b: inner_product(jax.tree.leaves(a), jax.tree.leaves(b), dtype)
    left = pairing(params, grads)
    if reference is not None:
        left -= pairing(reference, grads)
    factor = (1 + momentum) / (2 * (1 - dampening)) * learning_rate
    return left, jnp.asarray(factor, dtype) * pairing(velocity, velocity)


class FDRState(NamedTuple):
    r"""State of :func:`fdr_sgd`.

    Attributes:
      count: ``int32[]``, number of updates made.
      learning_rate: ``float[]``, :math:`\eta` of the latest update.
      scale: ``float[]``, what all cuts together leave of the rate that was given.
      velocity: like params, :math:`v_t`; empty without momentum.
      reference: like params, :math:`\theta_{ref}`; empty if that is zero.
      steps_since_reset: ``int32[]``, updates since the averages began anew.
      blocks: ``float[2 * max_checks, 2]``, sums of both observables over parts of that time.
      num_drops: ``int32[]``, how often the rule has cut, at ``min_learning_rate`` too.
      num_restarts: ``int32[]``, how often the blocks were full and the averages began anew.
      last_ratio: ``float[]``, mean :math:`O_L` over mean :math:`O_R` at the latest check; NaN
        before the first.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    learning_rate: jax.Array
    scale: jax.Array
    velocity: optax.Updates
    reference: optax.Params
    steps_since_reset: jax.Array
    blocks: jax.Array
    num_drops: jax.Array
    num_restarts: jax.Array
    last_ratio: jax.Array


class _Rule(NamedTuple):
    """When the observables are compared, and what follows from it."""

    check_every: int
    every: int
    min_checks: int
    max_checks: int
    threshold: Any
    decay: Any

    def validate(self, who: str) -> None:
        check_periods(who, self.check_every, self.every, self.max_checks)
        _validate.integer(who, "min_checks", self.min_checks, at_least=1)
        if self.min_checks > self.max_checks:
            raise ValueError(
                f"{who}: min_checks must be at most max_checks={self.max_checks}, "
                f"got {self.min_checks}."
            )
        _validate.interval(who, "threshold", self.threshold, "[0, inf)")
        _validate.interval(who, "decay", self.decay, "(0, 1)")

    def apply(self, state: FDRState, pair: tuple[jax.Array, jax.Array]) -> FDRState:
        """The state after an update with these observables, and a check if one is due."""
        length = self.check_every // self.every
        blocks = add_record(state.blocks, state.steps_since_reset // self.every, length, pair)
        steps = state.steps_since_reset + 1
        checks, due = steps // self.check_every, steps % self.check_every == 0
        found = ratio(half_run_means(blocks, checks, length))
        fires = due & (checks >= self.min_checks) & (jnp.abs(found - 1) < self.threshold)
        full = due & (checks == self.max_checks) & ~fires
        begins_anew = fires | full
        scale = jnp.where(fires, (1 - self.decay) * state.scale, state.scale)
        return state._replace(
            count=optax.safe_increment(state.count),
            scale=scale.astype(state.scale.dtype),
            steps_since_reset=jnp.where(begins_anew, 0, steps),
            blocks=jnp.where(begins_anew, 0, blocks),
            num_drops=state.num_drops + fires,
            num_restarts=state.num_restarts + full,
            last_ratio=jnp.where(due, found, state.last_ratio),
        )


@catalogue.register(
    "final", PAPER, example={"learning_rate": 1e-3, "momentum": 0.9, "check_every": 10}
)
def fdr_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    check_every: int,
    momentum: jax.typing.ArrayLike = 0.0,
    dampening: jax.typing.ArrayLike = 0.0,
    threshold: jax.typing.ArrayLike = 0.01,
    decay: jax.typing.ArrayLike = 0.1,
    min_learning_rate: jax.typing.ArrayLike = 0.0,
    every: int = 1,
    min_checks: int = 1,
    max_checks: int = 512,
    reference: str = "zero",
) -> optax.GradientTransformation:
    r"""SGD that cuts its learning rate whenever training has become stationary at it.

    .. math::
        v_{t+1} = \mu v_t + (1 - \nu) g_t, \qquad \theta_{t+1} = \theta_t - \eta v_{t+1}

    Every ``check_every`` updates the means of :math:`O_L` and :math:`O_R`
    (:func:`fdr_observables`) over the second half of the time since the latest cut are compared.
    If :math:`|\bar O_L / \bar O_R - 1| < X`, nothing more is to be gained at this rate:
    :math:`\eta \leftarrow (1 - Y) \eta`, and the averages begin anew. The velocity is kept.

    It owns rate and momentum, so it takes the place of ``optax.sgd``, last in a chain, and sees
    the gradient of the whole loss, averaged over participants. That includes the L2 term, without
    which cross entropy never becomes stationary: ``optax.chain(optax.add_decayed_weights(l2),
    fdr_sgd(...))``. Early in training the ratio may cross one by chance; ``min_checks`` waits.

    The observables read params, gradient and velocity once more, which takes as long as the bare
    update does; with ``every=20`` a seventh of it, but the means are noisier and cuts come later.

    Args:
      learning_rate: :math:`\eta` at the start. A schedule, or a number that
        ``optax.inject_hyperparams`` changes, is multiplied by what the cuts have left.
      check_every: :math:`E`, updates from one check to the next; the paper takes an epoch.
        Static.
      momentum: :math:`\mu` in ``[0, 1)``. The number zero keeps no velocity.
      dampening: :math:`\nu` in ``[0, 1)``.
      threshold: :math:`X \ge 0`; at zero it is ``optax.sgd``. The paper also uses 0.1.
      decay: :math:`Y` in ``(0, 1)``; the paper also uses 0.3.
      min_learning_rate: cuts end here.
      every: updates from one record of the observables to the next; divides ``check_every``.
        Static.
      min_checks: checks after a cut before the next one may come. Static.
      max_checks: checks for which there is memory; after as many without a cut the averages
        begin anew. Static.
      reference: ``"zero"``, or ``"init"`` for the params at ``init``, which takes a copy of
        them: better if params stay near a point that is far from zero. Static.

    Returns:
      A transformation whose state is an :class:`FDRState`; it needs params.

    Raises:
      ValueError: if an argument is out of its range; in ``update``, without params.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> tx = gradax.schedules.fdr_sgd(0.5, check_every=50, threshold=0.1, decay=0.3)
      >>> def step(carry, noise):
      ...     x, state = carry
      ...     updates, state = tx.update(x - 1.0 + noise, state, x)
      ...     return (optax.apply_updates(x, updates), state), state.learning_rate
      >>> x = jnp.zeros(10)
      >>> noise = jax.random.normal(jax.random.key(0), (2000, 10))
      >>> (x, state), rates = jax.lax.scan(step, (x, tx.init(x)), noise)
      >>> bool(state.num_drops > 3), bool(jnp.all(jnp.diff(rates) <= 0))
      (True, True)

    References:
      Yaida, `Fluctuation-dissipation relations for stochastic gradient descent
      <https://arxiv.org/abs/1810.00004>`_, 2019.
    """
    who = "fdr_sgd"
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "min_learning_rate", min_learning_rate, "[0, inf)")
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    _validate.interval(who, "dampening", dampening, "[0, 1)")
    _validate.one_of(who, "reference", reference, ("zero", "init"))
    rule = _Rule(check_every, every, min_checks, max_checks, threshold, decay)
    rule.validate(who)
    has_velocity = not (isinstance(momentum, int | float) and momentum == 0)

    def base_rate(count, dtype):
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return jnp.asarray(rate, dtype)

    def init_fn(params):
        dtype = wide_dtype(*jax.tree.leaves(params))
        zero = lambda: jnp.zeros([], jnp.int32)
        return FDRState(
            count=zero(),
            learning_rate=jnp.array(base_rate(zero(), dtype)),
            scale=jnp.ones([], dtype),
            velocity=optax.tree.zeros_like(params) if has_velocity else (),
            reference=jax.tree.map(_copied, params) if reference == "init" else (),
            steps_since_reset=zero(),
            blocks=blank_blocks(max_checks, dtype),
            num_drops=zero(),
            num_restarts=zero(),
            last_ratio=jnp.full([], jnp.nan, dtype),
        )

    def velocity_after(grads, velocity, momentum=momentum):
        scaled = jax.tree.map(lambda g: _as(1 - dampening, g) * g, grads)
        if not has_velocity:
            return scaled
        return jax.tree.map(lambda g, v: g + _as(momentum, g) * v, scaled, velocity)

    def observed(grads, params, rate, state):
        """Both observables, and the velocity after the update."""

        def look(velocity):
            return fdr_observables(
                params,
                grads,
                velocity,
                rate,
                momentum=momentum,
                dampening=dampening,
                reference=state.reference if reference == "init" else None,
            )

        if every == 1:
            velocity = velocity_after(grads, state.velocity)
            return look(velocity), velocity
        # The velocity is made twice: reading it once more would cost every update, and not only
        # those with a record.
        pair = jax.lax.cond(
            state.steps_since_reset % every == 0,
            lambda: look(velocity_after(grads, state.velocity)),
            lambda: (jnp.zeros_like(rate), jnp.zeros_like(rate)),
        )
        return pair, velocity_after(grads, state.velocity, _one_after(pair, state) * momentum)

    def update_fn(updates, state, params=None):
        params = _extras.require_params(who, params)
        base = base_rate(state.count, state.scale.dtype)
        least = jnp.minimum(base, jnp.asarray(min_learning_rate, base.dtype))
        rate = jnp.maximum(state.scale * base, least)
        pair, velocity = observed(updates, params, rate, state)
        factor = -_one_after(pair, state) * rate
        state = rule.apply(state, pair)._replace(learning_rate=rate)
        if has_velocity:
            state = state._replace(velocity=velocity)
        return jax.tree.map(lambda v: _as(factor, v) * v, velocity), state

    return optax.GradientTransformation(init_fn, update_fn)


def _one_after(pair: tuple[jax.Array, jax.Array], state: FDRState) -> jax.Array:
    """The number one, which XLA takes for a function of the observables.

    What is multiplied by it is written after params and velocity have been read for them; XLA
    would copy them otherwise. A scale is never negative, but only we know that.
    """
    return jnp.where((pair[0] < 0) & (state.scale < 0), 0, 1).astype(state.scale.dtype)


def check_periods(who: str, check_every: Any, every: Any, max_checks: Any) -> None:
    """Raises unless records and checks fit together, and their numbers into int32."""
    for name, value in (("every", every), ("check_every", check_every), ("max_checks", max_checks)):
        _validate.integer(who, name, value, at_least=1)
    if check_every % every:
        raise ValueError(
            f"{who}: check_every must be a multiple of every={every}, got {check_every}."
        )
    if check_every * max_checks > _MOST_UPDATES:
        raise ValueError(
            f"{who}: check_every * max_checks must be at most {_MOST_UPDATES}, "
            f"got {check_every * max_checks}."
        )


def _as(number: Any, like: jax.Array) -> jax.Array:
    """A real number in the dtype of a leaf."""
    return jnp.asarray(number, like.dtype)


def _copied(leaf: Any) -> jax.Array:
    """A copy of a leaf, zeros of one that has only a shape."""
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return jnp.zeros_like(leaf) if abstract else jnp.array(leaf)
