"""A training step that supplies every extra argument a transformation may ask for."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from gradax import _data_parallel, _per_worker, _sharding, _step, _validate

Batch: TypeAlias = _step.Batch
LossFn: TypeAlias = _step.LossFn
Step: TypeAlias = Callable[
    [optax.Params, optax.OptState, Batch], tuple[optax.Params, optax.OptState, dict[str, Any]]
]

_WHO = "make_step"


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    donate: bool = False,
    mesh: Mesh | None = None,
    data_axis: str = "data",
    per_worker: str | None = None,
    workers: int | None = None,
) -> Step:
    r"""Builds a jitted training step in which any transformation of the toolkit works.

    The step computes :math:`\ell(w)` and :math:`\nabla \ell(w)` on the batch, calls
    ``tx.update`` with ``value``, ``grad``, ``value_fn``, ``grad_fn``, ``per_example_value_fn``
    and ``per_example_grad_fn``, and adds the update to the parameters. The arrays
    ``per_example_values`` and ``per_example_grads``, and the function ``half_grads``, are made
    only if the transformation asks for them. Closures cost nothing unless they are called. Any
    other extra, such as the ``margins`` of a classifier, is taken from the ``aux`` of the loss
    if that is a dictionary with an entry of this name.

    With a ``mesh`` the batch is spread over the devices along ``data_axis``, and the step is the
    same step: the gradient, and every extra, is that of the whole batch. Parameters and state
    stay where they arrive on the mesh, replicated or sharded (see :func:`shard`); what is not
    there yet is replicated.

    With ``per_worker`` there are workers along ``data_axis``, each with a part of the batch, and
    the axis is bound, so that transformations can speak over it: they compress, compare or
    average the workers' gradients themselves. Gradients and extras are then those of the
    worker's part.

    Args:
      loss_fn: ``loss_fn(params, batch)``, returns the scalar mean loss of the batch, or
        ``(loss, aux)`` with any pytree ``aux``. Randomness (dropout) belongs into the batch,
        so that a second gradient on the same batch sees the same draw.
      tx: the transformation, for instance a chain.
      donate: hand the buffers of ``params`` and ``opt_state`` to the step, which saves their
        memory; the arrays passed in cannot be used afterwards.
      mesh: devices to spread the batch over; ``None`` runs where the arguments lie.
      data_axis: name of the mesh axis.
      per_worker: what workers have for themselves. ``"gradients"``: a gradient and a state;
        parameters are common, and so is the update, which is averaged over the workers unless
        it is the same for all by the way it is made from rows of the state that differ in
        random keys alone at the start. ``"params"``: their own parameters too, as nodes of a
        gossip network have.
      workers: how many there are, a multiple of the devices along the axis; by default one on
        each. If there are more, the transformation speaks over the two nested axes
        ``(data_axis, "lanes")``.

    Returns:
      ``step(params, opt_state, batch) -> (params, opt_state, metrics)`` with
      ``metrics["loss"]``, and ``metrics["aux"]`` if the loss returns one. Per-example extras
      and halves slice the leading axis of every leaf of ``batch``, and a mesh spreads it;
      scalar leaves are replicated. Of workers, the loss is averaged; ``opt_state``, made by
      :func:`~gradax.federated.init_participants`, ``metrics["aux"]``, and with ``"params"``
      also ``params``, have a leading axis of workers.

    Raises:
      TypeError: if ``loss_fn`` is not callable, ``tx`` is no gradient transformation, or
        ``mesh`` is no mesh.
      ValueError: if the mesh has no axis ``data_axis``, ``per_worker`` is unknown or given
        without a mesh, or ``workers`` is not a positive multiple of the devices; at a call, if
        the number of examples is no multiple of the devices or workers, or a leaf of the
        state has no row for each worker.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss_fn = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
      >>> tx = gradax.optimizers.diffgrad(0.1)
      >>> w, step = jnp.zeros(2), gradax.make_step(loss_fn, tx)
      >>> state = tx.init(w)
      >>> for _ in range(100):
      ...     w, state, metrics = step(w, state, jnp.eye(2))
      >>> bool(metrics["loss"] < 1e-2)
      True

      The same on all devices, and with a median of the workers' gradients:

      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
      >>> batch = jnp.tile(jnp.eye(2), (jax.device_count(), 1))
      >>> step, w = gradax.make_step(loss_fn, tx, mesh=mesh), jnp.zeros(2)
      >>> w, state, metrics = step(w, tx.init(w), batch)
      >>> median = gradax.federated.coordinate_median("data")
      >>> robust = optax.chain(median, tx)
      >>> step = gradax.make_step(loss_fn, robust, mesh=mesh, per_worker="gradients")
      >>> workers = jnp.arange(jax.device_count())
      >>> state = gradax.federated.init_participants(robust, w, workers)
      >>> w, state, metrics = step(w, state, batch)
      >>> w.shape
      (2,)
    """
    _step.check_arguments(_WHO, loss_fn, tx)
    advance = functools.partial(_advance, loss_fn, optax.with_extra_args_support(tx))
    if mesh is not None:
        return _on_mesh(advance, mesh, data_axis, per_worker, workers, donate)
    if per_worker is not None or workers is not None:
        raise ValueError(f"{_WHO}: per_worker and workers need a mesh, got mesh=None.")
    return jax.jit(_applied(advance), donate_argnums=(0, 1) if donate else ())


def _on_mesh(advance, mesh, data_axis, per_worker, workers, donate):
    """The step that puts its arguments on a mesh: of the whole batch, or of workers."""
    mesh = _sharding.auto_mesh(_sharding.check_mesh(_WHO, mesh, "data_axis", data_axis))
    _validate.one_of(_WHO, "per_worker", per_worker, (None, "gradients", "params"))
    kept, spec = _data_parallel.Kept, PartitionSpec(data_axis)
    if per_worker is None:
        if workers is not None:
            raise ValueError(f"{_WHO}: workers needs per_worker, got workers={workers!r}.")
        states, step = (kept("params"), kept("opt_state")), _applied(advance)
        return _data_parallel.MeshStep(_WHO, step, mesh, states, spec, donate)
    workers = mesh.shape[data_axis] if workers is None else workers
    _validate.integer(_WHO, "workers", workers, at_least=1)
    if workers % mesh.shape[data_axis]:
        raise ValueError(
            f"{_WHO}: workers must be a multiple of the {mesh.shape[data_axis]} devices along "
            f"{data_axis!r}, got {workers}."
        )
    own_params = per_worker == "params"
    rows = kept("opt_state", spec, workers)
    states = kept("params", spec, workers) if own_params else kept("params"), rows
    step = _per_worker.make_worker_step(advance, mesh, data_axis, workers, own_params)
    return _data_parallel.MeshStep(_WHO, step, mesh, states, spec, donate, workers)


def _advance(loss_fn, tx, params, opt_state, batch):
    """Everything but adding the update."""
    loss, has_aux = _step.with_aux(loss_fn, params, batch)
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
    extras = _closures(loss, batch) | {"value": value, "grad": grads}
    on_demand = _on_demand(loss, params, batch, aux)
    updates, opt_state = _step.update(tx, grads, opt_state, params, extras, on_demand)
    return updates, opt_state, {"loss": value} | ({"aux": aux} if has_aux else {})


def _applied(advance):
    def step(params, opt_state, batch):
        updates, opt_state, metrics = advance(params, opt_state, batch)
        return optax.apply_updates(params, updates), opt_state, metrics

    return step


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
            _closures(loss, x)["grad_fn"](params) for x in _step.halves(_WHO, batch)
        )

    return {name: lambda name=name: own[name] for name in own} | {
        "per_example_values": lambda: closures["per_example_value_fn"](params),
        "per_example_grads": lambda: closures["per_example_grad_fn"](params),
        "half_grads": half_grads,
    }
