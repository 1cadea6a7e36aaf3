"""MASHA: worked steps, identities, every placement, saddles through the simulation, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated, optimizers
from tests.federated.placements import PLACEMENTS

exact, top_half = federated.no_compression(), federated.top_k(0.5)
random_half = federated.rand_k(0.5, scaled=True)
everywhere = pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)


def run(tx, z, field, coins):
    """All points after some steps with given coins, and the state at the end."""

    def step(carry, coin):
        z, state = carry
        updates, state = tx.update(field(z), state, z, grad_fn=field, refresh=coin)
        z = optax.apply_updates(z, updates)
        return (z, state), z

    (_, state), path = jax.lax.scan(step, (z, tx.init(z)), jnp.asarray(coins))
    return path, state


# Worked steps and identities ------------------------------------------------------------------

rotation = lambda z: jnp.array([z[1], -z[0]])


@pytest.fixture(scope="module")
def alone():
    """Paths of one node, which has itself for its mean."""

    def paths(z):
        coins = [False, True, False]
        make = lambda factory, tau: factory(0.2, exact, "nodes", tau=tau)
        return {
            "masha1": run(make(federated.masha1, 0.5), z, rotation, coins)[0],
            "masha2": run(make(federated.masha2, 0.5), z, rotation, coins)[0],
            "always": run(make(federated.masha1, 0.0), z, rotation, [True] * 3)[0],
        }

    with jax.enable_x64(True):
        paths = jax.jit(jax.vmap(paths, axis_name="nodes"))(jnp.ones((1, 2)))
        return {name: np.asarray(path[0]) for name, path in paths.items()}


def test_three_steps_by_hand(alone):
    expected = [(0.76, 1.16), (0.624, 1.216), (0.35584, 1.29216)]
    np.testing.assert_allclose(alone["masha1"], expected, rtol=1e-13)
    np.testing.assert_allclose(alone["masha2"], expected, rtol=1e-13)


def test_a_snapshot_in_every_step_gives_extragradient(alone):
    z, turn = np.ones(2), np.array([[0.0, 1.0], [-1.0, 0.0]])
    for found in alone["always"]:
        z = z - 0.2 * turn @ (z - 0.2 * turn @ z)
        np.testing.assert_allclose(found, z, rtol=1e-13)


# Nodes with games of their own ----------------------------------------------------------------

NODES = 8


def games(nodes=NODES, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "A": rng.normal(size=(nodes, d, d)).astype(np.float32),
        "a": rng.normal(size=(nodes, 2 * d)).astype(np.float32),
    }


def field_of(game):
    """The field of a bilinear game with curvature 1 for both players, in two leaves."""

    def field(z):
        x, y = z["x"], z["y"]
        a, b = jnp.split(game["a"], 2)
        return {"x": game["A"] @ y + a + x, "y": -game["A"].T @ x + b + y}

    return field


def solution(drawn):
    A, a = (np.asarray(drawn[name], np.float64).mean(0) for name in ("A", "a"))
    identity = np.eye(len(A))
    return np.linalg.solve(np.block([[identity, A], [-A.T, identity]]), -a)


def flat(z):
    return np.concatenate([z["x"], z["y"]], axis=-1)


START = {"x": jnp.zeros(3), "y": jnp.ones(3)}


def methods(axis_name):
    """Both methods, with compressors at both ends."""
    settings = {"axis_name": axis_name, "tau": 0.5, "key": 3}
    return {
        "masha1": federated.masha1(
            0.05, random_half, server_compressor=federated.natural_compression(), **settings
        ),
        "masha2": federated.masha2(
            0.05, top_half, server_compressor=federated.sign_l1(), **settings
        ),
    }


def play(axis_name, steps, state, game):
    """Some steps of both methods at one node."""
    field, txs = field_of(game), methods(axis_name)

    def step(_, carry):
        z, state = carry
        for name, tx in txs.items():
            updates, after = tx.update(field(z[name]), state[name], z[name], grad_fn=field)
            z = z | {name: optax.apply_updates(z[name], updates)}
            state = state | {name: after}
        return z, state

    return jax.lax.fori_loop(0, steps, step, (dict.fromkeys(txs, START), state))


def states(nodes):
    ids = jnp.arange(nodes)
    init = lambda tx: federated.init_participants(tx, START, ids)
    return {name: init(tx) for name, tx in methods("nodes").items()}


@functools.cache
def compiled():
    return jax.jit(jax.vmap(functools.partial(play, "nodes"), (None, 0, 0), axis_name="nodes"))


@functools.cache
def under_vmap(nodes, steps):
    drawn = {name: leaf[:nodes] for name, leaf in games().items()}
    return compiled()(steps, states(nodes), drawn)


@everywhere
def test_runs_alike_in_every_placement(placement):
    drawn = {name: leaf[: placement.size] for name, leaf in games().items()}
    function = functools.partial(play, placement.axis_name, 6)
    found, state = placement.run(function, states(placement.size), drawn)
    expected, _ = under_vmap(placement.size, 6)
    for name in found:
        np.testing.assert_allclose(flat(found[name]), flat(expected[name]), rtol=2e-5, atol=1e-6)
        points = flat(found[name])
        np.testing.assert_array_equal(points, np.tile(points[0], (placement.size, 1)))
        assert len(np.unique(state[name].pending)) == 1
        mean, own = state[name].mean_operator, state[name].local_operator
        np.testing.assert_allclose(flat(mean)[0], flat(own).mean(0), rtol=1e-5, atol=1e-6)


def test_both_find_the_common_solution():
    drawn = games()
    found, state = under_vmap(NODES, 600)
    for name in found:
        error = np.linalg.norm(flat(found[name])[0] - solution(drawn))
        assert error < 1e-4, name
    assert int(state["masha1"].count[0]) == 600


def test_what_is_left_out_is_neither_lost_nor_made_up():
    """Parameters less the memories move as if nothing were compressed."""
    drawn, gamma = games(), 0.05
    before, state = under_vmap(NODES, 6)
    after, next_state = under_vmap(NODES, 7)
    before, state = before["masha2"], jax.device_get(state["masha2"])
    after, next_state = after["masha2"], jax.device_get(next_state["masha2"])
    lacking = lambda s: flat(s.error).mean(0) + flat(s.server_error)[0]
    w, mean, own = (
        flat(getattr(next_state, name)) for name in ("snapshot", "mean_operator", "local_operator")
    )
    half = 0.5 * flat(before)[0] + 0.5 * w[0] - gamma * mean[0]
    point = {"x": half[:3], "y": half[3:]}
    fields = [flat(field_of(jax.tree.map(lambda x, i=i: x[i], drawn))(point)) for i in range(NODES)]
    uncompressed = half - gamma * (np.mean(fields, 0) - own.mean(0))
    found = flat(after)[0] - lacking(next_state)
    np.testing.assert_allclose(found, uncompressed - lacking(state), rtol=1e-4, atol=1e-5)
    assert np.abs(lacking(next_state)).max() > 1e-3


def test_a_branch_on_the_coin_remains_a_branch():
    tx = federated.masha1(0.05, exact, "nodes", tau=0.5, reuse_grads=False)

    def step(state, game):
        field = field_of(game)
        return tx.update(None, state, START, grad_fn=field)

    state = jax.vmap(tx.init, axis_size=NODES, in_axes=None)(START)
    lanes = jax.vmap(step, axis_name="nodes")
    assert "cond[" in str(jax.make_jaxpr(lanes)(state, games()))


# Through the simulation -----------------------------------------------------------------------


def robust_regression(z, batch):
    """Least squares whose inputs an opponent shifts, all by the same vector, at a price."""
    rest = (batch["x"] + z.max) @ z.min - batch["y"]
    return jnp.mean(rest**2) / 2 + 0.05 * jnp.sum(z.min**2) - 2.0 * jnp.sum(z.max**2)


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 1 + 0.1 * rng.normal(size=24)).astype(np.float32)
    return {"x": x, "y": y}, np.arange(24).reshape(4, 6)


def simulate(regression, reuse_grads):
    examples, parts = regression
    tx = federated.masha1(0.1, random_half, "nodes", tau=0.7, reuse_grads=reuse_grads)
    start = optimizers.MinMax(jnp.zeros(3), jnp.zeros(3))
    return federated.simulate(
        optimizers.minmax(tx),
        None,
        start,
        federated.data.padded(examples, parts),
        rounds=400,
        batch_size=None,
        segment=400,
        grad_fn=jax.grad(robust_regression),
    )


@pytest.fixture(scope="module")
def simulated(regression):
    return simulate(regression, reuse_grads=True)


def test_finds_the_saddle_of_robust_regression(regression, simulated):
    z = jax.tree.map(lambda leaf: leaf[0], simulated.params)
    slopes = jax.grad(robust_regression)(z, regression[0])
    np.testing.assert_allclose(jax.device_get(slopes), np.zeros((2, 3)), atol=2e-5)
    assert np.abs(z.max).min() > 1e-3  # the opponent does something


def test_taking_the_gradient_that_is_there_changes_nothing(regression, simulated):
    other = simulate(regression, reuse_grads=False)
    np.testing.assert_allclose(
        jax.device_get(other.params), jax.device_get(simulated.params), rtol=1e-5, atol=1e-6
    )


def test_counts_what_travels(simulated):
    params = optimizers.MinMax(jnp.zeros(3), jnp.zeros(3))
    compressed, full = 4 * -(-random_half.bits(params) // 8), 4 * 24
    sent = np.array(simulated.history.column("bytes_up"))
    assert sent[0] == compressed + full
    assert set(sent) == {compressed, compressed + full}
    assert abs(np.mean(sent > compressed) - 0.3) < 0.1  # four standard deviations


def test_stays_where_it_may():
    low, high = jnp.array([0.5, -1.0]), jnp.array([2.0, 1.0])
    field = lambda z: jnp.where(jnp.all((z >= low) & (z <= high)), rotation(z), jnp.nan)
    clip = lambda z: jnp.clip(z, low, high)
    tx = federated.masha1(0.1, exact, "nodes", tau=0.5, projection=clip)
    coins = [True, False] * 50
    path = jax.vmap(lambda z: run(tx, z, field, coins)[0], axis_name="nodes")(
        jnp.array([[2.0, -1.0]])
    )
    np.testing.assert_allclose(path[0, -1], [0.5, 1.0], atol=1e-6)


# Rates and refusals ---------------------------------------------------------------------------


def test_rates_that_theory_allows():
    lipschitz, tau = np.array([1.0, 2.0, 3.0]), 0.75
    # C^2 = 2 / 9 (3 * 14 + 2 * 14): the sum over nodes of 3 L_m^2 + 2 * 14 / 3.
    rate = federated.masha1_learning_rate(lipschitz, 0.0, tau, omega=2.0, server_omega=1.0)
    np.testing.assert_allclose(rate, 0.5 / (2 * np.sqrt(140 / 9)))
    assert federated.masha1_learning_rate(lipschitz, 10.0, tau) == 0.0125
    rate = federated.masha2_learning_rate(lipschitz, 0.0, tau, delta=0.5, server_delta=0.25)
    np.testing.assert_allclose(rate, 0.125 * 0.5 / (165 * np.sqrt(14 / 3)))
    assert federated.masha2_learning_rate(1e-9, 10.0, tau) == 0.003125


@pytest.mark.parametrize("rate", [federated.masha1_learning_rate, federated.masha2_learning_rate])
def test_rates_need_constants_that_can_be(rate):
    for smoothness in ([], [1.0, 0.0], [[1.0]], np.nan):
        with pytest.raises(ValueError, match="smoothness must hold a positive number for each"):
            rate(smoothness, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"strong_convexity must lie in \[0, inf\), got -1"):
        rate(1.0, -1.0, 0.5)
    with pytest.raises(ValueError, match=r"tau must lie in \[0, 1\), got 1"):
        rate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("factory", "changed", "message"),
    [
        ("masha1", {"compressor": top_half}, "masha1: compressor must be unbiased"),
        ("masha1", {"server_compressor": top_half}, "masha1: compressor must be unbiased"),
        ("masha2", {"compressor": random_half}, "masha2: compressor must be contractive"),
        ("masha2", {"server_compressor": random_half}, "masha2: compressor must be contractive"),
        ("masha1", {"tau": 1.0}, r"masha1: tau must lie in \[0, 1\), got 1.0"),
        ("masha2", {"tau": -0.1}, r"masha2: tau must lie in \[0, 1\), got -0.1"),
        ("masha1", {"learning_rate": 0.0}, r"learning_rate must lie in \(0, inf\), got 0.0"),
        ("masha2", {"axis_name": ()}, "axis_name must be a string or a tuple"),
    ],
)
def test_refuses_what_cannot_work(factory, changed, message):
    arguments = {"learning_rate": 0.1, "compressor": exact, "axis_name": "nodes", "tau": 0.5}
    with pytest.raises(ValueError, match=message):
        getattr(federated, factory)(**arguments | changed)


def test_refuses_what_is_no_compressor():
    with pytest.raises(TypeError, match="masha1: compressor must be a Compressor"):
        federated.masha1(0.1, 0.5, "nodes", tau=0.5)


def test_asks_for_the_operator_and_for_everybody():
    tx, z = federated.masha1(0.1, exact, "nodes", tau=0.5), jnp.ones((2, 2))
    update = lambda z, **extra: tx.update(z, tx.init(z), z, **extra)
    with pytest.raises(gradax.MissingExtraError, match="masha1 needs grad_fn="):
        jax.vmap(update, axis_name="nodes")(z)
    absent = functools.partial(update, grad_fn=rotation, num_clients=5)
    with pytest.raises(ValueError, match=r"all 5 nodes must take part.*has 2 participants"):
        jax.vmap(absent, axis_name="nodes")(z)
