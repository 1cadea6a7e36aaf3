"""Error feedback, EF21 and EControl: identities, worked numbers, placements, servers, bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS

top_k, rand_k, qsgd = federated.top_k, federated.rand_k, federated.qsgd
N, D, RATE = 4, 5, 0.1
RNG = np.random.default_rng(0)
ROOTS = RNG.normal(size=(N, D, D))
Q = ROOTS @ ROOTS.transpose(0, 2, 1) / D + np.eye(D)
B = 3 * RNG.normal(size=(N, D))
OPTIMUM = np.linalg.solve(Q.mean(axis=0), B.mean(axis=0))


#: Devices alone and lanes alone are covered by the battery.
NESTED = [placement for placement in PLACEMENTS if isinstance(placement.axis_name, tuple)]


def descend(direction, steps, rate=RATE):
    """All iterates of common parameters, and the states of all nodes along the way."""
    with jax.enable_x64(True):
        tx = optax.chain(direction, optax.scale(-rate))

        def step(carry, _):
            x, state = carry
            node = lambda state, Q, b: tx.update(Q @ x - b, state, x)
            updates, state = jax.vmap(node, axis_name="nodes")(
                state, jnp.asarray(Q), jnp.asarray(B)
            )
            x = x + updates[0]
            return (x, state), (x, state[0])

        zero = jnp.zeros(D, float)
        start = zero, federated.init_participants(tx, zero, jnp.arange(N))
        return jax.jit(lambda start: jax.lax.scan(step, start, length=steps))(start)[1]


@functools.cache
def plain(steps):
    """Uncompressed descent."""
    return descend(federated.compressed_mean(federated.no_compression(), "nodes"), steps)[0]


METHODS = {
    "ef14": lambda c: federated.ef14(c, "nodes"),
    "ef21": lambda c: federated.ef21(c, "nodes"),
    "econtrol": lambda c: federated.scale_by_econtrol(c, "nodes", eta=0.3),
    "econtrol, eta=None": lambda c: federated.scale_by_econtrol(c, "nodes", h_init="zero"),
}


@pytest.mark.parametrize("method", METHODS)
def test_without_compression_all_are_plain_descent(method):
    path, _ = descend(METHODS[method](federated.no_compression()), 20)
    np.testing.assert_allclose(path, plain(20), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("start", "init"), [("full", "full"), ("zero", "compressed")])
def test_econtrol_without_gain_is_ef21(start, init):
    draws = rand_k(k=2)
    controlled, _ = descend(federated.scale_by_econtrol(draws, "nodes", 0.0, start), 20)
    path, states = descend(federated.ef21(draws, "nodes", init), 20)
    np.testing.assert_allclose(controlled, path, rtol=1e-12, atol=1e-14)
    estimates = np.asarray(states.uplink.estimate)
    np.testing.assert_allclose(states.server.total[:, 0], estimates.mean(axis=1), atol=1e-13)
    assert len({tuple(row) for row in np.asarray(states.server.total[-1])}) == 1
    assert len({tuple(row) for row in estimates[-1]}) == N


@pytest.mark.parametrize("method", ["ef14", "econtrol"])
def test_nothing_is_lost(method):
    # x minus the rate times the mean error moves as uncompressed descent from the same x.
    path, states = jax.device_get(descend(METHODS[method](top_k(k=1)), 20))
    states = states if method == "ef14" else states.uplink
    before = np.concatenate([np.zeros((1, D)), path[:-1]])
    error = states.error.mean(axis=1)
    shadow = path - RATE * error
    last = np.concatenate([np.zeros((1, D)), shadow[:-1]])
    gradient = np.einsum("nij,tj->ti", Q, before) / N - B.mean(axis=0)
    np.testing.assert_allclose(shadow, last - RATE * gradient, rtol=1e-9, atol=1e-11)


def test_who_converges_and_who_does_not():
    distance = lambda path: np.linalg.norm(np.asarray(path) - OPTIMUM, axis=1)
    compressor = top_k(k=1)
    exact = distance(descend(METHODS["ef21"](compressor), 800)[0])
    assert exact[-1] < 1e-11
    floor = distance(descend(METHODS["ef14"](compressor), 800)[0])[-300:]
    assert 0.01 < floor.mean() < 1
    biased = distance(descend(federated.compressed_mean(compressor, "nodes"), 800)[0])[-300:]
    assert biased.mean() > 2 * floor.mean()


def test_the_worked_example_of_econtrol():
    gradients = jnp.array([[3.0, 1.0], [2.0, 4.0], [2.0, 4.0], [2.0, 4.0]])
    tx = federated.econtrol(0.1, top_k(k=1), "nodes", eta=0.1)
    x, state = jnp.zeros((1, 2)), jax.vmap(tx.init)(jnp.zeros((1, 2)))
    step = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
    seen = []
    for g in gradients:
        updates, state = step(g[None], state)
        x = x + updates
        uplink = state[0].uplink
        seen.append([uplink.estimate[0], uplink.error[0], x[0]])
        assert uplink.wire_bytes == (8 if len(seen) == 1 else 5)
    expected = [
        [(3, 1), (0, 0), (-0.3, -0.1)],
        [(3, 4), (-1, 0), (-0.6, -0.5)],
        [(1.9, 4), (-0.9, 0), (-0.79, -0.9)],
        [(1.91, 4), (-0.81, 0), (-0.981, -1.3)],
    ]
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


def test_the_careful_gain_of_the_theory():
    from gradax.federated.compression._uplink import _careful_gain

    expected = {0.5: 0.13807, 0.1: 0.018031, 0.01: 0.0016793, 1.0: 1.0}
    for delta, eta in expected.items():
        np.testing.assert_allclose(_careful_gain(delta), eta, rtol=1e-4)


@pytest.mark.parametrize("placement", NESTED, ids=lambda p: p.name)
def test_every_placement_gives_the_same(placement):
    n, axis_name = placement.size, placement.axis_name
    members = {
        "ef14": federated.ef14(rand_k(k=3), axis_name, key=1),
        "ef14 of rank 1": federated.ef14(federated.power_sgd(1), axis_name),
        "econtrol": federated.scale_by_econtrol(top_k(k=3), axis_name, 0.1),
    }
    grads = np.random.default_rng(1).normal(size=(n, 3, 4)).astype(np.float32)

    def run(grad, number, members=members):
        out = {}
        for name, tx in members.items():
            state = federated.rounds._participants.fold_keys(tx.init(grad), number)
            _, state = tx.update(grad, state)
            out[name], state = tx.update(grad * (1 + number), state)
            out[f"{name}, bytes"] = optax.tree_utils.tree_get(state, "wire_bytes")
        return out

    found = placement.run(run, grads, np.arange(n, dtype=np.int32))
    for name, value in reference(n).items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-5, err_msg=name)


@functools.cache
def reference(n):
    """The same as ``run`` above, with the mean formed by hand after single participants."""
    grads = np.random.default_rng(1).normal(size=(n, 3, 4)).astype(np.float32)
    halves = {
        "ef14": federated.error_feedback(rand_k(k=3), key=1),
        "econtrol": federated.econtrol_uplink(top_k(k=3), 0.1),
    }

    def node(number, grad):
        out = {}
        for name, tx in halves.items():
            state = federated.rounds._participants.fold_keys(tx.init(grad), number)
            first, state = tx.update(grad, state)
            second, state = tx.update(grad * (1 + number), state)
            out[name] = first + second if name == "econtrol" else second
            out[f"{name}, bytes"] = state.wire_bytes
        return out

    out = jax.device_get(jax.jit(jax.vmap(node))(jnp.arange(n), grads))
    means = {k: np.broadcast_to(v.mean(axis=0), v.shape) for k, v in out.items() if "," not in k}
    return out | means


def test_low_rank_error_feedback_loses_nothing():
    grads = jnp.asarray(RNG.normal(size=(3, 6, 5)), jnp.float32)
    tx = federated.ef14(federated.power_sgd(1), "nodes")
    step = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
    state, total = jax.vmap(tx.init)(grads), 0.0
    for _ in range(4):
        out, state = step(grads, state)
        total += out[0]
    expected = 4 * grads.mean(axis=0)
    np.testing.assert_allclose(total + state.error.mean(axis=0), expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(np.asarray(out[0]), tol=1e-4) == 1
    assert (state.wire_bytes == (6 + 5) * 4).all()


# With a server ----------------------------------------------------------------------------

CLIENTS = federated.data.padded(
    {"Q": Q.astype(np.float32), "b": B.astype(np.float32)}, np.arange(N)[:, None]
)
UPLINK = federated.econtrol_uplink(rand_k(k=2), 0.1)


def loss_fn(x, batch):
    return jnp.mean(jnp.einsum("i,nij,j->n", x, batch["Q"], x) / 2 - batch["b"] @ x)


def simulate(algorithm, rounds, **settings):
    settings = {"segment": rounds, "num_steps": 1, "batch_size": None} | settings
    return federated.simulate(algorithm, loss_fn, jnp.zeros(D), CLIENTS, rounds=rounds, **settings)


def test_the_server_form_is_the_form_under_an_axis():
    algorithm = federated.compressed_sgd(RATE, federated.econtrol_uplink(top_k(k=2), 0.1))
    served = simulate(algorithm, 20)
    alias = federated.econtrol(RATE, top_k(k=2), "nodes", 0.1)
    alone = simulate(federated.peers(alias), 20)
    np.testing.assert_allclose(alone.params, jnp.tile(served.params, (N, 1)), rtol=1e-4, atol=1e-5)
    # In full first, then two values and two places of three bits: nine bytes.
    assert served.history.column("bytes_up") == [N * 4 * D] + 19 * [N * 9]
    assert alone.history.column("bytes_up") == served.history.column("bytes_up")

    tx = federated.as_transformation(algorithm)
    states = federated.init_participants(tx, jnp.zeros(D), jnp.arange(N))
    node = lambda state, Q, b, x: tx.update(Q @ x - b, state, x)
    examples = jnp.asarray(Q, jnp.float32), jnp.asarray(B, jnp.float32)

    def step(carry, _):
        x, states = carry
        round = jax.vmap(node, (0, 0, 0, None), axis_name="clients")
        updates, states = round(states, *examples, x)
        return (x + updates[0].astype(x.dtype), states), None

    x = jax.jit(lambda c: jax.lax.scan(step, c, length=20))((jnp.zeros(D), states))[0][0]
    np.testing.assert_allclose(x, served.params, rtol=1e-4, atol=1e-5)


def test_sampled_clients_leave_their_estimates_on_the_server():
    algorithm = federated.compressed_sgd(0.05, UPLINK, server=optax.trace(0.5))
    result = simulate(algorithm, 40, cohort=2)
    estimates = result.state.clients[0].estimate
    total = result.state.server[0].total
    np.testing.assert_allclose(total, estimates.mean(axis=0), rtol=1e-4, atol=1e-5)
    chunked = simulate(algorithm, 40, cohort=2, chunk=2)
    np.testing.assert_allclose(chunked.params, result.params, rtol=1e-4, atol=1e-5)
    firsts = sum(size > 40 - 22 for size in result.history.column("bytes_up"))
    assert 2 <= firsts <= 4


def test_sampled_ef21_converges_to_the_optimum():
    algorithm = federated.compressed_sgd(0.05, federated.ef21_uplink(top_k(k=2)))
    result = simulate(algorithm, 1500, cohort=2)
    np.testing.assert_allclose(result.params, OPTIMUM, atol=1e-3)


def test_federated_averaging_of_compressed_displacements():
    compressed = {
        "error feedback": federated.error_feedback(top_k(0.4)),
        "eight bits": federated.compress_updates(qsgd(127)),
    }
    fedavg = federated.fedavg(0.01, weighting="uniform")
    goal = OPTIMUM
    sizes = {"error feedback": 2 * 4 + 1, "eight bits": D + 4}
    for name, member in compressed.items():
        algorithm = fedavg._replace(client=optax.chain(fedavg.client, member))
        result = simulate(algorithm, 300, num_steps=3)
        np.testing.assert_allclose(result.params, goal, atol=0.2)
        assert set(result.history.column("bytes_up")) == {N * sizes[name]}


# Details ----------------------------------------------------------------------------------


def test_low_precision_is_remembered_in_single_precision():
    u = {"w": jnp.asarray(RNG.normal(size=7), jnp.bfloat16), "n": jnp.arange(2)}
    tx = federated.error_feedback(qsgd(4).shrunk())
    update, state, total = jax.jit(tx.update), tx.init(u), 0.0
    for _ in range(4):
        out, state = update(u, state)
        assert out["w"].dtype == jnp.bfloat16
        assert state.error["w"].dtype == jnp.float32
        np.testing.assert_array_equal(out["n"], u["n"])
        total += out["w"].astype(jnp.float32)
    exact = 4 * u["w"].astype(jnp.float32)
    np.testing.assert_allclose(total + state.error["w"], exact, rtol=1e-5, atol=1e-6)
    assert int(state.wire_bytes) == int(np.ceil((7 * 4 + 32 + 64) / 8))
    half = {"w": jnp.full(7, 60000, jnp.float16), "n": jnp.arange(2)}
    tx = federated.error_feedback(federated.no_compression())
    start = tx.init(half)._replace(error={"w": jnp.full(7, 60000.0), "n": jnp.arange(2)})
    out, state = tx.update(half, start)
    np.testing.assert_allclose(out["w"].astype(jnp.float32) + state.error["w"], 120000.0)


def test_every_participant_draws_its_own_coordinates_anew():
    tx = federated.error_feedback(rand_k(k=3))
    states = federated.init_participants(tx, jnp.zeros(50), jnp.arange(3))
    step, kept = jax.jit(jax.vmap(lambda s: tx.update(jnp.ones(50), s))), set()
    for _ in range(3):
        out, states = step(states)
        kept |= {tuple(np.flatnonzero(row)) for row in np.asarray(out)}
    assert len(kept) == 9


@pytest.mark.parametrize("method", METHODS)
def test_who_is_absent_sends_nothing_and_keeps_its_state(method):
    tx = METHODS[method](top_k(k=1))
    grads, active = jnp.asarray(B[:, :3], jnp.float32), jnp.array([True, False, True, True])
    state = jax.vmap(tx.init)(grads)
    node = lambda g, s, a: tx.update(g, s, active=a)
    step = jax.jit(jax.vmap(node, axis_name="nodes"))
    _, state = step(grads, state, jnp.ones(N, bool))
    out, after = step(grads, state, active)
    own = lambda s: s if method == "ef14" else s.uplink
    absent = lambda s: jax.tree.map(lambda x: x[1], own(s))
    jax.tree.map(np.testing.assert_array_equal, absent(after), absent(state))
    if method != "ef14":
        mean = after.uplink.estimate.mean(axis=0)
        np.testing.assert_allclose(out[0], mean, rtol=1e-5, atol=1e-6)


BIASED = "must be contractive, but .* is not; use compressor.shrunk"
BAD = [
    (lambda: federated.ef14(qsgd(4), "nodes"), f"ef14: compressor {BIASED}"),
    (lambda: federated.error_feedback(rand_k(0.1, scaled=True)), f"error_feedback: .* {BIASED}"),
    (lambda: federated.ef21(top_k(0.1).then(qsgd(4)), "nodes"), f"ef21: compressor {BIASED}"),
    (lambda: federated.econtrol(0.1, qsgd(4), "nodes"), f"scale_by_econtrol: .* {BIASED}"),
    (lambda: federated.ef21_uplink(qsgd(4)), f"ef21_uplink: compressor {BIASED}"),
    (lambda: federated.ef21(top_k(0.1), "nodes", init="zero"), "init must be one of 'full'"),
    (lambda: federated.econtrol_uplink(top_k(0.1), h_init="compressed"), "h_init must be one"),
    (lambda: federated.scale_by_econtrol(top_k(0.1), "nodes", 1.1), r"eta must lie in \[0, 1\]"),
    (lambda: federated.scale_by_econtrol(top_k(0.1), "nodes", -0.1), "eta must lie in"),
    (lambda: federated.compressed_sgd(-1.0, UPLINK), "compressed_sgd: learning_rate must lie in"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_what_is_no_compressor_and_asks_for_a_gain():
    with pytest.raises(TypeError, match="error_feedback: compressor must be a Compressor"):
        federated.error_feedback(0.01)
    tx = federated.econtrol_uplink(federated.power_sgd(1))
    with pytest.raises(ValueError, match="has no constant delta: give eta"):
        tx.update(jnp.ones((5, 5)), tx.init(jnp.ones((5, 5))))
