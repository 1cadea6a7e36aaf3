"""Checks of constructor arguments: who, which argument, the rule, the value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import _optional, _validate


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.0, 0.999, False), (-1e-9, 1, 1.0, 2.0)),
        ("(0, 1]", (1e-9, 1, 1.0), (0, 0.0, 1.0001, -1)),
        ("[0, 1]", (0, 1, 0.5), (-0.1, 1.1)),
        ("(0, inf)", (1e-30, 1, 1e30), (0, -1, float("inf"))),
        ("[-1, 1]", (-1, 0, 1), (-1.5, 1.5)),
        ("(-inf, inf)", (-1e30, 0, 1e30), (float("inf"), -float("inf"))),
    ],
)
def test_interval_keeps_to_its_ends(allowed, inside, outside):
    for value in inside:
        _validate.interval("who", "x", value, allowed)
    for value in (*outside, float("nan")):
        with pytest.raises(ValueError, match=r"^who: x must lie in .*, got .*\.$") as caught:
            _validate.interval("who", "x", value, allowed)
        assert allowed in str(caught.value)
        assert str(value) in str(caught.value)


def test_interval_judges_numpy_numbers():
    _validate.interval("who", "x", np.float32(0.5), "[0, 1)")
    with pytest.raises(ValueError, match=r"got 1\.5"):
        _validate.interval("who", "x", np.float64(1.5), "[0, 1)")


@pytest.mark.parametrize(
    "value",
    [None, True, "text", jnp.array(2.0), optax.constant_schedule(2.0), np.array([2.0])],
    ids=["none", "bool", "text", "array", "schedule", "numpy"],
)
def test_interval_passes_what_is_no_python_number(value):
    _validate.interval("who", "x", value, "[0, 1)")


def test_interval_passes_traced_values():
    def build(b1):
        _validate.interval("who", "b1", b1, "[0, 1)")
        return b1

    assert float(jax.jit(build)(2.0)) == 2.0


@pytest.mark.parametrize("value", [1, 5, np.int32(3)])
def test_integer_accepts(value):
    _validate.integer("who", "n", value, at_least=1)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None, float("nan")])
def test_integer_refuses(value):
    with pytest.raises(ValueError, match=r"^who: n must be an integer >= 1, got "):
        _validate.integer("who", "n", value, at_least=1)


def test_one_of():
    _validate.one_of("who", "order", "atc", ("atc", "cta"))
    _validate.one_of("who", "order", None, iter([None, 1]))
    with pytest.raises(ValueError, match=r"^who: order must be one of 'atc', 'cta', got 'both'\.$"):
        _validate.one_of("who", "order", "both", ("atc", "cta"))


@pytest.mark.parametrize("value", [0.0, 1e-3, 1, jnp.array(-1.0), optax.constant_schedule(-1.0)])
def test_learning_rate_accepts(value):
    _validate.learning_rate("who", value)


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), -1])
def test_learning_rate_refuses(value):
    with pytest.raises(ValueError, match=r"^who: learning_rate must lie in \[0, inf\), got "):
        _validate.learning_rate("who", value)
    with pytest.raises(ValueError, match=r"^who: server_learning_rate must lie"):
        _validate.learning_rate("who", value, "server_learning_rate")


def test_an_optional_package_is_loaded_or_named():
    assert _optional.load("json", "tables", "a test") is __import__("json")
    with pytest.raises(ImportError, match=r"a test needs nowhere, .*pip install 'gradax\[plot\]'"):
        _optional.load("nowhere.to.be.found", "plot", "a test")
