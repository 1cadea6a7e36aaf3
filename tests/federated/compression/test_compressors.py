"""Compressors: constants measured, sizes counted, trees, ties and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated

natural, rand_k, top_k, qsgd = (
    federated.natural_compression,
    federated.rand_k,
    federated.top_k,
    federated.qsgd,
)
D = 16
VECTOR = np.random.default_rng(1).normal(size=D).astype(np.float32)


@functools.cache
def received(compressor, draws=4000):
    """What arrives of VECTOR in many draws."""
    send = lambda key: compressor.compress(key, jnp.asarray(VECTOR))[0]
    return np.asarray(jax.jit(jax.vmap(send))(jax.random.split(jax.random.key(0), draws)))


def relative_error(compressor):
    error = np.sum((received(compressor) - VECTOR) ** 2, axis=1)
    return error.mean() / np.sum(VECTOR**2)


UNBIASED = [
    (rand_k(k=4, scaled=True), 3.0, 3.0),
    (natural(), 1 / 8, 0.1),
    (qsgd(4), 1.0, 0.18),
    (federated.natural_dithering(4), 3 / 8, 0.08),
    (rand_k(k=8, scaled=True).then(natural()), 1.25, 1.2),
]


@pytest.mark.parametrize(("compressor", "omega", "measured"), UNBIASED, ids=lambda x: str(x)[:30])
def test_unbiased_with_the_variance_that_it_says(compressor, omega, measured):
    spread = received(compressor).std(axis=0) / np.sqrt(4000)
    assert (np.abs(received(compressor).mean(axis=0) - VECTOR) <= 5 * spread + 1e-6).all()
    np.testing.assert_allclose(compressor.omega(D), omega, rtol=1e-12)
    assert relative_error(compressor) <= 1.1 * omega
    np.testing.assert_allclose(relative_error(compressor), measured, rtol=0.35)
    assert compressor.delta(D) is None


CONTRACTIVE = [
    (rand_k(k=4), 0.25),
    (top_k(k=4), 0.25),
    (federated.sign_l1(), 1 / D),
    (qsgd(4).shrunk(), 0.5),
    (top_k(0.5).then(qsgd(8).shrunk()), 0.5 / (1 + 8 / 64)),
    (rand_k(0.5).then(natural().shrunk()), 0.5 * 8 / 9),
    (top_k(k=4).then(federated.sign_l1()), 0.25 / 4),
]


@pytest.mark.parametrize(("compressor", "delta"), CONTRACTIVE, ids=lambda x: str(x)[:30])
def test_contractive_as_much_as_it_says(compressor, delta):
    np.testing.assert_allclose(compressor.delta(D), delta, rtol=1e-12)
    assert relative_error(compressor) <= 1 - delta + 0.02
    assert compressor.omega(D) is None


def test_random_coordinates_are_uniform_and_scaled_exactly():
    kept = received(rand_k(k=4)) != 0
    assert (kept.sum(axis=1) == 4).all()
    np.testing.assert_allclose(kept.mean(axis=0), 1 / 4, atol=0.035)
    np.testing.assert_allclose(relative_error(rand_k(k=4)), 0.75, rtol=0.03)
    np.testing.assert_allclose(received(rand_k(k=4, scaled=True)), 4 * received(rand_k(k=4)))


def test_the_second_code_acts_on_the_values_that_are_kept():
    both = top_k(k=4).then(federated.sign_l1())
    kept = np.sort(np.abs(VECTOR))[-4:]
    largest = np.abs(VECTOR) >= kept[0]
    expected = np.where(largest, np.sign(VECTOR) * kept.mean(), 0)
    np.testing.assert_allclose(received(both)[0], expected, rtol=1e-6)


SIZES = [
    (federated.no_compression(), 1000 * 32),
    (top_k(0.01), 10 * (32 + 10)),
    (top_k(k=1000), 1000 * 32),
    (rand_k(0.01), 10 * 32 + 64),
    (rand_k(k=1), 32 + 10),
    (federated.sign_l1(), 1000 + 32),
    (natural(), 9 * 1000),
    (qsgd(127), 8 * 1000 + 32),
    (qsgd(1), 2 * 1000 + 32),
    (federated.natural_dithering(4), 4 * 1000 + 32),
    (federated.power_sgd(2), 1000 * 32),
    (top_k(0.01).then(natural().shrunk()), 10 * (9 + 10)),
    (top_k(0.01).then(federated.sign_l1()), 10 * (1 + 10) + 32),
    (rand_k(0.1).then(qsgd(4)), 100 * 4 + 32 + 64),
]


@pytest.mark.parametrize(("compressor", "bits"), SIZES, ids=lambda x: str(x)[:30])
def test_bits_of_a_vector(compressor, bits):
    assert compressor.bits(1000) == bits
    shape = jax.ShapeDtypeStruct((10, 100), jnp.float32)
    if "PowerSGD" not in repr(compressor):
        assert compressor.bits({"w": shape, "none": None}) == bits


def test_bits_of_trees_of_several_dtypes():
    tree = {"w": jnp.zeros((20, 30)), "h": jnp.zeros(8, jnp.bfloat16), "n": jnp.arange(3)}
    exact = 3 * 32
    assert federated.no_compression().bits(tree) == 600 * 32 + 8 * 16 + exact
    assert natural().bits(tree) == 9 * 608 + exact
    assert top_k(k=4).bits(tree) == 4 * (32 + 10) + exact
    assert top_k(k=4, per_leaf=True).bits(tree) == 4 * (32 + 10) + 4 * (16 + 3) + exact
    assert federated.sign_l1(per_leaf=True).bits(tree) == 608 + 2 * 32 + exact
    assert federated.power_sgd(3).bits(tree) == 3 * 50 * 32 + 8 * 16 + exact
    assert top_k(k=4, per_leaf=True).delta(tree) == 4 / 600
    assert federated.top_k(0.5).delta({}) == 1.0
    assert qsgd(100).omega({"z": jnp.zeros(5, jnp.complex64)}) == 10 / 100**2


@functools.partial(jax.jit, static_argnums=(0, 2))
def send(compressor, tree, seed=0):
    """What arrives of a tree; compressors can be static arguments."""
    return compressor.compress(jax.random.key(seed), tree)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_largest_of_a_tree_are_kept(dtype):
    rng = np.random.default_rng(3)
    tree = {
        "w": jnp.asarray(rng.normal(size=(5, 7)), dtype),
        "z": jnp.asarray(rng.normal(size=3) + 1j * rng.normal(size=3), jnp.complex64),
        "s": jnp.asarray(2.5, dtype),
        "n": jnp.arange(4),
        "empty": jnp.zeros((0, 2)),
    }
    out = send(top_k(k=9), tree)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), out) == jax.tree.map(
        lambda a: (a.shape, a.dtype), tree
    )
    np.testing.assert_array_equal(out["n"], tree["n"])
    wide = lambda t: np.concatenate(
        [np.float32(t["w"]).ravel(), t["z"].real, t["z"].imag, [np.float32(t["s"])]]
    )
    flat, kept = wide(tree), wide(out)
    assert np.count_nonzero(kept) == 9
    assert set(np.abs(kept[kept != 0])) == set(np.sort(np.abs(flat))[-9:])
    np.testing.assert_array_equal(kept[kept != 0], flat[kept != 0])
    each = send(top_k(k=1, per_leaf=True), tree)
    assert [np.count_nonzero(each[name]) for name in ("w", "z", "s")] == [1, 1, 1]


TIES = [
    ([1.0, -1.0, 1.0, 1.0], 2, [1.0, -1.0, 0.0, 0.0]),
    ([0.0, 2.0, -2.0, 5.0, 2.0], 3, [0.0, 2.0, -2.0, 5.0, 0.0]),
    ([0.0, 0.0, 3.0, 0.0], 3, [0.0, 0.0, 3.0, 0.0]),
    ([0.0, 0.0], 1, [0.0, 0.0]),
    ([-2.0, 1.0], 2, [-2.0, 1.0]),
    ([1e-40, np.inf, 3e38], 2, [0.0, np.inf, 3e38]),
]


@pytest.mark.parametrize(("x", "k", "expected"), TIES)
def test_the_first_among_equals_are_kept(x, k, expected):
    out = send(top_k(k=k), [jnp.array(x[:1]), jnp.array(x[1:])])
    np.testing.assert_array_equal(np.concatenate(out), np.float32(expected))


def test_top_k_equals_lax_top_k_on_many_ties():
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 4, size=200), jnp.float32)
    for k in (60, 150):
        where = jax.lax.top_k(jnp.abs(x), k)[1]
        np.testing.assert_array_equal(
            send(top_k(k=k), x), jnp.zeros_like(x).at[where].set(x[where])
        )


ALL = [
    federated.no_compression(),
    top_k(0.3),
    rand_k(0.3, scaled=True),
    federated.sign_l1(),
    natural(),
    federated.natural_dithering(3, p=float("inf")),
    qsgd(3),
    federated.power_sgd(1),
    top_k(0.3).then(qsgd(3).shrunk()),
]


@pytest.mark.parametrize("compressor", ALL, ids=lambda c: str(c)[:30])
def test_zeros_large_numbers_and_dtypes(compressor):
    trees = {
        scale: {"w": scale * jnp.ones((3, 4), jnp.bfloat16), "b": scale * jnp.ones(2)}
        for scale in (0.0, 1e-30, 1e30)
    }
    for scale, tree in trees.items():
        out = send(compressor, tree)
        assert out["w"].dtype == jnp.bfloat16
        assert out["b"].dtype == jnp.float32
        for leaf in jax.tree.leaves(out):
            assert np.isfinite(np.float32(leaf)).all()
            assert scale > 0 or not np.any(np.float32(leaf))
    assert hash(compressor) is not None
    assert compressor.compress(jax.random.key(0), {"n": None})[0] == {"n": None}


def test_natural_compression_of_exact_powers_and_of_the_largest_number():
    x = jnp.array([0.5, -4.0, 0.0, 2.0**-100, 2.0**100])
    np.testing.assert_array_equal(send(natural(), x), x)
    largest = jnp.array([np.finfo(np.float32).max])
    np.testing.assert_array_equal(send(natural(), largest), np.float32([2.0**127]))
    rounded = federated.natural_compression().round(
        [jnp.array([3.0, 3.0])], [jnp.array([0.4, 0.6])]
    )
    assert rounded[0].tolist() == [4.0, 2.0]


def test_power_sgd_follows_a_matrix_of_its_rank_and_warms_up():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 9))
    M = jnp.asarray(low + 0.01 * rng.normal(size=(8, 9)), jnp.float32)
    compressor = federated.power_sgd(2)
    run = jax.jit(lambda state: compressor.compress(None, M, state))
    state, errors = compressor.init(M), []
    for _ in range(3):
        out, state = run(state)
        errors.append(float(jnp.linalg.norm(out - M)))
    best = np.linalg.svd(M)[1][2:]
    assert errors[2] < 1.02 * np.linalg.norm(best)
    assert errors[2] <= errors[0]
    zero, kept = compressor.compress(None, jnp.zeros_like(M), state)
    np.testing.assert_array_equal(zero, 0)
    np.testing.assert_array_equal(kept[0], state[0])


def test_power_sgd_averages_factors():
    M = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 5)), jnp.float32)
    compressor = federated.power_sgd(2)
    average = lambda tree: federated.axis.mean(tree, "nodes")
    node = lambda M: compressor.mean(None, {"w": M, "b": M[0]}, (), average)
    mean, own, _ = jax.jit(jax.vmap(node, axis_name="nodes"))(M)
    together = send(compressor, {"w": M.mean(axis=0), "b": M[0, 0]})["w"]
    np.testing.assert_allclose(mean["w"][1], together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["w"].mean(axis=0), together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean["b"][0], M[:, 0].mean(axis=0), rtol=1e-5)
    assert (jnp.sum((own["w"] - M) ** 2, (1, 2)) <= jnp.sum(M**2, (1, 2))).all()


BAD = [
    (lambda: top_k(0.0), r"top_k: fraction must lie in \(0, 1\], got 0.0"),
    (lambda: rand_k(1.5), r"rand_k: fraction must lie in \(0, 1\], got 1.5"),
    (lambda: top_k(), "top_k: give one of fraction and k"),
    (lambda: top_k(0.1, k=3), "top_k: give one of fraction and k"),
    (lambda: top_k(k=0), "top_k: k must be an integer >= 1, got 0"),
    (lambda: rand_k(k=2.5), "rand_k: k must be an integer >= 1, got 2.5"),
    (lambda: top_k(k=9).bits(8), r"top_k: k must lie in \[1, d\], got 9 with d = 8"),
    (lambda: send(rand_k(k=9), jnp.ones(8)), r"rand_k: k must lie in \[1, d\], got 9"),
    (lambda: qsgd(0), "qsgd: s must be an integer >= 1, got 0"),
    (lambda: federated.natural_dithering(0), "natural_dithering: s must be an integer"),
    (lambda: federated.natural_dithering(2, p=0.5), "p must be at least 1, got 0.5"),
    (lambda: federated.power_sgd(0), "power_sgd: rank must be an integer >= 1, got 0"),
    (lambda: qsgd(4).then(top_k(0.1)), "first must be top_k or rand_k, got QSGD"),
    (lambda: top_k(0.1).then(federated.power_sgd(1)), "second must code single numbers"),
    (lambda: top_k(0.1).then(rand_k(0.1)), "second must code single numbers"),
    (lambda: top_k(0.1).shrunk(), "shrunk: the compressor must be unbiased"),
    (lambda: federated.power_sgd(1).shrunk(), "shrunk: the compressor must be unbiased"),
    (lambda: qsgd(4).compress(None, jnp.ones(3)), "compress needs a key"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
