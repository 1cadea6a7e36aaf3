"""DP-FedAvg: what it equals without noise, its noise, and the same in every placement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS
from tests.federated.simulation.problems import NUM_CLIENTS, PARAMS, assert_close, simulate

MAKE = functools.partial(federated.dp_fedavg, 0.1, key=0, expected_clients=NUM_CLIENTS)


def test_without_noise_and_clipping_it_is_uniform_fedavg_over_the_expected_number():
    # Six of eight take part; the sum is divided by eight all the same.
    cohort = federated.scheduled_cohort(NUM_CLIENTS, np.arange(6)[None])
    private = simulate(MAKE(l2_norm_clip=jnp.inf, noise_multiplier=0.0), rounds=1, cohort=cohort)
    plain = simulate(federated.fedavg(0.1, weighting="uniform"), rounds=1, cohort=cohort)
    moved = lambda result: jax.tree.map(lambda new, old: new - old, result.params, PARAMS)
    assert_close(moved(private), jax.tree.map(lambda m: m * 6 / 8, moved(plain)))
    assert private.history.total("bytes_up") == plain.history.total("bytes_up")


def noise_of(rounds, size=4000, lanes=5, **options):
    """Moves of clients that learn nothing: noise alone, ``[rounds, size]``."""
    algorithm = federated.dp_fedavg(0.1, 2.0, 3.0, 4.0, key=1, **options)
    tx, zero = federated.as_transformation(algorithm), jnp.zeros(size)
    grad_fn = lambda x, *_, batch=None: jnp.zeros_like(x)

    def one(carry, _):
        x, state = carry
        updates, state = tx.update(x, state, x, grad_fn=grad_fn, batches=jnp.zeros(1))
        return (optax.apply_updates(x, updates), state), updates

    play = lambda state: jax.lax.scan(one, (zero, state), length=rounds)[1]
    states = federated.init_participants(tx, zero, jnp.arange(lanes))
    return np.asarray(jax.jit(jax.vmap(play, axis_name="clients"))(states))


def test_central_noise_is_one_draw_for_all():
    moves = noise_of(rounds=2)
    np.testing.assert_array_equal(moves, np.broadcast_to(moves[:1], moves.shape))
    assert moves[0].std(axis=1) == pytest.approx(2.0 * 3.0 / 4.0, rel=0.05)
    assert abs(np.corrcoef(moves[0])[0, 1]) < 0.06


def test_local_noise_adds_up_over_those_who_send():
    # Five draws of variance (z C)^2 / S, for S = 3.
    moves = noise_of(rounds=1, noise="local", min_clients=3)
    assert moves[0].std() == pytest.approx(2.0 * 3.0 * np.sqrt(5 / 3) / 4.0, rel=0.05)


def test_a_client_that_diverged_moves_nothing():
    broken = lambda params, batch: jnp.where(batch["y"][0] > 0, jnp.nan, 1.0) * jnp.sum(params["w"])
    result = simulate(MAKE(l2_norm_clip=0.5, noise_multiplier=0.0), rounds=2, loss_fn=broken)
    assert np.all(np.isfinite(result.params["w"]))


def test_noise_goes_on_where_nobody_takes_part():
    nobody = federated.scheduled_cohort(NUM_CLIENTS, np.full((1, 2), NUM_CLIENTS))
    result = simulate(MAKE(l2_norm_clip=0.5, noise_multiplier=1.0), rounds=1, cohort=nobody)
    assert np.all(np.abs(result.params["w"] - PARAMS["w"]) > 0)


def test_per_example_noise_stands_inside_local_steps():
    gradient = federated.private_gradient(100.0, 0.0, key=0)
    local = federated.fedavg(client=optax.chain(gradient, optax.sgd(0.1)))
    assert_close(simulate(local).params, simulate(federated.fedavg(0.1)).params)


def one(axis_name, h, a, number):
    """Three rounds of a participant, central and local noise in one compilation."""
    grad_fn = lambda x, *_, batch=None: h * (x - a)

    def path(**options):
        algorithm = federated.dp_fedavg(0.1, 0.3, 0.5, 8.0, key=0, axis_name=axis_name, **options)
        tx, x = federated.as_transformation(algorithm), jnp.ones(2)
        row = lambda leaf: leaf[0]
        state = jax.tree.map(row, federated.init_participants(tx, x, number[None]))

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x, state, x, grad_fn=grad_fn, batches=jnp.zeros(2))
            x = optax.apply_updates(x, updates)
            return (x, state), x

        return jax.lax.scan(step, (x, state), length=3)[1]

    return path(), path(noise="local", min_clients=4)


@functools.cache
def reference(size):
    lanes = jax.jit(jax.vmap(functools.partial(one, "lanes"), axis_name="lanes"))
    return lanes(*problem(size))


def problem(size):
    return 0.5 + jnp.arange(size) / size, jnp.cos(2.0 * jnp.arange(size)), jnp.arange(size)


@pytest.mark.parametrize("placement", PLACEMENTS[3::2], ids=lambda placement: placement.name)
def test_every_placement_gives_the_same(placement):
    found = placement.run(functools.partial(one, placement.axis_name), *problem(placement.size))
    for path, expected in zip(found, reference(placement.size), strict=True):
        np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-6)


GOOD = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "expected_clients": 8.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l2_norm_clip": 0.0}, r"l2_norm_clip must lie in \(0, inf\], got 0.0"),
        ({"l2_norm_clip": np.inf}, "l2_norm_clip must be finite"),
        ({"noise_multiplier": -0.1}, "noise_multiplier must lie"),
        ({"expected_clients": 0}, "expected_clients must lie"),
        ({"weighting": "examples"}, "weighting must be 'uniform', got 'examples'"),
        ({"noise": "somewhere"}, "noise must be one of"),
        ({"noise": "local"}, "give min_clients"),
        ({"min_clients": 3}, "give min_clients"),
        ({"noise": "local", "min_clients": 0}, "min_clients must be an integer"),
        ({"client": optax.sgd(0.1)}, "exactly one of learning_rate and client"),
        ({"key": None}, "key must be"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        federated.dp_fedavg(0.1, **{"key": 0, **GOOD, **changes})
