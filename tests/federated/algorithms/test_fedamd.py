"""FedAMD: who is an anchor, what bullseyes remember, and exact convergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.algorithms.toy import FOUR, OPTIMUM, RATE, SIZES, START, drawn, play

#: Who is an anchor in rounds 0, 1, ...; round 0 makes everybody one whatever it says.
TABLE = np.random.default_rng(1).random((8, 4)) < 0.4
ACTIVE = np.concatenate([np.ones((1, 4), bool), drawn(7, size=3)])


def by_table(round):
    return jnp.asarray(TABLE)[round % len(TABLE)]


def by_hand(rounds, steps):
    """Written out for scalars with full gradients: ``u_k = G + g(y_k) - g(x)``."""
    (h, a), x, path = FOUR, START, []
    bullseyes = np.zeros(4)
    for round in range(rounds):
        present = ACTIVE[round]
        anchor = present & (TABLE[round] | (round == 0))
        miner = present & ~anchor
        common, y = bullseyes.mean(), np.full(4, x)
        for _ in range(steps):
            y = y - RATE * (common + h * (y - x))
        bullseyes = np.where(anchor, h * (x - a), bullseyes)
        x = x + (y - x)[miner].mean() if miner.any() else x
        path.append(x)
    return path, bullseyes


def test_follows_its_formula():
    algorithm = federated.fedamd(RATE, by_table)
    path, state = play(algorithm, 8, 3, FOUR, active=ACTIVE, weights=SIZES)
    expected, bullseyes = by_hand(8, 3)
    assert path[0] == START
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    np.testing.assert_allclose(state.client.bullseye, bullseyes, rtol=1e-12)
    np.testing.assert_allclose(state.shared.server.broadcast, bullseyes.mean(), rtol=1e-12)


def test_without_miners_nothing_moves_and_a_server_with_momentum_waits():
    server = optax.sgd(1.0, momentum=0.9)
    algorithm = federated.fedamd(RATE, federated.sequential_anchors(3), server)
    path, _ = play(algorithm, 8, 1, FOUR)
    x, velocity, common, (h, a) = START, 0.0, 0.0, FOUR
    for round in range(8):
        if round % 3 == 0:
            common = np.mean(h * (x - a))
        else:
            velocity = 0.9 * velocity - RATE * common
            x = x + velocity
        np.testing.assert_allclose(path[round], x, rtol=1e-12)


def test_fresh_bullseyes_and_one_step_are_gradient_descent():
    path, _ = play(federated.fedamd(RATE, federated.sequential_anchors(2)), 9, 1, FOUR)
    x, h, a = START, *FOUR
    for number in range(4):
        np.testing.assert_allclose(path[2 * number + 1], x - RATE * np.mean(h * (x - a)))
        x = path[2 * number + 1]


def test_a_round_of_nobody_and_of_one():
    active = np.array([[True] * 4, [False] * 4, [True, False, False, False]])
    algorithm = federated.fedamd(RATE, lambda round: False)
    path, state = play(algorithm, 3, 2, FOUR, active=active)
    assert path[1] == path[0] == START
    common = np.mean(FOUR[0] * (START - FOUR[1]))
    first = START - RATE * common
    second = first - RATE * (common + FOUR[0][0] * (first - START))
    np.testing.assert_allclose(path[2], second, rtol=1e-12)
    np.testing.assert_allclose(state.client.bullseye, FOUR[0] * (START - FOUR[1]), rtol=1e-12)


def test_the_order_of_clients_permutes_their_bullseyes():
    order = np.array([2, 0, 3, 1])
    algorithm = federated.fedamd(RATE, by_table)
    path, state = play(algorithm, 8, 3, FOUR, active=ACTIVE)
    mixed = federated.fedamd(RATE, lambda round: by_table(round)[order])
    rows = tuple(part[order] for part in FOUR)
    other, permuted = play(mixed, 8, 3, rows, active=ACTIVE[:, order])
    np.testing.assert_allclose(other, path, rtol=1e-12)
    np.testing.assert_allclose(permuted.client.bullseye, state.client.bullseye[order], rtol=1e-12)


# Through simulate, which draws ---------------------------------------------------------


def loss_fn(x, batch):
    return jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2


@functools.cache
def clients():
    return federated.data.padded({"h": FOUR[0], "a": FOUR[1]}, np.arange(4)[:, None])


def simulate(schedule, rounds, cohort=None, start=None, chunk=None):
    algorithm = federated.fedamd(RATE, schedule)
    with jax.enable_x64(True):
        return federated.simulate(
            algorithm,
            loss_fn,
            jnp.array(START, float),
            clients(),
            rounds,
            cohort,
            batch_size=None,
            num_steps=3,
            segment=100,
            chunk=chunk,
            state=start,
        )


def test_converges_exactly_with_half_of_the_clients():
    first = simulate(0.4, 1)
    np.testing.assert_allclose(first.params, START)
    np.testing.assert_allclose(first.state.clients.bullseye, FOUR[0] * (START - FOUR[1]))
    result = simulate(0.4, 401, cohort=2, start=first.state)
    np.testing.assert_allclose(result.params, OPTIMUM, rtol=1e-7)
    bullseyes = np.asarray(result.state.clients.bullseye)
    np.testing.assert_allclose(result.state.server.broadcast, bullseyes.mean(), atol=1e-12)


def test_side_by_side_or_one_by_one_draw_alike():
    found = [simulate(0.4, 20, chunk=chunk) for chunk in (1, 4)]
    np.testing.assert_allclose(found[0].params, found[1].params, rtol=1e-12)
    one_by_one, at_once = (np.asarray(run.state.clients.bullseye) for run in found)
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-12)


# One client ----------------------------------------------------------------------------


def client_of(schedule, round=1, **extras):
    x = {"w": jnp.array([2.0, -1.0], jnp.float16), "masked": None}
    grad_fn = lambda x, *_, batch=None: {"w": x["w"] if batch is None else batch * x["w"]}
    extras = {"grad_fn": grad_fn, "full_grad_fn": grad_fn, "round": jnp.array(round)} | extras
    extras |= {"batches": jnp.array([7.0, 5.0], jnp.float16)}
    extras |= {"broadcast": {"w": jnp.array([1.0, 1.0], jnp.float16), "masked": None}}
    client = federated.fedamd(0.5, schedule).client
    none = lambda f: lambda x, *_, **k: f(x, **k) | {"masked": None}
    extras |= {name: none(extras[name]) for name in ("grad_fn", "full_grad_fn")}
    return client.update(x, client.init(x), x, **extras)


def test_the_first_local_step_is_the_common_direction_whatever_the_batch():
    message, state = client_of(lambda round: False)
    first = np.array([2.0, -1.0]) - 0.5
    second = first - 0.5 * (1 + 5 * (first - np.array([2.0, -1.0])))
    np.testing.assert_allclose(message.payload["w"], second - [2.0, -1.0])
    assert message.miner
    assert message.payload["w"].dtype == state.bullseye["w"].dtype == jnp.float16
    np.testing.assert_array_equal(state.bullseye["w"], 0)


@pytest.mark.parametrize("round", [0, 1])
def test_an_anchor_sends_the_change_of_its_bullseye(round):
    schedule = federated.sequential_anchors(5) if round == 0 else lambda round: True
    message, state = client_of(schedule, round)
    np.testing.assert_array_equal(message.payload["w"], [2.0, -1.0])
    np.testing.assert_array_equal(state.bullseye["w"], [2.0, -1.0])
    assert not message.miner


def test_probabilities_of_one_client_of_all_and_of_a_round():
    keys = jax.random.split(jax.random.key(0), 4000)
    schedules = [0.25, np.array([0.1, 0.6]), lambda round: jnp.array([1.0, 0.1]) / round]
    expected = [[0.25, 0.25], [0.1, 0.6], [0.5, 0.05]]

    @jax.jit
    def share_of_anchors(number):
        role = lambda schedule: jax.vmap(
            lambda key: client_of(schedule, 2, key=key, client_id=number)[0].miner
        )(keys)
        return jnp.array([1 - jnp.mean(role(schedule)) for schedule in schedules])

    found = np.array([share_of_anchors(number) for number in range(2)])
    np.testing.assert_allclose(found.T, expected, atol=0.03)


def branches(schedule):
    """Whether several lanes leave the roles a branch instead of computing both."""
    lanes = jax.vmap(lambda key: client_of(schedule, key=key)[0].payload["w"])
    return "cond[" in str(jax.make_jaxpr(lanes)(jax.random.split(jax.random.key(0), 3)))


def test_a_boolean_schedule_stays_a_branch_in_many_lanes():
    assert branches(federated.sequential_anchors(2))
    assert not branches(0.5)


def test_one_model_and_a_byte_go_up_and_two_models_come_down():
    sizes = federated.communication_bytes(federated.fedamd(0.1), jnp.zeros(5))
    assert sizes == {"up": 21, "down": 40}


@pytest.mark.parametrize("chance", [0.0, 1.0, -0.1, 2])
def test_refuses_a_probability(chance):
    sentence = rf"fedamd: anchor_schedule must lie in \(0, 1\), got {chance}"
    with pytest.raises(ValueError, match=sentence):
        federated.fedamd(0.1, chance)


def test_names_what_is_missing_or_wrong():
    for chances in (np.array([0.5, 1.5]), np.ones(3), [-1.0, 0.5]):
        with pytest.raises(ValueError, match=r"must hold numbers in \[0, 1\], not all of them 1"):
            federated.fedamd(0.1, chances)
    with pytest.raises(ValueError, match="sequential_anchors: period must be an integer >= 2"):
        federated.sequential_anchors(1)
    client, x = federated.fedamd(0.1).client, jnp.ones(2)
    with pytest.raises(ValueError, match="fedamd needs full_grad_fn="):
        client.update(x, client.init(x), x)
    extras = {"full_grad_fn": lambda x: x}
    for name, value in (("round", jnp.array(3)), ("key", jax.random.key(0))):
        with pytest.raises(ValueError, match=f"fedamd needs {name}="):
            client.update(x, client.init(x), x, **extras)
        extras[name] = value
    listed = federated.fedamd(0.1, np.array([0.5, 0.5])).client
    with pytest.raises(ValueError, match="fedamd needs client_id="):
        listed.update(x, listed.init(x), x, **extras)
