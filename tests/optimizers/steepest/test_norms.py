"""Norms, their duals and directions: closed forms, worked facts, combinations, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from gradax.optimizers import norms

SHAPE = (3, 4)
WORKED = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
HYBRID = {"w": "spectral", "b": "linf"}


def _values(x):
    return np.linalg.svd(x, compute_uv=False)


#: name -> norm and dual norm of a matrix in NumPy.
CLOSED_FORMS = {
    "l2": (np.linalg.norm, np.linalg.norm),
    "frobenius": (np.linalg.norm, np.linalg.norm),
    "linf": (lambda x: np.abs(x).max(), lambda m: np.abs(m).sum()),
    "l1": (lambda x: np.abs(x).sum(), lambda m: np.abs(m).max()),
    "rms": (lambda x: np.sqrt(np.mean(np.abs(x) ** 2)), lambda m: np.linalg.norm(m) * 12**0.5),
    "spectral": (lambda x: _values(x)[0], lambda m: _values(m).sum()),
    "nuclear": (lambda x: _values(x).sum(), lambda m: _values(m)[0]),
    "rms_to_rms": (
        lambda x: (3 / 4) ** 0.5 * _values(x)[0],
        lambda m: (4 / 3) ** 0.5 * _values(m).sum(),
    ),
    "global_l2": (np.linalg.norm, np.linalg.norm),
}


def _draw(seed, shape=SHAPE, imaginary=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + imaginary * rng.normal(size=shape)).astype(
        np.complex64 if imaginary else np.float32
    )


def test_every_name_is_tried():
    assert set(CLOSED_FORMS) == set(norms.NAMED)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("imaginary", [0.0, 1j], ids=["real", "complex"])
def test_norm_dual_and_direction_agree_with_the_closed_form(name, imaginary):
    norm, (length, dual) = norms.NAMED[name], CLOSED_FORMS[name]
    m = _draw(1, imaginary=imaginary)
    d = np.asarray(norm.lmo(jnp.asarray(m)))
    assert d.dtype == m.dtype
    np.testing.assert_allclose(norm.norm(m), length(m), rtol=1e-5)
    np.testing.assert_allclose(norm.dual(m), dual(m), rtol=1e-5)
    np.testing.assert_allclose(length(d), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.vdot(m, d), dual(m), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.sharp(m), dual(m) * d, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_no_other_direction_gains_more(name):
    norm, m = norms.NAMED[name], _draw(1)
    others = [_draw(seed) for seed in range(2, 300)] + [m, np.sign(m)]
    gains = [np.vdot(m, x) / CLOSED_FORMS[name][0](x) for x in others]
    assert max(gains) <= float(norm.dual(m)) * (1 + 1e-5)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_directions_do_not_depend_on_size_and_zero_has_none(name):
    lmo, m = norms.NAMED[name].lmo, jnp.asarray(_draw(1))
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(lmo(scale * m), lmo(m), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(lmo(jnp.zeros(SHAPE)), 0.0)
    assert norms.NAMED[name].norm(jnp.zeros(SHAPE)) == 0.0
    assert not np.isfinite(lmo(m.at[1, 2].set(jnp.nan))).all()


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_nothing_has_length_zero(name):
    norm, nothing = norms.NAMED[name], jnp.zeros((0, 2))
    assert norm.norm(nothing) == norm.dual(nothing) == 0.0
    assert norm.lmo(nothing).shape == (0, 2)


def test_narrow_dtypes_are_measured_in_single_precision():
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.full((300, 2), 200.0, dtype)
        for name in ("l2", "l1", "rms", "spectral"):
            assert norms.NAMED[name].norm(x).dtype == jnp.float32
            np.testing.assert_allclose(
                norms.NAMED[name].norm(x), CLOSED_FORMS[name][0](np.asarray(x, float)), rtol=1e-5
            )
            assert norms.NAMED[name].lmo(x).dtype == dtype


def test_of_equal_entries_l1_moves_the_first():
    m = jnp.array([[1.0, -2.0], [2.0, -2.0]])
    np.testing.assert_array_equal(norms.l1.lmo(m), [[0.0, -1.0], [0.0, 0.0]])


def test_linf_does_not_move_what_has_no_gradient():
    np.testing.assert_array_equal(norms.linf.lmo(jnp.array([3.0, 0.0, -0.1])), [1.0, 0.0, -1.0])


# Matrices --------------------------------------------------------------------------------


def test_polar_express_comes_close_to_the_exact_direction():
    m = jnp.asarray(_draw(1, (6, 5)))
    exact, fast = norms.spectral, norms.spectral_with("polar_express", ns_steps=8)
    np.testing.assert_allclose(fast.lmo(m), exact.lmo(m), atol=2e-5)
    np.testing.assert_allclose(fast.dual(1e-20 * m), 1e-20 * exact.dual(m), rtol=1e-4)
    rough = _values(norms.spectral_with("ns5").lmo(m))
    assert 0.6 < rough.min() < rough.max() < 1.25
    assert fast.norm(m) == exact.norm(m)


def test_a_function_can_be_the_orthogonalizer():
    seen = []
    norm = norms.spectral_with(lambda x: seen.append(x.shape) or x / 2)
    np.testing.assert_allclose(norm.lmo(jnp.array([[4.0, 0.0]])), [[0.5, 0.0]])
    assert seen == [(1, 1, 2)]


def test_higher_ranks_are_stacks():
    stack = jnp.asarray(_draw(1, (2, 3, 4)))
    each = [(norms.spectral.norm(x), norms.spectral.dual(x)) for x in stack]
    assert norms.spectral.norm(stack) == max(each)[0]
    np.testing.assert_allclose(norms.spectral.dual(stack), each[0][1] + each[1][1], rtol=1e-6)
    nuclear = [float(norms.nuclear.dual(x)) for x in stack]
    np.testing.assert_allclose(norms.nuclear.dual(stack), max(nuclear), rtol=1e-6)
    moved = norms.nuclear.lmo(stack)
    assert not np.any(moved[int(np.argmin(nuclear))])
    np.testing.assert_allclose(norms.nuclear.norm(moved), 1.0, rtol=1e-6)


def test_axes_of_matrices_can_be_chosen():
    kernel = jnp.asarray(_draw(1, (2, 2, 3, 5)))
    dims = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    flat = kernel.reshape(12, 5)
    for rms_to_rms, name in ((False, "spectral"), (True, "rms_to_rms")):
        norm = norms.spectral_with(dimension_numbers=dims, rms_to_rms=rms_to_rms)
        np.testing.assert_allclose(norm.norm(kernel), norms.NAMED[name].norm(flat), rtol=1e-6)
        expected = norms.NAMED[name].lmo(flat).reshape(kernel.shape)
        np.testing.assert_allclose(norm.lmo(kernel), expected, atol=1e-6)
    turned = norms.spectral_with(dimension_numbers=MuonDimensionNumbers(1, 0), rms_to_rms=True)
    np.testing.assert_allclose(turned.norm(flat), norms.rms_to_rms.norm(flat.T), rtol=1e-6)


def test_rms_to_rms_is_the_largest_growth_of_the_root_mean_square():
    w = _draw(1)
    x = np.linalg.svd(w)[0][:, 0]
    growth = norms.rms.norm(x @ w) / norms.rms.norm(x)
    np.testing.assert_allclose(norms.rms_to_rms.norm(w), growth, rtol=1e-5)


# Scaled norms and products ---------------------------------------------------------------


def test_scaling_a_norm_divides_its_dual_and_its_direction():
    m = jnp.asarray(_draw(1))
    for base in ("spectral", norms.linf, norms.global_l2):
        norm, one = norms.scaled(4.0, base), norms.scaled(1.0, base)
        np.testing.assert_allclose(norm.norm(m), 4 * one.norm(m), rtol=1e-6)
        np.testing.assert_allclose(norm.dual(m), one.dual(m) / 4, rtol=1e-6)
        chex.assert_trees_all_close(norm.lmo(m), one.lmo(m) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("combine", "w", "b", "dual"),
    [("max", 1.0, 1.0, 7.0), ("l2", 0.8, 0.6, 5.0), ("sum", 1.0, 0.0, 4.0)],
)
def test_the_worked_example(combine, w, b, dual):
    norm = norms.product(HYBRID, combine)
    moved = norm.lmo(WORKED)
    np.testing.assert_allclose(moved["w"], w * np.eye(2), atol=1e-6)
    np.testing.assert_allclose(moved["b"], [b, -b], atol=1e-6)
    np.testing.assert_allclose(norm.dual(WORKED), dual, rtol=1e-6)
    np.testing.assert_allclose(norm.norm(moved), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        norm.norm(WORKED), {"max": 3.0, "l2": 13**0.5, "sum": 5.0}[combine], rtol=1e-6
    )


def test_global_l2_measures_all_entries_as_one_vector():
    for norm in (norms.global_l2, norms.product("l2", "global_l2"), norms.product("global_l2")):
        np.testing.assert_allclose(norm.dual(WORKED), 3.872983, rtol=1e-6)
        chex.assert_trees_all_close(
            norm.lmo(WORKED), jax.tree.map(lambda x: x / 15**0.5, WORKED), rtol=1e-6
        )


@pytest.mark.parametrize("combine", ["max", "l2", "sum"])
@pytest.mark.parametrize("name", ["spectral", "l1"])
def test_of_one_leaf_the_product_is_that_leafs_norm(combine, name):
    m = {"w": jnp.asarray(_draw(1))}
    whole, one = norms.product(name, combine), norms.NAMED[name]
    chex.assert_trees_all_close(whole.lmo(m)["w"], one.lmo(m["w"]), rtol=1e-6)
    np.testing.assert_allclose(whole.norm(m), one.norm(m["w"]), rtol=1e-6)


def test_of_equal_duals_the_sum_moves_the_first_and_nothing_moves_for_zero():
    norm = norms.product("linf", "sum")
    moved = norm.lmo([jnp.zeros(2), jnp.array([1.0, -1.0]), jnp.array([2.0])])
    chex.assert_trees_all_close(moved, [jnp.zeros(2), jnp.array([1.0, -1.0]), jnp.zeros(1)])
    for combine in ("max", "l2", "sum"):
        still = norms.product("l2", combine).lmo([jnp.zeros(2), jnp.zeros(3)])
        chex.assert_trees_all_equal(still, [jnp.zeros(2), jnp.zeros(3)])
    assert norms.product("l2", "l2").norm({}) == 0.0


def test_a_leaf_with_zero_gradient_stays_where_others_move():
    for combine in ("max", "l2", "sum"):
        moved = norms.product(HYBRID, combine).lmo(WORKED | {"w": jnp.zeros((2, 2))})
        np.testing.assert_array_equal(moved["w"], 0.0)
        np.testing.assert_allclose(moved["b"], [1.0, -1.0], rtol=1e-6)


def test_parts_of_a_tree_can_be_norms_of_trees():
    tree = {"block": {"a": jnp.array([3.0]), "b": jnp.array([-4.0])}, "head": jnp.array([2.0])}
    norm = norms.product({"block": "global_l2", "head": "l2"}, "max")
    moved = norm.lmo(tree)
    np.testing.assert_allclose(norm.dual(tree), 5 + 2, rtol=1e-6)
    np.testing.assert_allclose(moved["block"]["b"], [-0.8], rtol=1e-6)
    inner = norms.product({"a": "l1", "b": "linf"}, "sum")
    nested = norms.product({"block": inner, "head": "l2"}, "sum")
    np.testing.assert_allclose(nested.norm(tree), 3 + 4 + 2)
    assert nested.dual(tree) == 4.0


def test_parts_of_a_tree_can_be_labelled():
    tree = {"a": jnp.array([3.0]), "b": jnp.array([2.0]), "c": {"d": jnp.array([-4.0])}}
    labels = {"a": "together", "b": "alone", "c": "together"}
    by_label = {"together": norms.scaled(2.0, "global_l2"), "alone": "linf"}
    norm = norms.product(by_label, "max", param_labels=labels)
    moved = norm.lmo(tree)
    np.testing.assert_allclose(norm.norm(tree), 10.0, rtol=1e-6)
    np.testing.assert_allclose(norm.dual(tree), 5 / 2 + 2, rtol=1e-6)
    np.testing.assert_allclose(moved["c"]["d"], [-0.4], rtol=1e-6)
    same = norms.product(by_label, "max", param_labels=lambda tree: labels)
    chex.assert_trees_all_equal(same.lmo(tree), moved)


def test_a_function_may_choose_by_shape():
    norm = norms.product(lambda p: jax.tree.map(lambda x: ("", "linf", "spectral")[x.ndim], p))
    chex.assert_trees_all_equal(norm.lmo(WORKED), norms.product(HYBRID).lmo(WORKED))


def test_a_factor_may_be_traced():
    gain = jax.jit(lambda c: norms.product({"w": norms.scaled(c, "l2"), "b": "l2"}).dual(WORKED))
    np.testing.assert_allclose(gain(2.0), 10**0.5 / 2 + 5**0.5, rtol=1e-6)


@pytest.mark.parametrize("name", norms.NAMED)
def test_they_say_their_names(name):
    assert repr(norms.NAMED[name]) == f"norms.{'l2' if name == 'frobenius' else name}"


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["l3", {"w": "spectral", "b": "max"}, 2.0])
def test_an_unknown_name_is_refused_at_once(bad):
    with pytest.raises(ValueError, match="product: norm must be one of 'l2', 'linf', "):
        norms.product(bad)


def test_an_unknown_combination_is_refused():
    with pytest.raises(ValueError, match="combine must be one of 'max', 'l2', 'sum', 'global_l2'"):
        norms.product("l2", "mean")
    with pytest.raises(ValueError, match="norm must be 'l2' with combine='global_l2', got 'linf'"):
        norms.product("linf", "global_l2")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_has_to_be_positive(factor):
    with pytest.raises(ValueError, match=r"scaled: factor must lie in \(0, inf\)"):
        norms.scaled(factor, "l2")


@pytest.mark.parametrize("name", ["spectral", "nuclear", "rms_to_rms"])
def test_a_vector_is_no_matrix(name):
    message = rf"must not be {name} for the leaf params\['b'\] of shape \(2,\), which is no matrix"
    with pytest.raises(ValueError, match=message):
        norms.product(name).norm(WORKED)
    with pytest.raises(ValueError, match=message):
        norms.product({"x": name}, param_labels="x").norm(WORKED)


def test_a_tree_of_norms_has_to_fit():
    with pytest.raises(ValueError, match="product: norm must be a prefix of params"):
        norms.product({"w": "l2"}).norm(WORKED)
    with pytest.raises(ValueError, match="product: param_labels must be a prefix of params"):
        norms.product({"x": "l2"}, param_labels={"w": "x"}).norm(WORKED)
    with pytest.raises(ValueError, match="product: param_labels must be one of 'x', got 'y'"):
        norms.product({"x": "l2"}, param_labels={"w": "x", "b": "y"}).norm(WORKED)
    with pytest.raises(ValueError, match="product: norm must map labels to norms, got 'l2'"):
        norms.product("l2", param_labels="x")


@pytest.mark.parametrize(("name", "value"), [("orthogonalizer", "qr"), ("ns_steps", 0)])
def test_spectral_with_rejects_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"spectral_with: {name} must "):
        norms.spectral_with(**({"orthogonalizer": "ns5"} | {name: value}))
