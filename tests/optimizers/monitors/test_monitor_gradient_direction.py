"""monitor_gradient_direction: closed forms, invariances, and three places gradients come from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import ive

from gradax import optimizers, testing

NAMES = (
    "mean_resultant_length",
    "concentration",
    "concentration_floor",
    "gradient_snr",
    "norm_snr",
    "num_gradients",
)


def _read(state):
    return np.array([optax.tree.get(state, name) for name in NAMES])


@jax.jit
def _of_examples(grads):
    monitor = optimizers.monitor_gradient_direction()
    mean = jax.tree.map(lambda rows: jnp.mean(rows, 0), grads)
    return monitor.update(mean, monitor.init(mean), mean, per_example_grads=grads)[1]


def _expected(grads, weights):
    """The definitions, in NumPy, for rows with weights that add up to one."""
    lengths = np.linalg.norm(grads, axis=1)
    length = np.linalg.norm(weights @ (grads / lengths[:, None]))
    floor, d = np.sqrt(np.sum(weights**2)), grads.shape[1]
    kappa = lambda r: r * (d - r**2) / (1 - r**2)
    mean, mean_length = weights @ grads, weights @ lengths
    variance = weights @ np.sum((grads - mean) ** 2, axis=1)
    spread = np.sqrt(weights @ (lengths - mean_length) ** 2)
    snr, norm_snr = np.sum(mean**2) / variance, mean_length / spread
    return [length, kappa(length), kappa(floor), snr, norm_snr, floor**-2]


def _gradients(seed, n=7, d=12, shift=0.4):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + shift) * np.exp(rng.normal(size=(n, 1)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_is_what_the_definitions_say_over_all_leaves(seed):
    grads = _gradients(seed)
    tree = {"a": jnp.array(grads[:, 0]), "n": None, "w": jnp.array(grads[:, 1:9].reshape(7, 2, 4))}
    state = _of_examples(tree | {"z": (jnp.array(grads[:, 9:]), jnp.zeros((7, 0)))})
    np.testing.assert_allclose(_read(state), _expected(grads, np.full(7, 1 / 7)), rtol=1e-5)


def test_a_complex_number_is_two_dimensions():
    grads = _gradients(8)
    state = _of_examples(jnp.array(grads[:, :6] + 1j * grads[:, 6:]))
    np.testing.assert_allclose(_read(state), _expected(grads, np.full(7, 1 / 7)), rtol=1e-5)


def test_orthogonal_gradients_stand_on_the_floor():
    state = _of_examples(jnp.diag(jnp.array([1.0, 3.0, 0.1, 20.0] + [1.0] * 96))[:4])
    np.testing.assert_allclose(state.mean_resultant_length, 0.5, rtol=1e-6)
    np.testing.assert_allclose([state.concentration, state.concentration_floor], 66.5, rtol=1e-5)


def test_noise_in_many_dimensions_stands_little_above_the_floor():
    state = _of_examples(jax.random.normal(jax.random.key(1), (10, 1000)))
    np.testing.assert_allclose(state.concentration_floor, 9999 / (9 * np.sqrt(10)), rtol=1e-5)
    assert 0.95 < state.concentration / state.concentration_floor < 1.1


@pytest.mark.parametrize(
    ("d", "kappa", "found"), [(10, 5, 5.05), (10, 50, 50.4), (100, 200, 200.3)]
)
def test_is_near_the_maximum_likelihood_estimate(d, kappa, found):
    # Two unit vectors whose mean has the length that the distribution gives, by Bessel functions.
    length = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)
    grads = jnp.zeros((2, d)).at[:, 0].set(length)
    grads = grads.at[:, 1].set(jnp.array([1, -1]) * np.sqrt(1 - length**2))
    np.testing.assert_allclose(_of_examples(grads).concentration, found, rtol=1e-3)


def test_lengths_and_rotations_do_not_matter():
    grads = _gradients(4)
    state = _of_examples(jnp.array(grads))
    rescaled = _of_examples(jnp.array(grads * np.logspace(-6, 6, 7)[:, None]))
    np.testing.assert_allclose(_read(rescaled)[:3], _read(state)[:3], rtol=1e-5)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))[0]
    rotated = _of_examples(jnp.array(grads @ rotation))
    np.testing.assert_allclose(_read(rotated), _read(state), rtol=1e-4)


def test_equal_gradients_are_as_concentrated_as_single_precision_can_say():
    state = _of_examples(jnp.tile(jax.random.normal(jax.random.key(2), (50,)), (5, 1)))
    np.testing.assert_allclose(state.mean_resultant_length, 1, rtol=1e-6)
    np.testing.assert_allclose(state.concentration, 49e7, rtol=1e-4)
    np.testing.assert_allclose(state.gradient_snr, 1e7, rtol=1e-4)
    np.testing.assert_allclose(state.norm_snr, np.sqrt(1e7), rtol=1e-4)


def test_a_zero_gradient_has_no_direction():
    state = _of_examples(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(state.mean_resultant_length, 0.5, rtol=1e-6)
    np.testing.assert_allclose(state.concentration, 0.5 * 1.75 / 0.75, rtol=1e-6)
    assert np.isnan(_of_examples(jnp.zeros((3, 2))).gradient_snr)


# Where the gradients come from -------------------------------------------------------------


@pytest.mark.parametrize("place", ["vmap", "pmap"])
def test_over_an_axis_it_is_what_it_is_over_examples(place):
    grads = jnp.array(_gradients(6, n=4), jnp.float32)
    monitor = optimizers.monitor_gradient_direction(every=2, axis_name="clients")

    def run(g):
        first = monitor.update(g, monitor.init(g))[1]
        second = monitor.update(-2 * g, first)[1]
        return first, second, monitor.update(g[::-1] + 1, second)[1]

    first, second, third = getattr(jax, place)(run, axis_name="clients")(grads)
    for state, expected in ((first, grads), (second, grads), (third, grads[:, ::-1] + 1)):
        alone = _read(_of_examples(expected))
        np.testing.assert_allclose(_read(state), np.tile(alone[:, None], 4), rtol=1e-4)


@pytest.mark.parametrize("every", [1, 2])
def test_a_single_stream_is_weighted_geometrically(every):
    decay, grads = 0.8, _gradients(7)
    tx = optimizers.monitor_gradient_direction(every, decay=decay)
    body = lambda state, g: (tx.update({"a": g[:5], "b": g[5:]}, state)[1], None)
    state = tx.init({"a": jnp.zeros(5), "b": jnp.zeros(7)})
    state, _ = jax.jit(lambda state, grads: jax.lax.scan(body, state, grads))(
        state, jnp.array(grads)
    )
    seen = grads[::every]
    weights = decay ** np.arange(len(seen))[::-1]
    np.testing.assert_allclose(_read(state), _expected(seen, weights / weights.sum()), rtol=1e-4)


def test_a_long_stream_counts_as_many_gradients_as_its_decay_says():
    tx = optimizers.monitor_gradient_direction(decay=0.9)
    body = lambda state, g: (tx.update(g, state)[1], None)
    state, _ = jax.lax.scan(body, tx.init(jnp.zeros(150)), jnp.eye(150))
    np.testing.assert_allclose(state.num_gradients, 1.9 / 0.1, rtol=1e-5)
    np.testing.assert_allclose(state.concentration, state.concentration_floor, rtol=1e-4)


def test_calls_the_function_of_params_where_there_is_no_array():
    monitor, w = optimizers.monitor_gradient_direction(), jnp.array([1.0, 2.0])
    both = {
        "per_example_grads": jnp.array([[1.0, 0.0], [0.0, 1.0]]),
        "per_example_grad_fn": lambda params: jnp.stack([params, params]),
    }
    _, state = monitor.update(w, monitor.init(w), w, **both)
    assert state.mean_resultant_length < 0.8
    both.pop("per_example_grads")
    _, state = monitor.update(w, monitor.init(w), w, **both)
    assert state.mean_resultant_length > 0.99


CHECKS = ("update_dtype", "complex_kept", "mixed_float32_float64", "state_stable")


@pytest.mark.parametrize(
    ("options", "needs", "more"),
    [
        ({"axis_name": "clients"}, ("axis",), ("shard_map_equals_single",)),
        ({"decay": 0.9}, (), ("donation", "sharding_types", "map_params")),
    ],
    ids=["axis", "stream"],
)
def test_conforms_in_its_other_forms(options, needs, more):
    make = lambda: optimizers.monitor_gradient_direction(every=2, **options)
    checks = (*CHECKS, *more)
    assert (
        testing.check_transformation(make, needs=needs, kind="diagnostic", checks=checks) == checks
    )


def test_decay_may_be_traced():
    tx = optax.inject_hyperparams(optimizers.monitor_gradient_direction, "every")(decay=0.5)
    w = jnp.ones(3)
    state = tx.init(w)
    for _ in range(2):
        _, state = tx.update(w, state)
    np.testing.assert_allclose(optax.tree.get(state, "num_gradients"), 1.8, rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_rejects_a_decay_outside_the_unit_interval(decay):
    with pytest.raises(ValueError, match=rf"decay must lie in \[0, 1\), got {decay}"):
        optimizers.monitor_gradient_direction(decay=decay)


def test_rejects_two_sources_and_names_an_axis_that_is_not_bound():
    with pytest.raises(ValueError, match="axis_name and decay exclude each other"):
        optimizers.monitor_gradient_direction(axis_name="clients", decay=0.9)
    with pytest.raises(ValueError, match="must not repeat a name"):
        optimizers.monitor_gradient_direction(axis_name=("a", "a"))
    monitor, w = optimizers.monitor_gradient_direction(axis_name="clients"), jnp.ones(2)
    with pytest.raises(ValueError, match="'clients' is not bound"):
        monitor.update(w, monitor.init(w))
