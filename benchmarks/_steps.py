"""One step of every method of the catalogue that works alone, as a function of shapes."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue

#: Two matrices, one wide and one tall, and a vector.
SHAPES = {"b": (4096,), "w": (512, 256), "z": (256, 512)}

#: A method whose state is quadratic in the number of parameters gets few of them.
_FEW = {"optimistic_newton": {"w": (64,)}}

#: What reads or writes something more than once even in fused passes -> why it has to.
EXCEPTIONS = {
    "adagrad_norm": "the step needs the norm of the gradient",
    "scale_by_adagrad_norm": "the step needs the norm of the gradient",
    "adamp": "the projection needs inner products of step and weights",
    "project_radial": "the projection needs inner products of step and weights",
    "sgdp": "the projection needs inner products of step and weights",
    "l4": "the rate needs the inner product of step and gradient",
    "l4_adam": "the rate needs the inner product of step and gradient",
    "l4_momentum": "the rate needs the inner product of step and gradient",
    "scale_by_agvm": "norms of both halves, then the distance of the unit vectors",
    "block_coordinate_descent": "all blocks are compared before one moves",
    "scale_by_block": "all blocks are compared before one moves",
    "clip_coordinates": "the threshold is an order statistic, searched in a loop",
    "eg_plus_minus": "the mass is a log-sum-exp: greatest logarithm, then sum, then weights",
    "steepest_descent": "the norm is scaled by the largest entry, so that squares stay in range",
    "scale_by_steepest_descent": "singular value decompositions, and their norm",
    "normalize_by_update_norm": "the step needs the norm of the update",
    "sam_gradient": "the gradient is taken a normalized step away",
    "cap_by_stability": "a power iteration, in a loop",
    "fdr_sgd": "sums over a step decide about its rate",
    "monitor_fdr": "a table of sums is updated in place",
    "monitor_directional_sharpness": "the curvature is taken along the normalized update",
    "monitor_gradient_direction": "products of all pairs of gradients",
    "monitor_margins": "the norm is scaled by the largest entry, so that squares stay in range",
    "muon": "matrix products",
    "muon_adam": "matrix products",
    "muon_signum": "matrix products",
    "drop_muon": "matrix products",
    "scale_by_orthogonalized_momentum": "matrix products",
    "optimistic_newton": "matrix products with a matrix of second moments",
    "admm_local": "a solver, in a loop",
    "keep_versions": "one row of a ring of models is replaced in place",
    "error_feedback": "the compressor needs the norm of what it compresses",
    "clip_contribution": "the norm is scaled by the largest entry, so that squares stay in range",
    "dice_aggregate": "every example is clipped by its norm",
    "dice_sgd": "every example is clipped by its norm",
    "private_gradient": "every example is clipped by its norm",
}


class Step(NamedTuple):
    """A step that can be traced.

    Attributes:
      function: `(params, state, grads, extras) -> (params, state)`.
      arguments: shapes of these.
      size: number of parameters.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    size: int

    def jit(self) -> Any:
        """The step, compiled on its first call; it donates parameters and state."""
        return jax.jit(self.function, donate_argnums=(0, 1))


def listed() -> dict[str, catalogue.Entry]:
    """Entries whose transformations talk to nobody and run no clients' local steps."""
    alone = {}
    for entry in catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS):
        if entry.kind != "aggregate" and not {"axis", "batches"} & set(entry.needs):
            alone[entry.name] = entry
    return alone


def step_of(entry: catalogue.Entry) -> Step:
    """Makes the step of an entry of the catalogue, built with its example arguments."""
    return make_step(entry.make(), entry.needs, _FEW.get(entry.name, SHAPES))


def make_step(
    tx: optax.GradientTransformation, needs: tuple[str, ...], shapes: Mapping[str, Any]
) -> Step:
    """Makes the step of a transformation: update, and what it does to the parameters.

    Gradients and extras come ready-made, as arguments. A function of params among the extras
    is the gradient of a separable quadratic: a product, element by element.

    Args:
      tx: the transformation.
      needs: the extras it needs.
      shapes: of the parameters.

    Returns:
      The step.
    """
    tx = optax.with_extra_args_support(tx)
    params = _arrays(shapes)
    extras = {name: _EXTRAS[name](shapes) for name in needs}

    def step(params, state, grads, extras):
        given = {name: _as_function(name, value) for name, value in extras.items()}
        updates, state = tx.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    size = sum(map(math.prod, shapes.values()))
    return Step(step, (params, state, params, extras), size)


def _as_function(name, value):
    if not name.endswith("_fn"):
        return value
    return lambda params, *_, **__: jax.tree.map(jnp.multiply, value, params)


def _arrays(shapes, *leading):
    array = lambda shape: jax.ShapeDtypeStruct((*leading, *shape), jnp.float32)
    return {name: array(shape) for name, shape in shapes.items()}


def _scalar(dtype):
    return lambda _: jax.ShapeDtypeStruct((), dtype)


_EXAMPLES = 3
#: Extra -> its shapes, from those of the parameters.
_EXTRAS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "value": _scalar(jnp.float32),
    **dict.fromkeys(("task", "round", "num_active", "num_clients"), _scalar(jnp.int32)),
    **dict.fromkeys(("grad", "anchor", "broadcast", "correction"), _arrays),
    **dict.fromkeys(("grad_fn", "full_grad_fn"), _arrays),
    "half_grads": lambda shapes: (_arrays(shapes), _arrays(shapes)),
    "per_example_grads": lambda shapes: _arrays(shapes, _EXAMPLES),
    "margins": lambda _: jax.ShapeDtypeStruct((_EXAMPLES,), jnp.float32),
}
