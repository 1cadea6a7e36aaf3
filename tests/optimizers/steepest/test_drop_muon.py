"""Drop-Muon: Muon when nothing is dropped, exact descent, no work for layers that rest."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

LABELS = [0, 1, 2]


def _layers(seed):
    draw = np.random.default_rng(seed).normal
    leaf = lambda *shape: jnp.asarray(draw(size=shape), jnp.float32)
    return [{"kernel": leaf(4, 6), "bias": leaf(6)}, {"kernel": leaf(6, 3)}, {"kernel": leaf(3, 3)}]


def _run(tx, steps=3):
    params, update = _layers(0), jax.jit(tx.update)
    state, found = tx.init(params), []
    for seed in range(1, steps + 1):
        updates, state = update(_layers(seed), state, params)
        found.append(updates)
    return found


@pytest.mark.parametrize("nesterov", [False, True])
def test_is_muon_when_nothing_is_dropped(nesterov):
    options = {"nesterov": nesterov, "weight_decay": 0.3, "adam_learning_rate": 0.01}
    rate = optax.linear_schedule(0.1, 0.0, 5)
    ours = optimizers.drop_muon(rate, LABELS, "all", momentum=0.8, **options)
    muon = optimizers.muon(rate, beta=0.8, eps=1e-7, **options)
    for u, v in zip(_run(ours), _run(muon), strict=True):
        # Muon passes its eps to Adam.
        chex.assert_trees_all_close(u, v, rtol=1e-4, atol=1e-6)


def _certain(rows):
    table = jnp.asarray(rows, jnp.float32)
    return {"probs": lambda count: table[count % len(table)], "law": "independent"}


def test_layers_that_rest_cost_no_orthogonalization():
    rows, calls = [(1, 1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 0)], []

    def counted(batch):
        jax.debug.callback(calls.append, jnp.array(len(batch)))
        return batch

    tx = optimizers.drop_muon(0.1, LABELS, orthogonalizer=counted, **_certain(rows))
    params, update = _layers(0), jax.jit(tx.update)
    state, found = tx.init(params), []
    for _ in rows:
        _, state = update(params, state, params)
        jax.effects_barrier()
        found.append(len(calls))
        calls.clear()
    assert found == [3, 1, 2, 0]


def test_no_product_of_matrices_stands_outside_of_a_branch():
    tx = optimizers.drop_muon(0.1, LABELS)
    params = _layers(0)
    program = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    names = [equation.primitive.name for equation in program.eqns]
    assert names.count("cond") == 3
    assert "dot_general" not in names
    assert "dot_general" in str(program)


def test_resting_layers_do_not_decay_and_schedules_count_every_step():
    rate = lambda count: 0.1 * 2.0**count
    tx = optimizers.drop_muon(
        rate, LABELS, weight_decay=0.5, adam_weight_decay=0.5, **_certain([(0, 1, 1), (1, 0, 1)])
    )
    first, second = _run(tx, 2)
    chex.assert_trees_all_equal(first[0], jax.tree.map(jnp.zeros_like, first[0]))
    chex.assert_trees_all_equal(second[1], jax.tree.map(jnp.zeros_like, second[1]))
    # The second step is the first one of layer 0, at the second step's rate.
    once = optimizers.muon(0.2, beta=0.9, eps=1e-7, nesterov=False, weight_decay=0.5)
    params, grads = _layers(0), _layers(2)
    expected, _ = once.update(grads, once.init(params), params)
    np.testing.assert_allclose(second[0]["kernel"], expected[0]["kernel"], rtol=1e-4, atol=1e-6)


def test_the_sharp_step_lowers_a_quadratic_by_its_dual_norm():
    target, start = (np.random.default_rng(seed).normal(size=(4, 3)) for seed in (1, 2))
    smoothness = 3  # min(m, n): of half the squared Frobenius norm, in the spectral norm
    with jax.enable_x64(True):
        tx = optimizers.drop_muon(
            1 / smoothness, 0, "all", step="sharp", momentum=0.0, orthogonalizer="svd"
        )
        x, g = jnp.asarray(start), jnp.asarray(start - target)
        updates, _ = tx.update(g, tx.init(x), x)
        f = lambda x: 0.5 * np.sum((np.asarray(x) - target) ** 2)
        nuclear = np.linalg.svd(g, compute_uv=False).sum()
        np.testing.assert_allclose(f(x) - f(x + updates), nuclear**2 / (2 * smoothness), rtol=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sharp_steps_descend_as_the_smoothness_of_layers_promises(seed):
    # f = sum of a_i / 2 |X_i - T_i|^2 has smoothness L_i = a_i min(m, n) in the spectral norm.
    weights, shapes = (0.5, 1.0, 3.0), ((4, 3), (2, 5), (3, 3))
    rng = np.random.default_rng(seed)
    x = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    smoothness = np.array([a * min(shape) for a, shape in zip(weights, shapes, strict=True)])
    f = lambda x: sum(0.5 * a * jnp.sum(leaf**2) for a, leaf in zip(weights, x, strict=True))
    tx = optimizers.drop_muon(
        1.0, LABELS, key=seed, step="sharp", momentum=0.0, orthogonalizer="svd"
    )
    grads = jax.grad(f)(x)
    updates, state = tx.update(grads, tx.init(x), x)
    after = [leaf + u / L for leaf, u, L in zip(x, updates, smoothness, strict=True)]
    dual = np.array([np.linalg.svd(g, compute_uv=False).sum() for g in grads])
    promised = np.sum(np.where(state[0].active, dual**2 / (2 * smoothness), 0.0))
    assert f(after) <= f(x) - promised + 1e-4


@pytest.mark.parametrize(
    ("step", "scale", "factor"), [("lmo", "spectral", 2.0), ("sharp", "none", 3)]
)
def test_the_factor_follows_the_form(step, scale, factor):
    # Nuclear norm 3, fan-out over fan-in 4.
    g = jnp.zeros((1, 4)).at[0, 0].set(3.0)
    run = lambda **options: (lambda tx: tx.update(g, tx.init(g), g)[0])(
        optimizers.drop_muon(
            1.0, 0, "all", step=step, momentum=0.0, orthogonalizer="svd", **options
        )
    )
    np.testing.assert_allclose(run(), run(scale=scale))
    np.testing.assert_allclose(run(), -factor * g / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", -0.1, r"learning_rate must lie in \[0, inf\), got -0.1"),
        ("momentum", 1.0, r"momentum must lie in \[0, 1\), got 1.0"),
        ("adam_eps", -1.0, r"adam_eps must lie in \[0, inf\), got -1.0"),
        ("step", "lm", "step must be one of 'lmo', 'sharp', got 'lm'"),
        ("probs", "late", "probs must be one of 'uniform', 'all', 'linear', got 'late'"),
        ("param_labels", [0, 2], r"number the layers 0 to ... without a gap, got \[0, 2\]"),
        ("param_labels", lambda params: params, r"probs must be numbers where param_labels is a"),
    ],
)
def test_rejects_bad_arguments(name, value, message):
    arguments = {"learning_rate": 0.1, "param_labels": LABELS, name: value}
    with pytest.raises(ValueError, match=f"drop_muon: .*{message}"):
        optimizers.drop_muon(**arguments)
