"""Objects that set a rate by listening, where a function of the count is expected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from gradax import _validate, optimizers, schedules
from gradax.schedules._stateful import require_state


class HalvedState(NamedTuple):
    rate: jax.Array


class HalveOnRise:
    """A stateful schedule as ours are written: halves the rate at every negative value."""

    def init(self):
        return HalvedState(jnp.array(1.0))

    def update(self, state, *, value, **extra_args):
        del extra_args
        return HalvedState(jnp.where(value < 0, state.rate / 2, state.rate))

    def __call__(self, state, **extra_args):
        del extra_args
        return require_state("halve_on_rise", state, HalvedState).rate


CONTROLLER = schedules.absa_controller(4)
SAMPLER = schedules.Sampler(lambda key: key, lambda state: (0, state))
BANDIT = schedules.Bandit(lambda key: key, lambda state: 0.1, lambda state, cost: state)


def test_optax_takes_it_through_inject_hyperparams():
    tx, w = optax.inject_hyperparams(optax.sgd)(HalveOnRise()), jnp.ones(2)
    state, rates = tx.init(w), []
    for value in (1.0, -1.0, 1.0):
        updates, state = tx.update(w, state, w, value=value)
        rates.append(-float(updates[0]))
    assert rates == [1.0, 1.0, 0.5]  # what is told at a step acts at the next


def test_it_refuses_the_count():
    tx, w = optax.sgd(HalveOnRise()), jnp.ones(2)
    says = "halve_on_rise is a stateful schedule; pass it through optax.inject_hyperparams"
    with pytest.raises(TypeError, match=says):
        tx.update(w, tx.init(w))


def test_bandit_hyperparam_refuses_the_count():
    tx, w = optax.sgd(schedules.bandit_hyperparam(schedules.tsallis_inf([0.1, 0.2]))), jnp.ones(2)
    with pytest.raises(TypeError, match="is a stateful schedule; pass it through"):
        tx.update(w, tx.init(w))


@pytest.mark.parametrize("make", [optimizers.diffgrad, schedules.cap_by_stability])
@pytest.mark.parametrize("wrong", [CONTROLLER, SAMPLER, BANDIT, None, "0.1", (0.1,)])
def test_our_optimizers_refuse_what_is_no_rate(make, wrong):
    says = f"{make.__name__}: learning_rate must be a number, an array or a function of the count"
    with pytest.raises(ValueError, match=says):
        make(wrong)


def test_our_optimizers_refuse_a_stateful_schedule_at_once():
    says = "diffgrad: learning_rate must not be a stateful schedule, got HalveOnRise; pass it"
    with pytest.raises(ValueError, match=says):
        optimizers.diffgrad(HalveOnRise())
    tx = optax.inject_hyperparams(optimizers.diffgrad)(HalveOnRise())
    assert tx.init(jnp.ones(2)).hyperparams["learning_rate"] == 1.0


def test_numbers_arrays_and_functions_are_rates():
    jax.eval_shape(lambda rate: _validate.learning_rate("who", rate), 0.1)
    for rate in (0, 0.1, jnp.array(0.1), optax.constant_schedule(0.1), lambda count: 0.1):
        _validate.learning_rate("who", rate)
