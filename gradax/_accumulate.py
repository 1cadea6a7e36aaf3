"""A training step whose batch size may change from call to call, compiled once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, overload

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from gradax import _data_parallel, _sharding, _step, _validate
from gradax._micro_batches import PER_EXAMPLE, WHO, MicroBatches, axes
from gradax.schedules import Controller

Metrics: TypeAlias = dict[str, Any]
BatchStep: TypeAlias = Callable[
    [optax.Params, optax.OptState, _step.Batch, jax.typing.ArrayLike],
    tuple[optax.Params, optax.OptState, Metrics],
]
ControlledStep: TypeAlias = Callable[
    [optax.Params, optax.OptState, Any, _step.Batch],
    tuple[optax.Params, optax.OptState, Any, Metrics],
]

_MICRO_BATCHES = "micro_batches"


@overload
def make_batch_step(
    loss_fn: _step.LossFn,
    tx: optax.GradientTransformation,
    *,
    statistics: str | None = None,
    chunk: int | None = None,
    controller: None = None,
    donate: bool = False,
    mesh: Mesh | None = None,
    data_axis: str = "data",
) -> BatchStep: ...


@overload
def make_batch_step(
    loss_fn: _step.LossFn,
    tx: optax.GradientTransformation,
    *,
    statistics: str | None = None,
    chunk: int | None = None,
    controller: Controller,
    donate: bool = False,
    mesh: Mesh | None = None,
    data_axis: str = "data",
) -> ControlledStep: ...


def make_batch_step(
    loss_fn: _step.LossFn,
    tx: optax.GradientTransformation,
    *,
    statistics: str | None = None,
    chunk: int | None = None,
    controller: Controller | None = None,
    donate: bool = False,
    mesh: Mesh | None = None,
    data_axis: str = "data",
) -> BatchStep | ControlledStep:
    r"""Builds a jitted training step for batches of any number of micro-batches.

    Every leaf of ``batches`` has the leading axes ``[micro-batches, examples]``. Their lengths
    are fixed, but the step uses only the first ``num_batches`` micro-batches, in a loop whose
    bound is an argument like any other: one compilation serves every batch size up to the
    capacity. Gradients are accumulated as a running mean in one buffer, in float32 at least; the
    result is that of :func:`make_step` on all the examples at once, up to rounding.

    With a ``controller`` the loop state is stepped too: the step takes as many micro-batches as
    ``state.batch_size`` asks for, rounded up, updates the parameters, and hands the
    :class:`~gradax.schedules.GradientStats` of the batch to ``controller.update``. Statistics
    are computed only while ``state.due`` is true, if the state has such a field.

    With a ``mesh`` the examples of each micro-batch are spread over the devices along
    ``data_axis``, as in :func:`make_step`; each micro-batch then ends in a reduction over them.

    Args:
      loss_fn: ``loss_fn(params, micro_batch)``, as in :func:`make_step` a mean over examples. An
        ``aux`` is averaged over the micro-batches, leaf by leaf.
      tx: the transformation. It is supplied with ``value``, ``grad``, ``value_fn``, ``grad_fn``
        and, on demand, ``half_grads`` and scalar entries of ``aux``, all of the batch in use.
        Extras with an axis of examples have no fixed shape here, and are not supplied.
      statistics: ``"per_example"`` for those of the gradients of single examples; or
        ``"micro_batches"`` for an estimate from the mean gradients of micro-batches, much cheaper
        and less accurate, for which two micro-batches are used at least. They are in
        ``metrics["statistics"]``, or go to the controller. ``None`` computes none, or those
        per example if there is a controller.
      chunk: number of examples whose gradients are held at once, a divisor of the size of a
        micro-batch; ``None`` for one on a CPU, where many at once are many times slower, and all
        elsewhere and on a mesh, lest its devices wait for each other.
      controller: such as :func:`gradax.schedules.adaptive_batch_size`: one whose state has a
        ``batch_size``, and whose ``update`` takes ``stats``.
      donate: hand the buffers of ``params``, ``opt_state`` and the controller's state to the
        step, which saves their memory; the arrays passed in cannot be used afterwards.
      mesh: devices to spread the examples over; ``None`` runs where the arguments lie.
      data_axis: name of the mesh axis.

    Returns:
      ``step(params, opt_state, batches, num_batches) -> (params, opt_state, metrics)``, where
      ``num_batches`` is an integer, cut to what is there; or, with a controller,
      ``step(params, opt_state, batch_state, batches) -> (params, opt_state, batch_state,
      metrics)``. ``metrics`` has the ``loss``, the ``batch_size`` in examples, and ``aux`` if
      the loss returns one.

    Raises:
      TypeError: if ``loss_fn`` is not callable, ``tx`` is no gradient transformation,
        ``controller`` no :class:`~gradax.schedules.Controller`, or ``mesh`` no mesh.
      ValueError: if ``statistics`` is unknown, ``chunk`` no positive integer, the controller
        observes something else, or the mesh has no axis ``data_axis``; at the first call, if
        leaves of ``batches`` have no common leading axes, or ``chunk`` or the number of devices
        does not divide the second.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> loss_fn = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
      >>> tx, w = optax.sgd(0.1), jnp.zeros(2)
      >>> step, state = gradax.make_batch_step(loss_fn, tx), tx.init(jnp.zeros(2))
      >>> batches = jnp.ones((8, 4, 2))  # up to 8 micro-batches of 4 examples
      >>> for num_batches in (1, 2, 8):
      ...     w, state, metrics = step(w, state, batches, num_batches)
      ...     print(metrics["batch_size"], f"{metrics['loss']:.4f}")
      4 1.0000
      8 0.3600
      32 0.1296
    """
    _step.check_arguments(WHO, loss_fn, tx)
    _validate.one_of(WHO, "statistics", statistics, (None, PER_EXAMPLE, _MICRO_BATCHES))
    if chunk is not None:
        _validate.integer(WHO, "chunk", chunk, at_least=1)
    tx = optax.with_extra_args_support(tx)
    finished = functools.partial(_finished, mesh=mesh, data_axis=data_axis, donate=donate)

    def in_use(params, batches, number, kind):
        one_by_one = mesh is None and jax.default_backend() == "cpu"
        held = 1 if chunk is None and one_by_one else chunk
        return MicroBatches.of(loss_fn, params, batches, number, kind, held)

    def apply(params, opt_state, batch, means):
        value, aux, grads = means
        extras = batch.closures() | {"value": value, "grad": grads}
        on_demand = batch.on_demand(aux)
        updates, opt_state = _step.update(tx, grads, opt_state, params, extras, on_demand)
        metrics = {"loss": value, "batch_size": batch.num * batch.size}
        metrics |= {"aux": aux} if batch.has_aux else {}
        return optax.apply_updates(params, updates), opt_state, metrics

    def step(params, opt_state, batches, num_batches):
        batch = in_use(params, batches, num_batches, statistics)
        if statistics is None:
            return apply(params, opt_state, batch, batch.means(params))
        means, stats = batch.observe(params, statistics)
        params, opt_state, metrics = apply(params, opt_state, batch, means)
        return params, opt_state, metrics | {"statistics": stats}

    if controller is None:
        return finished(step, ("params", "opt_state"))
    _check_controller(controller)
    kind, next_state = statistics or PER_EXAMPLE, controller.update

    def controlled_step(params, opt_state, batch_state, batches):
        number = (batch_state.batch_size - 1) // axes(batches)[1] + 1
        batch = in_use(params, batches, number, kind)
        means, stats = batch.observe(params, kind, getattr(batch_state, "due", True))
        batch_state = next_state(batch_state, stats)
        params, opt_state, metrics = apply(params, opt_state, batch, means)
        return params, opt_state, batch_state, metrics

    return finished(controlled_step, ("params", "opt_state", "batch_state"))


def _finished(step, kept, mesh, data_axis, donate):
    """The compiled step, on a mesh or where its arguments lie."""
    if mesh is None:
        return jax.jit(step, donate_argnums=tuple(range(len(kept))) if donate else ())
    mesh = _sharding.auto_mesh(_sharding.check_mesh(WHO, mesh, "data_axis", data_axis))
    states = tuple(map(_data_parallel.Kept, kept))
    spec = PartitionSpec(None, data_axis)
    return _data_parallel.MeshStep(WHO, step, mesh, states, spec, donate)


def _check_controller(controller):
    if not isinstance(controller, Controller):
        raise TypeError(f"{WHO}: controller must be a Controller, got {controller!r}.")
    arguments = list(inspect.signature(controller.update).parameters)
    if arguments[1:] != ["stats"]:
        raise ValueError(
            f"{WHO}: controller.update must take (state, stats), got ({', '.join(arguments)}); "
            "pass its batch size as num_batches instead."
        )
