"""Events of DADAO: their law, the cohorts they make, their ticks, and wrong lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated

PAIRS, RATES, NODES = np.array([[0, 1], [2, 1], [2, 3]]), np.array([0.5, 1.0, 2.0]), 4


def draw(key=0, **size):
    return federated.dadao_events(key, PAIRS, RATES, NODES, **size)


def assert_law(kind, first, second, duration):
    """Counts of all sorts of events are those of Poisson processes, within five deviations."""
    for node in range(NODES):
        assert abs(((kind == 0) & (first == node)).sum() - duration) < 5 * duration**0.5
    for (i, j), rate in zip(np.sort(PAIRS, axis=1), RATES, strict=True):
        met = (kind == 1) & (np.minimum(first, second) == i) & (np.maximum(first, second) == j)
        assert abs(met.sum() - rate * duration) < 5 * (rate * duration) ** 0.5


def test_gradients_have_rate_one_and_edges_their_own():
    events = draw(duration=2000.0)
    assert_law(*events[1:], 2000.0)
    assert events.times[-1] < 2000.0
    waits = np.diff(events.times)
    np.testing.assert_allclose([waits.mean(), waits.std()], 1 / 7.5, rtol=0.05)


def test_a_number_of_events_begins_with_the_start():
    events = draw(num_events=500)
    assert len(events.times) == 501
    assert (events.times[0], events.kind[0], events.num_nodes) == (0.0, 2, NODES)
    assert (events.kind[1:] < 2).all()
    assert (np.diff(events.times) > 0).all()


def test_the_key_decides():
    key = jax.random.key(3)
    pairs = [(draw(1, num_events=9), draw(1, num_events=9))]
    pairs += [(draw(key, num_events=9), draw(jax.random.key_data(key), num_events=9))]
    for one, same in pairs:
        jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (draw(2, num_events=9).times != pairs[0][0].times)[1:].all()


def test_a_cohort_is_who_is_touched_and_nobody_after_the_end():
    events = federated.DadaoEvents(
        np.array([0.0, 1.0, 2.5]), np.array([2, 1, 0]), np.array([0, 2, 3]), np.array([0, 1, 3])
    )
    cohort = federated.dadao_cohort(events, NODES)
    look = jax.jit(lambda round: cohort.draw(cohort.init(), jax.random.key(0), round)[0])
    found = [look(round) for round in range(5)]
    nobody = [NODES, NODES]
    ids = [nobody, [1, 2], [3, NODES], nobody, nobody]
    assert [out.ids.tolist() for out in found] == ids
    assert [int(out.shared["kind"]) for out in found] == [2, 1, 0, 2, 2]
    assert [float(out.shared["time"]) for out in found] == [0.0, 1.0, 2.5, 2.5, 2.5]


def test_a_stream_has_the_same_law():
    cohort = federated.dadao_stream(PAIRS, RATES, NODES)

    def step(state, key):
        out, state = cohort.draw(state, key, 0)
        return state, (out.ids, out.shared)

    keys = jax.random.split(jax.random.key(0), 6000)
    state, (ids, shared) = jax.jit(lambda s: jax.lax.scan(step, s, keys))(cohort.init())
    duration = float(state.time)
    np.testing.assert_allclose(duration, 6000 / 7.5, rtol=0.05)
    assert (np.diff(shared["time"]) >= 0).all()
    assert_law(np.asarray(shared["kind"]), *np.asarray(ids).T, duration)
    assert (np.asarray(ids)[shared["kind"] == 0, 1] == NODES).all()


def test_a_stream_adds_small_waits_to_a_long_time():
    cohort = federated.dadao_stream(PAIRS, RATES, NODES)
    late = cohort.init()._replace(time=jnp.float32(2.0**24))  # where floats are 2 apart

    def step(state, key):
        return cohort.draw(state, key, 0)[1], None

    keys = jax.random.split(jax.random.key(0), 6000)
    state = jax.jit(lambda s: jax.lax.scan(step, s, keys)[0])(late)
    np.testing.assert_allclose(float(state.time) - 2.0**24, 6000 / 7.5, rtol=0.05)


def test_ticks_hold_each_event_once_in_the_order_of_its_nodes():
    events = draw(num_events=400)
    ticks = federated.dadao_ticks(events, 0.15)
    np.testing.assert_allclose(np.diff(ticks.times), 0.15)
    assert (ticks.kind[0] == 2).all()
    for node in range(NODES):
        touch = lambda e, node=node: (e.kind != 2) & ((e.i == node) | (e.j == node))
        exact, ticked = touch(events), touch(ticks)
        assert ticked.sum(axis=1).max() == 1
        for field in ("kind", "i", "j"):
            want = getattr(events, field)[exact]
            np.testing.assert_array_equal(getattr(ticks, field)[ticked], want)
        late = ticks.times[ticked.any(axis=1)] - events.times[exact]
        assert (late >= 0).all()
        assert late.mean() < 3 * 0.15


def listed(times=(0.0, 1.0), kind=(2, 1), i=(0, 0), j=(0, 1)):
    return federated.DadaoEvents(*map(np.array, (times, kind, i, j)))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (listed(times=(1.0, 0.5)), "times of the events must be >= 0 and not decrease"),
        (listed(times=(0.0, np.nan)), "times of the events must be"),
        (listed(j=(0, 4)), r"nodes of the events must lie in \[0, 4\), got 0 and 4"),
        (listed(i=(0, -1)), "got -1 and 1"),
        (listed(j=(0, 0)), "an exchange needs two nodes, got 0 twice"),
        (listed(kind=(2, 3)), "kind of an event must be 0, 1 or 2"),
        (listed(i=(0, 0, 0)), "kind, i and j of the events differ in shape"),
        (listed(times=()), r"events must have times \[events\]"),
        (federated.dadao_ticks(draw(num_events=9), 0.1), "events must not be in ticks"),
    ],
)
def test_a_cohort_refuses_lists_that_cannot_be(events, message):
    with pytest.raises(ValueError, match=f"dadao_cohort: .*{message}"):
        federated.dadao_cohort(events, NODES)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({}, "either num_events or duration"),
        ({"num_events": 3, "duration": 1.0}, "either num_events or duration"),
        ({"num_events": 0}, "num_events must be an integer >= 1"),
        ({"duration": -1.0}, r"duration must lie in \(0, inf\)"),
    ],
)
def test_refuses_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        draw(**size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda events: federated.dadao_ticks(events, 0.0), r"tick must lie in \(0, inf\)"),
        (lambda events: federated.dadao_ticks(events, 2.0), "tick must be shorter, got 2.0"),
        (
            lambda events: federated.dadao_ticks(federated.dadao_ticks(events, 0.1), 0.1),
            "events are in ticks already",
        ),
        (lambda events: federated.dadao_events(0, PAIRS, -1.0, NODES, num_events=1), "rates must"),
        (lambda events: federated.dadao_stream(PAIRS, RATES, 5), "cannot reach 4"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make(draw(num_events=400))


def test_a_node_cannot_be_in_two_events_of_a_tick():
    twice = federated.DadaoEvents(
        np.array([0.0, 1.0]),
        np.array([[2, 2], [0, 1]]),
        np.array([[0, 0], [1, 0]]),
        np.array([[0, 0], [1, 1]]),
    )
    with pytest.raises(ValueError, match="a node occurs twice in tick 1"):
        federated.dadao(1.0, 2.0, twice, 1.0, "nodes")
