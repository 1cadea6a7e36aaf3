"""Metrics of every single client, and of those that are served worst."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import _hlo
from gradax import federated
from gradax.federated.simulation._local import Batching
from gradax.federated.simulation._placement import Placement
from tests.federated.simulation.problems import (
    EXAMPLES,
    FLAT,
    NUM_CLIENTS,
    PADDED,
    PARAMS,
    PARTS,
    loss_fn,
    simulate,
)
from tests.federated.simulation.test_placement import mesh


def metrics(params, batch):
    return {"loss": loss_fn(params, batch), "offset": jnp.mean(batch["y"]) + params["b"]}


def expected(params, data):
    """Loss and offset of all clients, one by one."""
    rows = [metrics(params, federated.data.client_arrays(data, i)) for i in range(NUM_CLIENTS)]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(("train", "test"), [(PADDED, None), (FLAT, PADDED), (PADDED, FLAT)])
def test_mean_spread_and_worst_are_those_of_the_clients_one_by_one(train, test):
    one = federated.ClientEvaluation(metrics, test, worst=0.3, keep=True, chunk=3)
    result = simulate(federated.fedavg(0.1), train, rounds=2, evaluate_clients=one)
    row = result.history.rows[-1]
    for name, values in expected(result.params, PADDED).items():
        np.testing.assert_allclose(row[f"client_{name}_each"], values, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(row[f"client_{name}"], values.mean(), rtol=2e-5)
        np.testing.assert_allclose(row[f"client_{name}_std"], values.std(), rtol=2e-5)
        ordered = np.sort(values)
        worst = ordered[-3:] if name == "loss" else ordered[:3]  # three of eight
        np.testing.assert_allclose(row[f"client_{name}_worst"], worst.mean(), rtol=2e-5)


@pytest.mark.parametrize(("train", "test"), [(PADDED, None), (PADDED, FLAT), (FLAT, "three")])
def test_on_a_mesh_the_same_is_measured(train, test):
    """Clients that do not divide among the devices are measured on all of them."""
    if test == "three":
        test = federated.data.padded(EXAMPLES, PARTS[:3])
    one = federated.ClientEvaluation(metrics, test, keep=True)
    options = {"rounds": 2, "evaluate_clients": one}
    spread = simulate(federated.fedavg(0.1), train, mesh=mesh(), **options)
    alone = simulate(federated.fedavg(0.1), train, **options)
    for name, values in alone.history.rows[-1].items():
        if name.startswith("client_"):
            np.testing.assert_allclose(spread.history.rows[-1][name], values, rtol=2e-5, atol=1e-6)


def test_on_a_mesh_every_device_reads_its_own_clients():
    evaluation, plan = (
        federated.ClientEvaluation(metrics),
        Batching.plan(PADDED, None, 1, None, False),
    )
    data = Placement.of(mesh(), None, []).put(PADDED)
    run = lambda data: evaluation.measure(PARAMS, data, plan, own_params=False, ways=4)
    compiled = jax.jit(run).lower(data).compile().as_text()
    assert not _hlo.collectives(compiled, in_loops=True)
    assert not [one for one in _hlo.exchanged(compiled) if one.nbytes > 4 * NUM_CLIENTS]


def test_several_evaluations_stand_side_by_side_and_only_after_segments():
    both = [
        federated.ClientEvaluation(metrics, prefix="train_"),
        federated.ClientEvaluation(metrics, FLAT, prefix="test_"),
    ]
    rows = simulate(federated.fedavg(0.1), rounds=3, segment=2, evaluate_clients=both).history.rows
    assert ["train_loss_worst" in row for row in rows] == [False, True, True]
    assert rows[-1]["train_loss"] == pytest.approx(rows[-1]["test_loss"], rel=1e-5)


def test_nodes_are_measured_with_their_own_parameters():
    start = {
        "w": np.zeros((NUM_CLIENTS, 3), np.float32),
        "b": np.arange(NUM_CLIENTS, dtype=np.float32),
    }
    stay = federated.peers(optax.scale(0.0))
    history = simulate(
        stay,
        rounds=1,
        params=start,
        replicate=False,
        evaluate_clients=federated.ClientEvaluation(
            lambda params, batch: {"b": params["b"]}, keep=True
        ),
    ).history
    assert history.last("client_b_each") == list(range(NUM_CLIENTS))


def test_a_function_alone_is_enough_for_many_seeds_too():
    options = {"batch_size": 2, "num_steps": 2, "segment": 2, "cohort": 3}
    results = federated.simulate_seeds(
        federated.fedavg(0.1), loss_fn, {"w": np.zeros(3, np.float32), "b": np.float32(0)}, PADDED,
        2, seeds=2, evaluate_clients=metrics, **options,
    )  # fmt: skip
    for result in results:
        values = expected(result.params, PADDED)["loss"]
        assert result.history.last("client_loss") == pytest.approx(values.mean(), rel=1e-4)
        assert result.history.last("client_loss_worst") == pytest.approx(values.max(), rel=1e-4)


@pytest.mark.parametrize(
    ("evaluate_clients", "message"),
    [
        (lambda: federated.ClientEvaluation(metrics, worst=0.0), r"worst must lie in \(0, 1\]"),
        (lambda: federated.ClientEvaluation(metrics, chunk=0), "chunk must be an integer >= 1"),
        (lambda: federated.ClientEvaluation("loss"), "metrics_fn must be a function"),
        (lambda: [federated.ClientEvaluation(metrics)] * 2, "prefixes of their own"),
        (lambda: lambda params, batch: {"w": params["w"]}, "must return scalars; 'w' has shape"),
    ],
)
def test_bad_input_is_refused(evaluate_clients, message):
    with pytest.raises(ValueError, match=message):
        simulate(federated.fedavg(0.1), rounds=1, evaluate_clients=evaluate_clients())
