"""DIFF2: telescoping, its noise, local paths, and the same in every placement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS
from tests.federated.simulation.problems import assert_close, simulate

H, A = np.array([0.5, 1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5, 2.0])


def grads(x):
    """Gradients of four examples in two dimensions."""
    return jnp.asarray(H)[:, None] * (x - jnp.asarray(A)[:, None])


def follow(tx, xs):
    """Estimates at given points, in float64."""
    with jax.enable_x64(True):
        xs = jnp.asarray(xs)
        step = lambda state, x: tx.update(x, state, x, per_example_grad_fn=grads)[::-1]
        return np.asarray(jax.lax.scan(step, tx.init(xs[0]), xs)[1])


POINTS = np.array([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [-1.0, 2.0], [3.0, 0.0]])


def means():
    return np.stack([np.mean(H[:, None] * (x - A[:, None]), axis=0) for x in POINTS])


@pytest.mark.parametrize("restart_every", [1, 2, None])
def test_telescopes_to_the_gradient_where_nothing_is_clipped(restart_every):
    tx = federated.private_gradient_difference(99.0, 3.0, 0.0, 0.0, restart_every, key=0)
    np.testing.assert_allclose(follow(tx, POINTS), means(), rtol=1e-12, atol=1e-12)


def test_clips_a_start_and_a_difference():
    tx = federated.private_gradient_difference(0.1, 0.5, 0.0, 0.0, None, key=0)
    found = follow(tx, POINTS)
    first = H[:, None] * (POINTS[0] - A[:, None])
    shortened = first * np.minimum(1, 0.1 / np.linalg.norm(first, axis=1))[:, None]
    np.testing.assert_allclose(found[0], shortened.mean(axis=0), rtol=1e-12)
    # Differences are h (x - x'); all but those of h = 0.5 are cut to half of the step.
    np.testing.assert_allclose(found[1] - found[0], 0.5 * (POINTS[1] - POINTS[0]), rtol=1e-12)


def noise(points, z1, z2, restart_every=None):
    """What noise adds, in many dimensions."""
    tx = federated.private_gradient_difference(2.0, 0.5, z1, z2, restart_every, key=0)
    nothing = lambda x: jnp.zeros((4, *x.shape))
    xs = jnp.asarray(points)[:, None] * jnp.ones(5000)
    step = lambda state, x: tx.update(x, state, x, per_example_grad_fn=nothing)[::-1]
    return np.asarray(jax.lax.scan(step, tx.init(xs[0]), xs)[1])


def test_the_noise_of_a_difference_is_as_long_as_the_step():
    found = noise([0.0, 0.01, 0.01, 0.04], z1=3.0, z2=5.0)
    length = 0.01 * np.sqrt(5000)
    np.testing.assert_allclose(found[0].std(), 3.0 * 2.0 / 4, rtol=0.05)
    np.testing.assert_allclose((found[1] - found[0]).std(), 5 * 0.5 * length / 4, rtol=0.05)
    np.testing.assert_array_equal(found[2], found[1])
    np.testing.assert_allclose((found[3] - found[2]).std(), 5 * 0.5 * 3 * length / 4, rtol=0.05)


def test_a_start_forgets_the_noise_before_it():
    found = noise([0.0, 0.0, 0.0], z1=1.0, z2=1.0, restart_every=2)
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(np.corrcoef(found[0], found[2])[0, 1]) < 0.06


def test_a_simulation_averages_over_examples_of_unequal_clients():
    """Without noise and clipping, plain descent on all examples, also where rows are padded."""
    nodes = simulate(federated.diff2(0.1, 99.0, 99.0, 0.0, 0.0, 2, key=0), rounds=3)
    pooled = federated.Algorithm(optax.scale(-1.0), federated.average("clients"), optax.sgd(0.1))
    plain = simulate(pooled, rounds=3, batch_size=None, num_steps=1)
    each = jax.tree.map(lambda x: jnp.broadcast_to(x, (8, *x.shape)), plain.params)
    assert_close(nodes.params, each)
    assert nodes.history.rows[0]["bytes_up"] == 8 * 16


BVR = functools.partial(federated.bvr_l_sgd, 0.1, 99.0, 99.0, 0.0, 0.0, 2, key=0)


def test_one_node_walks_for_all():
    # A single step is a step of DIFF2 with descent, whoever makes it.
    one = simulate(BVR(), rounds=2, num_steps=1).params
    assert_close(
        one, simulate(federated.diff2(0.1, 99.0, 99.0, 0.0, 0.0, 2, key=0), rounds=2).params
    )
    far = simulate(BVR(), rounds=2, num_steps=4).params
    np.testing.assert_array_equal(far["w"], np.broadcast_to(far["w"][0], far["w"].shape))
    assert not np.allclose(far["w"], one["w"])


def test_the_local_path_follows_the_gradient_of_the_walker():
    """Quadratics with one curvature: differences of any node are those of the mean."""
    rows = federated.data.padded(np.arange(8.0, dtype=np.float32), np.arange(8).reshape(4, 2))
    loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
    result = federated.simulate(
        BVR(), loss_fn, jnp.array(0.0), rows, rounds=1, num_steps=5, batch_size=1
    )
    np.testing.assert_allclose(result.params, 3.5 * (1 - 0.9**5), rtol=1e-5)


def test_noise_on_the_way_is_as_long_as_the_steps():
    zeros = {"w": jnp.zeros(500), "b": jnp.zeros(())}
    loss_fn = lambda p, batch: p["b"] + 0 * jnp.sum(p["w"]) + 0 * jnp.sum(batch["y"])
    algorithm = BVR(noise_multiplier_local=1.0)
    result = simulate(algorithm, rounds=1, num_steps=2, params=zeros, loss_fn=loss_fn)
    # One step of 0.1, then noise z C 0.1 / 2 on the mean of two, times the rate.
    assert np.std(result.params["w"][0]) == pytest.approx(99 * 0.1 / 2 * 0.1, rel=0.1)


def one(axis_name, h, a):
    """Four rounds of a node, of both forms."""
    gradients = lambda x, *_, batch=None: h[:, None] * (x - a[:, None])
    extras = {"per_example_grad_fn": gradients, "batches": jnp.zeros(3)}

    def path(make):
        tx = federated.as_transformation(make(0.1, 2.0, 1.0, 0.5, 0.5, 3, 0, axis_name))
        x = jnp.ones(2)

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x, state, x, **extras)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        return jax.lax.scan(step, (x, tx.init(x)), length=4)[1]

    return path(federated.diff2), path(federated.bvr_l_sgd)


def problem(size):
    rows = jnp.arange(size)[:, None] + jnp.arange(2)
    return 0.5 + jnp.sin(rows) ** 2, jnp.cos(2.0 * rows)


@functools.cache
def reference(size):
    lanes = jax.jit(jax.vmap(functools.partial(one, "lanes"), axis_name="lanes"))
    return lanes(*problem(size))


@pytest.mark.parametrize("placement", PLACEMENTS[3::2], ids=lambda placement: placement.name)
def test_every_placement_gives_the_same(placement):
    found = placement.run(functools.partial(one, placement.axis_name), *problem(placement.size))
    for path, expected in zip(found, reference(placement.size), strict=True):
        np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(path, np.broadcast_to(path[:1], path.shape), rtol=1e-5)


GOOD = {
    "clip_gradient": 1.0,
    "clip_difference": 1.0,
    "noise_multiplier_gradient": 1.0,
    "noise_multiplier_difference": 1.0,
    "restart_every": 3,
    "key": 0,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restart_every": 0}, "restart_every must be an integer >= 1, got 0"),
        ({"clip_gradient": 0.0}, "clip_gradient must lie"),
        ({"clip_difference": -1.0}, "clip_difference must lie"),
        ({"noise_multiplier_gradient": -1.0}, "noise_multiplier_gradient must lie"),
        ({"noise_multiplier_difference": -1.0}, "noise_multiplier_difference must lie"),
        ({"key": None}, "key must be"),
    ],
)
def test_refuses(changes, message):
    makers = (
        federated.private_gradient_difference,
        functools.partial(federated.diff2, 0.1),
        functools.partial(federated.bvr_l_sgd, 0.1),
    )
    for make in makers:
        with pytest.raises(ValueError, match=message):
            make(**{**GOOD, **changes})


@pytest.mark.parametrize("name", ["clip_local", "noise_multiplier_local"])
def test_refuses_a_local_number(name):
    with pytest.raises(ValueError, match=f"{name} must lie"):
        federated.bvr_l_sgd(0.1, **GOOD, **{name: -1.0})
