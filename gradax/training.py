"""A training step that supplies every extra argument a transformation may ask for."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

from gradax import _step

Batch: TypeAlias = _step.Batch
LossFn: TypeAlias = _step.LossFn
Step: TypeAlias = Callable[
    [optax.Params, optax.OptState, Batch], tuple[optax.Params, optax.OptState, dict[str, Any]]
]


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    donate: bool = False,
) -> Step:
    r"""Builds a jitted training step in which any transformation of the toolkit works.

    The step computes :math:`\ell(w)` and :math:`\nabla \ell(w)` on the batch, calls
    ``tx.update`` with ``value``, ``grad``, ``value_fn``, ``grad_fn``, ``per_example_value_fn``
    and ``per_example_grad_fn``, and adds the update to the parameters. The arrays
    ``per_example_values`` and ``per_example_grads``, and the function ``half_grads``, are made
    only if the transformation asks for them. Closures cost nothing unless they are called. Any
    other extra, such as the ``margins`` of a classifier, is taken from the ``aux`` of the loss
    if that is a dictionary with an entry of this name.

    Args:
      loss_fn: ``loss_fn(params, batch)``, returns the scalar mean loss of the batch, or
        ``(loss, aux)`` with any pytree ``aux``. Randomness (dropout) belongs into the batch,
        so that a second gradient on the same batch sees the same draw.
      tx: the transformation, for instance a chain.
      donate: hand the buffers of ``params`` and ``opt_state`` to the step, which saves their
        memory; the arrays passed in cannot be used afterwards.

    Returns:
      ``step(params, opt_state, batch) -> (params, opt_state, metrics)`` with
      ``metrics["loss"]``, and ``metrics["aux"]`` if the loss returns one. Per-example extras
      and halves slice the leading axis of every leaf of ``batch``.

    Raises:
      TypeError: if ``loss_fn`` is not callable or ``tx`` is no gradient transformation.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> loss_fn = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
      >>> tx = gradax.optimizers.diffgrad(0.1)
      >>> w, step = jnp.zeros(2), gradax.make_step(loss_fn, tx)
      >>> state = tx.init(w)
      >>> for _ in range(100):
      ...     w, state, metrics = step(w, state, jnp.eye(2))
      >>> bool(metrics["loss"] < 1e-2)
      True
    """
    _step.check_arguments("make_step", loss_fn, tx)
    tx = optax.with_extra_args_support(tx)

    def step(params, opt_state, batch):
        loss, has_aux = _step.with_aux(loss_fn, params, batch)
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        extras = _closures(loss, batch) | {"value": value, "grad": grads}
        on_demand = _on_demand(loss, params, batch, aux)
        updates, opt_state = _step.update(tx, grads, opt_state, params, extras, on_demand)
        metrics = {"loss": value} | ({"aux": aux} if has_aux else {})
        return optax.apply_updates(params, updates), opt_state, metrics

    return jax.jit(step, donate_argnums=(0, 1) if donate else ())


def _closures(loss, batch) -> dict[str, Any]:
    mean = lambda params, batch: loss(params, batch)[0]
    of_example = lambda params, example: mean(params, _step.single(example))

    return {
        "value_fn": _step.line_searchable(lambda params: mean(params, batch)),
        # optax's SAM passes a second positional argument.
        "grad_fn": lambda params, *_: jax.grad(mean)(params, batch),
        "per_example_value_fn": lambda params: jax.vmap(of_example, (None, 0))(params, batch),
        "per_example_grad_fn": lambda params: jax.vmap(jax.grad(of_example), (None, 0))(
            params, batch
        ),
    }


def _on_demand(loss, params, batch, aux) -> dict[str, Callable[[], Any]]:
    """Extras that cost something to make, and those that only the loss can know."""
    own = aux if isinstance(aux, dict) else {}
    closures = _closures(loss, batch)

    def half_grads():
        return lambda params: tuple(
            _closures(loss, x)["grad_fn"](params) for x in _step.halves("make_step", batch)
        )

    return {name: lambda name=name: own[name] for name in own} | {
        "per_example_values": lambda: closures["per_example_value_fn"](params),
        "per_example_grads": lambda: closures["per_example_grad_fn"](params),
        "half_grads": half_grads,
    }
