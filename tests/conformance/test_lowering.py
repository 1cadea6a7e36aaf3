"""What steps ask of a machine: passes through memory, and never the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

from benchmarks import _passes, _rounds, _steps
from gradax import catalogue, federated, testing

LEAF = jax.ShapeDtypeStruct((64, 64), jnp.float32)
WORD = 4 * 64 * 64


@functools.cache
def traffic(name):
    step = _steps.step_of(_steps.listed()[name])
    return step.size, _passes.traffic(step.function, *step.arguments)


def of(tx):
    step = _steps.make_step(tx, (), {"w": LEAF.shape})
    return _passes.traffic(step.function, *step.arguments)


@pytest.mark.parametrize(
    ("tx", "minimum", "fused", "passes"),
    [
        (optax.sgd(0.1), 3, 3, 1),
        (optax.adam(0.1), 7, 7, 1),
        # The gradient is read for the norm, and again for the step.
        (optax.clip_by_global_norm(1.0), 3, 4, 2),
        # The momentum is renewed on the way to its norm, and then read back.
        (optax.chain(optax.trace(0.9), optax.clip_by_global_norm(1.0)), 5, 6, 2),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)), 3, 5, 3),
    ],
    ids=["sgd", "adam", "norm", "momentum, norm", "norm of a normalized one"],
)
def test_words_that_passes_move(tx, minimum, fused, passes):
    found = of(tx)
    assert (found.minimum // WORD, found.fused // WORD) == (minimum, fused)
    assert found.passes == passes
    assert found.is_minimal == (minimum == fused)


def test_names_what_is_read_again():
    found = of(optax.chain(optax.trace(0.9), optax.clip_by_global_norm(1.0)))
    assert found.again == ("[1][0].trace['w']",)
    assert of(optax.clip_by_global_norm(1.0)).again == ("[2]['w']",)


def count(step, *arguments):
    return _passes.traffic(step, *arguments)


def test_what_comes_out_where_it_went_in_moves_nothing():
    assert count(lambda x, y: (x, y + 1), LEAF, LEAF).fused == 2 * WORD
    assert count(lambda x, y: (y, x), LEAF, LEAF).fused == 4 * WORD


def test_a_sum_that_nothing_large_waits_for_costs_no_pass():
    found = count(lambda x: (x + 1, jnp.sum(x)), LEAF)
    assert (found.passes, found.is_minimal) == (1, True)


def test_equal_expressions_are_computed_once():
    def step(m, g):
        new = 0.9 * m + g
        return new, (0.9 * m + g) * jnp.sum(0.9 * m + g)

    # Two read and one written, then that one read back and the other written.
    assert count(step, LEAF, LEAF).fused == 5 * WORD


def test_a_product_needs_its_operands_in_memory():
    found = count(lambda x: (x + 1) @ x + 1, LEAF)
    # x read, x + 1 written; both read, the product written; that read, the result written.
    assert (found.fused, found.stored) == (7 * WORD, {"dot_general": 1})


def test_both_sides_of_a_branch_count():
    choose = lambda p, x, y: jax.lax.cond(p, lambda: x + 1, lambda: y + 1)
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    assert count(lambda x, y, p: choose(p, x, y), LEAF, LEAF, flag).fused == 3 * WORD + 1


@pytest.mark.parametrize("name", _steps.listed())
def test_one_element_wise_pass_or_a_named_reason(name):
    _, found = traffic(name)
    assert found.is_minimal == (name not in _steps.EXCEPTIONS), found
    if found.is_minimal:
        assert (found.passes, found.stored) == (1, {})


def test_every_reason_is_of_a_method():
    assert set(_steps.EXCEPTIONS) <= set(_steps.listed())


# Counted by hand: parameter and gradient, what the state holds, and what is read again.
BY_HAND = {
    "adabelief": 28,
    "diffgrad": 44,
    "a2grad": 36,
    "signum": 20,
    "hypentropy": 12,
    "composite_mirror_descent": 12,
    "optimistic_mirror_descent": 20,
    "adagrad_norm": 16,
    "l4_adam": 36,
    "l4_momentum": 24,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_bytes_counted_by_hand(name):
    size, found = traffic(name)
    assert found.fused / size == pytest.approx(BY_HAND[name], abs=0.01)


# The vector, 4096 of 266,240 numbers, is not projected.
@pytest.mark.parametrize(("name", "matrices", "vector"), [("adamp", 40, 28), ("sgdp", 28, 20)])
def test_bytes_of_the_projected_ones(name, matrices, vector):
    size, found = traffic(name)
    share = 4096 / 266_240
    expected = (1 - share) * matrices + share * vector
    assert found.fused / size == pytest.approx(expected, abs=0.01)


# --- the host -------------------------------------------------------------------------------


def host_primitives(jaxpr):
    """Primitives that call Python or talk to the host, however deep."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if "callback" in name or name in ("debug_print", "infeed", "outfeed"):
            yield name
        for inner in core.jaxprs_in_params(equation.params):
            yield from host_primitives(inner)


def traced_step(subject):
    run, params = subject.run(), subject.params()
    state = jax.eval_shape(run.init, params)
    return jax.make_jaxpr(run.step)(params, state, jnp.zeros(2), 1.0)


def asks_the_host(how):
    def update(updates, state, params=None):
        del params
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
        ask = lambda x: jax.pure_callback(np.asarray, shape(x), x, vmap_method="sequential")
        if how == "print":
            jax.debug.print("{}", updates)
            return updates, state
        in_loop = lambda x: jax.lax.fori_loop(0, 3, lambda _, y: ask(y), x)
        return jax.tree.map(in_loop, updates), state

    return optax.GradientTransformation(lambda params: (), update)


@pytest.mark.parametrize("how", ["callback", "print"])
def test_a_call_of_the_host_is_found(how):
    subject = testing.Subject(lambda: asks_the_host(how))
    assert list(host_primitives(traced_step(subject).jaxpr))


@pytest.mark.parametrize(
    "entry",
    catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS),
    ids=lambda entry: entry.name,
)
def test_no_step_calls_the_host(entry):
    traced = traced_step(testing.subject(entry.name))
    assert not list(host_primitives(traced.jaxpr))


@pytest.mark.parametrize(
    "entry", catalogue.entries(kinds=frozenset({"algorithm"})), ids=lambda entry: entry.name
)
def test_no_round_calls_the_host(entry):
    problem, algorithm, options = _rounds.Problem.of((4, 3, 2)), entry.make(), {}
    if entry.room == "asynchronous":
        times = np.linspace(0.5, 1.0, problem.data.num_clients)
        algorithm = entry.make(times=times) if "times" in entry.example else algorithm
        options = {"cohort": federated.async_cohort("async", times, max_age=1)}
    traced = _rounds.simulated(algorithm, problem, **options)
    assert not list(host_primitives(traced.jaxpr.jaxpr))
