"""Rules as aggregates: placements, absent participants, draws, the two places where they stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from gradax.federated import rules
from tests.federated.nodes import run_nodes
from tests.federated.placements import PLACEMENTS

partial = functools.partial


def messages(n, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(n, *shape)).astype(np.float32)
    return {"w": draw(2, 2), "b": draw(), "none": draw(0)}


def flat(tree):
    return np.concatenate([np.asarray(tree[k]).reshape(len(tree[k]), -1) for k in ("w", "b")], 1)


@functools.cache
def aggregates(axis_name):
    """Short forms and compositions, each with the function of rows that it should equal."""
    mixed = lambda rows, **there: rules.nnm(rows, 1, **there)
    return {
        "trimmed_mean": (federated.trimmed_mean(axis_name, 1), partial(rules.trimmed_mean, f=1)),
        "krum": (federated.krum(axis_name, 1), partial(rules.krum, f=1)),
        "centered_clipping": (
            federated.centered_clipping(axis_name, 1.0),
            partial(rules.centered_clipping, tau=1.0),
        ),
        "arc_nnm_meamed": (
            federated.robust_aggregate(
                partial(rules.meamed, f=1), axis_name, (partial(rules.arc, f=1), mixed)
            ),
            lambda rows, active: rules.meamed(
                rules.nnm(rules.arc(rows, 1, active=active)[0], 1, active=active)[0],
                1,
                active=active,
            ),
        ),
    }


@functools.cache
def expected_rows(n):
    """What the rules give on the rows, all but the second."""
    active = jnp.arange(n) != 1
    run = lambda rows: {k: rule(rows, active=active) for k, (_, rule) in aggregates("x").items()}
    return jax.jit(run)(flat(messages(n)))


@functools.cache
def expected_twice(n):
    """What bucketing and clipping give in a first and in a second update."""

    def run(rows):
        key, buckets = jax.random.key(3), []
        for _ in range(2):
            key, draw = jax.random.split(key)
            mixed = rules.bucketing(rows, s=2, key=jax.random.fold_in(draw, 0))
            buckets.append(rules.median(mixed))
        once = rules.centered_clipping(rows, tau=1.0)
        return *buckets, once, rules.centered_clipping(rows, tau=1.0, center=once)

    return jax.jit(run)(flat(messages(n)))


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_equals_the_rule_on_the_rows_in_every_placement(placement):
    n = placement.size
    pairs = aggregates(placement.axis_name)

    def update(message, active):
        return {
            name: tx.update(message, tx.init(message), active=active)[0]
            for name, (tx, _) in pairs.items()
        }

    sent, active = messages(n), np.arange(n) != 1
    found = placement.run(update, sent, active)
    for name, expected in expected_rows(n).items():
        row = flat(found[name])
        np.testing.assert_allclose(row, np.tile(expected, (n, 1)), rtol=1e-4, atol=1e-5)
        assert (row == row[0]).all(), name


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_what_is_kept_and_drawn_is_common(placement):
    """Bucketing draws an order for all; clipping remembers one centre."""
    n = placement.size
    buckets = federated.robust_aggregate(
        rules.median, placement.axis_name, (partial(rules.bucketing, s=2),), key=3
    )
    clip = federated.centered_clipping(placement.axis_name, 1.0)

    def twice(message):
        outputs = []
        for tx in (buckets, clip):
            state = tx.init(message)
            for _ in range(2):
                update, state = tx.update(message, state)
                outputs.append(update)
        return tuple(outputs)

    found = placement.run(twice, jnp.asarray(flat(messages(n))))
    for rows, expected in zip(found, expected_twice(n), strict=True):
        assert (rows == rows[0]).all()
        np.testing.assert_allclose(rows[0], expected, rtol=1e-5, atol=1e-6)


def test_under_vmap_the_rule_is_computed_once():
    tx = federated.coordinate_median("clients")
    rows = jnp.zeros((6, 1000))
    state = jax.vmap(tx.init)(rows)
    program = str(jax.make_jaxpr(jax.vmap(tx.update, axis_name="clients"))(rows, state))
    assert "f32[1000] = min" in program
    assert "f32[6,1000] = min" not in program


def test_a_rule_that_does_not_know_who_is_there_sees_infinite_rows():
    largest = lambda rows: jax.tree.map(lambda leaf: jnp.max(leaf, axis=0), rows)
    tx = federated.robust_aggregate(largest, "clients")
    update = lambda u, there: tx.update(u, tx.init(u), active=there)[0]
    run = jax.vmap(update, axis_name="clients")
    rows = jnp.array([1.0, 5.0, 2.0])
    assert run(rows, jnp.array([True, True, True])).tolist() == [5.0, 5.0, 5.0]
    assert run(rows, jnp.array([True, False, True])).tolist() == [np.inf] * 3


def test_a_leaf_may_be_judged_on_its_own():
    rows = {"a": jnp.array([0.0, 1.0, 1.1, 90.0]), "b": jnp.array([50.0, 2.0, 2.3, 2.1])}
    run = lambda tx: jax.vmap(lambda u: tx.update(u, tx.init(u))[0], axis_name="clients")(rows)
    rule = partial(rules.trimmed_mean, f=1)
    np.testing.assert_array_equal(
        run(federated.robust_aggregate(rule, "clients", per_leaf=True))["b"],
        run(federated.robust_aggregate(rule, "clients"))["b"],
    )
    apart = run(
        federated.robust_aggregate(partial(rules.multi_krum, f=1), "clients", per_leaf=True)
    )
    np.testing.assert_allclose(apart["a"], 0.7, rtol=1e-6)  # without the last
    np.testing.assert_allclose(apart["b"], 6.4 / 3, rtol=1e-6)  # without the first


# Simulations -----------------------------------------------------------------------------

CLIENTS, LIARS = 8, 2


def loss_fn(x, batch):
    return 0.5 * jnp.mean(jnp.sum((x - batch) ** 2, axis=-1))


@functools.cache
def client_data():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3 * CLIENTS, 2)).astype(np.float32) * 0.1 + 1.0
    points[-3 * LIARS :] = 1e6  # who trains on this sends this
    return federated.data.padded(points, np.split(np.arange(3 * CLIENTS), CLIENTS))


def simulate(aggregate, **options):
    algorithm = federated.fedavg(0.5)._replace(aggregate=aggregate)
    options = {"rounds": 6, "segment": 6, "batch_size": None, "num_steps": 1} | options
    return federated.simulate(algorithm, loss_fn, jnp.zeros(2), client_data(), **options)


@pytest.mark.parametrize(
    "aggregate",
    [
        federated.trimmed_mean("clients", LIARS),
        federated.robust_aggregate(
            partial(rules.mda, f=LIARS), "clients", (partial(rules.nnm, f=LIARS),)
        ),
        federated.centered_clipping("clients", 0.5, iters=2),
    ],
    ids=["trimmed_mean", "nnm_mda", "centered_clipping"],
)
def test_a_simulation_bears_liars_and_absent_clients(aggregate):
    everybody = simulate(aggregate)
    assert np.abs(np.asarray(everybody.params) - 1.0).max() < 0.5
    ids = np.tile([[0, 1, 7, 2, CLIENTS, 3, 4, 5, 6]], (6, 1))
    padded = federated.scheduled_cohort(CLIENTS, ids)
    chunked = simulate(aggregate, cohort=padded, chunk=2)
    np.testing.assert_allclose(chunked.params, everybody.params, rtol=1e-3, atol=1e-4)


def test_a_round_with_too_few_moves_nothing():
    few = federated.scheduled_cohort(CLIENTS, np.array([[CLIENTS, CLIENTS, 3, 5]] * 2))
    result = simulate(federated.trimmed_mean("clients", 1), cohort=few, rounds=2, segment=2)
    np.testing.assert_array_equal(result.params, jnp.zeros(2))


def test_nodes_without_a_server_stay_together():
    targets = jnp.array([1.0, 1.2, 0.8, 1.1, 1e9])
    tx = optax.chain(optax.sgd(0.5), federated.trimmed_mean("nodes", 1))
    params, state = run_nodes(tx, jnp.zeros(5), lambda x: x - targets, 20)
    np.testing.assert_allclose(params, 1.1, atol=1e-3)
    assert state[1].wire_copies.tolist() == [4] * 5


def test_momentum_and_clipping_find_the_way():
    targets = jnp.array([1.0, 1.2, 0.8, 1.1, jnp.nan])
    clip = federated.centered_clipping("nodes", 1.0)
    tx = optax.chain(optax.ema(0.5, debias=False), optax.scale(-0.5), clip)
    params, _ = run_nodes(tx, jnp.zeros(5), lambda x: x - targets, 60)
    np.testing.assert_allclose(params, params[0])
    assert abs(float(params[0]) - 1.025) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: federated.robust_aggregate("median", "clients"), "rule must be callable"),
        (lambda: federated.robust_aggregate(rules.median, "c", (1,)), "pre must be callable"),
        (
            lambda: federated.robust_aggregate(rules.median, "c", (partial(rules.bucketing, s=2),)),
            "key must be a JAX key or an integer",
        ),
        (lambda: federated.trimmed_mean("clients", -1), "trimmed_mean: f must be an integer >= 0"),
        (lambda: federated.krum("clients", 1, "all"), "neighbors must be one of"),
        (lambda: federated.multi_krum("clients", 1, 0), "m must be an integer >= 1"),
        (lambda: federated.geometric_median("clients", tol=-1.0), "tol must lie in"),
        (lambda: federated.centered_clipping("clients", -1.0), "tau must lie in"),
        (lambda: federated.centered_clipping("clients", 1.0, 0), "iters must be an integer"),
        (lambda: federated.coordinate_median(("a", "a")), "must not repeat a name"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_many_liars_are_refused_where_their_number_is_known():
    tx = federated.krum("clients", 2)
    with pytest.raises(ValueError, match=r"cannot tolerate 2f >= n, got f = 2 of n = 4"):
        jax.vmap(lambda u: tx.update(u, tx.init(u))[0], axis_name="clients")(jnp.zeros(4))
