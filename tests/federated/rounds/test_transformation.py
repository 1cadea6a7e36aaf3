"""A round as one transformation: the same as in a simulation, under every placement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS

EIGHT = [p for p in PLACEMENTS if p.size == 8]
everywhere = pytest.mark.parametrize("placement", EIGHT, ids=lambda p: p.name)
N, STEPS, ROUNDS = 8, 3, 4
X = {"w": np.float32([1.0, -2.0]), "b": np.float32(0.5)}
RNG = np.random.default_rng(0)
EXAMPLES = {"h": RNG.uniform(0.5, 2, (N, 3, 2)), "a": RNG.normal(size=(N, 3, 2))}
EXAMPLES = {name: value.astype(np.float32) for name, value in EXAMPLES.items()}
ACTIVE = np.array([[0, 1, 2, 5], [3, 4, 8, 8], [8, 8, 8, 8], [7, 0, 3, 8]])
EVERYBODY = np.tile(np.arange(N), (ROUNDS, 1))
COUNTS = np.arange(1, N + 1)


def loss_fn(params, batch):
    gap = params["w"] - batch["a"] + params["b"]
    return jnp.mean(jnp.sum(batch["h"] * gap**2, axis=-1)) / 2


def make(name, axis_name):
    if name == "fedavg":
        return federated.fedavg(0.1, axis_name=axis_name, server=optax.sgd(1.0, momentum=0.5))
    return federated.fedspeed(0.1, rho=0.05, server_rule=name[9:], axis_name=axis_name)


def simulated(name, ids):
    """Parameters after every round; weights are not the counts of examples."""
    rows = [np.arange(3) + 3 * i for i in range(N)]
    data = federated.data.padded({k: v.reshape(-1, 2) for k, v in EXAMPLES.items()}, rows)
    lane = {"weight": np.append(COUNTS, 0).astype(np.float32)[ids]}
    return federated.simulate(
        make(name, "clients"),
        loss_fn,
        X,
        data,
        rounds=ROUNDS,
        cohort=federated.scheduled_cohort(N, ids, lane),
        batch_size=None,
        num_steps=STEPS,
        segment=ROUNDS,
        chunk=3,
    )


def looped(name, placement, ids):
    """The same rounds in a loop of one's own, all participants present in every round."""
    tx = federated.as_transformation(make(name, placement.axis_name))

    def play(state, batch, weight, active):
        grad_fn = lambda params, *_, batch=None, own=batch: jax.grad(loss_fn)(params, own)
        batches = jnp.zeros((STEPS, 1))

        def round(carry, active):
            params, state = carry
            updates, state = tx.update(
                grad_fn(params),
                state,
                params,
                grad_fn=grad_fn,
                batches=batches,
                weight=weight,
                active=active,
            )
            return (optax.apply_updates(params, updates), state), None

        start = jax.tree.map(jnp.asarray, X)
        return jax.lax.scan(round, (start, state), active)[0]

    states = federated.init_participants(tx, X, jnp.arange(N))
    active = np.array([[i in row for row in ids] for i in range(N)])
    return placement.run(play, states, EXAMPLES, COUNTS.astype(np.float32), active)


_REFERENCES: dict = {}


def reference(name, ids):
    key = name, len(ids[0])
    if key not in _REFERENCES:
        _REFERENCES[key] = simulated(name, ids)
    return _REFERENCES[key]


@everywhere
@pytest.mark.parametrize("name", ["fedspeed_all", "fedspeed_active"])
def test_equals_the_rounds_of_a_simulation_with_some_of_the_clients(name, placement):
    check(name, ACTIVE, placement)


@everywhere
def test_equals_the_rounds_of_a_simulation_with_everybody(placement):
    check("fedavg", EVERYBODY, placement)


def check(name, ids, placement):
    expected = reference(name, ids)
    params, state = looped(name, placement, ids)
    for leaf, common in zip(jax.tree.leaves(params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(leaf, np.broadcast_to(common, leaf.shape), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(state.count, ROUNDS)
    if name != "fedavg":
        dual = expected.state.clients.dual
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
            state.client.dual,
            dual,
        )


def under_vmap(tx, rows, states=None, **extras):
    states = (
        federated.init_participants(tx, rows[0], jnp.arange(len(rows)))
        if states is None
        else states
    )
    update = lambda row, state, extras: tx.update(row, state, row, **extras)
    return jax.vmap(update, axis_name="clients")(rows, states, extras)


def test_the_server_learns_the_round_and_how_many_there_are():
    def tell(updates, state, params=None, *, round, num_active, num_clients, **extras):
        del params, state
        assert not extras
        return updates, jnp.stack([round, num_active, num_clients])

    server = optax.GradientTransformationExtraArgs(lambda p: jnp.zeros(3, jnp.int32), tell)
    algorithm = federated.Algorithm(optax.identity(), federated.average(), server)
    tx = federated.as_transformation(algorithm)
    rows, active = jnp.arange(4.0), jnp.array([True, False, True, True])
    _, states = under_vmap(tx, rows, active=active, value=rows)
    _, states = under_vmap(tx, rows, states, active=active)
    np.testing.assert_array_equal(states.shared.server, [[1, 3, 4]] * 4)


def test_what_the_server_publishes_reaches_the_clients():
    client = optax.GradientTransformationExtraArgs(
        optax.init_empty_state, lambda u, s, p=None, *, trace, **_: (u + trace, s)
    )
    algorithm = federated.Algorithm(
        client, federated.average(), optax.trace(1.0), publishes=("trace",)
    )
    tx = federated.as_transformation(algorithm)
    rows = jnp.array([1.0, 3.0])
    out, states = under_vmap(tx, rows)
    assert out.tolist() == [-2.0, -2.0]
    out, _ = under_vmap(tx, rows, states)  # messages are 1 - 2 and 3 - 2
    assert out.tolist() == [-2.0, -2.0]


def test_a_field_the_server_does_not_have_cannot_be_published():
    algorithm = federated.fedavg(0.1)._replace(publishes=("control",))
    tx = federated.as_transformation(algorithm)
    with pytest.raises(ValueError, match="publishes='control': no field of this name"):
        under_vmap(tx, jnp.zeros(2), grad_fn=None)
    twice = algorithm._replace(server=optax.chain(optax.adam(1.0), optax.adam(1.0)))
    with pytest.raises(ValueError, match=r"publishes='mu': .*multiple"):
        under_vmap(federated.as_transformation(twice._replace(publishes=("mu",))), jnp.zeros(2))


def test_peers_receive_their_own_update_and_the_absent_stand_still():
    def to_the_mean(updates, state, params, **extras):
        del extras
        here = params + updates
        return federated.axis.mean(here, "clients") - params, state + 1

    mix = optax.GradientTransformationExtraArgs(lambda p: jnp.zeros([], jnp.int32), to_the_mean)
    tx = federated.as_transformation(federated.peers(mix, "clients"))
    rows, active = jnp.array([1.0, 3.0, 5.0]), jnp.array([True, False, True])
    out, states = under_vmap(tx, rows, active=active)
    assert out.tolist() == [5.0, 0.0, 1.0]  # the mean of x + x is 6
    assert states.client[1].tolist() == [1, 0, 1]
    assert states.count.tolist() == [1, 1, 1]
    assert states.shared is None


def test_noise_of_the_server_is_common_and_noise_of_clients_their_own():
    noise = lambda seed: optax.add_noise(1.0, 0.5, jax.random.key(seed))
    quiet = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    for client, server, distinct in ((noise(0), quiet, 3), (quiet, noise(0), 1)):
        aggregate = optax.identity() if distinct == 3 else federated.average()
        tx = federated.as_transformation(federated.Algorithm(client, aggregate, server))
        out, _ = under_vmap(tx, jnp.zeros(3))
        assert len(np.unique(out)) == distinct


def test_an_unbound_axis_is_explained():
    tx = federated.as_transformation(federated.fedavg(0.1, axis_name="workers"))
    with pytest.raises(ValueError, match="axis_name 'workers' is not bound: call the update"):
        tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)), jnp.zeros(2))


def test_noise_in_local_steps_differs_between_rounds_and_participants():
    steps = federated.local_steps(optax.chain(optax.add_noise(1.0, 0.0, key=0), optax.scale(1.0)))
    algorithm = federated.peers(steps, axis_name="clients")
    tx = federated.as_transformation(algorithm, key=3)
    states = federated.init_participants(tx, jnp.zeros(()), jnp.arange(3))

    @jax.jit
    def play(states):
        grad_fn = lambda x, batch: jnp.zeros_like(x)
        update = lambda s: tx.update(
            jnp.zeros(()), s, jnp.zeros(()), grad_fn=grad_fn, batches=jnp.zeros(1)
        )
        return jax.vmap(update, axis_name="clients")(states)

    first, states = play(states)
    second, _ = play(states)
    drawn = np.concatenate([first, second])
    assert len(np.unique(drawn)) == 6
