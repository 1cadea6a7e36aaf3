"""Dtypes: what comes in goes out. Traced only, nothing is compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from gradax.testing._compare import expect, mentions, same_types, wide_leaves
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, Subject, bowl


def _typed_params(subject: Subject, *dtypes: Any) -> Any:
    """A tree with one matrix and one vector of each dtype."""
    single = {
        f"{name}{k}": jnp.ones(shape, dtype)
        for k, dtype in enumerate(dtypes)
        for name, shape in (("b", (3,)), ("w", (3, 2)))
    }
    return subject.lift(single)


def trace_update(subject: Subject, params: Any, **options: Any) -> tuple[Any, Any, Any]:
    """Types of the first state, of the updates and of the state after them."""
    run = subject.run(**options)
    state = jax.eval_shape(run.init, params)
    updates, after = jax.eval_shape(
        lambda g, s, p: run.update(g, s, p, BOWL), params, state, params
    )
    return state, updates, after


def keeps_types(subject: Subject, params: Any, **options: Any) -> None:
    """Asserts that updates have the types of params and that the state keeps its own."""
    state, updates, after = trace_update(subject, params, **options)
    same_types("the update", updates, jax.eval_shape(lambda: params))
    same_types("the state", after, state)


@check()
def update_dtype(subject: Subject) -> None:
    """Updates and state keep the dtype for bfloat16, float16 and float32 parameters."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        keeps_types(subject, _typed_params(subject, dtype))


@check()
def float64_kept(subject: Subject) -> None:
    """Updates and state keep their dtype for float64 parameters in x64 mode."""
    with jax.enable_x64(True):
        keeps_types(subject, _typed_params(subject, jnp.float64))


@check()
def mixed_float32_float64(subject: Subject) -> None:
    """float32 leaves beside float64 leaves keep their dtypes."""
    with jax.enable_x64(True):
        keeps_types(subject, _typed_params(subject, jnp.float32, jnp.float64))


@check()
def no_float64_leak(subject: Subject) -> None:
    """In x64 mode nothing turns float64 for float32 parameters."""
    with jax.enable_x64(True):
        params = _typed_params(subject, jnp.float32)
        for tree in trace_update(subject, params):
            wide = wide_leaves(tree)
            expect(not wide, f"64 bits for 32-bit parameters: {wide}.")


@check()
def complex_kept(subject: Subject) -> None:
    """complex64 parameters keep their dtype, or a ValueError says that complex makes no sense."""
    try:
        keeps_types(subject, _typed_params(subject, jnp.complex64))
    except ValueError as error:
        mentions(error, "complex")


@check()
def state_stable(subject: Subject) -> None:
    """The state passes lax.cond against its own update, given a value of another dtype."""
    for dtype in (jnp.bfloat16, jnp.float32):
        other = jnp.float16 if dtype == jnp.float32 else jnp.float32
        more = lambda at, other=other: {"value": at.loss(at.params).astype(other)}
        run, params = subject.run(bowl, more=more), _typed_params(subject, dtype)

        def either(params, state, run=run):
            updated = lambda: run.update(params, state, params, BOWL)
            return jax.lax.cond(jnp.array(True), updated, lambda: (params, state))

        jax.eval_shape(either, params, jax.eval_shape(run.init, params))
