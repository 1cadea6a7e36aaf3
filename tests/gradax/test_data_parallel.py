"""gradax.make_step on a mesh: the numbers of one device, states where they were, few messages."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradax
from gradax import _extras, federated
from gradax._common_update import is_common

WORKERS, RNG = 4, np.random.default_rng(0)
X = RNG.normal(size=(16, 8)).astype(np.float32)
BATCH = {"x": X, "y": np.tanh(X @ RNG.normal(size=(8, 4)).astype(np.float32))}
PARAMS = {"w": RNG.normal(size=(8, 4)).astype(np.float32) / 4, "b": np.zeros(4, np.float32)}
MESH = jax.make_mesh((WORKERS,), ("data",))
SQUARE = jax.make_mesh((2, 2), ("data", "model"))


def loss_fn(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"] + params["b"]) - batch["y"]) ** 2)


def loss_with_aux(params, batch):
    residual = jnp.tanh(batch["x"] @ params["w"] + params["b"]) - batch["y"]
    return jnp.mean(residual**2), {"residual": residual, "largest": jnp.max(residual)}


def train(tx, params=PARAMS, state=None, steps=3, loss=loss_fn, batch=BATCH, **options):
    step = gradax.make_step(loss, tx, **options)
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        params, state, metrics = step(params, state, batch)
    return params, state, metrics


def of_workers(tx, workers=WORKERS):
    return federated.init_participants(tx, PARAMS, jnp.arange(workers))


def parts(workers=WORKERS):
    return jax.tree.map(lambda x: x.reshape(workers, -1, *x.shape[1:]), BATCH)


def grads_of_workers(params):
    return jax.vmap(jax.grad(loss_fn), (None, 0))(params, parts())


def collectives(step, *arguments):
    """Collective operations of the compiled step."""
    text = step.lower(*arguments).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return re.findall(rf" ({kinds})(?:-start)?\(", text)


def asking(*names):
    """A transformation that keeps extras, or what they return, and leaves the updates alone."""

    def update(updates, state, params=None, **extras):
        del state
        got = [_extras.require("asking", name, extras.get(name)) for name in names]
        return updates, [extra(params) if callable(extra) else extra for extra in got]

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


# The whole batch ---------------------------------------------------------------------------


def test_takes_the_step_of_one_device_with_one_message():
    tx = optax.adam(0.1)
    found = params, state, _ = train(tx, mesh=MESH)
    close(found, train(tx))
    assert len(params["w"].sharding.device_set) == WORKERS
    step = gradax.make_step(loss_fn, tx, mesh=MESH)
    assert collectives(step, params, state, BATCH) == ["all-reduce"]


def test_extras_are_those_of_the_whole_batch():
    names = ["value", "grad", "value_fn", "grad_fn", "per_example_values", "per_example_grads"]
    tx = asking(*names, "half_grads", "residual", "largest")
    expected = train(tx, state=(), steps=1, loss=loss_with_aux)
    empty = jax.tree.map(jnp.zeros_like, expected[1])
    close(train(tx, state=empty, steps=1, loss=loss_with_aux, mesh=MESH), expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_keeps_params_and_state_in_the_sharding_in_which_they_arrive(axis_type):
    tx, mesh = optax.adam(0.1), jax.make_mesh((2, 2), ("data", "model"), (axis_type,) * 2)
    params = jax.device_put(PARAMS, NamedSharding(mesh, P("model")))
    found, state, _ = train(tx, params, tx.init(params), mesh=mesh, donate=True)
    close((found, state), train(tx)[:2])
    for tree in (found, state[0].mu, state[0].nu):
        assert tree["w"].sharding.spec == P("model")
        assert tree["w"].addressable_shards[0].data.shape == (4, 4)
        assert tree["b"].addressable_shards[0].data.shape == (2,)


def test_keeps_params_whole_where_only_the_state_is_cut():
    tx, cut = optax.adam(0.1), NamedSharding(SQUARE, P("model"))
    state = jax.tree.map(lambda x: jax.device_put(x, cut) if x.ndim else x, tx.init(PARAMS))
    params, state, _ = train(tx, state=state, mesh=SQUARE)
    close(params, train(tx)[0])
    assert params["w"].sharding.is_fully_replicated
    assert state[0].mu["w"].sharding.spec == P("model")


def test_donates_and_traces_once_per_shape():
    traces = []

    def counted(params, batch):
        traces.append(None)
        return loss_fn(params, batch)

    tx = optax.adam(0.1)
    step = gradax.make_step(counted, tx, mesh=MESH, donate=True)
    first, state, _ = step(PARAMS, tx.init(PARAMS), BATCH)
    number = len(traces)
    params, state, _ = step(first, state, BATCH)
    step(params, state, BATCH)
    assert len(traces) == number
    assert first["w"].is_deleted()


def test_can_be_scanned():
    tx, step = optax.sgd(0.1), gradax.make_step(loss_fn, optax.sgd(0.1), mesh=MESH)

    @jax.jit
    def run(params, state):
        body = lambda carry, _: (step(*carry, BATCH)[:2], None)
        return jax.lax.scan(body, (params, state), length=3)[0]

    close(run(PARAMS, tx.init(PARAMS))[0], train(tx)[0])


def test_scalars_of_a_batch_are_replicated():
    scaled = lambda params, batch: batch["scale"] * loss_fn(params, batch)
    batch = BATCH | {"scale": jnp.float32(2)}
    close(train(optax.sgd(0.1), loss=scaled, batch=batch, mesh=MESH)[0], train(optax.sgd(0.2))[0])


# Workers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mesh", "workers"), [(MESH, 4), (SQUARE, 2), (SQUARE, 4)])
def test_updates_of_workers_that_do_not_speak_are_averaged(mesh, workers):
    tx, spec = optax.sgd(0.1), P("model") if mesh is SQUARE else P()
    params = jax.device_put(PARAMS, NamedSharding(mesh, spec))
    options = {"mesh": mesh, "per_worker": "gradients", "workers": workers}
    found, expected = train(tx, params, of_workers(tx, workers), **options), train(tx)
    assert found[0]["w"].sharding.spec == spec
    close((found[0], found[2]), (expected[0], expected[2]))


@pytest.mark.parametrize(
    ("rule", "by_hand"),
    [(federated.coordinate_median, jnp.median), (federated.average, jnp.mean)],
    ids=["median", "mean"],
)
def test_aggregates_see_the_gradient_of_each_worker(rule, by_hand):
    tx, params = optax.chain(rule("data"), optax.sgd(0.5)), PARAMS
    found, _, _ = train(tx, state=of_workers(tx), mesh=MESH, per_worker="gradients", donate=True)
    for _ in range(3):
        update = jax.tree.map(lambda g: -0.5 * by_hand(g, axis=0), grads_of_workers(params))
        params = optax.apply_updates(params, update)
    close(found, params)


@pytest.mark.parametrize("axes", ["data", ("data", "lanes")], ids=["devices", "lanes"])
def test_error_feedback_equals_the_algorithm_under_vmap(axes):
    compressor = federated.top_k(0.2)
    tx = optax.chain(federated.ef21(compressor, axes), optax.sgd(0.5))
    mesh = MESH if axes == "data" else SQUARE
    options = {"mesh": mesh, "per_worker": "gradients", "workers": WORKERS}
    found, _, _ = train(tx, state=of_workers(tx), **options)
    algorithm = federated.compressed_sgd(0.5, federated.ef21_uplink(compressor), axis_name="w")
    reference, params = federated.as_transformation(algorithm), PARAMS
    states = federated.init_participants(reference, PARAMS, jnp.arange(WORKERS))
    one_round = jax.jit(jax.vmap(reference.update, (0, 0, None), axis_name="w"))
    for _ in range(3):
        updates, states = one_round(grads_of_workers(params), states, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: u[0], updates))
    close(found, params)


def test_peers_have_parameters_of_their_own():
    ring = np.eye(WORKERS) / 2 + np.roll(np.eye(WORKERS), 1, axis=1) / 2
    tx = optax.chain(optax.sgd(0.5), federated.gossip(ring, "data"))
    rows = jax.tree.map(lambda x: np.stack([k * x for k in range(WORKERS)]), PARAMS)
    found, _, metrics = train(
        tx, rows, of_workers(tx), loss=loss_with_aux, mesh=MESH, per_worker="params", donate=True
    )
    params, state = rows, of_workers(tx)
    for _ in range(3):
        losses, grads = jax.vmap(jax.value_and_grad(loss_fn))(params, parts())
        updates, state = jax.vmap(tx.update, axis_name="data")(grads, state, params)
        params = optax.apply_updates(params, updates)
    close(found, params)
    close(metrics["loss"], jnp.mean(losses))
    assert metrics["aux"]["residual"].shape == (WORKERS, 4, 4)
    assert metrics["aux"]["largest"].shape == (WORKERS,)


def test_extras_of_a_worker_are_those_of_its_part():
    tx = asking("value", "grad_fn")
    state = [jnp.zeros(WORKERS), jax.tree.map(lambda x: jnp.zeros((WORKERS, *x.shape)), PARAMS)]
    _, found, _ = train(tx, state=state, steps=1, mesh=MESH, per_worker="gradients")
    close(found, [jax.vmap(loss_fn, (None, 0))(PARAMS, parts()), grads_of_workers(PARAMS)])


#: The gradient of the step before: its state is equal for all only at first.
DELAY = optax.GradientTransformation(jnp.zeros_like, lambda g, state, params=None: (state, g))
NOISE = functools.partial(optax.add_noise, 0.1, 0.5, jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "common"),
    [
        (lambda axes: [optax.sgd(0.1)], False),
        (lambda axes: [federated.average(axes), optax.adam(0.1)], True),
        (lambda axes: [optax.adam(0.1), federated.average(axes)], True),
        (lambda axes: [NOISE(), federated.average(axes), optax.trace(0.9)], True),
        (lambda axes: [federated.average(axes), NOISE()], False),
        (lambda axes: [federated.average(axes[:1]), optax.sgd(0.1)], False),
        (lambda axes: [DELAY], False),
        (lambda axes: [federated.ef21(federated.top_k(0.2), axes), optax.adam(0.1)], True),
    ],
    ids=["alone", "mean", "mean_last", "noise_first", "noise_last", "half", "delay", "ef21"],
)
def test_knows_by_tracing_which_updates_are_common(make, common):
    axes = {"data": 2, "lanes": 3}
    tx = optax.with_extra_args_support(optax.chain(*make(tuple(axes))))
    advance = lambda w, state, g: (*tx.update(g * w, state, w), None)
    w = jnp.ones(3)
    assert is_common(advance, axes, w, tx.init(w), w) == common


def test_a_common_update_is_not_averaged_again():
    tx = optax.chain(federated.ef21(federated.top_k(0.2), "data"), optax.adam(0.1))
    step = gradax.make_step(loss_fn, tx, mesh=MESH, per_worker="gradients")
    assert collectives(step, PARAMS, of_workers(tx), BATCH) == ["all-reduce"]


# What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mesh": 4}, TypeError, r"mesh must be a jax.sharding.Mesh, got 4"),
        ({"data_axis": "batch"}, ValueError, r"data_axis must be one of 'data', got 'batch'"),
        ({"per_worker": "all"}, ValueError, r"per_worker must be one of None, 'gradients', "),
        ({"mesh": None, "per_worker": "params"}, ValueError, r"need a mesh, got mesh=None"),
        ({"workers": 8}, ValueError, r"workers needs per_worker, got workers=8"),
        ({"per_worker": "params", "workers": 0}, ValueError, r"workers must be an integer >= 1"),
        ({"per_worker": "params", "workers": 6}, ValueError, r"multiple of the 4 devices .* got 6"),
    ],
)
def test_refuses_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        gradax.make_step(loss_fn, optax.sgd(0.1), **{"mesh": MESH} | options)


@pytest.mark.parametrize(
    ("options", "number", "message"),
    [
        ({}, 10, r"multiple of the 4 parts along 'data', got a batch with a leaf of shape \(10"),
        ({"per_worker": "gradients", "workers": 8}, 12, r"multiple of the 8 parts"),
        ({"per_worker": "params"}, 16, r"leaf of params must have a leading axis of 4 workers"),
        ({"per_worker": "gradients"}, 16, r"leaf of opt_state must .* got shape \(\); see gradax"),
    ],
)
def test_refuses_at_a_call(options, number, message):
    tx = optax.adam(0.1)
    state = of_workers(tx, 8) if "workers" in options else tx.init(PARAMS)
    batch = {name: x[:number] for name, x in BATCH.items()}
    with pytest.raises(ValueError, match=f"make_step: .*{message}"):
        train(tx, state=state, batch=batch, mesh=MESH, **options)
