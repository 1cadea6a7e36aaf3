"""CBO against its equation; the shared contract is in tests/conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers
from tests.optimizers.population.searches import given, one_step, rastrigin, search

X, LOSSES = jnp.float32([0.0, 1.0, 3.0]), np.float32([2.0, 1.0, 4.0])
CONSENSUS = 0.81074159
WORKED = functools.partial(optimizers.cbo, 1.0, 0.5, 1.0, 0.1)


def test_follows_the_worked_example():
    make = lambda xi: WORKED(sampler=given(xi))
    x, state = one_step(make, X, LOSSES, jnp.float32([1.0, -1.0, 0.5]))
    np.testing.assert_allclose(x, [0.20926366, 0.95114978, 2.95415023], rtol=1e-6)
    np.testing.assert_allclose(state.consensus, [CONSENSUS] * 3, rtol=1e-6)
    np.testing.assert_array_equal(state.count, [1] * 3)


@pytest.mark.parametrize("lam", [1.0, 10.0])
def test_without_noise_the_gap_contracts(lam):
    x, _ = one_step(lambda: optimizers.cbo(lam, 0.0, 1.0, 0.1), X, LOSSES)
    np.testing.assert_allclose(x, CONSENSUS + (1 - 0.1 * lam) * (X - CONSENSUS), atol=1e-6)


def test_equal_individuals_stay_equal():
    same = {"w": jnp.tile(jnp.float32([0.3, -2.0]), (4, 1)), "b": jnp.full(4, 7.0)}
    x, _ = one_step(optimizers.cbo, same, [1.0] * 4)
    jax.tree.map(np.testing.assert_array_equal, x, same)


@pytest.mark.parametrize(("noise", "dimensions"), [("isotropic", 3), ("anisotropic", 1)])
def test_the_gap_grows_or_shrinks_as_the_law_says(noise, dimensions):
    sigma, dt, gap, count = 1.5, 0.2, np.float32([1.0, -2.0, 0.5]), 4000
    # The best one stands at the origin, and with it the consensus.
    x, losses = np.tile(gap, (count, 1)), np.ones(count)
    x[0], losses[0] = 0, 0
    x, _ = one_step(lambda: optimizers.cbo(1.0, sigma, 1e6, dt, noise), x, losses)
    found = np.mean(np.sum(np.square(x[1:]), axis=1))
    expected = ((1 - dt) ** 2 + sigma**2 * dt * dimensions) * np.sum(gap**2)
    np.testing.assert_allclose(found, expected, rtol=0.06)
    assert len(np.unique(x[1:, 0])) > count / 2  # everybody draws on its own


@pytest.mark.parametrize("noise", ["isotropic", "anisotropic"])
def test_diffusion_after_the_drift_is_diffusion_before_it_with_less_noise(noise):
    x = jnp.stack([X, X[::-1]], axis=1)
    # The drift overshoots, so that the factor is negative.
    make = functools.partial(optimizers.cbo, 15.0, alpha=1.0, noise=noise)
    after, _ = one_step(lambda: make(sigma=0.8, diffusion_at="after_drift"), x, LOSSES)
    before, _ = one_step(lambda: make(sigma=0.4), x, LOSSES)
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_the_norm_is_over_the_whole_tree():
    x = jnp.stack([X, -X, 2 * X], axis=1)
    tree = {"a": x[:, 0], "b": (x[:, 1:], None)}
    make = lambda: WORKED(sampler=given(1.0))
    whole, _ = one_step(make, x, LOSSES)
    parts, _ = one_step(make, tree, LOSSES)
    joined = jnp.concatenate([parts["a"][:, None], parts["b"][0]], axis=1)
    np.testing.assert_allclose(joined, whole, rtol=1e-6)


def test_leaves_and_steps_have_noise_of_their_own():
    x = {"a": X, "b": X}
    first, state = one_step(WORKED, x, LOSSES)
    second, _ = one_step(WORKED, x, LOSSES, state=state)
    assert len({float(leaf[0]) for tree in (first, second) for leaf in tree.values()}) == 4


def test_a_gradient_step_comes_on_top():
    steps = jnp.float32([0.5, -0.25, 1.0])
    plain, _ = one_step(WORKED, X, LOSSES, updates=steps)
    added, _ = one_step(functools.partial(WORKED, use_gradient=True), X, LOSSES, updates=steps)
    np.testing.assert_allclose(added, plain + steps, rtol=1e-6)


def test_alpha_and_sigma_may_be_schedules_of_the_count_or_the_round():
    falling = lambda t: jnp.where(t < 2, 5.0, 0.5)
    rising = lambda t: jnp.where(t < 2, 0.0, 1.0)
    expected, state = one_step(WORKED, X, LOSSES)
    make = lambda: optimizers.cbo(1.0, falling, rising)
    x, _ = one_step(make, X, LOSSES, round=jnp.int32(2))
    np.testing.assert_array_equal(x, expected)
    later = state._replace(count=jnp.full(3, 2), shared_key=_first_keys())
    x, _ = one_step(make, X, LOSSES, state=later)
    np.testing.assert_array_equal(x, expected)
    early, _ = one_step(make, X, LOSSES)
    assert not np.allclose(early, expected)


def _first_keys():
    return jax.vmap(optimizers.cbo().init)(X).shared_key


def test_who_is_absent_stays_and_is_not_counted():
    tx = WORKED(sampler=given(0.0))

    @jax.jit
    @functools.partial(jax.vmap, axis_name="population")
    def step(x, value, active):
        updates, state = tx.update(None, tx.init(x), x, value=value, active=active)
        return optax.apply_updates(x, updates), state.consensus

    active = jnp.array([True, False, True])
    x, consensus = step(X, jnp.asarray(LOSSES), active)
    shares = np.exp([0.0, -2.0]) / np.sum(np.exp([0.0, -2.0]))
    meeting = shares @ X[jnp.array([0, 2])]
    np.testing.assert_allclose(consensus, [meeting] * 3, rtol=1e-6)
    np.testing.assert_allclose(x, jnp.where(active, 0.9 * X + 0.1 * meeting, X), rtol=1e-6)


def test_a_function_may_stand_for_the_loss():
    tx, loss = WORKED(), lambda x: (x - 1) ** 2

    @jax.jit
    @functools.partial(jax.vmap, axis_name="population")
    def both(x):
        update = lambda **extras: tx.update(None, tx.init(x), x, **extras)[0]
        return update(value=loss(x)), update(value_fn=loss)

    with_value, with_function = both(X)
    np.testing.assert_array_equal(with_function, with_value)
    assert np.all(with_value != 0)


def test_integers_stay():
    x, state = one_step(WORKED, {"x": X, "steps": jnp.arange(3)}, LOSSES)
    np.testing.assert_array_equal(x["steps"], [0, 1, 2])
    np.testing.assert_array_equal(state.consensus["steps"], [0, 1, 2])
    assert not np.allclose(x["x"], X)


def test_finds_the_least_of_many_minima():
    start = 3 + 2 * jax.random.normal(jax.random.key(3), (100, 5))
    tx = optimizers.cbo(sigma=5.0, alpha=1e5, dt=0.01, noise="anisotropic")
    _, state = search(tx, rastrigin, start, 1000)
    np.testing.assert_allclose(state.consensus[0], 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 0.0}, r"cbo: lam must lie in \(0, inf\), got 0.0"),
        ({"sigma": -0.1}, r"cbo: sigma must lie in \[0, inf\), got -0.1"),
        ({"alpha": -1}, r"cbo: alpha must lie in \[0, inf\), got -1"),
        ({"dt": 0}, r"cbo: dt must lie in \(0, inf\), got 0"),
        ({"noise": "pink"}, "cbo: noise must be one of 'isotropic', 'anisotropic', got 'pink'"),
        ({"diffusion_at": "end"}, "diffusion_at must be one of 'before', 'after_drift', got 'end'"),
        ({"sampler": 3}, "cbo: sampler must be a function .* got 3"),
        ({"key": None}, "cbo: key must be"),
        ({"axis_name": 3}, "axis_name must be a string or a tuple"),
    ],
)
def test_rejects_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.cbo(**arguments)
