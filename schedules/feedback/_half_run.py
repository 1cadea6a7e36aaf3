"""Half-running averages in fixed memory: means over the second half of all that was recorded.

Records are summed in blocks whose ends lie at every half of a period of ``length`` records, so
that after ``n`` periods the records of the second half are blocks ``n`` to ``2 n - 1``, exactly.
"""

from typing import Any

import jax
import jax.numpy as jnp


def blank_blocks(max_periods: int, dtype: Any) -> jax.Array:
    """Empty blocks for pairs of observables, ``[2 * max_periods, 2]``."""
    return jnp.zeros([2 * max_periods, 2], dtype)


def add_record(blocks: jax.Array, number: jax.Array, length: int, pair: Any) -> jax.Array:
    """Adds the record with this number, the first being zero, to its block."""
    block = (2 * (number + 1) + length - 1) // length - 1
    return blocks.at[block].add(jnp.stack(pair))


def half_run_means(blocks: jax.Array, periods: jax.Array, length: int) -> jax.Array:
    """Means of the pair over the second half of the first ``periods * length`` records."""
    index = jnp.arange(len(blocks))
    inside = (index >= periods) & (index < 2 * periods)
    records = periods * length
    number = jnp.maximum(records - records // 2, 1).astype(blocks.dtype)
    return jnp.sum(jnp.where(inside[:, None], blocks, 0), axis=0) / number


def ratio(pair: jax.Array) -> jax.Array:
    """The first mean over the second, NaN where that is not positive."""
    positive = pair[1] > 0
    return jnp.where(positive, pair[0] / jnp.where(positive, pair[1], 1), jnp.nan)
