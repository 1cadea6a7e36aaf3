"""What training steps share: losses with and without aux, and extras made on demand."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

from gradax._extras import MissingExtraError

Batch: TypeAlias = Any
LossFn: TypeAlias = Callable[[optax.Params, Batch], Any]


def check_arguments(who: str, loss_fn: Any, tx: Any) -> None:
    """Raises a ``TypeError`` unless there are a function and a transformation."""
    if not callable(loss_fn):
        raise TypeError(f"{who}: loss_fn must be callable, got {loss_fn!r}.")
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"{who}: tx must be an optax.GradientTransformation, got {tx!r}.")


def with_aux(loss_fn: LossFn, params: optax.Params, batch: Batch) -> tuple[LossFn, bool]:
    """Brings a loss into the form that returns ``(value, aux)``; says whether it had one."""
    shape = jax.eval_shape(loss_fn, params, batch)
    if isinstance(shape, tuple):
        return loss_fn, True
    return (lambda params, batch: (loss_fn(params, batch), None)), False


def line_searchable(value_of: Callable[[optax.Params], jax.Array]) -> Callable[..., jax.Array]:
    """A ``value_fn`` that takes the other closures too.

    optax's line searches hand all extras on to it, and insist that it takes them.
    """

    def value_fn(params, *, grad_fn=None, per_example_value_fn=None, per_example_grad_fn=None):
        del grad_fn, per_example_value_fn, per_example_grad_fn
        return value_of(params)

    return value_fn


def single(example: Batch) -> Batch:
    """An example as a batch of one."""
    return jax.tree.map(lambda leaf: leaf[None], example)


def halves(who: str, batch: Batch) -> list[Batch]:
    """Both halves of a batch, the first the smaller one if they differ."""
    size = len(jax.tree.leaves(batch)[0])
    if size < 2:
        raise ValueError(f"{who}: batch must have two examples to be halved, got {size}.")
    middle = size // 2
    return [
        jax.tree.map(lambda x, at=at: x[at], batch) for at in (slice(middle), slice(middle, None))
    ]


def _accepted(update, extras: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what an ``update`` without ``**extra_args`` would refuse."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return extras
    return {name: extra for name, extra in extras.items() if name in parameters}


def update(
    tx: optax.GradientTransformationExtraArgs,
    grads: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
    extras: dict[str, Any],
    on_demand: dict[str, Callable[[], Any]],
) -> tuple[optax.Updates, optax.OptState]:
    """Calls ``tx.update``; computes an expensive extra only after it has been asked for."""
    while True:
        try:
            return tx.update(grads, state, params, **_accepted(tx.update, extras))
        except MissingExtraError as error:
            if error.extra in extras or error.extra not in on_demand:
                raise
            extras = extras | {error.extra: on_demand[error.extra]()}
