"""The Flax recipes: they train, and every transformation of the toolkit works in their steps."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradax
from examples import flax_linen, flax_nnx
from gradax.federated import data


@pytest.fixture(scope="module")
def batch():
    return {name: jnp.asarray(leaf[:16]) for name, leaf in data.load("digits").train.items()}


@pytest.mark.parametrize("recipe", [flax_nnx, flax_linen], ids=["nnx", "linen"])
def test_learns_digits(recipe, capsys):
    assert recipe.train(epochs=6) > 0.85
    assert capsys.readouterr().out.count("\n") == 6


def test_nnx_step_equals_the_step_that_make_step_makes(batch):
    model = flax_nnx.Classifier(64, 8, 10, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, tx = nnx.to_pure_dict(params), flax_nnx.make_chain(10)

    def loss_fn(params, batch):
        state = nnx.State(params)
        return flax_nnx.loss_fn(nnx.merge(graphdef, state, rest), batch)

    expected, _, metrics = gradax.make_step(loss_fn, tx)(params, tx.init(params), batch)
    value = flax_nnx.train_step(model, nnx.Optimizer(model, tx, wrt=nnx.Param), batch)
    found = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    chex.assert_trees_all_close(value, metrics["loss"], rtol=1e-6)


def test_linen_step_equals_apply_gradients_where_only_gradients_are_needed(batch):
    model = flax_linen.Classifier(8, 10)
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), batch["x"])["params"],
        tx=gradax.optimizers.diffgrad(1e-2),
    )
    grads = jax.grad(flax_linen.make_loss(model.apply))(state.params, batch)
    expected = state.apply_gradients(grads=grads)
    found, _ = flax_linen.make_train_step(state)(state, batch)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-6)
    assert found.step == expected.step == 1


def test_apply_gradients_says_what_is_missing(batch):
    model = flax_linen.Classifier(8, 10)
    params = model.init(jax.random.key(0), batch["x"])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=flax_linen.make_chain(10))
    with pytest.raises(gradax.MissingExtraError, match="sam_gradient needs grad_fn="):
        state.apply_gradients(grads=params)
