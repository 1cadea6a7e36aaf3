"""What a round needs, by the compiled program, and chunks chosen by it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from gradax.federated.simulation import _auto_chunk
from gradax.federated.simulation._auto_chunk import (
    choose_chunk,
    fit_chunk,
    needed_bytes,
    placed_shapes,
)
from gradax.federated.simulation._device_rounds import device_rounds
from gradax.federated.simulation._engine import Engine
from gradax.federated.simulation._local import Batching, Objective
from gradax.federated.simulation._placement import Placement
from tests.federated.simulation.problems import assert_close, simulate
from tests.federated.simulation.test_placement import mesh

N, D = 64, 4096
MODEL = 4 * D
LAYOUTS = {
    layout: getattr(federated.data, layout)(
        np.arange(N, dtype=np.float32), list(np.arange(N)[:, None])
    )
    for layout in ("padded", "flat")
}
NUMBERS = LAYOUTS["padded"]
PARAMS = jnp.zeros(D)


def engine_of(algorithm, cohort=None, chunk=None, on=None):
    return Engine(
        algorithm=algorithm,
        objective=Objective.of(lambda x, batch: jnp.mean((x - batch[:, None]) ** 2), None),
        batching=Batching.plan(NUMBERS, 1, 2, None, replace=False),
        num_clients=N,
        cohort=cohort and federated.uniform_cohort(N, cohort),
        chunk=chunk,
        placement=Placement.of(on, None, [(D,)]),
    )


def shapes_of(engine):
    return jax.eval_shape(engine.init, PARAMS, jax.random.key(0))


def compiled(engine, data=NUMBERS):
    arguments = placed_shapes(engine, shapes_of(engine), data)
    return device_rounds(engine).lower(*arguments, 1).compile()


@functools.cache
def memory(name, layout="padded", **options):
    """What the compiler says of a segment of one round; of a mesh, on each device."""
    algorithm = {"fedavg": federated.fedavg, "scaffold": federated.scaffold}[name](0.1)
    engine = engine_of(algorithm, **options)
    return compiled(engine, LAYOUTS[layout]).memory_analysis()


# Streaming -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_one_by_one_messages_are_never_all_alive(name):
    """Nor are rows of states, or anything else whose size is that of the model."""
    few = memory(name, cohort=8, chunk=1)
    drawn, all_of_them = memory(name, cohort=64, chunk=1), memory(name, chunk=1)
    for many in (drawn, all_of_them):
        assert many.temp_size_in_bytes < few.temp_size_in_bytes + MODEL / 4
    assert few.temp_size_in_bytes < 12 * MODEL


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_the_state_is_updated_in_place(name):
    """What is new is metrics, some numbers per lane."""
    found = memory(name, cohort=8, chunk=1)
    assert found.output_size_in_bytes - found.alias_size_in_bytes < MODEL / 4


def test_on_a_mesh_a_chunk_of_one_per_device_streams_too():
    few, many = (memory("fedavg", cohort=size, chunk=4, on=mesh()) for size in (8, 64))
    assert many.temp_size_in_bytes < few.temp_size_in_bytes + MODEL / 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_mesh_a_device_holds_the_messages_of_its_own_lanes(layout):
    spread = memory("fedavg", cohort=64, on=mesh(), layout=layout)
    alone = memory("fedavg", cohort=16)
    assert spread.temp_size_in_bytes < alone.temp_size_in_bytes + MODEL / 4
    assert spread.temp_size_in_bytes > 8 * MODEL  # side by side they do lie


# Chunks by memory ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "budget", "chunk"),
    [
        (1, 64, 740, 64),
        (1, 64, 739, 32),  # even chunks, as few as fit
        (1, 64, 300, 16),
        (1, 64, 119, 1),
        (4, 64, 150, 4),
        (4, 30, 250, 12),
        (4, 30, 399, 16),
        (1, 1, 110, 1),
    ],
)
def test_takes_the_largest_chunk_that_fits(least, most, budget, chunk):
    asked = []

    def bytes_of(chunk):
        asked.append(chunk)
        return 100 + 10 * chunk

    assert choose_chunk(bytes_of, least, most, budget) == chunk
    assert chunk in asked
    assert len(asked) <= 3
    assert 100 + 10 * chunk <= budget


def test_what_grows_in_jumps_falls_back_to_what_fits():
    bytes_of = lambda chunk: {1: 100, 64: 740}.get(chunk, 1000)
    assert choose_chunk(bytes_of, 1, 64, 500) == 1


@pytest.mark.parametrize("most", [1, 8])
def test_no_room_for_one(most):
    with pytest.raises(ValueError, match=r"1 client.* need 2,000 bytes .* memory_budget is 1,999"):
        choose_chunk(lambda chunk: 2000 * chunk, 1, most, 1999)


def test_what_is_chosen_fits_and_what_is_larger_does_not():
    engine = engine_of(federated.scaffold(0.1), cohort=16)
    bytes_of = lambda chunk: needed_bytes(compiled(dataclasses.replace(engine, chunk=chunk)))
    budget = (bytes_of(1) + bytes_of(16)) // 2
    chosen, _ = fit_chunk(engine, device_rounds, shapes_of(engine), NUMBERS, 1, budget)
    assert 2 <= chosen.chunk < 16
    assert bytes_of(chosen.chunk) <= budget < bytes_of(2 * chosen.chunk)


def test_on_one_cpu_with_a_server_it_is_one():
    found = simulate(federated.fedavg(0.1), chunk="auto", memory_budget=10**7)
    assert found.chunk == 1
    expected = simulate(federated.fedavg(0.1))
    assert expected.chunk == 1
    np.testing.assert_array_equal(found.params["w"], expected.params["w"])


def test_on_a_mesh_and_with_states_on_the_host():
    options = {"cohort": 8, "chunk": "auto", "mesh": mesh(), "rounds": 2}
    expected = simulate(federated.scaffold(0.1), cohort=8, rounds=2)
    for where in ("device", "host"):
        found = simulate(federated.scaffold(0.1), client_state=where, **options)
        assert found.chunk == 8
        assert_close(found.params, expected.params)


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match=r"need .* bytes per device, memory_budget is 100"):
        simulate(federated.fedavg(0.1), chunk="auto", memory_budget=100)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory_budget": 100}, "memory_budget= goes with chunk='auto', got None"),
        ({"chunk": "auto", "memory_budget": 0}, "memory_budget must be an integer >= 1, got 0"),
        ({"chunk": "all"}, "chunk must be"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        simulate(federated.fedavg(0.1), **options)


class Accelerator:
    """A device that reports its memory."""

    def memory_stats(self):
        return {"bytes_limit": 1000, "bytes_in_use": 300}


def test_a_device_that_reports_its_memory_is_believed(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    assert _auto_chunk.memory_for(Placement()) == 700


def test_what_the_run_holds_already_is_its_own(monkeypatch):
    device = jax.local_devices()[0]
    held = jax.device_put(jnp.zeros(25), device), np.zeros(99)

    class Reporting(Accelerator):
        def __eq__(self, other):
            return other == device

    monkeypatch.setattr(jax, "local_devices", lambda: [Reporting()])
    assert _auto_chunk.memory_for(Placement(), held) == 800


def test_cpus_share_half_of_what_is_available(monkeypatch):
    monkeypatch.setattr(_auto_chunk, "_available", lambda: 8000)
    assert _auto_chunk.memory_for(Placement()) == 4000
    assert _auto_chunk.memory_for(Placement(mesh())) == 1000
