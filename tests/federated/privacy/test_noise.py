"""Noise and bounded contributions: scale, independence, and what no message can break."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from gradax import federated

ZEROS = {"w": jnp.zeros((40, 25)), "b": jnp.zeros(1000)}


def draws(tx, rounds=3):
    """What is added to zeros in some rounds, ``[rounds, 1000]`` for each leaf."""
    body = lambda state, _: tx.update(ZEROS, state)[::-1]
    out = jax.lax.scan(body, tx.init(ZEROS), length=rounds)[1]
    return {name: np.asarray(leaf).reshape(rounds, -1) for name, leaf in out.items()}


def test_noise_has_its_standard_deviation_and_is_new_in_every_round_and_leaf():
    stddev = 0.05
    found = np.concatenate(list(draws(federated.add_gaussian_noise(stddev, key=3)).values()))
    squares = np.sum((found / stddev) ** 2)
    assert 1e-3 < stats.chi2.cdf(squares, found.size) < 1 - 1e-3
    correlation = np.corrcoef(found) - np.eye(len(found))
    assert np.max(np.abs(correlation)) < 0.15


def test_the_draw_of_a_server_is_common_and_that_of_participants_their_own():
    common, own = (federated.add_gaussian_noise(1.0, 0, axis_name=a) for a in (None, "clients"))
    ids, zero = jnp.arange(3), jnp.zeros(4)
    for tx, equal in ((common, True), (own, False)):
        states = federated.init_participants(tx, zero, ids)
        rows = jax.vmap(lambda state, tx=tx: tx.update(zero, state)[0])(states)
        assert bool(jnp.all(rows[0] == rows[1])) == equal


def test_noise_in_half_precision_is_drawn_in_single():
    half = jnp.zeros(1000, jnp.float16)
    tx = federated.add_gaussian_noise(1.0, 0)
    found = tx.update(half, tx.init(half))[0]
    wide = tx.update(half.astype(jnp.float32), tx.init(half))[0]
    np.testing.assert_array_equal(found, wide.astype(jnp.float16))


def test_both_parts_of_a_complex_number_get_the_noise():
    zeros = jnp.zeros(20_000, jnp.complex64)
    tx = federated.add_gaussian_noise(3.0, 0)
    found = np.asarray(tx.update(zeros, tx.init(zeros))[0])
    np.testing.assert_allclose([found.real.std(), found.imag.std()], 3.0, rtol=0.03)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1.0, 0.0], ids=str)
def test_no_message_is_longer_than_the_bound(dtype, value):
    bound = 0.7
    message = {"a": jnp.full(7, 0.3, dtype), "b": jnp.zeros((2, 2), dtype).at[1, 0].set(value)}
    tx = federated.clip_contribution(bound)
    clipped = tx.update(message, tx.init(message))[0]
    lengths = [np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in clipped.values()]
    assert np.linalg.norm(lengths) <= bound
    assert clipped["a"].dtype == dtype


def test_clips_as_optax_does():
    message = {"a": jnp.array([3.0, -1.0]), "b": jnp.array(2.0)}
    for bound in (0.5, 100.0, jnp.inf):
        ours, theirs = federated.clip_contribution(bound), optax.clip_by_global_norm(bound)
        found, expected = (tx.update(message, tx.init(message))[0] for tx in (ours, theirs))
        np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-6)


def per_example(rows, *arguments):
    tx, zero = federated.private_gradient(*arguments, key=0), jnp.zeros(rows.shape[1:])
    return tx.update(zero, tx.init(zero), zero, per_example_grads=rows)[0]


ROWS = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])


def test_the_private_gradient_without_noise_is_that_of_optax():
    theirs = optax.contrib.differentially_private_aggregate(1.0, 0.0, jax.random.key(0))
    expected = theirs.update(ROWS, theirs.init(None))[0]
    np.testing.assert_allclose(per_example(ROWS, 1.0, 0.0), expected, rtol=1e-6)


def test_an_example_that_is_not_finite_counts_as_zero():
    broken = ROWS.at[2, 1].set(jnp.nan)
    np.testing.assert_array_equal(per_example(broken, 1.0, 0.0), per_example(ROWS, 1.0, 0.0))


def test_noise_on_the_sum_is_divided_by_the_batch():
    rows = jnp.zeros((4, 20_000))
    assert float(jnp.std(per_example(rows, 2.0, 3.0))) == pytest.approx(6 / 4, rel=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: federated.add_gaussian_noise(-1.0, 0), r"stddev must lie in \[0, inf\), got -1.0"),
        (lambda: federated.add_gaussian_noise(1.0, None), "key must be"),
        (lambda: federated.add_gaussian_noise(1.0, 0, ("a", "a")), "must not repeat"),
        (lambda: federated.clip_contribution(0.0), r"l2_norm_clip must lie in \(0, inf\]"),
        (lambda: federated.private_gradient(0.0, 1.0, 0), "l2_norm_clip must lie"),
        (lambda: federated.private_gradient(1.0, -1.0, 0), "noise_multiplier must lie"),
        (lambda: federated.private_gradient(1.0, 1.0, 0, 0.0), "expected_batch_size must lie"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
