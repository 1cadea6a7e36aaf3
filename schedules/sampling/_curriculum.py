"""Easy examples first: an order by difficulty, and a prefix of it that grows with time."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue
from gradax._keys import as_key
from gradax.schedules._protocols import Sampler

Family = Literal["linear", "quad", "sqrt", "step", "exp", "log"]
Order = Literal["curriculum", "anti", "random"]
ORDERS = ("curriculum", "anti", "random")

_PACING = catalogue.Paper(
    title="When Do Curricula Work?",
    authors="Wu et al.",
    year=2020,
    arxiv="2012.03107",
)

#: Share of what is missing at the start that has come in after the part z of the growth.
_GROWTH: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda z: z,
    "quad": lambda z: z**2,
    "sqrt": jnp.sqrt,
    "exp": lambda z: jnp.expm1(10 * z) / np.expm1(10.0),
    "log": lambda z: 1 + jnp.log(z + np.exp(-10.0)) / 10,
}


@catalogue.register(
    "schedule",
    _PACING,
    example={"family": "linear", "a": 0.8, "b": 0.2, "num_steps": 5, "num_items": 100},
)
def pacing_schedule(
    family: Family,
    a: jax.typing.ArrayLike = 0.8,
    b: jax.typing.ArrayLike = 0.2,
    *,
    num_steps: int,
    num_items: int,
) -> optax.Schedule:
    r"""Number of items in use, which grows from a share :math:`b` of them to all.

    With :math:`z = \min(s / (a T), 1)` at the count :math:`s`, the number is
    :math:`b N + (1 - b) N\, g(z)`, cut to an integer from 1 to :math:`N`, where :math:`g(z)` is

    - ``"linear"``: :math:`z`; ``"quad"``: :math:`z^2`; ``"sqrt"``: :math:`\sqrt z`;
    - ``"step"``: 0 until :math:`z = 1`, where everything comes at once;
    - ``"exp"``: :math:`(e^{10 z} - 1) / (e^{10} - 1)`, late and suddenly;
    - ``"log"``: :math:`1 + \ln(z + e^{-10}) / 10`, most of it at once.

    Args:
      family: one of the laws above.
      a: share :math:`a` of the run after which all are in use, in ``(0, 1]``.
      b: share :math:`b` of the items to begin with, in ``(0, 1]``; 1 switches pacing off.
      num_steps: length :math:`T` of the run, a Python integer.
      num_items: number :math:`N` of items, a Python integer.

    Returns:
      A function of the count, of any shape, to ``int32`` of that shape.

    Raises:
      ValueError: if the family is unknown or a number out of its range.

    Examples:
      >>> from gradax import schedules
      >>> pacing = schedules.pacing_schedule("linear", 0.8, 0.2, num_steps=50, num_items=100)
      >>> [int(pacing(count)) for count in (0, 10, 20, 40, 50)]
      [20, 40, 60, 100, 100]

    References:
      Wu, Dyer and Neyshabur, `When Do Curricula Work? <https://arxiv.org/abs/2012.03107>`_,
      2020. Vahidian et al., `When Do Curricula Work in Federated Learning?
      <https://arxiv.org/abs/2212.12712>`_, 2022.
    """
    who = "pacing_schedule"
    _validate.one_of(who, "family", family, ("step", *_GROWTH))
    _validate.interval(who, "a", a, "(0, 1]")
    _validate.interval(who, "b", b, "(0, 1]")
    _validate.integer(who, "num_steps", num_steps, at_least=1)
    _validate.integer(who, "num_items", num_items, at_least=1)
    first = b * num_items

    def schedule(count):
        z = jnp.clip(jnp.asarray(count, jnp.float32) / (a * num_steps), 0, 1)
        grown = (z >= 1).astype(jnp.float32) if family == "step" else _GROWTH[family](z)
        size = first + (num_items - first) * grown
        # Rounding must not take an item away: 59.999996 means 60.
        return jnp.clip(jnp.floor(size * (1 + 1e-6)), 1, num_items).astype(jnp.int32)

    return schedule


@catalogue.register("function", _PACING, example={"scores": (0.3, 0.1, 0.2)})
def curriculum_order(
    scores: jax.typing.ArrayLike, order: Order = "curriculum", key: jax.Array | int | None = None
) -> jax.Array:
    """Puts items into the order in which a curriculum lets them in.

    Args:
      scores: ``[items]``, how hard each is: its loss under the model of the moment, under an
        expert, or the sum of several. NaN counts as hardest.
      order: ``"curriculum"``, easy ones first; ``"anti"``, hard ones first; ``"random"``, which
        shows what pacing does alone. Static.
      key: random key or seed, for ``"random"`` only.

    Returns:
      ``int32[items]``, numbers of items; equal scores stay in the order of their numbers.

    Raises:
      ValueError: if scores are no vector, the order is unknown, or a key is missing.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.curriculum_order([0.3, 0.1, 0.2]))
      [1 2 0]
      >>> print(schedules.curriculum_order([0.3, 0.1, 0.2], "anti"))
      [0 2 1]

    References:
      Wu, Dyer and Neyshabur, `When Do Curricula Work? <https://arxiv.org/abs/2012.03107>`_,
      2020.
    """
    who = "curriculum_order"
    _validate.one_of(who, "order", order, ORDERS)
    if np.ndim(scores) != 1:
        raise ValueError(f"{who}: scores must be a vector, got the shape {np.shape(scores)}.")
    if order == "random":
        return jax.random.permutation(as_key(who, key), np.shape(scores)[0]).astype(jnp.int32)
    scores = jnp.asarray(scores, float)
    hardness = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    sign = 1 if order == "curriculum" else -1
    return jnp.argsort(sign * hardness, stable=True).astype(jnp.int32)


def shuffled_prefix(key: jax.Array, order: jax.Array, size: jax.Array) -> jax.Array:
    """Shuffles the first items of an order; the others follow as they were.

    Args:
      key: typed key.
      order: ``int32[items]``.
      size: ``int32[]``, how many are shuffled; may be traced.

    Returns:
      ``int32[items]``.
    """
    place = jnp.arange(order.shape[0])
    rank = jnp.where(place < size, jax.random.uniform(key, order.shape), 2.0)
    return order[jnp.argsort(rank, stable=True)]


class CurriculumPoolState(NamedTuple):
    """State of :func:`curriculum_pool`.

    Attributes:
      key: typed key of the coming shuffles.
      count: ``int32[]``, number of batches drawn, at which the pacing is read.
      order: ``int32[items]``, numbers of items, easy ones first; put another one here when the
        scores have been measured again, and it holds from the next pass on.
      queue: ``int32[items]``, begins with the pool of this pass, shuffled.
      pool_size: ``int32[]``, number of items in the pool.
      position: ``int32[]``, how many of the pool have been dealt out.
    """

    key: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    order: jax.Array
    queue: jax.Array
    pool_size: jax.Array
    position: jax.Array


@catalogue.register(
    "sampler",
    _PACING,
    example={"order": np.arange(12)[::-1], "pacing": lambda count: 4 + count, "batch_size": 2},
)
def curriculum_pool(
    order: jax.typing.ArrayLike,
    pacing: optax.Schedule,
    batch_size: int,
    *,
    min_pool: int | None = None,
) -> Sampler:
    """Draws batches from the first items of an order, of which there are more and more.

    The pool of the moment is shuffled and dealt out; when less than a batch is left of it, the
    next pool is taken, as large as the pacing says then. So an item returns only after all
    others of the pool had their turn (but for a rest smaller than a batch).

    Args:
      order: ``int[items]``, numbers of items as :func:`curriculum_order` makes them, each once.
      pacing: number of items in use, as a function of the number of batches drawn, such as
        :func:`pacing_schedule`; values are cut to what there is.
      batch_size: items per draw. Static.
      min_pool: smallest size of a pool; ``None`` for ``batch_size``, below which it cannot be.

    Returns:
      A :class:`Sampler` of ``int32[batch_size]``; its state is a :class:`CurriculumPoolState`.

    Raises:
      ValueError: if the order does not hold numbers, each once, ``pacing`` is not a function, or
        a size does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> order = schedules.curriculum_order([0.3, 0.1, 0.2, 0.9])
      >>> sampler = schedules.curriculum_pool(order, lambda count: 2 + 2 * count, batch_size=2)
      >>> batch, state = sampler.sample(sampler.init(0))
      >>> sorted(batch.tolist()), int(state.pool_size)
      ([1, 2], 2)

    References:
      Wu, Dyer and Neyshabur, `When Do Curricula Work? <https://arxiv.org/abs/2012.03107>`_,
      2020.
    """
    who = "curriculum_pool"
    order = _checked_order(who, order)
    num_items = order.shape[0]
    if not callable(pacing):
        raise ValueError(f"{who}: pacing must be a function of the count, got {pacing!r}.")
    _validate.integer(who, "batch_size", batch_size, at_least=1)
    least = batch_size if min_pool is None else min_pool
    _validate.integer(who, "min_pool", least, at_least=batch_size)
    if least > num_items:
        raise ValueError(
            f"{who}: batch_size and min_pool must not exceed the {num_items} items, got {least}."
        )

    def init(key):
        zero = lambda: jnp.zeros([], jnp.int32)
        queue = jnp.zeros(num_items, jnp.int32)
        key, order_ = as_key(who, key), jnp.array(order, jnp.int32)
        return CurriculumPoolState(key, zero(), order_, queue, zero(), zero())

    def refilled(state):
        key, own = jax.random.split(state.key)
        size = jnp.clip(jnp.asarray(pacing(state.count)), least, num_items).astype(jnp.int32)
        queue = shuffled_prefix(own, state.order, size)
        return state._replace(key=key, queue=queue, pool_size=size, position=jnp.zeros_like(size))

    # A function of its own: eager calls compile again for every new lambda.
    def as_it_was(state):
        return state

    def sample(state):
        used_up = state.position + batch_size > state.pool_size
        state = jax.lax.cond(used_up, refilled, as_it_was, state)
        batch = jax.lax.dynamic_slice(state.queue, (state.position,), (batch_size,))
        position = state.position + batch_size
        return batch, state._replace(count=optax.safe_increment(state.count), position=position)

    return Sampler(init, sample)


def _checked_order(who: str, order: jax.typing.ArrayLike) -> np.ndarray:
    numbers = np.asarray(order)
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or numbers.size == 0 or len(np.unique(numbers)) != numbers.size:
        raise ValueError(
            f"{who}: order must be a vector of integers, each once, got {numbers.dtype}"
            f"{numbers.shape}."
        )
    return numbers.astype(np.int32)
