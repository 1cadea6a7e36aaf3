"""orthogonalize: known matrices, bounds on singular values, invariances, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import optimizers

METHODS = ["ns5", "polar_express", "svd"]
G = np.array([[3.0, 0.0], [4.0, 5.0]])


def _random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def _exact(matrix):
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("svd", [[0.894427, -0.447214], [0.447214, 0.894427]]),
        ("ns5", [[0.928897, -0.592130], [0.251646, 0.758655]]),
    ],
)
def test_a_matrix_worked_out_by_hand(method, expected):
    with jax.enable_x64(True):
        out = optimizers.orthogonalize(G, method)
        np.testing.assert_allclose(out, expected, atol=1e-6)
        if method == "svd":
            np.testing.assert_allclose(jnp.vdot(G, out), 8.944272, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, 0.68, 1.135),
        ({"orthogonalizer": "polar_express"}, 0.866, 1.134),
        ({"orthogonalizer": "polar_express", "ns_steps": 6}, 0.998, 1.002),
        ({"orthogonalizer": "polar_express", "ns_steps": 7}, 1 - 4e-6, 1 + 4e-6),
        ({"orthogonalizer": "polar_express", "ns_steps": 10}, 1 - 3e-15, 1 + 3e-15),
        ({"ns_coeffs": (1.5, -0.5, 0.0), "ns_steps": 12}, 1 - 5e-7, 1 + 5e-7),
        ({"orthogonalizer": "svd"}, 1 - 3e-15, 1 + 3e-15),
    ],
)
def test_singular_values_of_a_gaussian_matrix(options, low, high):
    with jax.enable_x64(True):
        values = _singular_values(optimizers.orthogonalize(_random(1, 64, 128), **options))
    assert low <= values.min()
    assert values.max() <= high


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (1, 4)])
def test_converges_to_the_polar_factor(shape, seed):
    matrix = _random(seed, *shape)
    with jax.enable_x64(True):
        out = optimizers.orthogonalize(matrix, "polar_express", ns_steps=12)
        np.testing.assert_allclose(out, _exact(matrix), atol=1e-10)
        exact = optimizers.orthogonalize(matrix, "svd")
        np.testing.assert_allclose(exact, _exact(matrix), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ignores_the_size_and_follows_rotations(method, seed):
    matrix, q, r = _random(seed, 4, 6), _exact(_random(10, 4, 4)), _exact(_random(11, 6, 6))
    with jax.enable_x64(True):
        run = lambda x: np.asarray(optimizers.orthogonalize(x, method, eps=1e-12))
        np.testing.assert_allclose(run(7.0 * matrix), run(matrix), atol=1e-9)
        np.testing.assert_allclose(run(q @ matrix @ r), q @ run(matrix) @ r, atol=1e-9)
        np.testing.assert_allclose(run(matrix.T), run(matrix).T, atol=1e-12)


def _one_by_one(matrix, triples):
    """The iteration as it is written down, in float64."""
    x = np.asarray(matrix, np.float64)
    x = x / (np.linalg.norm(x) + 1e-7)
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("columns", [8, 12, 13, 40])
@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_iterates_as_written_down_however_wide(columns, steps):
    matrix, triple = _random(1, 8, columns), (3.4445, -4.7750, 2.0315)
    with jax.enable_x64(True):
        out = optimizers.orthogonalize(matrix, ns_steps=steps)
    np.testing.assert_allclose(out, _one_by_one(matrix, [triple] * steps), atol=1e-12)


SPECTRA = {f"condition 1e{k}": np.logspace(0, -k, 32) for k in range(7)} | {
    "rank 4": np.repeat([1.0, 0.0], [4, 28]),
    "one large": np.repeat([1.0, 1e-3], [1, 31]),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("triples", [[(3.4445, -4.7750, 2.0315)] * 5, [(1.5, -0.5, 0.0)] * 12])
def test_wide_matrices_lose_no_accuracy(triples, dtype):
    u, w, v = (_exact(_random(seed, 32, n)) for seed, n in ((1, 32), (2, 32), (3, 128)))
    matrices = np.stack([(u * values) @ v for values in SPECTRA.values()])

    def errors(x):
        out = optimizers.orthogonalize(
            jnp.asarray(x, jnp.float32), ns_coeffs=triples, ns_dtype=dtype
        )
        exact = np.stack([_one_by_one(matrix, triples) for matrix in x])
        size = lambda y: np.linalg.norm(y, axis=(-2, -1))
        return size(np.asarray(out, np.float64) - exact) / size(exact)

    # Square matrices of the same spectra are iterated one step at a time.
    square = np.stack([(u * values) @ w for values in SPECTRA.values()])
    assert np.all(errors(matrices) <= 3 * errors(square))


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_every_start_leads_to_an_orthogonal_matrix(preconditioning):
    matrix = _random(1, 4, 9)
    # "aol" scales the rows first: it ends at the polar factor of the scaled matrix.
    rows = np.sqrt(np.sum(np.abs(matrix @ matrix.T), axis=1, keepdims=True))
    with jax.enable_x64(True):
        out = optimizers.orthogonalize(
            matrix, ns_coeffs=(1.5, -0.5, 0.0), ns_steps=20, preconditioning=preconditioning
        )
    end = _exact(matrix / rows if preconditioning == "aol" else matrix)
    np.testing.assert_allclose(out, end, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_matrices(method):
    batch = jnp.asarray(_random(1, 2, 3, 5, 4), jnp.float32)
    out = optimizers.orthogonalize(batch, method)
    for index in np.ndindex(2, 3):
        single = optimizers.orthogonalize(batch[index], method)
        np.testing.assert_allclose(out[index], single, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_stays_nothing(method):
    np.testing.assert_array_equal(optimizers.orthogonalize(jnp.zeros((3, 4)), method), 0.0)
    assert optimizers.orthogonalize(jnp.zeros((0, 4)), method).shape == (0, 4)


def test_exact_leaves_out_directions_that_do_not_occur():
    matrix = np.outer([3.0, 4.0], [1.0, 0.0, 0.0])
    out = optimizers.orthogonalize(jnp.asarray(matrix, jnp.float32), "svd")
    np.testing.assert_allclose(out, matrix / 5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_keeps_the_dtype(method, dtype):
    matrix = jnp.asarray(_random(1, 4, 6), dtype)
    assert optimizers.orthogonalize(matrix, method).dtype == dtype


def test_complex_matrices():
    matrix = _random(1, 3, 5) + 1j * _random(2, 3, 5)
    with jax.enable_x64(True):
        out = optimizers.orthogonalize(matrix, "polar_express", ns_steps=12)
        np.testing.assert_allclose(out, _exact(matrix), atol=1e-10)


def test_bfloat16_iterations_are_close():
    matrix = jnp.asarray(_random(1, 32, 48), jnp.float32)
    exact = optimizers.orthogonalize(matrix)
    narrow = optimizers.orthogonalize(matrix, ns_dtype=jnp.bfloat16)
    assert narrow.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(narrow - exact) < 3e-2 * jnp.linalg.norm(exact)


@pytest.mark.parametrize(("shape", "once"), [((16, 48), 0), ((48, 16), 2), ((3, 16, 16), 0)])
def test_iterates_without_transposes_and_copies(shape, once):
    lower = jax.jit(optimizers.orthogonalize, static_argnames="ns_steps").lower
    for steps in (2, 6):
        compiled = lower(jnp.zeros(shape), ns_steps=steps).compile().as_text()
        assert compiled.count(" copy(") <= once  # a tall matrix, on the way in and out
        assert compiled.count(" transpose(") <= once


def test_own_function_gets_a_wide_batch():
    seen = []

    def halve(batch):
        seen.append(batch.shape)
        return batch / 2

    matrices = jnp.ones((2, 2, 5, 3))
    out = optimizers.orthogonalize(matrices, halve)
    np.testing.assert_array_equal(out, matrices / 2)
    assert seen == [(4, 3, 5)]
    with pytest.raises(ValueError, match=r"must keep the shape.*\(1, 3, 3\) for \(1, 3, 5\)"):
        optimizers.orthogonalize(matrices[0, 0], lambda batch: batch[..., :3])


def test_a_list_of_triples_fixes_the_number_of_steps():
    matrix, triple = jnp.asarray(_random(1, 4, 6), jnp.float32), (3.0, -3.2, 1.2)
    listed = optimizers.orthogonalize(matrix, ns_coeffs=[triple] * 3, ns_steps=9)
    repeated = optimizers.orthogonalize(matrix, ns_coeffs=triple, ns_steps=3)
    np.testing.assert_array_equal(listed, repeated)
    traced = jax.jit(lambda c: optimizers.orthogonalize(matrix, ns_coeffs=c, ns_steps=3))
    np.testing.assert_allclose(traced(jnp.array(triple)), repeated, atol=1e-6)


PUBLISHED = [
    (8.205160414005569, -22.90193498705604, 16.460724910180307),
    (4.066915619879593, -2.861284534588479, 0.518380446477861),
    (3.913492611205465, -2.824251876723090, 0.524848562514854),
    (3.306013970133766, -2.430227567449683, 0.486951520550948),
    (2.304016813944473, -1.642720654626896, 0.400910094902221),
    (1.877191463581698, -1.235658824560685, 0.359004610745867),
    (1.856443051294161, -1.213245753520930, 0.356800423820090),
]


def test_coefficients_are_the_published_ones():
    listed = optimizers.polar_express_coefficients(12)
    np.testing.assert_allclose(listed[:7], PUBLISHED, rtol=1e-11)
    np.testing.assert_allclose(listed[9:], [(1.875, -1.25, 0.375)] * 3, rtol=1e-4)
    assert optimizers.polar_express_coefficients(5) == listed[:5]
    first = optimizers.polar_express_coefficients(1, cushion=0.02)
    np.testing.assert_allclose(
        first, [(8.237312490495555, -23.157747414558184, 16.6805684114459)], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"orthogonalizer": "qr"}, "orthogonalizer must be one of 'ns5', 'polar_express', 'svd'"),
        ({"ns_steps": 0}, "ns_steps must be an integer >= 1, got 0"),
        ({"ns_coeffs": (1.0, 2.0)}, r"ns_coeffs must have shape \(3,\) or \(k, 3\)"),
        ({"ns_coeffs": np.zeros((0, 3))}, r"ns_coeffs must have shape \(3,\) or \(k, 3\)"),
        ({"ns_coeffs": [(1.0, 2.0, 3.0), (1.0, 2.0)]}, r"shape \(3,\) or \(k, 3\)"),
        ({"ns_coeffs": "fast"}, "ns_coeffs must be one of 'standard', 'dion'"),
        ({"ns_coeffs": "dion", "orthogonalizer": "svd"}, "ns_coeffs needs orthogonalizer='ns5'"),
        ({"preconditioning": "max"}, "preconditioning must be one of"),
        ({"eps": 0.0}, r"eps must lie in \(0, inf\), got 0"),
        ({"matrices": np.ones(3)}, r"matrices must have rank >= 2, got shape \(3,\)"),
    ],
)
def test_rejects_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"orthogonalize: {message}|{message}"):
        optimizers.orthogonalize(**{"matrices": np.eye(2), **arguments})


@pytest.mark.parametrize(
    ("name", "value"), [("num_steps", 0), ("lower", 0.0), ("cushion", 1.0), ("safety", 0.9)]
)
def test_rejects_bad_coefficient_arguments(name, value):
    with pytest.raises(ValueError, match=f"polar_express_coefficients: {name} must .*got {value}"):
        optimizers.polar_express_coefficients(**{"num_steps": 3, name: value})
