"""DADAO: constants, flow and jumps, event by event and in lock-step, convergence and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from gradax import federated
from gradax.federated import topology
from gradax.federated.decentralized import _dadao_flow as motion
from tests.federated.placements import PLACEMENTS

NODES, DIMENSION = 6, 2
PAIRS = topology.edges(topology.ring(NODES))
RATES = topology.uniform_edge_rates(PAIRS, NODES)
CHI1, CHI2 = topology.graph_chi(PAIRS, RATES, NODES)
EVENTS = federated.dadao_events(0, PAIRS, RATES, NODES, duration=150.0)
_RNG = np.random.default_rng(0)
#: Curvatures and slopes of the nodes' quadratics.
A, B = _RNG.uniform(1.0, 8.0, (NODES, DIMENSION)), _RNG.normal(size=(NODES, DIMENSION))
MU, L = A.min(), A.max()
OPTIMUM = B.sum(axis=0) / A.sum(axis=0)
DATA = federated.data.padded({"a": A, "b": B}, np.arange(NODES)[:, None])
C = motion.make_constants(1.0, 8.0, 1.5)


def grad_fn(x, batch):
    return batch["a"][0] * x - batch["b"][0]


def matrix(c):
    """The flow as it stands in the paper; order x, x~, y, y~, z, z~."""
    eta, alpha, theta = c.eta, c.alpha, c.theta
    return np.array(
        [
            [-eta, eta, 0, 0, 0, 0],
            [eta, -eta, 0, 0, 0, 0],
            [0, 0, -alpha, alpha, 0, 0],
            [0, -theta * c.nu, -theta, 0, -theta, 0],
            [0, 0, 0, 0, -alpha, alpha],
            [0, 0, 0, 0, c.alpha_tilde, -c.alpha_tilde],
        ]
    )


def play(cohort, rounds, chi1=CHI1, **options):
    """Event by event in float64; evaluated after every segment at the common time."""
    tx = federated.dadao(MU, L, None, chi1, "nodes")
    read = lambda state: (
        federated.dadao_params(state.params, state.aggregate, MU, L),
        state.aggregate,
        jnp.max(state.aggregate.time),
    )

    def evaluate(seen):
        x, state, time = seen
        # What the flow of a node keeps, so that nodes may stand at different times.
        kept = jnp.sum(state.z + 2 * state.z_tilde, axis=0)
        error = jnp.mean(jnp.sum((x - OPTIMUM) ** 2, axis=1))
        return {"error": error, "kept": jnp.abs(kept).max(), "t": time}

    with jax.enable_x64(True):
        return federated.simulate(
            tx,
            None,
            jnp.zeros(DIMENSION),
            DATA,
            rounds=rounds,
            cohort=cohort,
            batch_size=None,
            segment=250,
            grad_fn=grad_fn,
            readout=read,
            evaluate=evaluate,
            **options,
        )


@pytest.fixture(scope="module")
def exact():
    return play(federated.dadao_cohort(EVENTS, NODES), len(EVENTS.times))


def in_lock_step(events, chi1=CHI1):
    """All nodes side by side, one entry of the list per update; parameters after each."""
    tx = federated.dadao(MU, L, events, chi1, "nodes")

    def step(carry, _):
        x, state = carry
        updates, state = jax.vmap(tx.update, axis_name="nodes")(A * x - B, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    with jax.enable_x64(True):
        start = jnp.zeros((NODES, DIMENSION))
        start = start, jax.vmap(tx.init)(start)
        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=len(events.times)))
        return jax.tree.map(np.asarray, run(start))


# --- the pieces -----------------------------------------------------------------------------


def test_worked_constants():
    expected = {"nu": 0.5, "eta": 0.03125, "alpha": 0.0625, "alpha_tilde": 0.03125, "theta": 2.0}
    expected |= {"gamma": 0.03125, "gamma_tilde": 0.125, "beta": 0.5, "beta_tilde": 8 * 1.5}
    assert C._asdict() == pytest.approx(expected | {"step_y": 1.0625})


@pytest.mark.parametrize("constants", [(1.0, 8.0), (1.0, 1.0), (1e-4, 1.0)])
def test_the_flow_is_the_matrix_exponential(constants):
    c = motion.make_constants(*constants, 1.5)
    with jax.enable_x64(True):
        for time in (0.0, 1e-3, 0.3, 2.0, 30.0):
            found = np.stack(motion.flow(motion.Six(*np.eye(6)), motion.make_flow(c, time), c))
            np.testing.assert_allclose(found, scipy.linalg.expm(matrix(c) * time), atol=1e-11)


def test_short_flows_keep_their_digits_in_single_precision():
    f = motion.make_flow(C, jnp.float32(1e-3))
    found = np.stack(motion.flow(motion.Six(*np.eye(6, dtype=np.float32)), f, C))
    change = scipy.linalg.expm(matrix(C) * 1e-3) - np.eye(6)
    np.testing.assert_allclose(f.from_rest[1], change[3, 4] + change[3, 5], rtol=1e-5)
    np.testing.assert_allclose(f.x, change[0, 1], rtol=1e-5)
    np.testing.assert_allclose(found - np.eye(6), change, atol=1e-7)


def test_worked_events():
    zeros = motion.Six(*np.zeros(6))
    after = motion.take_step(zeros._replace(x=1.0), 2.0, C)
    assert (after.x, after.x_tilde, after.y_tilde) == (0.953125, -0.1875, 1.59375)
    met = motion.exchange(zeros, 1.0, C)
    assert (met.z, met.z_tilde) == (-0.5, -12.0)


def test_worked_flow_to_a_common_time():
    tx = federated.dadao(1.0, 8.0, None, 1.5, "nodes", x_tilde_init="zeros")
    params = {"w": jnp.ones(3), "n": jnp.arange(3)}
    later = federated.dadao_params(params, tx.init(params), 1.0, 8.0, time=2.0)
    np.testing.assert_allclose(later["w"], 0.9412485, rtol=1e-6)
    np.testing.assert_array_equal(later["n"], params["n"])


# --- two ways to run ------------------------------------------------------------------------


def test_lock_step_equals_event_by_event(exact):
    (x, state), _ = in_lock_step(EVENTS)
    params, lazy, _ = exact.params
    np.testing.assert_allclose(x, params, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(state.time, EVENTS.times[-1])
    np.testing.assert_allclose([state.z.sum(axis=0), state.z_tilde.sum(axis=0)], 0, atol=1e-12)
    assert np.max(np.asarray(lazy.time)) == EVENTS.times[-1]
    assert (np.asarray(lazy.count) < len(EVENTS.times)).all()
    touched = sum((EVENTS.kind != 2) & ((EVENTS.i == 0) | (EVENTS.j == 0)))
    assert lazy.count[0] == touched


def test_converges_at_the_proven_rate_and_sums_stay_zero(exact):
    time, error = (np.array(exact.history.column(name)) for name in ("t", "error"))
    eta = np.sqrt(MU / L) / (8 * np.sqrt(2))
    slope = np.polyfit(time, np.log(error), 1)[0]
    assert slope < -eta
    assert error[-1] < 1e-4 * np.sum(OPTIMUM**2)
    assert max(exact.history.column("kept")) < 1e-12


def test_a_stream_converges_too():
    stream = federated.dadao_stream(PAIRS, RATES, NODES)
    result = play(stream, len(EVENTS.times), key=1)
    assert result.history.last("error") < 1e-3
    assert result.history.last("kept") < 1e-12


def test_bytes_count_exchanges_only(exact):
    up = np.array(exact.history.column("bytes_up"))
    model = DIMENSION * 8
    assert up.sum() == 2 * model * (EVENTS.kind == 1).sum()
    np.testing.assert_array_equal(up[EVENTS.kind == 1], 2 * model)
    assert exact.history.rows[0]["num_active"] == 0  # the start


def test_a_quarter_of_the_rates_diverges_and_is_refused():
    slow = RATES / 4
    chi1, chi2 = topology.graph_chi(PAIRS, slow, NODES)
    np.testing.assert_allclose(chi1 * chi2, 8.0)
    with pytest.raises(ValueError, match=r"chi1 \* chi2 must be <= 1/2, got 8: .* by 4 or more"):
        federated.dadao(MU, L, None, chi1, "nodes", chi2=chi2)
    events = federated.dadao_events(0, PAIRS, slow, NODES, duration=100.0)
    assert np.abs(in_lock_step(events, chi1)[0][0]).max() > 1e6


def test_ticks_come_close_in_fewer_updates(exact):
    ticks = federated.dadao_ticks(EVENTS, 0.2)
    (x, state), _ = in_lock_step(ticks)
    error = np.mean(np.sum((x - OPTIMUM) ** 2, axis=1))
    assert error < 1e-3
    assert np.abs(state.z.sum(axis=0)).max() < 1e-12
    assert len(ticks.times) < len(EVENTS.times)


def test_after_the_list_nothing_happens():
    events = jax.tree.map(lambda part: part[:5], EVENTS)
    longer = events._replace(times=events.times)
    tx = federated.dadao(1.0, 8.0, longer, CHI1, "nodes")
    params = {"x": jnp.ones(NODES), "n": jnp.arange(NODES)}
    state = jax.vmap(tx.init)(params)._replace(count=jnp.full(NODES, 5))
    state = state._replace(y=jax.tree.map(jnp.ones_like, state.y))
    updates, after = jax.jit(jax.vmap(tx.update, axis_name="nodes"))(params, state, params)
    np.testing.assert_array_equal(updates["x"], 0.0)
    np.testing.assert_array_equal(updates["n"], params["n"])  # integers pass through
    assert updates["n"].dtype == params["n"].dtype
    np.testing.assert_allclose(after.y["x"], 1.0)
    np.testing.assert_allclose(after.time, EVENTS.times[4], rtol=1e-6)


# --- placements -----------------------------------------------------------------------------

_FEW = jax.tree.map(
    lambda part: part[:14],
    federated.dadao_events(1, [[0, 1], [1, 2], [2, 3]], 2.0, 4, num_events=13),
)
_LISTS = {"exact": _FEW, "ticks": federated.dadao_ticks(_FEW, 0.05)}


def walk(events, axis_name, x, target):
    """One node's part of a run in lock-step."""
    tx = federated.dadao(0.5, 2.0, events, 0.5, axis_name)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(jax.tree.map(jnp.subtract, x, target), state, x)
        return (optax.apply_updates(x, updates), state), None

    return jax.lax.scan(step, (x, tx.init(x)), length=len(events.times))[0]


@functools.cache
def all_at_once(kind, size):
    """The reference: all nodes are lanes of one vmap."""
    tree = start(size)
    run = jax.vmap(functools.partial(walk, _LISTS[kind], "nodes"), axis_name="nodes")
    return jax.tree.map(np.asarray, jax.jit(run)(*tree))


def start(size):
    target = {"w": jnp.arange(2.0 * size).reshape(size, 2), "b": jnp.arange(size) - 1.0}
    return jax.tree.map(jnp.zeros_like, target), target


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_runs_the_same_in_every_placement(placement):
    def both(*tree):
        return [walk(events, placement.axis_name, *tree) for events in _LISTS.values()]

    found = placement.run(both, *start(placement.size))
    for result, kind in zip(found, _LISTS, strict=True):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
        jax.tree.map(close, result, all_at_once(kind, placement.size))


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strong_convexity": 0.0}, r"strong_convexity must lie in \(0, inf\), got 0.0"),
        ({"smoothness": 0.5}, "smoothness must be >= strong_convexity, got 0.5 < 1.0"),
        ({"chi1": -1.0}, r"chi1 must lie in \(0, inf\)"),
        ({"chi2": 0.0}, r"chi2 must lie in \(0, inf\)"),
        ({"x_tilde_init": "ones"}, "x_tilde_init must be one of 'params', 'zeros'"),
        (
            {"events": jax.tree.map(lambda part: part[1:], EVENTS)},
            "events must begin with an entry of kind 2 at time 0",
        ),
        ({"events": EVENTS._replace(times=-EVENTS.times)}, "times of the events must be"),
        ({"events": EVENTS._replace(j=EVENTS.i)}, "an exchange needs two nodes"),
    ],
)
def test_refuses(arguments, message):
    given = {"strong_convexity": 1.0, "smoothness": 8.0, "events": EVENTS, "chi1": 0.5}
    with pytest.raises(ValueError, match=f"dadao: .*{message}"):
        federated.dadao(**{**given, "axis_name": "nodes", **arguments})


def test_a_list_for_more_nodes_than_there_are():
    tx = federated.dadao(1.0, 8.0, EVENTS, CHI1, "nodes")
    x = jnp.zeros(3)
    with pytest.raises(ValueError, match="events are for 6 nodes or more, but the axis 'nodes'"):
        jax.vmap(tx.update, axis_name="nodes")(x, jax.vmap(tx.init)(x), x)


def test_an_event_of_more_than_two_nodes():
    tx = federated.dadao(1.0, 8.0, None, CHI1, "nodes")
    given = {"time": 1.0, "kind": 1, "grad_fn": lambda x: x}
    update = jax.vmap(functools.partial(tx.update, **given), axis_name="nodes")
    x = jnp.zeros(3)
    with pytest.raises(ValueError, match="an event touches two nodes at most, but the axis"):
        update(x, jax.vmap(tx.init)(x), x)


@pytest.mark.parametrize(
    ("given", "missing"),
    [({}, "time"), ({"time": 1.0}, "kind"), ({"time": 1.0, "kind": 0}, "grad_fn")],
)
def test_without_a_list_events_come_as_extras(given, missing):
    tx = federated.dadao(1.0, 8.0, None, CHI1, "nodes")
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match=f"dadao needs {missing}="):
        tx.update(x, tx.init(x), x, **given)
