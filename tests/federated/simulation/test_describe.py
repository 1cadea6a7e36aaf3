"""Telling algorithms apart by what they close over."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from gradax.federated.simulation._describe import describe


def fixed_rate():
    return federated.local_steps(lambda round: optax.sgd(0.1 * 0.9**round))


def other_rate():
    return federated.local_steps(lambda round: optax.sgd(0.2 * 0.9**round))


def other_optimizer():
    return federated.local_steps(lambda round: optax.adam(0.1 * 0.9**round))


def same_name(function):
    """Functions written at the same place of two versions of a script."""
    function.__qualname__ = "schedule"
    return function


def by_default(rate):
    def schedule(round, *, scale=rate):
        return scale * round

    return schedule


@dataclasses.dataclass
class Rate:
    value: float

    def __call__(self, round):
        return self.value * round


class Plain:
    def __init__(self, value):
        self.value = value

    def rate(self, round):
        return self.value * round


MAKERS = {
    "rate": lambda x: federated.fedavg(0.1 * x),
    "array": lambda x: federated.fedavg(jnp.float32(0.1 * x)),
    "server": lambda x: federated.fedadam(0.1, eps=1e-3 * x),
    "schedule": lambda x: federated.fedavg(optax.exponential_decay(0.1, 10, 0.9 / x)),
    "key": lambda x: optax.add_noise(0.1, 0.5, jax.random.key(x)),
    "default": by_default,
    "object": Rate,
    "method": lambda x: Plain(x).rate,
    "partial": lambda x: functools.partial(max, x),
    "jitted": lambda x: jax.jit(lambda round: x * round),
    "set": lambda x: {"a", "b", str(x)},
    "cohort": lambda x: federated.uniform_cohort(9, x),
    "weights": lambda x: federated.weighted_cohort(3, 1, np.array([1.0, x, 2.0])),
    "dictionary": lambda x: {"a": [x, (1, None)]},
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_equal_for_equal_values_and_different_for_others(make):
    assert describe(make(2)) == describe(make(2)) != describe(make(3))


def test_numbers_and_names_in_the_code_count():
    makers = (fixed_rate, other_rate, other_optimizer)
    texts = [describe(same_name(make)) for make in makers]
    assert len(set(texts)) == 3


def test_numbers_in_a_lambda_count():
    rates = [lambda round: 0.1 * round, lambda round: 0.2 * round, lambda count: 0.1 * count]
    first, other_number, other_argument = map(describe, rates)
    assert first != other_number
    assert first == other_argument


def test_a_docstring_does_not_count():
    def first(round):
        """Says one thing."""
        return 2 * round

    def second(round):
        """Says another."""
        return 2 * round

    assert describe(same_name(first)) == describe(same_name(second))


def test_a_function_may_refer_to_itself():
    def again(n):
        return again(n - 1)

    assert "..." in describe(again)


def test_a_tracer_is_described_by_its_shape():
    texts = []
    jax.jit(lambda x: texts.append(describe(x)))(jnp.zeros((2, 3)))
    assert texts == ["float32(2, 3)"]


def test_is_the_same_in_another_process():
    code = (
        "from gradax import federated\n"
        "from gradax.federated.simulation._describe import describe\n"
        "print(describe((federated.fedspeed(0.1), {'set', 'of', 'names'}, max)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == describe((federated.fedspeed(0.1), {"set", "of", "names"}, max))
