"""make_monitor: what all monitors share, so that each says only what it measures."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._wide import widen


def make_monitor(
    name: str,
    state_type: type[Any],
    measure: Callable[..., Mapping[str, Any]],
    blank: Callable[[optax.Params], Mapping[str, Any]] | None = None,
    *,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Builds a transformation that passes updates through and records what it measures.

    The state has the same shapes from the start, so that a monitor can be scanned, and is read
    with :func:`optax.tree.get`. Values are taken at the first update and at every ``every``-th
    after it; in between the last ones stay. What is not measured is not computed, except under
    :func:`jax.vmap`, which turns the choice into a selection among finished values.

    Args:
      name: what error messages call it.
      state_type: NamedTuple with a field ``count``; all its other fields are recorded values.
      measure: ``measure(updates, state, params, **extra_args)``, called like ``update``;
        returns the new values by name. Those it leaves out stay as they are.
      blank: function of params that returns the first values, by name, of fields that are no
        scalars. All others start as NaN, in the widest real dtype of params, float32 at least.
      every: number of updates from one record to the next. Static.

    Returns:
      A transformation whose state is a ``state_type``; it returns the very updates it gets.

    Raises:
      ValueError: if ``every`` is no positive integer, or if a measured value does not have the
        shape of its field.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> from typing import NamedTuple
      >>> class LargestGradientState(NamedTuple):
      ...     count: jax.Array
      ...     largest_gradient: jax.Array
      >>> def monitor_largest_gradient(every=1):
      ...     def measure(updates, state, params, **extra_args):
      ...         return {"largest_gradient": optax.tree.norm(updates, ord=jnp.inf)}
      ...     return gradax.optimizers.make_monitor(
      ...         "monitor_largest_gradient", LargestGradientState, measure, every=every
      ...     )
      >>> tx = optax.chain(monitor_largest_gradient(), optax.adam(1e-3))
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.array([3.0, -4.0]), state)
      >>> print(optax.tree.get(state, "largest_gradient"))
      4.0
    """
    _validate.integer(name, "every", every, at_least=1)

    def init_fn(params):
        given = blank(params) if blank else {}
        scalars = set(state_type._fields) - {"count", *given}
        nan = {field: jnp.full([], jnp.nan, record_dtype(params)) for field in scalars}
        return state_type(count=jnp.zeros([], jnp.int32), **nan, **given)

    def update_fn(updates, state, params=None, **extra_args):
        last = {field: value for field, value in state._asdict().items() if field != "count"}

        def record():
            found = measure(updates, state, params, **extra_args)
            kept = {field: _kept(name, field, new, last[field]) for field, new in found.items()}
            return last | kept

        if every == 1:
            values = record()
        else:
            values = jax.lax.cond(state.count % every == 0, record, lambda: last)
        return updates, state._replace(count=optax.safe_increment(state.count), **values)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _kept(name, field, new, old):
    """New values in the dtypes of the old ones."""

    def of_leaf(value, before):
        if jnp.shape(value) != before.shape:
            raise ValueError(
                f"{name}: {field} must have the shape {before.shape} it started with, "
                f"got {jnp.shape(value)}."
            )
        return jnp.asarray(value, before.dtype)

    return jax.tree.map(of_leaf, new, old)


def record_dtype(tree: Any) -> Any:
    """Returns the dtype of a tree's records: its widest real one, float32 at least."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]
    real = [jnp.finfo(dtype).dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    return jnp.result_type(jnp.float32, *real)


def widened(tree: Any) -> Any:
    """Casts leaves to single precision at least, so that sums over them keep their digits."""
    return jax.tree.map(widen, tree)


def norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of a tree, in the dtype of its records."""
    return optax.tree.norm(widened(tree)).astype(record_dtype(tree))
