"""Gradient codes: every set of stragglers they are made for, loads, rounding, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated import coding


def on_time(n, late):
    return ~np.isin(np.arange(n), late)


def assert_exact(code, most_late, rtol=1e-9):
    """The sum comes back whoever is late, up to so many."""
    n = len(code)
    parts = np.random.default_rng(0).normal(size=(n, 2))
    for count in range(most_late + 1):
        for late in itertools.combinations(range(n), count):
            weights = coding.decode_vector(code, on_time(n, late))
            assert (weights[list(late)] == 0).all()
            np.testing.assert_allclose(weights @ (code @ parts), parts.sum(axis=0), rtol=rtol)


@pytest.mark.parametrize("n", range(1, 8))
def test_every_set_of_stragglers_is_borne(n):
    for s in range(n):
        code = coding.cyclic_code(n, s)
        assert_exact(code, s, rtol=1e-7)
        assert coding.load(code) == (s + 1) / n
        if n % (s + 1) == 0:
            assert_exact(coding.repetition_code(n, s), s)


def test_one_more_cannot_be_borne():
    code = coding.cyclic_code(5, 2)
    with pytest.raises(RuntimeError, match=r"without workers \[0, 1, 2\] the sum cannot be"):
        coding.decode_vector(code, on_time(5, [0, 1, 2]))


def test_the_smallest_instance():
    code = coding.cyclic_code(3, 1, parity=[[1.0, -2.0, 1.0]])
    np.testing.assert_allclose(code, [[1, 0.5, 0], [0, 1, 2], [-1, 0, 1]])
    # The one of the literature: scale its rows.
    known = np.array([[0.5, 1, 0], [0, 1, -1], [0.5, 0, 1]])
    assert_exact(known, 1)


def test_no_stragglers_to_bear_is_the_identity():
    np.testing.assert_array_equal(coding.cyclic_code(4, 0), np.eye(4))
    np.testing.assert_array_equal(coding.repetition_code(4, 0), np.eye(4))


def test_all_but_one_means_that_everybody_computes_everything():
    code = coding.cyclic_code(4, 3)
    assert (code != 0).all()
    # One worker is enough.
    np.testing.assert_allclose(code[2] / code[2, 0], np.ones(4), rtol=1e-9)


@pytest.mark.parametrize(("n", "s", "bound"), [(6, 2, 20.0), (10, 3, 60.0), (12, 4, 400.0)])
def test_the_best_of_thirty_draws_magnifies_least(n, s, bound):
    def largest(code):
        sets = itertools.combinations(range(n), s)
        return max(np.abs(coding.decode_vector(code, on_time(n, late))).max() for late in sets)

    best = largest(coding.cyclic_code(n, s))
    assert best < bound
    assert best < largest(coding.cyclic_code(n, s, seed=1))


def test_repetition_needs_no_weights_beyond_one():
    code = coding.repetition_code(6, 2)
    for late in itertools.combinations(range(6), 2):
        weights = coding.decode_vector(code, on_time(6, late))
        assert weights.min() >= -1e-12
        assert weights.max() <= 1 + 1e-12


def test_encode_takes_parts_in_the_order_of_the_support():
    code, parts = coding.cyclic_code(5, 2), np.random.default_rng(0).normal(size=(5, 2, 3))
    message = lambda i, own: coding.encode({"w": own}, code, i)["w"]
    own = jnp.asarray(parts[coding.support(code)], jnp.float32)
    coded = jax.jit(jax.vmap(message))(jnp.arange(5), own)
    np.testing.assert_allclose(coded, np.tensordot(code, parts, axes=1), rtol=1e-4, atol=1e-5)
    assert coding.encode(jnp.ones((3, 2), jnp.bfloat16), code, 0).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coding.cyclic_code(4, -1), r"cyclic_code: s must be an integer >= 0, got -1"),
        (lambda: coding.cyclic_code(4, 4), r"cyclic_code: s must be below n = 4, got 4"),
        (lambda: coding.cyclic_code(0, 0), r"cyclic_code: n must be an integer >= 1, got 0"),
        (lambda: coding.cyclic_code(3, 1, parity=[[1, 1, 1]]), r"parity must have the shape"),
        (lambda: coding.repetition_code(5, 1), r"s \+ 1 must divide n = 5, got s = 1"),
        (lambda: coding.repetition_code(4, 4), r"repetition_code: s must be below n = 4"),
        (lambda: coding.decode_vector(np.eye(3), [True]), r"active must have the shape \(3,\)"),
        (lambda: coding.decode_vector(np.ones(3), [True]), r"code must be a matrix"),
        (lambda: coding.load([[np.nan]]), r"load: code must be a matrix .* finite"),
        (lambda: coding.support([[1, 0], [1, 1]]), r"equally many parts, got \[1, 2\]"),
        (lambda: coding.encode(np.ones((3, 2)), np.eye(2), 0), r"leading axis of 1 parts"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
