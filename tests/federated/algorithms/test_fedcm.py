"""FedCM and MoFedSAM: momentum of the server inside local steps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.algorithms.toy import FOUR, RATE, START, drawn, play

FALLING = lambda round: RATE * 0.9**round
UNIFORM = {"weighting": "uniform"}


def by_hand(active, steps, alpha, rho=0.0):
    """Written out for scalars; ``m`` uses the rate of the round it comes from."""
    (h, a), x, m, path = FOUR, START, 0.0, []
    for round, present in enumerate(active):
        rate, y = FALLING(round), np.full(len(h), x)
        for _ in range(steps):
            g = h * (y - a)
            q = h * (y + rho * g / (np.abs(g) + 1e-7) - a)
            y = y - rate * (alpha * q + (1 - alpha) * m)
        if present.any():
            mean = (y - x)[present].mean()
            x, m = x + 0.7 * mean, -mean / (steps * rate)
        path.append(x)
    return path


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_follows_its_formula_with_some_or_none_of_the_clients(rho):
    active = drawn(8)
    active[3] = False  # a round of nobody forgets nothing
    options = UNIFORM | {"server": optax.sgd(0.7)}
    algorithm = federated.fedcm(FALLING, 0.3, **options)
    if rho:
        algorithm = federated.mofedsam(FALLING, rho, 0.3, **options)
    path, _ = play(algorithm, 8, 3, FOUR, active=active)
    np.testing.assert_allclose(path, by_hand(active, 3, 0.3, rho), rtol=1e-10)


def test_the_first_round_is_fedavg_at_a_smaller_rate():
    path, _ = play(federated.fedcm(RATE, 0.3, **UNIFORM))
    np.testing.assert_allclose(path, play(federated.fedavg(0.3 * RATE, **UNIFORM))[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("algorithm", "same"),
    [
        (federated.fedcm(RATE, 1.0), federated.fedavg(RATE)),
        (federated.mofedsam(RATE, 0.2, 1.0), federated.fedsam(RATE, 0.2)),
        (federated.mofedsam(RATE, 0.0, 0.4), federated.fedcm(RATE, 0.4)),
    ],
    ids=["fedavg", "fedsam", "fedcm"],
)
def test_special_cases(algorithm, same):
    np.testing.assert_allclose(play(algorithm, 4)[0], play(same, 4)[0], rtol=1e-12)


def test_one_step_of_alike_clients_is_a_moving_average():
    alpha, alike = 0.3, (np.full(2, 2.0), np.full(2, 0.5))
    path, _ = play(federated.fedcm(RATE, alpha), 5, steps=1, problem=alike)
    x, m, expected = START, 0.0, []
    for _ in range(5):
        m = alpha * 2 * (x - 0.5) + (1 - alpha) * m
        x = x - RATE * m
        expected.append(x)
    np.testing.assert_allclose(path, expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_fewer_steps_take_the_momentum_in_larger_portions(steps):
    client = federated.fedcm(RATE, 0.25).client
    x, extras = jnp.zeros(2), {"grad_fn": lambda x, *_, batch: jnp.zeros(2)}
    extras |= {"batches": jnp.zeros(4), "num_steps": jnp.array(steps), "broadcast": jnp.ones(2)}
    delta, _ = client.update(x, client.init(x), x, **extras)
    np.testing.assert_allclose(delta, -RATE * 0.75, rtol=1e-6)


def test_a_rate_of_zero_leaves_no_momentum():
    path, state = play(federated.fedcm(0.0), 2)
    np.testing.assert_array_equal(path, START)
    np.testing.assert_array_equal(state.shared.server.broadcast, 0)


@pytest.mark.parametrize("make", [federated.fedcm, federated.mofedsam])
def test_two_models_come_down_and_one_goes_up(make):
    assert federated.communication_bytes(make(0.1), jnp.zeros(5)) == {"up": 20, "down": 40}


@pytest.mark.parametrize("make", [federated.fedcm, federated.mofedsam])
@pytest.mark.parametrize("alpha", [0.0, 1.1])
def test_refuses(make, alpha):
    with pytest.raises(ValueError, match=rf"alpha must lie in \(0, 1\], got {alpha}"):
        make(0.1, alpha=alpha)
    with pytest.raises(ValueError, match="learning_rate must be a number, an array or"):
        make(None)


def test_names_what_is_missing():
    member, x = federated.server_momentum(0.5), jnp.ones(2)
    with pytest.raises(ValueError, match="server_momentum needs broadcast="):
        member.update(x, member.init(x), x)
