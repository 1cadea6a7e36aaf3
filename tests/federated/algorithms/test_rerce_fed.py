"""RERCE-Fed on weighted least squares: where it settles, and what noise on the links does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated

CLIENTS, ROWS, SIZE = 6, 8, 3
_RNG = np.random.default_rng(0)
H = _RNG.normal(size=(CLIENTS, ROWS, SIZE))
W = 1 + np.arange(CLIENTS)
Y = H @ _RNG.normal(size=SIZE) + 0.3 * _RNG.normal(size=(CLIENTS, ROWS))
NORMAL = np.einsum("n,nmi,nmj->ij", W, H, H)
OPTIMUM = np.linalg.solve(NORMAL, np.einsum("n,nmi,nm->i", W, H, Y))
SOLVER = federated.least_squares_solver(H, Y, W)
EVERYBODY = np.ones(CLIENTS, bool)


@functools.cache
def player(algorithm, rounds):
    """Jitted ``(key, active[rounds, clients]) -> z[rounds]``; all clients side by side."""
    tx = federated.as_transformation(algorithm)

    def play(key, active):
        states = federated.init_participants(tx, jnp.zeros(SIZE), jnp.arange(CLIENTS))
        states = jax.vmap(lambda state: _rekeyed(state, key))(states)

        def client(client_id, params, state, active, h, y, w):
            full_grad_fn = lambda x: w * h.T @ (h @ x - y)
            extras = {"client_id": client_id, "full_grad_fn": full_grad_fn, "active": active}
            updates, state = tx.update(params, state, params, **extras)
            return optax.apply_updates(params, updates), state

        def one(carry, active):
            params, states = carry
            out = jax.vmap(client, (0, None, 0, 0, 0, 0, 0), axis_name="clients")(
                jnp.arange(CLIENTS), params, states, active, *map(jnp.asarray, (H, Y, W * 1.0))
            )
            params, states = jax.tree.map(lambda x: x[0], out[0]), out[1]
            try:
                mean = federated.rerce_params(states.shared)[0]
            except KeyError:
                mean = params
            return (params, states), mean

        return jax.lax.scan(one, (jnp.zeros(SIZE), states), active, length=rounds)[1]

    return jax.jit(play)


def _rekeyed(state, key):
    """Other noise for another run."""
    fold = lambda leaf: jax.random.fold_in(leaf, key)
    is_key = lambda leaf: jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: fold(leaf) if is_key(leaf) else leaf, state)


def errors(algorithm, active, key=0):
    """Squared distance to the solution relative to its size, in dB, after every round."""
    path = player(algorithm, len(active))(key, jnp.asarray(active))
    return decibels(np.sum((np.asarray(path) - OPTIMUM) ** 2, axis=-1))


def decibels(squared):
    return 10 * np.log10(squared / np.sum(OPTIMUM**2))


def test_everybody_without_noise_reaches_the_solution_exactly():
    with jax.enable_x64(True):
        found = errors(federated.rerce_fed(5.0, SOLVER), np.tile(EVERYBODY, (400, 1)))
    assert found[-1] < -150
    assert found[5] > -100


def test_everybody_without_noise_is_the_textbook_method_iterate_by_iterate():
    active = np.tile(EVERYBODY, (20, 1))
    with jax.enable_x64(True):
        ours, textbook = (
            player(make(5.0, SOLVER), 20)(0, active)
            for make in (federated.rerce_fed, federated.consensus_admm)
        )
    np.testing.assert_allclose(ours, textbook, rtol=1e-12)


def test_some_of_the_clients_settle_near_the_solution_not_at_it():
    rng = np.random.default_rng(1)
    active = np.array([rng.permutation(CLIENTS) < 2 for _ in range(600)])
    with jax.enable_x64(True):
        found = errors(federated.rerce_fed(5.0, SOLVER), active)
    assert -80 < found[-1] < -10
    np.testing.assert_allclose(found[-100:], found[-1], atol=1.0)  # it stands still there


def noisy(make, stddev=0.05, **options):
    link = lambda key: federated.add_gaussian_noise(stddev, key, "clients")
    return make(5.0, SOLVER, uplink=link(1), downlink=link(2), **options)


def test_noise_on_the_links_is_a_random_walk_and_the_textbook_method_walks_further():
    active, squared = np.tile(EVERYBODY, (1600, 1)), {}
    for make in (federated.rerce_fed, federated.consensus_admm):
        play = jax.vmap(player(noisy(make), 1600), (0, None))
        path = np.asarray(play(jnp.arange(16), active))
        squared[make] = np.sum((path - OPTIMUM) ** 2, axis=-1).mean(axis=0)
    ours, textbook = squared.values()
    early, late = (decibels(ours[span].mean()) for span in (slice(90, 110), slice(1440, 1600)))
    assert 8 < late - early < 16  # 12 dB for a sixteenth of the rounds
    assert np.mean(ours[100:]) < np.mean(textbook[100:])


def test_descent_solves_what_the_exact_solver_solves():
    active = np.tile(EVERYBODY, (30, 1))
    with jax.enable_x64(True):
        descent = federated.gradient_solver(optax.sgd(0.01), num_steps=200)
        exact, found = (
            player(federated.rerce_fed(5.0, solver), 30)(0, active) for solver in (SOLVER, descent)
        )
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_steps_of_absent_clients_are_made_up_for():
    """One client that is away for two rounds, against the same steps made one by one."""
    rho, vector = 2.0, jnp.array([0.5, -1.0, 2.0])
    tx = federated.admm_local(rho, SOLVER, "continual")
    with jax.enable_x64(True):
        s = jnp.asarray(vector, jnp.float64)
        update = functools.partial(tx.update, client_id=1)
        _, state = update(s, tx.init(s), s, round=0)
        _, state = update(s, state, s, round=1)
        model = state.model
        message, state = update(2 * s, state, 2 * s, round=4)
        for heard in (s, s, 2 * s):  # rounds 2 and 3 without a word, and round 4
            last = model
            target = SOLVER.gradient(model, client_id=1) + rho * heard
            model = SOLVER.solve(model, target, rho, client_id=1)
        np.testing.assert_allclose(state.model, model, rtol=1e-12)
        np.testing.assert_allclose(message + 2 * s, 2 * model - last, rtol=1e-12)


def test_a_round_of_nobody_changes_nothing():
    active = np.tile(EVERYBODY, (4, 1))
    active[2] = False
    path = player(federated.rerce_fed(5.0, SOLVER), 4)(0, active)
    np.testing.assert_array_equal(path[1], path[2])
    assert not np.allclose(path[2], path[3])


def test_a_simulation_gives_the_same_and_one_model_travels_each_way():
    clients = federated.data.padded({"x": np.arange(CLIENTS)}, np.arange(CLIENTS)[:, None])
    grad_fn = lambda params, batch: params  # the exact solver needs no data
    for continual in (False, True):
        algorithm = federated.rerce_fed(5.0, SOLVER, continual)
        result = federated.simulate(
            algorithm, None, jnp.zeros(SIZE), clients, 8, segment=8, num_steps=1,
            grad_fn=grad_fn, readout=federated.rerce_params,
        )  # fmt: skip
        expected = player(algorithm, 8)(0, np.tile(EVERYBODY, (8, 1)))[-1]
        np.testing.assert_allclose(result.params, expected, rtol=1e-5)
        assert result.history.total("bytes_up") == 8 * CLIENTS * 4 * SIZE
        shapes = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}
        descent = federated.gradient_solver(optax.sgd(0.1), 1)
        sizes = federated.communication_bytes(federated.rerce_fed(1.0, descent, continual), shapes)
        assert sizes == {"up": 56, "down": 56}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: federated.rerce_fed(0.0, SOLVER), r"prox_weight must lie in \(0, inf\), got 0.0"),
        (lambda: federated.consensus_admm(-1.0, SOLVER), "prox_weight must lie in"),
        (lambda: federated.admm_local(1.0, SOLVER, "primal"), "rule must be one of"),
        (lambda: federated.gradient_solver(optax.sgd(0.1), 0), "num_steps must be an integer >= 1"),
        (lambda: federated.least_squares_solver([], []), "for the same clients, got 0, 0"),
        (lambda: federated.least_squares_solver(H, Y[:2]), "for the same clients, got 6, 2"),
        (lambda: federated.least_squares_solver(H, Y[:, :2]), "observations of client 0 must"),
        (lambda: federated.least_squares_solver(Y, Y), r"matrices must have shapes \[m_i, d\]"),
        (lambda: federated.least_squares_solver(H, Y, -1.0), "weights of client 0 must"),
        (lambda: federated.extrapolate().update(1.0, None), "extrapolate needs params"),
        (lambda: SOLVER.gradient(jnp.zeros(2), client_id=0), "params must be one vector of 3"),
        (lambda: SOLVER.gradient(jnp.zeros(3)), "needs client_id="),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_another_solver_or_another_state_is_refused():
    with pytest.raises(TypeError, match="solver must be a LocalSolver"):
        federated.rerce_fed(1.0, lambda x: x)
    with pytest.raises(KeyError, match="no state of rerce_fed"):
        federated.rerce_params(optax.sgd(0.1).init(jnp.zeros(2)))


@pytest.mark.parametrize("weight", [2.0, np.full(ROWS, 2.0), 2.0 * np.eye(ROWS)])
def test_weights_may_be_numbers_diagonals_or_matrices(weight):
    solver = federated.least_squares_solver(H[:1], Y[:1], [weight])
    gradient = solver.gradient(jnp.ones(SIZE), client_id=0)
    np.testing.assert_allclose(gradient, 2 * H[0].T @ (H[0] @ np.ones(SIZE) - Y[0]), rtol=1e-5)
