"""adaptive_batch_size: the batch sizes that tests set, caps, cadence, refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import schedules

FOUR = np.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])


def controller(test="norm", **options):
    sizes = {"initial_batch_size": 4, "max_batch_size": 1000}
    return schedules.adaptive_batch_size(test, **sizes | options)


def asking_for(size):
    """Statistics for which the norm test with eta = 1 asks for this many examples."""
    one = jnp.ones(1)
    return schedules.GradientStats(one, jnp.float32(size) * one, jnp.float32(0), jnp.int32(2))


def sizes_after(rule, wanted):
    update, state, sizes = jax.jit(rule.update), rule.init(), []
    for size in wanted:
        state = update(state, asking_for(size))
        sizes.append(int(state.batch_size))
    return sizes


@pytest.mark.parametrize(
    ("test", "levels", "expected"),
    [
        ("norm", {"eta": 0.1}, 107),
        ("norm", {"eta": 0.5}, 5),
        ("norm", {"eta": 1.0}, 4),
        ("inner_product", {"theta": 0.1}, 35),
        ("inner_product", {"theta": 0.5}, 4),
        ("augmented", {"theta": 0.1, "nu": 0.1}, 72),
        ("augmented", {"theta": 0.1, "nu": 1.0}, 35),
        ("coordinate", {"eta": 0.1}, 467),
    ],
)
def test_worked_example(test, levels, expected):
    # In double precision: one of the statistics is 72, and must not be rounded up from 72.00001.
    with jax.enable_x64(True):
        rule, stats = controller(test, **levels), schedules.gradient_stats(FOUR)
        assert int(rule.update(rule.init(), stats).batch_size) == expected


def test_the_batch_never_falls_and_ends_at_the_largest():
    rule = controller(eta=1.0, max_batch_size=64)
    wanted = [3, 9.2, 5, jnp.nan, 20, 0, 1e30, 2]
    assert sizes_after(rule, wanted) == [4, 10, 10, 10, 20, 20, 64, 64]
    assert sizes_after(rule, [jnp.inf]) == [64]


def test_sizes_are_rounded_up_to_multiples():
    rule = controller(eta=1.0, multiple_of=4, max_batch_size=64)
    assert sizes_after(rule, [4, 5, 8, 61]) == [4, 8, 8, 64]


def test_growth_can_be_bounded():
    rule = controller(eta=1.0, max_growth=1.5)
    assert sizes_after(rule, [1000] * 4) == [6, 9, 14, 21]
    assert sizes_after(rule, [5]) == [5]


def test_tests_when_due_and_no_more_at_the_end():
    rule = controller(eta=1.0, max_batch_size=30, every=2)
    state, seen = rule.init(), []
    for size in (10, 20, 15, 30, 40, 8):
        seen.append(bool(state.due))
        state = rule.update(state, asking_for(size))
        seen.append(int(state.batch_size))
    assert seen == [True, 10, False, 10, True, 15, False, 15, True, 30, False, 30]
    np.testing.assert_allclose(state.statistic, 40)
    assert not controller(initial_batch_size=8, max_batch_size=8).init().due


def test_levels_may_be_traced():
    def size(eta):
        rule = controller(eta=eta)
        stats = schedules.gradient_stats(FOUR.astype(np.float32))
        return rule.update(rule.init(), stats).batch_size

    np.testing.assert_array_equal(jax.vmap(size)(jnp.array([0.1, 0.5, 1.0])), [107, 5, 4])


def test_sizes_beyond_single_precision_stay_exact():
    largest = 2**31 - 1
    rule = controller(initial_batch_size=2**24 + 1, max_batch_size=largest, eta=1.0)
    assert sizes_after(rule, [1.0, 1e10]) == [2**24 + 1, largest]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "sign"}, "test must be one of 'norm', 'inner_product'"),
        ({"eta": 0.0}, r"eta must lie in \(0, inf\), got 0.0"),
        ({"theta": -1.0}, "theta must lie in"),
        ({"nu": float("nan")}, "nu must lie in"),
        ({"initial_batch_size": 1}, "initial_batch_size must be an integer >= 2, got 1"),
        ({"max_batch_size": 3}, "max_batch_size must be an integer >= 4, got 3"),
        ({"multiple_of": 3}, "initial_batch_size must be a multiple of 3, got 4"),
        ({"multiple_of": 4, "max_batch_size": 10}, "max_batch_size must be a multiple of 4"),
        ({"every": 0}, "every must be an integer >= 1, got 0"),
        ({"max_growth": 1.0}, r"max_growth must lie in \(1, inf\), got 1.0"),
    ],
)
def test_refuses_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=f"adaptive_batch_size: {message}"):
        controller(**options)
