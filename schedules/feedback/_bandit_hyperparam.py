"""Any hyper-parameter of any optimizer, chosen by a bandit during training."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._extras import require
from gradax._keys import as_key
from gradax.schedules._protocols import Bandit
from gradax.schedules._stateful import require_state

from ._cheb_cb import PAPER
from ._tsallis_inf import tsallis_inf

_WHO = "bandit_hyperparam"


class BanditHyperparamState(NamedTuple):
    """State of :func:`bandit_hyperparam`.

    Attributes:
      count: ``int32[]``, updates since the bandit last chose.
      total: ``float[]``, sum of their costs.
      bandit: state of the bandit.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    total: jax.Array
    bandit: Any


class _BanditHyperparam:
    """The schedule that :func:`bandit_hyperparam` returns."""

    def __init__(self, bandit: Bandit, every: int, key: jax.Array):
        self._bandit, self._every, self._key = bandit, every, key
        self._contextual = "context" in inspect.signature(bandit.update).parameters

    def init(self) -> BanditHyperparamState:
        return BanditHyperparamState(
            count=jnp.zeros([], jnp.int32),
            total=jnp.zeros([]),
            bandit=self._bandit.init(self._key),
        )

    def update(
        self,
        state: BanditHyperparamState,
        *,
        value: jax.typing.ArrayLike | None = None,
        context: jax.typing.ArrayLike | None = None,
        **extra: Any,
    ) -> BanditHyperparamState:
        del extra
        total = state.total + jnp.asarray(require(_WHO, "value", value), state.total.dtype)
        seen = {"context": require(_WHO, "context", context)} if self._contextual else {}

        def choose():
            bandit = self._bandit.update(state.bandit, total / self._every, **seen)
            return BanditHyperparamState(jnp.zeros_like(state.count), jnp.zeros_like(total), bandit)

        def wait():
            return BanditHyperparamState(state.count + 1, total, state.bandit)

        return jax.lax.cond(state.count + 1 >= self._every, choose, wait)

    def __call__(self, state: BanditHyperparamState, **extra: Any) -> jax.Array:
        del extra
        return self._bandit.value(require_state(_WHO, state, BanditHyperparamState).bandit)


@catalogue.register("function", PAPER, example={"bandit": tsallis_inf((0.01, 0.1, 1.0))})
def bandit_hyperparam(
    bandit: Bandit, every: int = 1, *, key: jax.typing.ArrayLike = 0
) -> optax.schedules.StatefulSchedule:
    """A stateful schedule whose value a bandit chooses, once in so many updates.

    For ``optax.inject_hyperparams``, in place of a learning rate or any other number. The cost of
    a choice is the mean of the extra ``value``, the loss, over the updates in which it was in
    force. A bandit compares these costs, so the stretches should be alike: one restart, one task
    or one instance each. In a single long run the loss falls whatever the choice.

    A value that is passed in an update counts for that update; a new choice is in force from the
    next one on. A bandit with contexts reads the extra ``context`` in the last update of a
    stretch, and takes it for that of the next.

    Args:
      bandit: such as :func:`tsallis_inf` or :func:`cheb_cb`. Its ``cost_offset`` should not be
        above the least loss.
      every: updates from one choice to the next. Static.
      key: JAX key or integer for the draws.

    Returns:
      An ``optax.schedules.StatefulSchedule`` whose state is a :class:`BanditHyperparamState`.
      As a plain learning rate it raises a ``TypeError``.

    Raises:
      ValueError: if ``bandit`` is no :class:`Bandit`, ``every`` no positive integer or ``key``
        is ``None``.
      MissingExtraError: in an update without ``value=``, or without ``context=`` if the bandit
        needs it.

    Examples:
      Every four steps begin at the same point.

      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import schedules
      >>> bandit = schedules.tsallis_inf([0.001, 0.1, 2.0], cost_offset=0.0)
      >>> rate = schedules.bandit_hyperparam(bandit, every=4)
      >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
      >>> state, update = tx.init(jnp.ones(())), jax.jit(tx.update)
      >>> for _ in range(60):
      ...     x = jnp.ones(())
      ...     for _ in range(4):
      ...         updates, state = update(2 * x, state, x, value=x**2)
      ...         x = optax.apply_updates(x, updates)
      >>> probs = optax.tree.get(state, "probs")
      >>> bool(probs[1] > 0.5 > 0.1 > probs[2])
      True

    References:
      Khodak et al., `Learning to Relax: Setting Solver Parameters Across a Sequence of Linear
      System Instances <https://arxiv.org/abs/2310.02246>`_, 2023.
    """
    if not isinstance(bandit, Bandit):
        raise ValueError(f"{_WHO}: bandit must be a Bandit, got {bandit!r}.")
    _validate.integer(_WHO, "every", every, at_least=1)
    return _BanditHyperparam(bandit, every, as_key(_WHO, key))
