"""Local steps x clipping x compression x aggregation: every cell, on lanes and on devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from gradax.federated.rounds._participants import fold_keys
from tests.federated.placements import PLACEMENTS

ON_LANES, ON_DEVICES = (
    next(placement for placement in PLACEMENTS if placement.name == name)
    for name in ("vmap", "shard_map_of_vmap")
)
N, F, ROUNDS, BATCH, RATE = ON_LANES.size, 1, 2, 3, 0.1

COMPRESSIONS = {
    "whole": lambda: [],
    # Whoever receives the corrections adds them up, which is the same for all aggregates.
    "top-k, EControl": lambda: [
        federated.econtrol_uplink(federated.top_k(0.25), eta=0.3),
        federated.accumulate(),
    ],
    "8 bits": lambda: [federated.compress_updates(federated.qsgd(127))],
}
AGGREGATES = {
    "mean": lambda name: federated.average(name, "uniform"),
    "trimmed mean": lambda name: federated.trimmed_mean(name, f=F),
    "MoNNA": lambda name: federated.nearest_neighbor_average(F, name),
}
PHASES = list(itertools.product((1, 5), (False, True)))
CELLS = list(itertools.product(PHASES, COMPRESSIONS, AGGREGATES))


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def algorithm(steps_and_clip, compression, aggregate, axis_name):
    clip = [optax.clip_by_global_norm(0.05)] if steps_and_clip[1] else []
    client = [federated.local_steps(optax.sgd(RATE)), *clip, *COMPRESSIONS[compression]()]
    return federated.Algorithm(
        client=optax.chain(*client),
        aggregate=AGGREGATES[aggregate](axis_name),
        server=None if aggregate == "MoNNA" else optax.sgd(1.0),
        axis_name=axis_name,
    )


def examples(num_steps):
    """Batches ``[nodes, rounds, steps, batch, 4]`` of linear maps, one for each node."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, ROUNDS, num_steps, BATCH, 4)).astype(np.float32)
    maps = rng.normal(size=(N, 1, 1, 4, 4)).astype(np.float32)
    return x, x @ maps


@functools.cache
def outcomes(steps_and_clip, placement):
    """Parameters of all nodes after all rounds, of the nine cells that share a local phase."""
    cells = list(itertools.product(COMPRESSIONS, AGGREGATES))
    txs = [
        federated.as_transformation(algorithm(steps_and_clip, *cell, placement.axis_name))
        for cell in cells
    ]

    def node(number, batches):
        grad_fn = jax.grad(loss_fn)

        def play(tx, params, state, batches):
            extras = {"grad_fn": grad_fn, "batches": batches}
            updates, state = tx.update(params, state, params, **extras)
            return optax.apply_updates(params, updates), state

        def round(carry, batches):
            return [play(tx, *own, batches) for tx, own in zip(txs, carry, strict=True)], None

        start = {"w": jnp.zeros((4, 4)), "b": jnp.zeros(4)}
        carry = [(start, fold_keys(tx.init(start), number)) for tx in txs]
        carry, _ = jax.lax.scan(round, carry, batches)
        return [params for params, _ in carry]

    found = placement.run(node, np.arange(N, dtype=np.int32), examples(steps_and_clip[0]))
    return dict(zip(cells, found, strict=True))


def name_of(cell):
    (steps, clip), *others = cell
    return ", ".join([f"{steps} steps", "clip" if clip else "no clip", *others])


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_a_cell_is_finite_and_the_same_on_lanes_and_on_devices(cell):
    steps_and_clip, *rest = cell
    lanes, devices = (outcomes(steps_and_clip, p)[tuple(rest)] for p in (ON_LANES, ON_DEVICES))
    for name, leaf in lanes.items():
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 1e-3
        np.testing.assert_allclose(devices[name], leaf, rtol=1e-4, atol=1e-6)
        if rest[1] != "MoNNA":
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))


def test_no_two_cells_agree():
    ends = [np.asarray(outcomes(phase, ON_LANES)[tuple(rest)]["w"])[0] for phase, *rest in CELLS]
    for one, other in itertools.combinations(ends, 2):
        assert np.abs(one - other).max() > 1e-5


def test_the_plain_cell_is_gradient_descent_on_the_mean():
    x, y = (np.asarray(part)[:, :, 0].astype(float) for part in examples(1))
    w, b = np.zeros((4, 4)), np.zeros(4)
    for t in range(ROUNDS):
        error = 2 * (x[:, t] @ w + b - y[:, t]) / (BATCH * 4)
        grad_w = (x[:, t].transpose(0, 2, 1) @ error).mean(axis=0)
        w, b = w - RATE * grad_w, b - RATE * error.sum(axis=1).mean(axis=0)
    found = outcomes((1, False), ON_LANES)["whole", "mean"]
    np.testing.assert_allclose(found["w"][0], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["b"][0], b, rtol=1e-4, atol=1e-6)
