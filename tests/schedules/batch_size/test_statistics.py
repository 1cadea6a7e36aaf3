"""Statistics of gradients and tests on them: numbers worked out by hand, identities, an axis."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gradax import schedules

# By hand: mean (2, 1), variances (2/3, 14/3), squared norm of the mean 5.
FOUR = jnp.array([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0], [2.0, 4.0]])
TESTS = (
    schedules.norm_test,
    schedules.inner_product_test,
    schedules.orthogonality_test,
    schedules.coordinate_test,
)


def gradients(seed, size=8, dtype=np.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.normal(size=(size, *shape)) + 0.5).astype(dtype)
    tree = {"w": draw(3, 2), "b": draw(), "none": draw(0), "left out": None}
    if np.issubdtype(dtype, np.complexfloating):
        tree["w"] = tree["w"] + 1j * draw(3, 2).real
    return tree


def dense(grads):
    leaves = [np.asarray(leaf, np.complex128) for leaf in jax.tree.leaves(grads)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def test_worked_example():
    stats = schedules.gradient_stats(FOUR)
    np.testing.assert_allclose(stats.mean, [2, 1])
    np.testing.assert_allclose(stats.sum_sq_diff, [2, 14])
    np.testing.assert_allclose(stats.inner_product_variance, 26 / 3, rtol=1e-6)
    assert (int(stats.sample_size), stats.sample_size.dtype) == (4, jnp.int32)
    for eta, q in ((0.1, 320 / 3), (0.5, 64 / 15), (1.0, 16 / 15)):
        np.testing.assert_allclose(schedules.norm_test(stats, eta), q, rtol=1e-5)
    for theta, q in ((0.1, 104 / 3), (0.5, 1.386667), (1.0, 0.346667)):
        np.testing.assert_allclose(schedules.inner_product_test(stats, theta), q, rtol=1e-5)
    for nu, q in ((0.1, 72.0), (1.0, 0.72)):
        np.testing.assert_allclose(schedules.orthogonality_test(stats, nu), q, rtol=1e-5)
    np.testing.assert_allclose(schedules.coordinate_test(stats, 0.1), 1400 / 3, rtol=1e-5)
    np.testing.assert_allclose(schedules.gradient_noise_scale(stats), 16 / 15, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex64], ids=str)
def test_agrees_with_its_definition_over_all_leaves(dtype):
    grads = gradients(1, dtype=dtype)
    stats, rows = schedules.gradient_stats(grads), dense(grads)
    mean, along = rows.mean(0), (rows.conj() @ rows.mean(0)).real
    variance, square = rows.var(0, ddof=1).sum(), np.vdot(mean, mean).real
    across = (
        rows - np.outer((rows @ mean.conj()) if dtype is not np.complex64 else along, mean) / square
    )
    close = lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-3)
    close(schedules.gradient_noise_scale(stats), variance / square)
    close(stats.inner_product_variance, along.var(ddof=1))
    close(schedules.orthogonality_test(stats), across.var(0, ddof=1).sum() / square)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stats.sum_sq_diff))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_variance_splits_and_tests_do_not_see_the_scale(seed):
    grads = gradients(seed)
    stats = schedules.gradient_stats(grads)
    parts = [test(stats, 1.0) for test in TESTS]
    np.testing.assert_allclose(parts[0], parts[1] + parts[2], rtol=1e-5)
    scaled = schedules.gradient_stats(jax.tree.map(lambda g: 1e-3 * g, grads))
    np.testing.assert_allclose([test(scaled, 1.0) for test in TESTS], parts, rtol=1e-4)


def test_no_noise_is_no_noise_and_no_signal_is_infinite():
    same = schedules.gradient_stats(jnp.full((4, 3), 0.7))
    none = schedules.gradient_stats(jnp.zeros((4, 3)))
    lost = schedules.gradient_stats(jnp.array([[1.0, 1.0], [-1.0, -1.0]]))
    for test in TESTS:
        np.testing.assert_allclose(test(same, 1.0), 0.0, atol=1e-10)
        assert test(none, 1.0) == 0.0
    assert schedules.norm_test(lost) == jnp.inf
    assert schedules.coordinate_test(lost) == jnp.inf
    assert not any(np.isnan(test(lost, 1.0)) for test in TESTS)


def test_pooled_over_an_axis_it_is_that_of_all_examples():
    grads = gradients(1, size=12)
    whole = schedules.gradient_stats(grads)
    split = jax.tree.map(lambda g: g.reshape(4, 3, *g.shape[1:]), grads)
    pooled = jax.vmap(lambda g: schedules.gradient_stats(g, "workers"), axis_name="workers")
    for worker in range(4):
        mine = jax.tree.map(lambda leaf, worker=worker: leaf[worker], pooled(split))
        chex.assert_trees_all_close(mine, whole, rtol=1e-4, atol=1e-6)
    # One example each will do, if there are several workers; on devices as well.
    mesh = jax.make_mesh((4,), ("workers",), axis_types=(AxisType.Auto,))
    on_devices = jax.shard_map(
        lambda g: schedules.gradient_stats(g, "workers"),
        mesh=mesh,
        in_specs=PartitionSpec("workers"),
        out_specs=PartitionSpec(),
    )
    chex.assert_trees_all_close(on_devices(FOUR), schedules.gradient_stats(FOUR), rtol=1e-5)


def test_worker_means_estimate_the_variance_without_bias():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 3, 5, 2)) * np.array([1.0, 3.0]) + 1.0

    def of_worker(mean):
        return schedules.variance_from_worker_means(mean, 5, "workers")

    of_workers = jax.vmap(of_worker, axis_name="workers", out_axes=None)
    stats = jax.jit(jax.vmap(of_workers))(jnp.asarray(rows.mean(2)))
    variance = np.mean(stats.sum_sq_diff, axis=0) / 14
    np.testing.assert_allclose(variance, [1, 9], rtol=0.05)
    assert stats.sample_size[0] == 15


def test_worker_means_by_hand():
    of_worker = lambda mean: schedules.variance_from_worker_means(mean, 8, "workers")
    stats = jax.vmap(of_worker, axis_name="workers", out_axes=None)(jnp.array([[1.0, 2.0], [3, 2]]))
    np.testing.assert_allclose(stats.mean, [2, 2])
    # Variance 8 / (2 - 1) * (1 + 1) of the first coordinate, times 16 examples less one.
    np.testing.assert_allclose(stats.sum_sq_diff, [240, 0])
    np.testing.assert_allclose(stats.inner_product_variance, 8 * (4 + 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.gradient_stats(FOUR[:1]), "need the gradients of two examples, got 1"),
        (lambda s: s.gradient_stats([FOUR, FOUR[:2]]), r"same leading axis of examples.*2.*4"),
        (lambda s: s.gradient_stats([FOUR, jnp.ones([])]), "same leading axis of examples"),
        (lambda s: s.gradient_stats(FOUR, "nobody"), "axis_name 'nobody' is not bound"),
        (
            lambda s: jax.vmap(
                lambda g: s.variance_from_worker_means(g, 8, "workers"), axis_name="workers"
            )(FOUR[:1]),
            "axis_name must bind two workers at least, got 1",
        ),
        (
            lambda s: s.variance_from_worker_means(FOUR, 0, "workers"),
            r"local_batch_size must lie in \[1, inf\), got 0",
        ),
    ],
)
def test_refuses_samples_without_a_variance(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)


@pytest.mark.parametrize(
    ("test", "name"), list(zip(TESTS, ("eta", "theta", "nu", "eta"), strict=True))
)
def test_refuses_a_level_that_is_not_positive(test, name):
    with pytest.raises(ValueError, match=rf"{test.__name__}: {name} must lie in \(0, inf\), got 0"):
        test(schedules.gradient_stats(FOUR), 0)
