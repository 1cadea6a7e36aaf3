"""SCAFFOLD: worked numbers, the three ways to renew a control, clients that stay away."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.algorithms.toy import FOUR, OPTIMUM, RATE, SIZES, START, TWO, drawn, play

CONTROLS = ("mean_gradient", "displacement", "large_batch")
MADE = {control: federated.scaffold(RATE, control) for control in CONTROLS}
FEDAVG = federated.fedavg(RATE, weighting="uniform")


def controls(state):
    """Those of the clients, and the server's."""
    return state.client.control, state.shared.server.broadcast


@pytest.mark.parametrize("control", CONTROLS[:2])
def test_the_toy_numbers(control):
    expected = [(1.14, (0.95, 7.65), 4.3), (0.5475, (-0.0345, 5.9595), 2.9625)]
    for rounds, (x, own, common) in enumerate(expected, 1):
        path, state = play(MADE[control], rounds)
        np.testing.assert_allclose(path[-1], x, rtol=1e-12)
        np.testing.assert_allclose(controls(state)[0], own, rtol=1e-12)
        np.testing.assert_allclose(controls(state)[1], common, rtol=1e-12)


def by_hand(rounds, control, steps, active):
    """Written out for scalars, as the paper states it."""
    (h, a), x, c = FOUR, START, 0.0
    own, path = np.zeros(len(h)), []
    for present in active[:rounds]:
        y, gradients = np.full(len(h), x), []
        for _ in range(steps):
            gradients.append(h * (y - a))
            y = y - RATE * (gradients[-1] - own + c)
        new = {
            "mean_gradient": np.mean(gradients, axis=0),
            "displacement": own - c + (x - y) / (steps * RATE),
            "large_batch": h * (x - a),
        }[control]
        change = np.where(present, new - own, 0)
        own, c, x = own + change, c + change.sum() / len(h), x + (y - x)[present].mean()
        path.append(x)
    return path, own, c


@pytest.mark.parametrize("control", CONTROLS)
def test_follows_its_formula_with_some_of_the_clients(control):
    active = drawn(8)
    path, state = play(MADE[control], 8, 3, FOUR, active=active, weights=SIZES)
    expected, own, common = by_hand(8, control, 3, active)
    np.testing.assert_allclose(path, expected, rtol=1e-10)
    np.testing.assert_allclose(controls(state)[0], own, rtol=1e-9)
    np.testing.assert_allclose(controls(state)[1], common, rtol=1e-9)
    # Whoever has been away for ever has its first control; the mean counts everybody's.
    np.testing.assert_allclose(controls(state)[1], controls(state)[0].mean(), rtol=1e-9)


def test_the_first_round_is_fedavg():
    np.testing.assert_allclose(play(MADE["mean_gradient"])[0], play(FEDAVG)[0], rtol=1e-14)


def test_settles_where_fedavg_does_not():
    path, state = play(MADE["mean_gradient"], 200)
    np.testing.assert_allclose(path[-1], -0.5, rtol=1e-9)
    np.testing.assert_allclose(controls(state)[0], [-1.5, 1.5], rtol=1e-7)
    np.testing.assert_allclose(controls(state)[1], 0, atol=1e-9)
    np.testing.assert_allclose(play(FEDAVG, 200)[0][-1], -0.457142857, rtol=1e-8)


def test_settles_with_half_of_the_clients():
    path, _ = play(MADE["mean_gradient"], 500, 5, FOUR, active=drawn(500))
    np.testing.assert_allclose(path[-1], OPTIMUM, rtol=1e-8)


def test_alike_clients_make_it_fedavg():
    alike = np.full(2, 2.0), np.full(2, 0.5)
    path, state = play(MADE["mean_gradient"], 4, problem=alike)
    np.testing.assert_allclose(path, play(FEDAVG, 4, problem=alike)[0], rtol=1e-12)
    np.testing.assert_allclose(controls(state)[0] - controls(state)[1], 0, atol=1e-12)


def test_a_round_of_nobody_and_of_one():
    active = np.array([[True, True], [False, False], [False, True], [True, True]])
    algorithm = federated.scaffold(RATE, server=optax.sgd(1.0, momentum=0.5))
    path, _ = play(algorithm, 4, active=active)
    assert path[1] == path[0]
    without, _ = play(algorithm, 3, active=active[[0, 2, 3]])
    np.testing.assert_allclose(path[[0, 2, 3]], without, rtol=1e-14)
    alone, state = play(MADE["mean_gradient"], 1, active=active[2:3])
    np.testing.assert_allclose(alone, 0.47, rtol=1e-12)
    np.testing.assert_allclose(controls(state)[0], [0, 7.65], rtol=1e-12)
    np.testing.assert_allclose(controls(state)[1], 7.65 / 2, rtol=1e-12)


def test_the_order_of_clients_permutes_their_controls():
    order, active = np.array([2, 0, 3, 1]), drawn(8)
    path, state = play(MADE["mean_gradient"], 8, 3, FOUR, active=active)
    mixed = tuple(part[order] for part in FOUR)
    other, permuted = play(MADE["mean_gradient"], 8, 3, mixed, active=active[:, order])
    np.testing.assert_allclose(other, path, rtol=1e-12)
    np.testing.assert_allclose(controls(permuted)[0], controls(state)[0][order], rtol=1e-11)


def test_a_displacement_holds_the_weight_decay_and_a_mean_gradient_does_not():
    decayed = optax.chain(optax.add_decayed_weights(0.5), federated.scale_by_round_rate(RATE))
    _, plain = play(federated.scaffold(client=decayed))
    _, moved = play(federated.scaffold(RATE, "displacement", client=decayed))
    y = np.array([[2.0, 2.0 - RATE * (1 + 1)], [2.0, 2.0 - RATE * (9 + 1)]])
    gradients = TWO[0][:, None] * (y - TWO[1][:, None])
    np.testing.assert_allclose(controls(plain)[0], gradients.mean(axis=1), rtol=1e-12)
    expected = (gradients + 0.5 * y).mean(axis=1)
    np.testing.assert_allclose(controls(moved)[0], expected, rtol=1e-12)


def one_client(control, rate, **extras):
    algorithm = federated.scaffold(rate, control)
    x = {"w": jnp.array([2.0, -1.0]), "masked": None}
    extras = {"grad_fn": lambda x, *_, batch: {"w": 3 * x["w"] + batch, "masked": None}} | extras
    extras |= {"batches": jnp.arange(4.0), "broadcast": {"w": jnp.ones(2), "masked": None}}
    return algorithm.client.update(x, algorithm.client.init(x), x, **extras)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_client_may_make_fewer_steps_at_the_rate_of_the_round(steps):
    schedule = lambda round: 0.2 / (1 + round)
    extras = {"round": jnp.array(1), "num_steps": jnp.array(steps)}
    found = [one_client(control, schedule, **extras)[0] for control in CONTROLS[:2]]
    y, gradients = np.array([2.0, -1.0]), []
    for number in range(steps):
        gradients.append(3 * y + number)
        y = y - 0.1 * (gradients[-1] + 1)
    for message in found:
        np.testing.assert_allclose(message.displacement["w"], y - [2, -1], rtol=1e-5)
        np.testing.assert_allclose(message.control_change["w"], np.mean(gradients, 0), rtol=1e-5)


def test_a_rate_of_zero_leaves_the_control_of_a_displacement_alone():
    message, _ = one_client("displacement", 0.0)
    np.testing.assert_array_equal(message.displacement["w"], 0)
    np.testing.assert_array_equal(message.control_change["w"], 0)


def test_dtypes_are_kept():
    algorithm, x = MADE["mean_gradient"], jnp.ones(2, jnp.bfloat16)
    extras = {"grad_fn": lambda x, *_, batch: x, "batches": jnp.zeros(2), "broadcast": x}
    message, state = algorithm.client.update(x, algorithm.client.init(x), x, **extras)
    assert {message.displacement.dtype, message.control_change.dtype, state.control.dtype} == {
        x.dtype
    }


def test_two_models_travel_each_way():
    sizes = federated.communication_bytes(
        MADE["large_batch"], {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}
    )
    assert sizes == {"up": 112, "down": 112}


def test_names_what_is_missing_or_wrong():
    with pytest.raises(ValueError, match="scaffold: control must be one of 'mean_gradient', "):
        federated.scaffold(0.1, "gradient")
    with pytest.raises(ValueError, match="scaffold: give exactly one of learning_rate and client"):
        federated.scaffold(0.1, client=optax.sgd(0.1))
    with pytest.raises(ValueError, match="scaffold: give exactly one of learning_rate and client"):
        federated.scaffold(control="displacement")
    with pytest.raises(ValueError, match=r"scaffold: learning_rate must lie in \[0, inf\)"):
        federated.scaffold(-0.1)
    with pytest.raises(ValueError, match="control_variates: learning_rate must be a number"):
        federated.control_variates(optax.identity(), "displacement")
    bare = federated.control_variates(federated.local_steps(optax.sgd(0.1)))
    x, extras = jnp.ones(2), {"grad_fn": lambda x, *_, batch: x, "batches": jnp.zeros(2)}
    with pytest.raises(ValueError, match="that begins with track_mean_gradient"):
        bare.update(x, bare.init(x), x, broadcast=x, **extras)
    with pytest.raises(ValueError, match="control_variates needs broadcast="):
        bare.update(x, bare.init(x), x, **extras)
    large = MADE["large_batch"].client
    with pytest.raises(ValueError, match="control_variates needs full_grad_fn="):
        large.update(x, large.init(x), x, broadcast=x, **extras)
    server = federated.control_variates_server(optax.sgd(1.0))
    with pytest.raises(ValueError, match="control_variates_server needs num_active="):
        server.update(federated.ControlledMessage(x, x), server.init(x), x)
