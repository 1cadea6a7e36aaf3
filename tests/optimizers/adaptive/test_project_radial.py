"""project_radial: what it removes, when it does, and what it leaves alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def _rng(seed=1):
    return np.random.default_rng(seed)


def _array(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _orthogonal_to(w, g, axis):
    """The part of ``g`` that is orthogonal to ``w``, summed over all axes but one."""
    others = tuple(k for k in range(w.ndim) if k != axis % w.ndim)
    return g - w * jnp.sum(w * g, others, keepdims=True) / jnp.sum(w * w, others, keepdims=True)


def _step(tx, g, w):
    return tx.update(g, tx.init(w), w)[0]


@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 0), ((4, 3), -1), ((2, 3, 2, 5), -1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_makes_every_row_orthogonal_where_the_gradient_is(shape, axis, seed):
    rng = _rng(seed)
    w, inner = _array(rng, *shape), optax.trace(0.9)
    g = _orthogonal_to(w, _array(rng, *shape), axis)
    tx = optimizers.project_radial(inner, channel_axis=axis)
    # A momentum that is not orthogonal to the weight, unlike the gradient.
    state = tx.init(w)._replace(inner_state=inner.update(_array(rng, *shape), inner.init(w))[1])
    q, state = tx.update(g, state, w)
    others = tuple(k for k in range(len(shape)) if k != axis % len(shape))
    norms = lambda x: np.sqrt(np.sum(np.square(x), others))
    along = np.sum(np.asarray(q) * np.asarray(w), others) / (norms(q) * norms(w))
    np.testing.assert_allclose(along, 0.0, atol=1e-6)
    # So the squared norm grows by the squared step and nothing else.
    grown = norms(np.asarray(w - 0.1 * q)) ** 2
    np.testing.assert_allclose(grown, norms(w) ** 2 + 0.01 * norms(q) ** 2, rtol=1e-5)
    # The momentum itself still has its radial part.
    momentum = state.inner_state.trace
    assert np.abs(np.sum(np.asarray(momentum * w), others)).min() > 1e-3


def test_sees_a_leaf_that_is_invariant_only_as_a_whole():
    w, g = jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([[1.0, 2.0], [-1.0, -2.0]])
    assert jnp.vdot(w, g) == 0
    q = _step(optimizers.project_radial(optax.scale_by_sign()), g, w)
    u = jnp.sign(g)
    expected = u - w * jnp.vdot(w, u) / jnp.vdot(w, w)
    chex.assert_trees_all_close(q, expected, atol=1e-6)


def test_decides_once_for_the_whole_leaf():
    w, g = jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([[0.0, 1.0], [1.0, 1.0]])
    # The first column alone would pass, the second has a cosine of one.
    u = _step(optimizers.project_radial(optax.scale_by_sign()), g, w)
    chex.assert_trees_all_close(u, jnp.sign(g))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_threshold_it_is_the_inner_transformation_with_decay(seed):
    rng = _rng(seed)
    w, g = _array(rng, 3, 4), _array(rng, 3, 4)
    tx = optimizers.project_radial(optax.scale_by_adam(), delta=0.0, weight_decay=0.3)
    reference = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.3))
    chex.assert_trees_all_close(_step(tx, g, w), _step(reference, g, w), rtol=1e-6)


@pytest.mark.parametrize("delta", [10.0, float("inf")])
def test_a_large_threshold_always_projects_and_scales_the_decay(delta):
    rng = _rng()
    w, g = _array(rng, 3, 4), _array(rng, 3, 4)
    tx = optimizers.project_radial(
        optax.identity(), delta=delta, weight_decay=0.3, wd_ratio=0.5, wd_scale=2.0
    )
    expected = _orthogonal_to(w, g, -1) + 0.3 * 2.0 * 0.5 * w
    chex.assert_trees_all_close(_step(tx, g, w), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 0)])
def test_leaves_of_low_rank_or_without_elements_are_never_projected(shape):
    w = g = jnp.ones(shape)
    tx = optimizers.project_radial(optax.identity(), delta=float("inf"), weight_decay=0.5)
    chex.assert_trees_all_close(_step(tx, g, w), g + 0.5 * w)


def test_a_zero_gradient_counts_as_orthogonal():
    w, momentum = jnp.array([[3.0], [4.0]]), jnp.array([[1.0], [0.0]])
    inner = optax.stateless(lambda updates, params: momentum)
    q = _step(optimizers.project_radial(inner), jnp.zeros_like(w), w)
    chex.assert_trees_all_close(q, _orthogonal_to(w, momentum, -1), atol=1e-6)


def test_decides_alike_in_bfloat16_and_keeps_it():
    rng = _rng()
    w = _array(rng, 8, 4)
    g = _orthogonal_to(w, _array(rng, 8, 4), -1)
    tx = optimizers.project_radial(optax.identity())
    low = _step(tx, g.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), _step(tx, g, w), atol=5e-2)


def test_complex_weights_count_as_pairs_of_real_ones():
    w, g = jnp.array([[3.0 + 4.0j], [1.0j]]), jnp.array([[4.0 - 3.0j], [2.0 + 0.0j]])
    as_reals = lambda x: jnp.concatenate([x.real, x.imag])
    tx = optimizers.project_radial(optax.identity(), weight_decay=0.1, delta=5.0)
    q = _step(tx, g, w)
    assert q.dtype == jnp.complex64
    chex.assert_trees_all_close(as_reals(q), _step(tx, as_reals(g), as_reals(w)), atol=1e-6)


def test_around_adam_a_step_keeps_one_array_more_than_adam():
    w = jnp.ones((256, 512))
    tx = optimizers.project_radial(optax.scale_by_adam())

    def step(w, state, g):
        updates, state = tx.update(g, state, w)
        return optax.apply_updates(w, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(w, tx.init(w), w).compile()
    entry = compiled.as_text().partition("ENTRY")[2].splitlines()
    made = [line for line in entry if " = f32[256,512]" in line and " parameter(" not in line]
    # Both moments, the weights, and the direction, which is both summed up and used.
    assert len(made) == 4
    assert not [line for line in made if " copy(" in line]


def test_hands_extra_arguments_on():
    def update(updates, state, params=None, *, value, **extra):
        del params, extra
        return jax.tree.map(lambda u: u * value, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = optimizers.project_radial(inner, delta=0.0)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=3.0)
    chex.assert_trees_all_close(updates, 3 * jnp.ones(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delta", -0.1),
        ("wd_ratio", 1.5),
        ("weight_decay", -1.0),
        ("wd_scale", -1.0),
        ("eps", 0.0),
        ("channel_axis", 0.5),
        ("channel_axis", True),
    ],
)
def test_rejects_bad_constants(name, value):
    with pytest.raises(ValueError, match=f"project_radial: {name} must .*got {value}"):
        optimizers.project_radial(optax.identity(), **{name: value})


def test_names_the_leaf_without_such_an_axis():
    tx = optimizers.project_radial(optax.identity(), channel_axis=2)
    tx.init({"bias": jnp.ones(3), "kernel": jnp.ones((1, 2, 3))})
    with pytest.raises(ValueError, match=r"channel_axis must lie in \[-2, 2\).*params\['dense'\]"):
        tx.init({"dense": jnp.ones((2, 3))})


def test_needs_params():
    tx = optimizers.project_radial(optax.identity())
    with pytest.raises(ValueError, match="project_radial needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
