"""layer_dropout: the laws it draws from, rest bit for bit, gradients from a cutoff, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated, optimizers

LABELS = {"in": 0, "middle": {"a": 1, "b": 1}, "out": 2}


def _tree(seed):
    draw = np.random.default_rng(seed).normal
    leaf = lambda *shape: jnp.asarray(draw(size=shape), jnp.float32)
    return {"in": leaf(2, 3), "middle": {"a": leaf(3), "b": leaf()}, "out": leaf(3)}


def _run(tx, steps):
    """Updates, states before and after, of a few steps with random gradients."""
    params, update = _tree(0), jax.jit(tx.update)
    state, found = tx.init(params), []
    for seed in range(1, steps + 1):
        updates, after = update(_tree(seed), state, params)
        found.append((updates, state, after))
        state = after
    return found


def _table(rows):
    """A law that lets the layers of each row take part for certain."""
    table = jnp.asarray(rows, jnp.float32)
    return {"probs": lambda count: table[count % len(table)], "law": "independent"}


def test_all_layers_are_the_inner_transformation():
    inner = optax.adam(0.1)
    ours = _run(optimizers.layer_dropout(inner, LABELS, [1.0, 0.0, 0.0]), 3)
    for (u, _, after), (v, _, _) in zip(ours, _run(inner, 3), strict=True):
        assert after.active.all()
        chex.assert_trees_all_close(u, v, rtol=1e-6)


def test_a_single_layer_is_the_inner_transformation():
    inner = optax.adam(0.1)
    ours = _run(optimizers.layer_dropout(inner, 0, [1.0]), 2)
    for (u, _, _), (v, _, _) in zip(ours, _run(inner, 2), strict=True):
        chex.assert_trees_all_close(u, v, rtol=1e-6)


def test_resting_layers_keep_weights_and_state_bit_for_bit():
    uniform = optimizers.cutoff_probs("uniform", 3)
    tx = optimizers.layer_dropout(optax.adam(0.1), LABELS, uniform, key=2)
    seen = set()
    for updates, before, after in _run(tx, 12):
        by_layer = [updates["in"], updates["middle"], updates["out"]]
        seen.add(tuple(after.active.tolist()))
        for layer, active in enumerate(after.active.tolist()):
            if active:
                assert all(jnp.all(leaf != 0) for leaf in jax.tree.leaves(by_layer[layer]))
                continue
            chex.assert_trees_all_equal(
                by_layer[layer], jax.tree.map(jnp.zeros_like, by_layer[layer])
            )
            chex.assert_trees_all_equal(before.inner_states[layer], after.inner_states[layer])
    assert seen == {(False, False, True), (False, True, True), (True, True, True)}


def test_a_layer_goes_on_as_if_it_had_not_rested():
    rows = [(1, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 1)]
    ours = _run(optimizers.layer_dropout(optax.adam(0.1), LABELS, **_table(rows)), 4)
    assert [tuple(after.active.astype(int).tolist()) for *_, after in ours] == rows
    adam = optax.adam(0.1)
    state = adam.init(_tree(0)["in"])
    for step in (0, 2):  # the steps in which layer 0 takes part
        expected, state = adam.update(_tree(step + 1)["in"], state)
        chex.assert_trees_all_close(ours[step][0]["in"], expected, rtol=1e-6)


def _draws(probs, law, number=4000):
    """Which layers take part, ``[number, layers]``."""
    labels = list(range(len(probs)))
    tx = optimizers.layer_dropout(optax.identity(), labels, probs, key=3, law=law)
    params = [jnp.zeros([])] * len(probs)

    def body(state, _):
        first = optimizers.sample_cutoff(state)
        state = tx.update(params, state)[1]
        return state, (first, state.active)

    first, active = jax.jit(lambda: jax.lax.scan(body, tx.init(params), length=number)[1])()
    return np.asarray(first), np.asarray(active)


@pytest.mark.parametrize(
    "probs", [[0.25] * 4, [0.05, 0.15, 0.2, 0.6], [0.5, 0.0, 0.5]], ids=["uniform", "late", "gap"]
)
def test_cutoffs_follow_their_law(probs):
    first, active = _draws(probs, "cutoff")
    np.testing.assert_array_equal(active, np.arange(len(probs)) >= first[:, None])
    counts, expected = np.bincount(first, minlength=len(probs)), len(first) * np.array(probs)
    assert not counts[expected == 0].any()
    likely = expected > 0
    assert np.sum((counts - expected)[likely] ** 2 / expected[likely]) < 16.3  # p = 0.001
    np.testing.assert_allclose(active.mean(axis=0), np.cumsum(probs), atol=0.03)
    assert active[:, -1].all()


def test_uniform_cutoffs_train_half_of_the_layers_and_a_half_layer():
    assert abs(_draws([1 / 3] * 3, "cutoff")[1].sum(axis=1).mean() - 2) < 0.05


def test_layers_can_take_part_independently():
    probs = [0.2, 0.9, 0.5]
    first, active = _draws(probs, "independent")
    np.testing.assert_allclose(active.mean(axis=0), probs, atol=0.03)
    np.testing.assert_allclose(
        np.cov(active.T.astype(float)), np.diag([0.16, 0.09, 0.25]), atol=0.02
    )
    some = active.any(axis=1)
    np.testing.assert_array_equal(first, np.where(some, active.argmax(axis=1), 2))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("uniform", {}, [0.25] * 4),
        ("all", {}, [1, 0, 0, 0]),
        ("linear", {}, [0.4, 0.3, 0.2, 0.1]),
        ("epoch_shift", {"tau": 0.0}, [0.4551, 0.2760, 0.1674, 0.1015]),
        ("epoch_shift", {"tau": 0.5}, [0.25] * 4),
        ("epoch_shift", {"tau": 1.0}, [0.1015, 0.1674, 0.2760, 0.4551]),
        ("epoch_shift", {"tau": jnp.array(7.0)}, [0.1015, 0.1674, 0.2760, 0.4551]),
        ("epoch_shift", {"alpha": 0.0}, [0.25] * 4),
    ],
)
def test_probabilities_of_the_cutoff(kind, options, expected):
    probs = optimizers.cutoff_probs(kind, 4, **options)
    assert probs.dtype == jnp.float32
    np.testing.assert_allclose(probs, expected, atol=5e-5)


def test_a_law_can_follow_the_progress():
    law = lambda count: optimizers.cutoff_probs("epoch_shift", 2, alpha=100.0, tau=count / 4)
    tx = optimizers.layer_dropout(optax.identity(), [0, 1], law)
    params = [jnp.ones([])] * 2
    state, found = tx.init(params), []
    for _ in range(5):
        _, state = tx.update(params, state)
        found.append(int(state.active.sum()))
    assert found[:2] == [2, 2]
    assert found[3:] == [1, 1]


def test_the_cutoff_is_found_inside_of_other_states():
    params = _tree(0)
    tx = optax.chain(
        optax.clip(1.0), optimizers.layer_dropout(optax.sgd(0.1), LABELS, [1 / 3] * 3, key=5)
    )
    state = tx.init(params)
    cutoff = jax.jit(optimizers.sample_cutoff)(state)
    _, after = tx.update(params, state)
    assert cutoff.dtype == jnp.int32
    assert cutoff == jnp.argmax(after[1].active)
    with pytest.raises(ValueError, match=r"sample_cutoff: opt_state must hold one .*got 0"):
        optimizers.sample_cutoff(state[0])


def test_participants_draw_cutoffs_of_their_own():
    tx = optimizers.layer_dropout(optax.sgd(0.1), list(range(8)), [1 / 8] * 8)
    states = federated.init_participants(tx, [jnp.zeros([])] * 8, jnp.arange(6))
    assert len(set(jax.vmap(optimizers.sample_cutoff)(states).tolist())) > 1


def test_extra_arguments_like_params_are_masked_too():
    tx = optimizers.layer_dropout(
        optax.GradientTransformationExtraArgs(
            lambda params: optax.EmptyState(),
            lambda updates, state, params=None, *, grad, **_: (
                jax.tree.map(lambda u, g: u + g, updates, grad),
                state,
            ),
        ),
        LABELS,
        [1.0, 0.0, 0.0],
    )
    g = _tree(1)
    chex.assert_trees_all_close(
        tx.update(g, tx.init(g), g, grad=g)[0], jax.tree.map(lambda x: 2 * x, g)
    )


# Gradients from a cutoff -----------------------------------------------------------------


def _network():
    draw = np.random.default_rng(1).normal
    params = [
        {"w": jnp.asarray(draw(size=(4, 4))), "b": jnp.asarray(draw(size=4))} for _ in range(3)
    ]
    x = jnp.asarray(draw(size=(5, 4)))

    def loss(params):
        y = x
        for layer in params:
            y = jnp.tanh(y @ layer["w"] + layer["b"])
        return jnp.sum(y**2), y

    return params, loss


def test_gradients_from_a_cutoff_are_the_gradients_there():
    params, loss = _network()
    labels = lambda params: [{"w": k, "b": k} for k in range(len(params))]
    (value, aux), full = jax.value_and_grad(loss, has_aux=True)(params)
    run = jax.jit(
        lambda cutoff: optimizers.value_and_grad_from_cutoff(
            loss, params, cutoff, labels, has_aux=True
        )
    )
    for cutoff in (0, 1, 2, 9):
        (ours, our_aux), grads = run(cutoff)
        np.testing.assert_allclose(ours, value, rtol=1e-6)
        np.testing.assert_allclose(our_aux, aux, rtol=1e-5)
        for layer in range(3):
            kept = 1.0 if layer >= min(cutoff, 2) else 0.0
            expected = jax.tree.map(lambda g, kept=kept: kept * g, full[layer])
            chex.assert_trees_all_close(grads[layer], expected, rtol=1e-5, atol=1e-6)


def test_back_propagation_ends_at_the_cutoff():
    params, loss = _network()
    run = lambda cutoff: optimizers.value_and_grad_from_cutoff(
        loss, params, cutoff, [0, 1, 2], has_aux=True
    )
    (switch,) = [e for e in jax.make_jaxpr(run)(0).eqns if e.primitive.name == "cond"]
    products = [str(branch).count("dot_general[") for branch in switch.params["branches"]]
    # Forward 3; backward one for each weight, one for each input but the first layer's.
    assert products == [3 + 3 + 2, 3 + 2 + 1, 3 + 1]


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probs", "law", "message"),
    [
        ([0.5, -0.1, 0.6], "cutoff", r"probs must lie in \[0, 1\], got"),
        ([0.5, float("nan"), 0.5], "cutoff", r"probs must lie in \[0, 1\], got"),
        ([1.2, 0.1, 0.1], "independent", r"probs must lie in \[0, 1\], got"),
        ([0.5, 0.1, 0.1], "cutoff", r"probs must add up to 1, unless law='independent', got"),
        ([[0.5, 0.5]], "cutoff", r"probs must have one probability .*shape \(1, 2\)"),
        ([], "cutoff", r"probs must have one probability .*shape \(0,\)"),
        (lambda count: count, "cutoff", r"probs must have one probability .*shape \(\)"),
        ([0.5, 0.5], "cutoff", r"number the layers 0 to 1 without a gap, got \[0, 1, 2\]"),
        ([0.25] * 4, "cutoff", r"number the layers 0 to 3 without a gap, got \[0, 1, 2\]"),
        ([0.5, 0.5], "late", "law must be one of 'cutoff', 'independent', got 'late'"),
    ],
)
def test_rejects_laws_that_cannot_work(probs, law, message):
    with pytest.raises(ValueError, match=f"layer_dropout: .*{message}"):
        optimizers.layer_dropout(optax.sgd(0.1), LABELS, probs, law=law)


@pytest.mark.parametrize("labels", [{"a": 0, "b": 2}, {"a": 1, "b": 2}, {"a": "first"}, {}])
def test_rejects_labels_with_gaps(labels):
    params = {name: jnp.zeros(2) for name in labels} or {"a": jnp.zeros(2)}
    with pytest.raises(ValueError, match="layer_dropout: param_labels must number the layers"):
        optimizers.layer_dropout(optax.sgd(0.1), labels, [0.5, 0.5])
    by_function = optimizers.layer_dropout(optax.sgd(0.1), lambda _: labels, [0.5, 0.5])
    with pytest.raises(ValueError, match="layer_dropout: param_labels must number the layers"):
        by_function.init(params)
    with pytest.raises(ValueError, match="value_and_grad_from_cutoff: param_labels must number"):
        optimizers.value_and_grad_from_cutoff(jnp.sum, params, 0, labels)


def test_a_function_of_labels_may_meet_a_part_of_the_layers():
    tx = optax.masked(
        optimizers.layer_dropout(optax.sgd(0.1), lambda _: {"a": 0, "b": 1}, [0.0, 1.0]),
        {"a": False, "b": True},
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["b"], -0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "late"}, "kind must be one of 'uniform', 'all', 'linear', 'epoch_shift'"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"tau": 1.5}, r"tau must lie in \[0, 1\], got 1.5"),
        ({"alpha": float("inf")}, r"alpha must lie in \(-inf, inf\)"),
    ],
)
def test_rejects_bad_arguments_of_the_law(arguments, message):
    with pytest.raises(ValueError, match=f"cutoff_probs: {message}"):
        optimizers.cutoff_probs(**{"kind": "epoch_shift", "num_layers": 3, **arguments})
