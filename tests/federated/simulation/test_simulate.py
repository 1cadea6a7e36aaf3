"""Runs as a whole: segments, going on, memory, dtypes, and wrong arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from gradax import federated
from tests.federated.simulation.problems import (
    PADDED,
    PARAMS,
    assert_close,
    assert_same_bits,
    coordinate_median,
    simulate,
)

N = 8
NUMBERS = federated.data.padded(np.arange(N, dtype=np.float32), list(np.arange(N)[:, None]))


def loss_fn(x, batch):
    return jnp.mean((x - batch) ** 2) / 2


def noisy():
    """Clients with momentum and noise of their own, kept between rounds; server momentum."""
    local = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.1, momentum=0.5))
    return federated.Algorithm(
        federated.local_steps(local, reset=False),
        federated.average("clients"),
        optax.sgd(1.0, momentum=0.5),
    )


def run(algorithm=None, rounds=60, **options):
    """A scalar that three of eight numbers pull at, each round."""
    settings = {"cohort": 3, "batch_size": None, "num_steps": 2, "segment": 60, **options}
    params = settings.pop("params", jnp.array(0.5))
    loss = settings.pop("loss_fn", loss_fn)
    data = settings.pop("data", NUMBERS)
    return federated.simulate(algorithm or noisy(), loss, params, data, rounds, **settings)


@functools.cache
def uninterrupted():
    return run()


# Segments, and going on ------------------------------------------------------------------


@pytest.mark.parametrize("segment", [10, 8])
def test_segments_change_no_bit(segment):
    whole, parts = uninterrupted(), run(segment=segment)  # 6 x 10, or 7 x 8 + 4
    assert_same_bits(parts.params, whole.params)
    assert_same_bits(parts.state, whole.state)
    for name in ("round", "loss", "num_active", "bytes_up"):
        assert parts.history.column(name) == whole.history.column(name)


def test_goes_on_from_a_state_without_changing_a_bit():
    first = run(rounds=25)
    second = run(rounds=60, state=first.state, key=99)  # the key is the state's
    assert second.history.column("round") == list(range(26, 61))
    assert_same_bits(second.state, uninterrupted().state)
    again = run(rounds=60, state=second.state)
    assert len(again.history) == 0
    assert_same_bits(again.params, uninterrupted().params)


def test_noise_of_a_client_depends_neither_on_its_lane_nor_on_its_device():
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
    for options in ({"chunk": 3}, {"mesh": mesh}):
        assert_close(run(**options).params, uninterrupted().params, rtol=1e-4)
    keys = jax.random.key_data(uninterrupted().state.clients.inner[0].rng_key)
    assert len(np.unique(keys, axis=0)) == N


def test_seeds_differ():
    first, same, other = (run(rounds=2, key=key).params for key in (5, jax.random.key(5), 6))
    assert float(first) == float(same) != float(other)


# Memory and compilation ------------------------------------------------------------------


def test_the_callers_arrays_stay_usable_and_a_state_is_consumed():
    params, key = jnp.array(0.5), jax.random.key(3)
    data = jax.device_put(NUMBERS)
    algorithm = federated.fedavg(0.1)
    first = run(algorithm, 1, params=params, key=key, data=data)
    kept = float(first.params)
    second = run(algorithm, 2, params=params, key=key, data=data, state=first.state)
    assert float(params) == 0.5
    assert jax.random.key_data(key).shape == (2,)
    assert data.counts.tolist() == [1] * N
    assert float(first.params) == kept
    assert first.state.params.is_deleted()
    assert not second.state.params.is_deleted()


def test_no_two_parts_of_a_state_share_a_buffer():
    result = simulate(federated.fedspeed(0.1), rounds=1, cohort=3)
    leaves = [x for x in jax.tree.leaves((result.params, result.state)) if x.dtype == jnp.float32]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)


def test_every_length_of_a_segment_is_traced_once():
    def traces(rounds):
        count = 0

        def counted(x, batch):
            nonlocal count
            count += 1
            return loss_fn(x, batch)

        run(federated.fedavg(0.1), rounds, segment=2, loss_fn=counted)
        return count

    two, six, five = traces(2), traces(6), traces(5)
    assert six == two
    assert two < five < 2 * two


# What comes out --------------------------------------------------------------------------


def test_bfloat16_stays_bfloat16():
    algorithm = federated.fedavgm(0.1)
    result = run(algorithm, 3, params=jnp.array(0.5, jnp.bfloat16), cohort=None)
    assert result.params.dtype == jnp.bfloat16
    assert result.state.server[0].trace.dtype == jnp.bfloat16
    assert 0.5 < float(result.params) < 3.5


def test_params_may_be_python_numbers_and_have_masked_leaves():
    loss = lambda params, batch: loss_fn(params["x"], batch)
    params = {"x": 0.5, "masked": None}
    result = run(federated.fedavg(0.1), 2, params=params, loss_fn=loss, cohort=None)
    expected = run(federated.fedavg(0.1), 2, cohort=None)
    assert result.params["masked"] is None
    np.testing.assert_allclose(result.params["x"], expected.params, rtol=1e-6)


def test_what_a_server_publishes_and_a_cohort_supplies_reaches_the_clients():
    """The message is what the client was told; the server adds it up."""

    def tell(updates, state, params=None, *, trace, time, bonus, **extras):
        del updates, params
        assert {"key", "client_id", "round", "num_clients", "full_grad_fn"} <= extras.keys()
        return trace + 10 * time + bonus, state

    client = optax.GradientTransformationExtraArgs(optax.init_empty_state, tell)
    algorithm = federated.Algorithm(
        client, federated.average("clients", "uniform"), optax.trace(1.0), publishes=("trace",)
    )
    cohort = federated.scheduled_cohort(
        N,
        np.array([[0, 1], [5, N]]),
        {"bonus": np.float32([[1, 3], [5, 99]])},
        {"time": np.float32([1, 2])},
    )
    result = run(algorithm, 2, cohort=cohort, params=jnp.array(0.0))
    # Round 1: 10 + 2 on average, the trace is -12, params -12. Round 2: -12 + 20 + 5 = 13.
    assert float(result.state.server.trace) == -25.0
    assert float(result.params) == -37.0
    assert result.history.column("num_active") == [2, 1]
    assert result.history.column("bytes_down") == [16, 8]


def test_an_absent_lane_may_hold_anything():
    """Nobody's lane computes with the last client's data; here they are NaN."""
    numbers = np.arange(N, dtype=np.float32)
    numbers[-1] = np.nan
    data = federated.data.padded(numbers, list(np.arange(N)[:, None]))
    cohort = federated.scheduled_cohort(N, np.array([[0, N, 2]]))
    for algorithm in (federated.fedavg(1.0), median()):
        result = run(algorithm, 1, cohort=cohort, data=data, num_steps=1, params=jnp.array(0.0))
        assert float(result.params) == 1.0
        assert result.history.last("loss") == 1.0


def median():
    return federated.fedavg(1.0)._replace(aggregate=coordinate_median())


def test_a_streaming_aggregate_hears_what_is_common():
    def finish(total, weight, state, params, *, round, num_active, num_clients):
        return total / weight, jnp.stack([round, num_active, num_clients])

    aggregate = federated.SumAggregate(
        lambda params: jnp.zeros(3, jnp.int32), lambda message, **_: (1.0, message), finish
    )
    result = run(federated.fedavg(0.1)._replace(aggregate=aggregate), 2)
    assert result.state.aggregate.tolist() == [1, 3, N]


# Wrong arguments -------------------------------------------------------------------------

FEDAVG = federated.fedavg(0.1)
VALUE_ERRORS = {
    "cohort larger than clients": (
        {"cohort": 9},
        "size must not exceed the number of clients, 8, got 9",
    ),
    "cohort of nobody": ({"cohort": 0}, "size must be an integer >= 1, got 0"),
    "cohort true": ({"cohort": True}, "size must be an integer >= 1, got True"),
    "cohort of other clients": (
        {"cohort": federated.uniform_cohort(9, 3)},
        "the cohort draws from 9 clients, the data have 8",
    ),
    "no rounds": ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
    "half a round": ({"rounds": 1.5}, "rounds must be an integer >= 1, got 1.5"),
    "no segment": ({"segment": 0}, "segment must be an integer >= 1"),
    "no chunk": ({"chunk": 0}, "chunk must be an integer >= 1"),
    "no batch": ({"batch_size": 0}, "batch_size must be an integer >= 1"),
    "no steps": ({"num_steps": 0}, "num_steps must be an integer >= 1"),
    "no epochs": ({"num_steps": None, "num_epochs": -1}, "num_epochs must be an integer >= 1"),
    "steps and epochs": ({"num_epochs": 1}, "give num_steps or num_epochs, not both"),
    "no loss": ({"loss_fn": None}, "give loss_fn, or grad_fn, or both; got neither"),
    "empty client": (
        {"data": NUMBERS._replace(counts=np.array([1, 0, 1, 1, 1, 0, 1, 1]))},
        r"every client needs an example; empty clients: \[1, 5\]",
    ),
    "unknown record": ({"record": ("norm",)}, "there are 0 named 'norm'"),
    "nodes without rows": (
        {"algorithm": optax.sgd(0.1), "replicate": False, "params": jnp.zeros(3)},
        "with replicate=False params must have a leading axis of 8 nodes",
    ),
    "axis named twice": (
        {"algorithm": FEDAVG._replace(axis_name=("a", "a"))},
        "must not repeat a name",
    ),
    "unbound axis": (
        {"algorithm": median()._replace(axis_name="others")},
        "axis_name 'clients' is not bound",
    ),
    "server sees lanes": (
        {"algorithm": FEDAVG._replace(aggregate=optax.identity())},
        "must return the same for every participant; leave server=None",
    ),
    "published nothing": (
        {"algorithm": FEDAVG._replace(publishes=("control",))},
        "publishes='control'",
    ),
}


@pytest.mark.parametrize(("options", "sentence"), VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_refuses(options, sentence):
    options = dict(options)
    algorithm = options.pop("algorithm", FEDAVG)
    with pytest.raises(ValueError, match=sentence):
        run(algorithm, **options)


TYPE_ERRORS = {
    "algorithm": (
        {"algorithm": "fedavg"},
        "algorithm must be an Algorithm or an optax.GradientTransformation, got str",
    ),
    "data": ({"data": np.zeros(3)}, "data must be ClientData, got ndarray"),
    "cohort": ({"cohort": [0, 1]}, r"cohort must be a Cohort or a number, got \[0, 1\]"),
}


@pytest.mark.parametrize(("options", "sentence"), TYPE_ERRORS.values(), ids=TYPE_ERRORS)
def test_refuses_what_is_something_else(options, sentence):
    options = dict(options)
    algorithm = options.pop("algorithm", FEDAVG)
    with pytest.raises(TypeError, match=f"simulate: {sentence}"):
        run(algorithm, **options)


@pytest.mark.parametrize("field", ["clients", "server", "params"])
def test_a_state_of_another_run_is_refused(field):
    other = {
        "clients": (federated.fedspeed(0.1), PARAMS),
        "server": (federated.fedadam(0.1), PARAMS),
        "params": (federated.fedavg(0.1), {**PARAMS, "w": np.zeros(4, np.float32)}),
    }[field]
    engine_state = simulate(other[0], rounds=1) if field == "clients" else None
    if engine_state is None:
        loss = lambda params, batch: jnp.sum(params["w"]) * jnp.mean(batch["y"])
        engine_state = simulate(other[0], rounds=1, params=other[1], loss_fn=loss)
    with pytest.raises(ValueError, match=rf"state= is of another run; {field}"):
        simulate(federated.fedavg(0.1), PADDED, state=engine_state.state)


def test_an_evaluation_may_not_hide_a_column():
    with pytest.raises(ValueError, match="evaluate must not return loss, round"):
        run(rounds=2, evaluate=lambda params: {"loss": 0.0, "round": 1, "mine": 2.0})
