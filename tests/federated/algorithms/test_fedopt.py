"""The FedOpt servers against their formulas; the golden files are in tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated
from tests.federated.algorithms.toy import RATE, START, play

GRADIENTS = np.random.default_rng(0).normal(size=(5, 3))
GRADIENTS[:, 2] = 0

ACCUMULATE = {
    "adam": lambda v, g, b2: b2 * v + (1 - b2) * g**2,
    "yogi": lambda v, g, b2: v - (1 - b2) * g**2 * np.sign(v - g**2),
    "adagrad": lambda v, g, b2: v + g**2,
}


def scale_by(kind, **arguments):
    if kind == "adagrad":
        arguments.pop("b2", None)
    return getattr(federated, f"scale_by_fed_{kind}")(**arguments)


def directions(tx, gradients=GRADIENTS):
    with jax.enable_x64(True):
        state, found = tx.init(jnp.zeros(gradients.shape[1:])), []
        update = jax.jit(tx.update)
        for g in gradients:
            direction, state = update(jnp.asarray(g), state)
            found.append(np.asarray(direction))
        return np.array(found), state


@pytest.mark.parametrize("start", [None, 0.0, 0.7])
@pytest.mark.parametrize("kind", ACCUMULATE)
def test_follows_its_formula(kind, start):
    b1, b2, eps = 0.8, 0.95, 0.01
    found, state = directions(
        scale_by(kind, b1=b1, b2=b2, eps=eps, initial_accumulator_value=start)
    )
    m, v = np.zeros(3), np.full(3, eps**2 if start is None else start)
    for g, direction in zip(GRADIENTS, found, strict=True):
        m, v = b1 * m + (1 - b1) * g, ACCUMULATE[kind](v, g, b2)
        np.testing.assert_allclose(direction, m / (np.sqrt(v) + eps), rtol=1e-12)
    np.testing.assert_allclose(state.nu, v, rtol=1e-12)


@pytest.mark.parametrize("kind", ACCUMULATE)
def test_without_memory_it_is_the_sign_and_0_over_0_is_0(kind):
    arguments = {"b1": 0.0, "b2": 0.0, "eps": 0.0, "initial_accumulator_value": 0.0}
    found, state = directions(scale_by(kind, **arguments), GRADIENTS[:1])
    np.testing.assert_allclose(found[0], np.sign(GRADIENTS[0]), rtol=1e-12)
    assert np.isfinite(state.nu).all()


@settings(deadline=None, max_examples=10)
@given(g=st.floats(1e-6, 1e6), b1=st.floats(0, 0.99), b2=st.floats(0, 0.99))
def test_the_first_step_of_fedadam_from_zero(g, b1, b2):
    tau = 1e-3
    tx = federated.scale_by_fed_adam(b1, b2, tau, initial_accumulator_value=0.0)
    direction, _ = tx.update(jnp.float32(-g), tx.init(jnp.float32(0)))
    expected = -(1 - b1) * g / (np.sqrt(1 - b2) * g + tau)
    np.testing.assert_allclose(direction, expected, rtol=1e-5)


def test_yogi_is_adam_in_the_first_step_from_zero():
    arguments = {"b1": 0.5, "b2": 0.9, "eps": 0.01, "initial_accumulator_value": 0.0}
    adam, yogi = (directions(scale_by(kind, **arguments))[0] for kind in ("adam", "yogi"))
    np.testing.assert_allclose(adam[0], yogi[0], rtol=1e-12)
    assert not np.allclose(adam[1, :2], yogi[1, :2])


@pytest.mark.parametrize("kind", ACCUMULATE)
def test_leaves_keep_their_dtype_and_masked_ones_pass(kind):
    params = {"a": jnp.ones(2, jnp.bfloat16), "empty": jnp.zeros((0, 3)), "masked": None}
    tx = scale_by(kind)
    direction, state = jax.jit(tx.update)(params, tx.init(params))
    dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
    assert dtypes(direction) == dtypes(state.mu) == dtypes(state.nu) == dtypes(params)


def test_a_rate_of_zero_on_the_server_leaves_everything():
    assert (play(federated.fedadam(RATE, 0.0), 3)[0] == START).all()


@pytest.mark.parametrize(
    ("factory", "kind", "b1"),
    [("fedadam", "adam", 0.9), ("fedyogi", "yogi", 0.9), ("fedadagrad", "adagrad", 0.0)],
)
def test_an_algorithm_is_fedavg_with_its_server(factory, kind, b1):
    found, _ = play(getattr(federated, factory)(RATE, 0.2, weighting="uniform"), 4)
    server = optax.chain(scale_by(kind, b1=b1, b2=0.99, eps=1e-3), optax.scale(-0.2))
    expected, _ = play(federated.fedavg(RATE, server=server, weighting="uniform"), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    # The first step by hand: the mean displacement is 1.14 - 2.
    delta = 1.14 - START
    v = ACCUMULATE[kind](1e-6, delta, 0.99)
    step = 0.2 * (1 - b1) * delta / (np.sqrt(v) + 1e-3)
    np.testing.assert_allclose(found[0], START + step, rtol=1e-6)


def test_momentum_on_the_server():
    momentum = play(federated.fedavgm(RATE, 0.5, 0.8, weighting="uniform"), 4)[0]
    server = optax.sgd(0.5, momentum=0.8)
    np.testing.assert_allclose(
        momentum, play(federated.fedavg(RATE, server=server, weighting="uniform"), 4)[0], rtol=1e-13
    )
    none = play(federated.fedavgm(RATE, momentum=0.0), 4)[0]
    np.testing.assert_allclose(none, play(federated.fedavg(RATE), 4)[0], rtol=1e-13)
    nesterov = play(federated.fedavgm(RATE, nesterov=True), 1)[0]
    np.testing.assert_allclose(nesterov, START + 1.9 * (1.14 - START), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: federated.fedadam(0.1, eps=-1.0), r"eps must lie in \[0, inf\), got -1.0"),
        (lambda: federated.fedadam(0.1, b1=1.0), r"b1 must lie in \[0, 1\), got 1.0"),
        (lambda: federated.fedadam(0.1, b2=-0.1), r"scale_by_fed_adam: b2 must lie in \[0, 1\)"),
        (lambda: federated.fedyogi(0.1, b2=1.5), r"scale_by_fed_yogi: b2 must lie in \[0, 1\)"),
        (lambda: federated.fedadagrad(0.1, b1=-1), r"scale_by_fed_adagrad: b1 must lie in"),
        (
            lambda: federated.scale_by_fed_adagrad(initial_accumulator_value=-1.0),
            r"initial_accumulator_value must lie in \[0, inf\)",
        ),
        (
            lambda: federated.fedyogi(0.1, server_learning_rate=-0.1),
            r"fedyogi: server_learning_rate must lie in \[0, inf\), got -0.1",
        ),
        (lambda: federated.fedavgm(0.1, momentum=1.0), r"fedavgm: momentum must lie in \[0, 1\)"),
        (lambda: federated.fedadam(0.1, weighting="n"), "weighting must be one of"),
    ],
)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
