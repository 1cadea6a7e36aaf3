"""Pacing, order by difficulty, and batches from a pool that grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import schedules

FAMILIES = ("linear", "quad", "sqrt", "step", "exp", "log")


def test_worked_numbers():
    pacing = schedules.pacing_schedule("linear", 0.8, 0.2, num_steps=50, num_items=100)
    sizes = pacing(jnp.array([0, 10, 20, 40, 50]))
    np.testing.assert_array_equal(sizes, [20, 40, 60, 100, 100])
    assert sizes.dtype == jnp.int32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("a", "b", "items"), [(0.8, 0.2, 100), (0.3, 0.001, 7), (1.0, 0.5, 33)])
def test_pools_grow_from_the_share_to_everything(family, a, b, items):
    pacing = schedules.pacing_schedule(family, a, b, num_steps=60, num_items=items)
    sizes = np.asarray(pacing(jnp.arange(70)))
    assert sizes[0] == max(1, int(b * items))
    assert sizes[round(a * 60)] == items
    assert np.all(np.diff(sizes) >= 0)
    assert np.all(sizes[round(a * 60) :] == items)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_share_of_one_switches_pacing_off(family):
    pacing = schedules.pacing_schedule(family, b=1.0, num_steps=10, num_items=12)
    np.testing.assert_array_equal(pacing(jnp.arange(12)), 12)


def test_families_differ_halfway():
    half = lambda family: int(
        schedules.pacing_schedule(family, 1.0, 0.2, num_steps=100, num_items=1000)(50)
    )
    sizes = [half(family) for family in ("step", "exp", "quad", "linear", "sqrt", "log")]
    assert sizes == sorted(sizes)
    assert sizes[0] == 200
    assert sizes[3] == 600
    assert len(set(sizes)) == 6


def test_orders_and_ties():
    scores = jnp.array([0.5, 0.1, jnp.nan, 0.5, 0.9])
    np.testing.assert_array_equal(schedules.curriculum_order(scores), [1, 0, 3, 4, 2])
    np.testing.assert_array_equal(schedules.curriculum_order(scores, "anti"), [2, 4, 0, 3, 1])
    np.testing.assert_array_equal(schedules.curriculum_order(-scores[:2], "anti"), [1, 0])


def test_a_random_order_is_a_permutation_that_the_key_decides():
    orders = [schedules.curriculum_order(np.zeros(20), "random", key) for key in (0, 0, 1)]
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(20))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert np.any(orders[0] != orders[2])


ORDER = np.array([5, 3, 7, 0, 1, 2, 9, 8, 4, 6])


def play(sampler, steps, state=None):
    state = sampler.init(0) if state is None else state
    rows, sample = [], jax.jit(sampler.sample)
    for _ in range(steps):
        batch, state = sample(state)
        rows.append((np.asarray(batch).tolist(), int(state.pool_size)))
    return rows, state


def test_each_pass_deals_out_the_pool_of_its_beginning():
    sampler = schedules.curriculum_pool(ORDER, lambda count: 4 + count, batch_size=2)
    rows, _ = play(sampler, 8)
    # Passes of 4, 6 (at count 2) and 9 (at count 5), whose last item finds no partner.
    assert [size for _, size in rows] == [4, 4, 6, 6, 6, 9, 9, 9]
    dealt = lambda part: sorted(np.concatenate([batch for batch, _ in part]).tolist())
    assert dealt(rows[:2]) == sorted(ORDER[:4])
    assert dealt(rows[2:5]) == sorted(ORDER[:6])
    assert len(set(dealt(rows[5:]))) == 6
    assert set(dealt(rows[5:])) <= set(ORDER[:9].tolist())


def test_a_pool_is_never_smaller_than_a_batch_or_what_is_asked():
    tiny = lambda count: jnp.int32(1)
    for least, size in ((None, 3), (5, 5)):
        sampler = schedules.curriculum_pool(ORDER, tiny, batch_size=3, min_pool=least)
        assert play(sampler, 1)[0][0][1] == size


def test_passes_are_shuffled_anew():
    sampler = schedules.curriculum_pool(ORDER, lambda count: 10, batch_size=10)
    rows, _ = play(sampler, 3)
    assert len({tuple(batch) for batch, _ in rows}) == 3


def test_a_new_order_holds_from_the_next_pass():
    sampler = schedules.curriculum_pool(ORDER, lambda count: 4, batch_size=2)
    rows, state = play(sampler, 1)
    rest, _ = play(sampler, 3, state._replace(order=jnp.array(ORDER[::-1])))
    assert sorted(rows[0][0] + rest[0][0]) == sorted(ORDER[:4])
    assert sorted(rest[1][0] + rest[2][0]) == sorted(ORDER[::-1][:4])


def test_each_item_of_the_pool_is_equally_likely():
    sampler = schedules.curriculum_pool(ORDER, lambda count: 5, batch_size=2)
    draw = lambda state, _: sampler.sample(state)[::-1]
    items = np.ravel(jax.lax.scan(draw, sampler.init(1), length=2000)[1])
    shares = np.bincount(items, minlength=10)[ORDER[:5]] / items.size
    np.testing.assert_allclose(shares, 0.2, atol=4 * np.sqrt(0.16 / items.size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "root"}, "family must be one of 'step', 'linear'"),
        ({"a": 0.0}, r"a must lie in \(0, 1\], got 0.0"),
        ({"b": 0.0}, r"b must lie in \(0, 1\], got 0.0"),
        ({"b": 1.5}, r"b must lie in \(0, 1\], got 1.5"),
        ({"num_steps": 0}, "num_steps must be an integer >= 1"),
        ({"num_items": 0}, "num_items must be an integer >= 1"),
    ],
)
def test_pacing_refuses_what_cannot_work(change, message):
    with pytest.raises(ValueError, match=f"pacing_schedule: {message}"):
        schedules.pacing_schedule(**{"family": "linear", "num_steps": 5, "num_items": 5, **change})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.curriculum_order([1.0], "hard"), "order must be one of 'curriculum', 'anti'"),
        (lambda s: s.curriculum_order([[1.0]]), r"scores must be a vector, got the shape \(1, 1\)"),
        (lambda s: s.curriculum_order([1.0], "random"), "curriculum_order: key must be a JAX key"),
        (lambda s: s.curriculum_pool([0, 0], len, 1), "order must be a vector of integers, each"),
        (lambda s: s.curriculum_pool([0.5], len, 1), "order must be a vector of integers, each"),
        (lambda s: s.curriculum_pool([0, 1], 2, 1), "pacing must be a function of the count"),
        (lambda s: s.curriculum_pool([0, 1], len, 3), "must not exceed the 2 items, got 3"),
        (
            lambda s: s.curriculum_pool([0, 1], len, 2, min_pool=1),
            "min_pool must be an integer >= 2",
        ),
    ],
)
def test_order_and_pool_refuse_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)
