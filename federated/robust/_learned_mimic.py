"""Mimic with a learning phase: first find out along what honest messages differ most."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen

from .. import axis
from ._rows import count_rows, inexact_leaves, mean_of_rows
from ._stateful import StatefulAttack


class LearnedMimicState(NamedTuple):
    """State of :func:`learned_mimic`.

    Attributes:
      count: ``int32[]``, number of messages copied.
      centre: the floating leaves of a message, float32 at least: mean of the honest messages so
        far.
      direction: likewise, a unit vector: the direction in which honest messages differ most.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    centre: list[jax.Array]
    direction: list[jax.Array]


def learned_mimic(learning_steps: int = 100) -> StatefulAttack:
    r"""Copies the honest participant who stands out most, once it is known who that is.

    While learning it copies the first one, and follows the top direction of the honest
    deviations :math:`d_i = x_i - \mu` from their running mean by Oja's rule,

    .. math::
        z \leftarrow \frac{v}{\|v\|}, \qquad
        v = \frac{t - 1}{t} z + \frac1t \sum_i \langle d_i, z \rangle d_i,

    which begins with the longest of the first deviations. Afterwards it copies the participant
    with the largest :math:`|\langle x_i, z \rangle|`. Where participants differ, one of them
    then counts ``f + 1`` times, and no rule can tell.

    Args:
      learning_steps: number of steps of the learning phase. Static.

    Returns:
      A :class:`StatefulAttack` with the state :class:`LearnedMimicState`; two copies of a
      message.

    Raises:
      ValueError: if ``learning_steps`` is no integer above 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import attacks
      >>> attack, honest = attacks.learned_mimic(1), jnp.array([[0.0, 1.0], [0.0, 0.0], [9.0, 0.0]])
      >>> first, state = attack.update(honest, attack.init(honest[0]))
      >>> second, state = attack.update(honest, state)
      >>> first.tolist(), second.tolist()
      ([0.0, 1.0], [9.0, 0.0])

    References:
      Karimireddy et al., `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
      <https://arxiv.org/abs/2006.09365>`_, 2020.
    """
    _validate.integer("learned_mimic", "learning_steps", learning_steps, at_least=1)

    def init(message):
        zeros = lambda: [jnp.zeros_like(widen(leaf)) for leaf in inexact_leaves(message)]
        return LearnedMimicState(jnp.zeros([], jnp.int32), zeros(), zeros())

    def update(honest, state):
        count_rows("learned_mimic", honest)
        rows, learning = (
            [widen(leaf) for leaf in inexact_leaves(honest)],
            state.count < learning_steps,
        )
        known = state.centre, state.direction
        centre, direction = jax.lax.cond(learning, lambda: _learn(rows, state), lambda: known)
        outstanding = jnp.argmax(jnp.abs(_along(rows, direction))) if rows else 0
        whom = jnp.where(learning, 0, outstanding)
        vector = jax.tree.map(lambda leaf: jnp.asarray(leaf)[whom], honest)
        return vector, LearnedMimicState(optax.safe_increment(state.count), centre, direction)

    return StatefulAttack(init, update)


def _learn(rows, state):
    """The running mean and the top direction after another step."""
    share = 1.0 / (state.count + 1)
    of = lambda leaf: jnp.asarray(share, jnp.finfo(leaf.dtype).dtype)
    pairs = zip(rows, state.centre, strict=True)
    centre = [old + of(old) * (mean_of_rows(leaf) - old) for leaf, old in pairs]
    deviations = [leaf - mean for leaf, mean in zip(rows, centre, strict=True)]
    lengths = sum(_squares(leaf) for leaf in deviations)
    longest = jnp.argmax(lengths) if deviations else 0
    begin = state.count == 0
    pairs = zip(deviations, state.direction, strict=True)
    before = _unit([jnp.where(begin, leaf[longest], old) for leaf, old in pairs])
    along = _along(deviations, before)
    pairs = zip(deviations, before, strict=True)
    return centre, _unit(
        [(1 - of(z)) * z + of(z) * axis.contract(_as(along, z), leaf) for leaf, z in pairs]
    )


def _along(rows: list[jax.Array], direction: list[jax.Array]) -> Any:
    """Inner products ``[h]`` of the rows with a vector, complex numbers taken as pairs."""
    pairs = zip(rows, direction, strict=True)
    products = (leaf.reshape(len(leaf), z.size) @ z.conj().reshape(z.size) for leaf, z in pairs)
    return sum(jnp.real(product) for product in products)


def _squares(leaf):
    return jnp.sum(jnp.abs(leaf) ** 2, axis=tuple(range(1, leaf.ndim)))


def _unit(leaves):
    """A vector at length one; zero stays zero."""
    norm = optax.tree.norm(leaves)
    return [leaf / _as(jnp.where(norm > 0, norm, 1), leaf) for leaf in leaves]


def _as(values, leaf):
    return values.astype(jnp.finfo(leaf.dtype).dtype)
