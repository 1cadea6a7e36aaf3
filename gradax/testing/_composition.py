"""optax's own wrappers around the transformation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax.testing._arguments import injectable
from gradax.testing._compare import close, equal, same_types
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, Around, Subject, bowl

_NAN = (float("nan"), 0.0)


@check()
def chain(subject: Subject) -> None:
    """In the middle of a chain it does what it does alone, extras included."""
    identity = optax.identity()
    run = subject.run(around=lambda tx: optax.chain(identity, optax.chain(tx), identity))
    params = subject.params()
    params, _ = jax.jit(run.walk)(params, run.init(params))
    close("the chain's params", params, subject.compiled.trajectory[1][0])


@check()
def masked(subject: Subject) -> None:
    """Under optax.masked it passes masked leaves through and treats the rest as if alone."""
    mask = {"frozen": False, "w": True}
    updates, grads = _beside_a_frozen_leaf(
        subject, lambda tx: optax.masked(tx, mask, mask_compatible_extra_args=True)
    )
    equal("the masked leaf", updates["frozen"], grads["frozen"])
    close("the update", updates["w"], _alone(subject)["w"])


@check()
def partition(subject: Subject) -> None:
    """Under optax.partition it treats its own leaves as if they were alone."""
    labels = {"frozen": "other", "w": "ours"}

    def around(tx):
        parts = {"ours": tx, "other": optax.scale(-2.0)}
        return optax.partition(parts, labels, mask_compatible_extra_args=True)

    updates, grads = _beside_a_frozen_leaf(subject, around)
    close("the other leaf", updates["frozen"], jax.tree.map(lambda g: -2 * g, grads["frozen"]))
    close("the update", updates["w"], _alone(subject)["w"])


def _only_w(params, weights, offset):
    return bowl({"w": params["w"]}, weights, offset)


def _beside_a_frozen_leaf(subject: Subject, around: Around) -> tuple[Any, Any]:
    """Second update of a tree of which the loss only knows ``w``."""
    params = {"frozen": subject.params()["b"], "w": subject.params()["w"]}
    grads = jax.tree.map(jnp.ones_like, params)
    return _second_update(subject, params, grads, around), grads


@functools.lru_cache(maxsize=1)
def _alone(subject: Subject) -> Any:
    params = {"w": subject.params()["w"]}
    return _second_update(subject, params, jax.tree.map(jnp.ones_like, params), lambda tx: tx)


def _second_update(subject: Subject, params: Any, grads: Any, around: Around) -> Any:
    run = subject.run(_only_w, around)

    body = lambda _, carry: run.update(grads, carry[1], params, BOWL)
    return jax.jit(lambda carry: jax.lax.fori_loop(0, 2, body, carry))((grads, run.init(params)))[0]


def _two_micro_steps(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    accumulator = optax.MultiSteps(tx, 2)
    # Its own gradient_transformation() would not hand on extra arguments.
    return optax.GradientTransformationExtraArgs(accumulator.init, accumulator.update)


@check()
def multi_steps(subject: Subject) -> None:
    """Under optax.MultiSteps the k-th update is that of the mean gradient, others are zero."""
    mean_at = lambda params: jax.tree.map(lambda leaf: 1 + 0.1 * leaf, params)
    # Other extras than the gradient are those of the whole batch in both micro-steps.
    whole = lambda at: subject.extras(dataclasses.replace(at, grads=mean_at(at.params)))
    run, bare = subject.run(around=_two_micro_steps, more=whole), subject.run()
    params = subject.params()
    mean = mean_at(params)
    shift = lambda by: jax.tree.map(lambda g: g + by, mean)

    @jax.jit
    def compare(params):
        start = run.init(params)
        first, state = run.update(shift(0.25), start, params, BOWL)
        second, state = run.update(shift(-0.25), state, params, BOWL)
        expected, _ = bare.update(mean, bare.init(params), params, BOWL)
        return first, second, expected

    first, second, expected = compare(params)
    equal("the first micro-update", first, jax.tree.map(jnp.zeros_like, params))
    close("the second micro-update", second, expected)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    state = jax.eval_shape(run.init, low)
    updates, after = jax.eval_shape(lambda p, s: run.update(p, s, p, BOWL), low, state)
    same_types("the update", updates, jax.eval_shape(lambda: low))
    same_types("the state", after, state)


@check()
def apply_if_finite(subject: Subject) -> None:
    """Under optax.apply_if_finite a NaN gradient moves neither parameters nor inner state."""
    run = subject.run(around=lambda tx: optax.apply_if_finite(tx, 3))
    walk, start = jax.jit(run.walk), subject.params()
    state = run.init(start)
    params, after = walk(start, state, jnp.array(_NAN))
    equal("params", params, start)
    equal("the inner state", after.inner_state, state.inner_state)
    params, _ = walk(params, after, jnp.array(BOWL))
    close("params after finite gradients", params, subject.compiled.trajectory[1][0])


@check()
def inject_hyperparams(subject: Subject) -> None:
    """Under optax.inject_hyperparams, with its numbers traced, updates and state are the same."""
    if subject.entry is None:
        # The factory takes no arguments: it is built while an injected number is traced.
        factory = lambda step_size: optax.chain(subject.make(), optax.scale(step_size))
        make = lambda: optax.inject_hyperparams(factory)(step_size=1.0)
        inner = lambda state: state.inner_state[0]
    else:
        original = subject.entry.factory
        static = injectable(subject)[1]
        make = lambda: optax.inject_hyperparams(original, static)(**subject.example)
        inner = lambda state: state.inner_state
    run, (params, start) = subject.run(make=make), subject.compiled.trajectory[0]
    state = run.init(params)
    close("the injected init's state", inner(state), start)
    params, state = jax.jit(run.walk)(params, state)
    close("the injected run", (params, inner(state)), subject.compiled.trajectory[1])


@check()
def map_params(subject: Subject) -> None:
    """optax.tree.map_params with the identity leaves the state as it is."""
    params = {"b": jnp.ones((3,)), "w": jnp.ones((3, 2))}
    tx = subject.make()
    state = jax.eval_shape(tx.init, params)
    same_types("the state", optax.tree.map_params(tx, lambda leaf: leaf, state), state)
