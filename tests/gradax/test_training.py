"""gradax.make_step: one loop for every transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import _extras

X = jnp.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0], [2.0, 1.0]])
BATCH = {"x": X, "y": X @ jnp.array([1.0, -2.0])}


def loss_fn(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def loss_with_aux(w, batch):
    residual = batch["x"] @ w - batch["y"]
    return jnp.mean(residual**2), {"residual": residual}


def train(tx, steps, loss=loss_fn, **options):
    step, w = gradax.make_step(loss, tx, **options), jnp.zeros(2)
    state, losses = tx.init(w), []
    for _ in range(steps):
        w, state, metrics = step(w, state, BATCH)
        losses.append(float(metrics["loss"]))
    return w, losses


def asking(name, empty):
    """A transformation that asks for an extra as the toolkit's own do, and keeps what it got."""

    def update(updates, state, params=None, **extras):
        del state
        got = _extras.require("asking", name, extras.get(name))
        return jax.tree.map(jnp.zeros_like, updates), got(params) if callable(got) else got

    return optax.GradientTransformationExtraArgs(lambda params: empty, update)


def test_equals_the_loop_written_by_hand():
    tx = optax.adam(0.1)
    w, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss_fn)(w, BATCH), state, w)
        w = optax.apply_updates(w, updates)
    chex.assert_trees_all_close(train(tx, 3)[0], w, rtol=1e-5)


def test_reports_the_loss_before_the_update():
    _, losses = train(optax.sgd(0.1), 2)
    np.testing.assert_allclose(losses[0], loss_fn(jnp.zeros(2), BATCH), rtol=1e-6)
    assert losses[1] < losses[0]


def test_traces_once_and_again_only_for_another_shape():
    traces = []

    def counted(w, batch):
        traces.append(None)
        return loss_fn(w, batch)

    tx = optax.adam(0.1)
    step, w = gradax.make_step(counted, tx), jnp.zeros(2)
    w, state, _ = step(w, tx.init(w), BATCH)
    first = len(traces)
    for _ in range(3):
        w, state, _ = step(w, state, BATCH)
    assert len(traces) == first
    step(w, state, jax.tree.map(lambda leaf: leaf[:2], BATCH))
    assert len(traces) == 2 * first


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: optax.contrib.momo(0.5), id="momo"),
        pytest.param(lambda: optax.polyak_sgd(max_learning_rate=0.3), id="polyak_sgd"),
        pytest.param(
            lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), id="plateau"
        ),
        pytest.param(
            lambda: optax.contrib.sam(
                optax.sgd(0.1),
                optax.chain(optax.contrib.normalize(), optax.sgd(1e-3)),
                opaque_mode=True,
            ),
            id="sam",
        ),
        pytest.param(optax.lbfgs, id="lbfgs"),
    ],
)
def test_supplies_what_methods_of_optax_ask_for(make):
    _, losses = train(make(), 60)
    assert losses[-1] < 0.01 * losses[0]


def test_returns_what_the_loss_returns_beside_its_value():
    tx = optax.sgd(0.1)
    w = jnp.zeros(2)
    _, _, metrics = gradax.make_step(loss_with_aux, tx)(w, tx.init(w), BATCH)
    chex.assert_trees_all_close(metrics["aux"]["residual"], -BATCH["y"])
    _, _, metrics = gradax.make_step(loss_fn, tx)(w, tx.init(w), BATCH)
    assert set(metrics) == {"loss"}


def test_aux_changes_nothing_else():
    tx = optax.polyak_sgd(max_learning_rate=0.3)
    chex.assert_trees_all_close(train(tx, 3)[0], train(tx, 3, loss_with_aux)[0], rtol=1e-6)


@pytest.mark.parametrize("loss", [loss_fn, loss_with_aux], ids=["plain", "aux"])
@pytest.mark.parametrize(
    "name", ["per_example_grads", "per_example_grad_fn", "per_example_values", "value", "grad"]
)
def test_extras_agree_with_the_loss(name, loss):
    w = jnp.array([0.5, 0.5])
    residual = BATCH["x"] @ w - BATCH["y"]
    single_grads = 2 * residual[:, None] * BATCH["x"]
    expected = {
        "per_example_grads": single_grads,
        "per_example_grad_fn": single_grads,
        "per_example_values": residual**2,
        "value": jnp.mean(residual**2),
        "grad": jnp.mean(single_grads, axis=0),
    }[name]
    tx = optax.chain(optax.scale(2.0), asking(name, jnp.zeros_like(expected)))
    _, state, _ = gradax.make_step(loss, tx)(w, tx.init(w), BATCH)
    chex.assert_trees_all_close(state[1], expected, rtol=1e-5)


def test_computes_per_example_gradients_only_on_demand():
    def count_traces(tx):
        traces = []

        def counted(w, batch):
            traces.append(None)
            return loss_fn(w, batch)

        train(tx, 1, counted)
        return len(traces)

    asked = asking("per_example_grads", jnp.zeros((4, 2)))
    assert count_traces(asked) == count_traces(optax.sgd(0.1)) + 1


def test_half_grads_are_those_of_the_two_halves():
    step = gradax.make_step(loss_fn, asking("half_grads", (jnp.zeros(2), jnp.zeros(2))))
    _, state, _ = step(jnp.zeros(2), (jnp.zeros(2), jnp.zeros(2)), BATCH)
    for half, rows in zip(state, (slice(0, 2), slice(2, 4)), strict=True):
        expected = jax.grad(loss_fn)(jnp.zeros(2), {name: x[rows] for name, x in BATCH.items()})
        chex.assert_trees_all_close(half, expected, rtol=1e-6)


def test_one_example_cannot_be_halved():
    step = gradax.make_step(loss_fn, asking("half_grads", ()))
    with pytest.raises(ValueError, match=r"batch must have two examples to be halved, got 1"):
        step(jnp.zeros(2), (), {name: x[:1] for name, x in BATCH.items()})


def test_takes_other_extras_from_what_the_loss_returns_beside_its_value():
    step = gradax.make_step(loss_with_aux, asking("residual", jnp.zeros(4)))
    _, state, metrics = step(jnp.zeros(2), jnp.zeros(4), BATCH)
    chex.assert_trees_all_equal(state, metrics["aux"]["residual"])


def test_donates_only_when_asked():
    tx = optax.adam(0.1)
    for donate in (False, True):
        w = jnp.zeros(2)
        state = tx.init(w)
        gradax.make_step(loss_fn, tx, donate=donate)(w, state, BATCH)
        assert all(leaf.is_deleted() == donate for leaf in jax.tree.leaves((w, state)))


def test_donation_changes_no_number():
    tx = optax.adam(0.1)
    chex.assert_trees_all_equal(train(tx, 3, donate=True), train(tx, 3))


def test_keeps_the_dtype_of_params():
    tx = optax.adam(0.1)
    w = jnp.zeros(2, jnp.bfloat16)
    after, _, _ = gradax.make_step(loss_fn, tx)(w, tx.init(w), BATCH)
    assert after.dtype == jnp.bfloat16


def test_names_an_extra_that_nobody_supplies():
    tx = asking("anchor", jnp.zeros(2))
    with pytest.raises(gradax.MissingExtraError, match="asking needs anchor= ") as caught:
        train(tx, 1)
    assert caught.value.extra == "anchor"
    assert isinstance(caught.value, ValueError)


def test_names_an_extra_that_is_in_no_list():
    tx = asking("temperature", jnp.zeros([]))
    with pytest.raises(ValueError, match=r"temperature= \(see the documentation"):
        train(tx, 1)


def test_lets_other_errors_through():
    def update(updates, state, params=None):
        raise TypeError("of its own")

    tx = optax.GradientTransformation(lambda params: (), update)
    with pytest.raises(TypeError, match="of its own"):
        train(tx, 1)


@pytest.mark.parametrize(
    ("loss", "tx", "message"),
    [
        (1.0, optax.sgd(0.1), "loss_fn must be callable, got 1.0"),
        (loss_fn, optax.sgd, "tx must be an optax.GradientTransformation"),
    ],
    ids=["loss", "transformation"],
)
def test_refuses_what_is_no_loss_and_no_transformation(loss, tx, message):
    with pytest.raises(TypeError, match=message):
        gradax.make_step(loss, tx)


def test_a_loss_must_be_scalar():
    with pytest.raises(TypeError, match="scalar"):
        train(optax.sgd(0.1), 1, lambda w, batch: batch["x"] @ w)


def test_params_needed_but_not_given_are_named():
    with pytest.raises(ValueError, match=r"adamp needs params; call tx.update"):
        _extras.require_params("adamp", None)
    assert _extras.require_params("adamp", 1) == 1
