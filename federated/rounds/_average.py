"""The (weighted) mean of the messages."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ._algorithm import SumAggregate


@register(
    "aggregate",
    Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan et al.",
        2016,
        "1602.05629",
    ),
    needs=("axis",),
    example={"axis_name": "clients"},
)
def average(
    axis_name: AxisName = "clients",
    weighting: Literal["examples", "uniform"] = "examples",
    divisor: float | None = None,
) -> SumAggregate:
    r"""Averages the messages of the participants, weighted by their numbers of examples.

    .. math::
        \bar m = \frac{\sum_i a_i w_i m_i}{\sum_i a_i w_i},

    with :math:`a_i` the extra ``active`` (1 if missing) and :math:`w_i` the extra ``weight``
    (1 if missing, or with ``weighting="uniform"``). The mean of nobody is zero.

    Args:
      axis_name: the axis of participants, for use in a chain.
      weighting: ``"examples"`` takes the extra ``weight``, ``"uniform"`` ignores it.
      divisor: divide the sum by this number instead of the sum of weights, as private
        averaging does with the expected number of participants; ``1.0`` gives the plain
        weighted sum.

    Returns:
      An aggregate that streams.

    Raises:
      ValueError: if ``weighting`` is unknown or ``divisor`` is not positive.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> mean = federated.average("clients")
      >>> def update(message, weight):
      ...     return mean.update(message, optax.EmptyState(), weight=weight)[0]
      >>> rows, weights = jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0])
      >>> jax.vmap(update, axis_name="clients")(rows, weights).tolist()
      [2.0, 2.0]

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized
      Data <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    _validate.one_of("average", "weighting", weighting, ("examples", "uniform"))
    _validate.interval("average", "divisor", divisor, "(0, inf)")

    def partial(message, *, weight=None, **extras):
        del extras
        # The sum of many messages overflows float16 and is rough in bfloat16: it stays wide until
        # it is divided. Empty leaves remember the dtypes.
        dtype_of = lambda x: jnp.zeros(0, jnp.result_type(x, float))
        values = jax.tree.map(widen, message), jax.tree.map(dtype_of, message)
        return (1.0 if weight is None or weighting == "uniform" else weight), values

    def finish(total, weight, state, params=None, **extras):
        del params, extras
        by = weight if divisor is None else jnp.asarray(divisor, weight.dtype)
        by = jnp.where(by > 0, by, 1)
        divide = lambda leaf, like: (leaf / by.astype(leaf.dtype)).astype(like.dtype)
        return jax.tree.map(divide, *total), state

    return SumAggregate(optax.init_empty_state, partial, finish, axis_name)
