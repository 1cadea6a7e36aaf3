"""Asynchronous servers: equal to FedAvg where they must be, unbiased, and the same everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from gradax import federated
from tests.federated.placements import PLACEMENTS
from tests.federated.simulation.problems import (
    NUM_CLIENTS,
    PARAMS,
    assert_close,
    assert_same_bits,
    simulate,
)

N = NUM_CLIENTS
TIMES = np.linspace(1.0, 0.3, N)
MODEL = 4 * sum(np.size(leaf) for leaf in PARAMS.values())


@functools.cache
def synchronous():
    return simulate(federated.fedavg(0.1, weighting="uniform"), chunk=N)


EQUAL = {
    "a buffer of everybody": lambda: (
        federated.fedbuff(0.1, N, num_versions=1),
        federated.async_schedule("fedbuff", TIMES, 4, buffer_size=N).cohort(),
    ),
    "a window as long as the slowest takes": lambda: (
        federated.fedfix(0.1, TIMES, 1.0, num_versions=1),
        federated.async_cohort("fedfix", TIMES, max_age=0, window=1.0),
    ),
}


@pytest.mark.parametrize("make", EQUAL.values(), ids=EQUAL)
def test_is_fedavg_if_all_are_waited_for(make):
    algorithm, cohort = make()
    result = simulate(algorithm, cohort=cohort, chunk=N)
    assert_close(result.params, synchronous().params)
    np.testing.assert_allclose(result.history.column("time"), [1, 2, 3, 4], rtol=1e-6)
    assert result.history.column("bytes_down") == synchronous().history.column("bytes_down")
    assert not any("time" in row for row in synchronous().history.rows)


H, A = np.array([1, 2, 0.5, 1.5, 3]), np.array([1.0, -1, 2, 0, 3])
F80 = np.array([1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("weights", "limit", "nearby"),
    [
        (1.0, np.sum(H * A / F80) / np.sum(H / F80), 1.9557),
        (federated.unbiased_weights("async", F80), np.sum(H * A) / np.sum(H), 1.1257),
    ],
    ids=["identical", "unbiased"],
)
def test_weights_decide_where_it_converges(weights, limit, nearby):
    """Equal weights converge to the optimum of a surrogate in which quick clients count more."""
    schedule = federated.async_schedule("async", F80, 6000)
    period = 137  # after 12 units of time all begin at once again
    rows = federated.data.padded({"h": H, "a": A}, np.arange(5)[:, None])
    result = federated.simulate(
        federated.async_server(weights, 1e-3, num_versions=period),
        lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2,
        jnp.array(0.0),
        rows,
        6000,
        schedule.cohort(),
        batch_size=None,
        num_steps=2,
        segment=6000,
    )
    mean = np.asarray(result.state.server.versions, np.float64).mean()
    np.testing.assert_allclose(mean, nearby, atol=1e-3)
    np.testing.assert_allclose(mean, limit, atol=2e-3)
    np.testing.assert_allclose(result.history.column("time"), schedule.times, rtol=1e-5)


def by_hand(schedule, weights, staleness, rate=0.1, start=1.0):
    """One local step on (x - a_i)^2 / 2 from the model that each client had received."""
    goals, models = np.arange(schedule.num_clients, dtype=float), [start]
    for step, row in enumerate(schedule.matrix()):
        moves = [
            weights[i] * (1 + step - row[i]) ** -staleness * -rate * (models[row[i]] - goals[i])
            for i in np.flatnonzero(row >= 0)
        ]
        models.append(models[-1] + sum(moves))
    return np.array(models[1:])


CLOCK = federated.client_clock("lognormal", np.linspace(1.0, 0.3, 8), spread=0.5)
WEIGHTS, STALENESS, STEPS = np.linspace(0.5, 1.5, 8), 0.5, 20


@functools.cache
def random_schedule(size):
    clock = federated.Clock(CLOCK.kind, CLOCK.times[:size], CLOCK.spread)
    return federated.async_schedule("fedbuff", clock, STEPS, buffer_size=size // 3, seed=2)


def one(axis_name, num_versions, number, starts):
    """All steps of one participant."""
    algorithm = federated.async_server(
        WEIGHTS,
        0.1,
        num_versions=num_versions,
        staleness=STALENESS,
        axis_name=axis_name,
    )
    tx, x = federated.as_transformation(algorithm), jnp.array(1.0)
    extras = {"client_id": number, "batches": jnp.zeros(1)}
    extras["grad_fn"] = lambda x, *_, batch=None: x - number

    def step(carry, at):
        x, state = carry
        start, round = at
        version = jnp.where(start < 0, round, start)
        updates, state = tx.update(x, state, x, active=start >= 0, version=version, **extras)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    return jax.lax.scan(step, (x, tx.init(x)), (starts, jnp.arange(STEPS)))[1]


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: placement.name)
def test_every_placement_follows_the_schedule(placement):
    schedule = random_schedule(placement.size)
    run = functools.partial(one, placement.axis_name, schedule.num_versions)
    numbers = jnp.arange(placement.size)
    paths = placement.run(run, numbers, jnp.asarray(schedule.matrix().T))
    expected = by_hand(schedule, WEIGHTS, STALENESS)
    assert schedule.max_age >= 3
    for path in paths:
        np.testing.assert_allclose(path, expected, rtol=1e-5)


def test_a_simulation_follows_the_schedule():
    schedule = random_schedule(8)
    result = federated.simulate(
        federated.async_server(
            WEIGHTS, 0.1, num_versions=schedule.num_versions, staleness=STALENESS
        ),
        lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
        jnp.array(1.0),
        federated.data.padded(np.arange(8.0, dtype=np.float32), np.arange(8)[:, None]),
        STEPS,
        schedule.cohort(),
        batch_size=None,
        num_steps=1,
        segment=STEPS,
    )
    path = by_hand(schedule, WEIGHTS, STALENESS)
    np.testing.assert_allclose(result.params, path[-1], rtol=1e-5)
    ring = result.state.server.versions
    for version in range(STEPS + 1 - schedule.num_versions, STEPS + 1):
        np.testing.assert_allclose(
            ring[version % schedule.num_versions], path[version - 1], rtol=1e-5
        )


def under_way(**options):
    cohort = federated.async_cohort("fedbuff", CLOCK, buffer_size=3, max_age=6)
    algorithm = federated.fedbuff(0.1, 3, num_versions=7, staleness=0.5)
    return simulate(algorithm, rounds=6, cohort=cohort, **options)


def test_segments_and_devices_change_nothing_and_bytes_are_those_of_one_model():
    whole = under_way()
    assert_same_bits(under_way(segment=2).state, whole.state)
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(AxisType.Auto,))
    assert_close(under_way(mesh=mesh).params, whole.params)
    for row in whole.history.rows:
        assert row["bytes_up"] == row["bytes_down"] == MODEL * row["num_active"]
    times = whole.history.column("time")
    assert times == sorted(times)
    assert times[-1] == float(whole.state.cohort.time.now)
    assert whole.history.curve("loss", against="time")[0].tolist() == times


def test_a_schedule_that_ends_leaves_the_model_alone():
    schedule = federated.async_schedule("async", TIMES, 2)
    algorithm = federated.fedavg_async(0.01, TIMES, num_versions=schedule.num_versions)
    result = simulate(algorithm, rounds=4, cohort=schedule.cohort())
    assert result.history.column("num_active") == [1, 1, 0, 0]
    ring = jax.tree.map(lambda x: x[4 % schedule.num_versions], result.state.server.versions)
    assert_close(ring, result.params, rtol=0, atol=0)
    assert np.isfinite(result.params["w"]).all()


def test_counts_one_model_each_way():
    algorithm = federated.fedbuff(0.1, 2, num_versions=9)
    assert federated.communication_bytes(algorithm, PARAMS) == {"up": MODEL, "down": MODEL}


# Parts -----------------------------------------------------------------------------------


def displacement(version, round, ring=(4.0, 8.0)):
    tx, x = federated.from_version(federated.local_steps(optax.sgd(0.5))), jnp.array(0.0)
    extras = {"grad_fn": lambda x, batch=None: x, "batches": jnp.zeros(1)}
    at = {"versions": jnp.array(ring), "version": version, "round": round}
    return float(tx.update(x, tx.init(x), x, **at, **extras)[0])


def test_a_client_begins_with_its_own_model():
    assert displacement(2, 2) == -2.0
    assert displacement(1, 2) == -4.0


@pytest.mark.parametrize(("version", "round"), [(0, 2), (3, 2), (-1, 0)])
def test_a_model_that_is_not_kept_is_no_other_model(version, round):
    assert np.isnan(displacement(version, round))


def test_keeps_models_in_a_ring():
    server, x = federated.keep_versions(optax.sgd(1.0, momentum=0.5), 3), {"x": jnp.array(1.0)}
    state, models = server.init(x), [x["x"]]
    np.testing.assert_array_equal(state.versions["x"], [1.0, 1.0, 1.0])
    for round in range(5):
        updates, state = server.update({"x": jnp.array(1.0)}, state, x, round=round)
        x = optax.apply_updates(x, updates)
        models.append(x["x"])
        for version in range(max(0, round - 1), round + 2):
            assert state.versions["x"][version % 3] == models[version]


server = functools.partial(federated.async_server, num_versions=2)
MISSING = {
    "version": lambda tx, x: tx.update(x, tx.init(x), x, versions=x[None], round=0),
    "versions": lambda tx, x: tx.update(x, tx.init(x), x, version=0, round=0),
    "round": lambda tx, x: tx.update(x, tx.init(x), x, version=0, versions=x[None]),
}


@pytest.mark.parametrize("name", MISSING)
def test_says_what_is_missing(name):
    tx = federated.from_version(federated.local_steps(optax.sgd(0.1)))
    with pytest.raises(ValueError, match=f"from_version needs {name}="):
        MISSING[name](tx, jnp.array(1.0))


MISTAKES = {
    "no rate": (lambda: server(1.0), "async_server: give exactly one of learning_rate and client"),
    "weights": (lambda: server([1.0, -1.0], 0.1), "weights must be one finite number >= 0 or one"),
    "matrix": (lambda: server(np.ones((2, 2)), 0.1), "weights must be one finite number"),
    "staleness": (lambda: server(1.0, 0.1, staleness=-1.0), r"staleness must lie in \[0, inf\)"),
    "versions": (
        lambda: federated.async_server(1.0, 0.1, num_versions=0),
        "num_versions must be an integer >= 1, got 0",
    ),
    "window": (
        lambda: federated.fedfix(0.1, F80, 0.0, num_versions=2),
        r"window must lie in \(0, inf\), got 0.0",
    ),
    "buffer": (
        lambda: federated.fedbuff(0.1, 6, F80, num_versions=2),
        "fedbuff: buffer_size must not exceed the number of clients, 5, got 6",
    ),
    "importance": (
        lambda: federated.fedbuff(0.1, 2, importance=[0.5, 0.5], num_versions=2),
        "fedbuff: importance needs times=",
    ),
    "client": (
        lambda: federated.fedavg_async(0.1, F80, num_versions=1, client=optax.sgd(0.1)),
        "give exactly one",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
