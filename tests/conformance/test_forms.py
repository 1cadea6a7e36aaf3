"""Schedules, controllers, samplers and bandits of the catalogue pass what all of them must."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from gradax import testing
from gradax.schedules import Bandit, Controller, Sampler


@pytest.mark.parametrize("cell", testing.form_cells(), ids=lambda c: f"{c.entry}-{c.check}")
def test_conforms(cell):
    testing.FORM_CHECKS[cell.check](testing.made(cell.entry))


class Drawn(NamedTuple):
    key: jax.Array
    last: Any


def dice(sides=6, fresh=jax.random.key):
    """A sampler, done right if ``fresh`` is."""

    def init(key):
        return Drawn(fresh(key) if jnp.ndim(key) == 0 and not _typed(key) else key, jnp.int32(0))

    def sample(state):
        key, own = jax.random.split(state.key)
        face = jax.random.randint(own, [], 0, sides)
        return face, Drawn(key, face)

    return Sampler(init, sample)


def _typed(key):
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def growing(by=1):
    """A controller that counts its observations."""
    update = lambda state, cost: state + by + 0 * cost.astype(jnp.int32)
    return Controller(lambda: jnp.array(0, jnp.int32), update)


def greedy():
    """A bandit with one arm that keeps the last cost."""
    update = lambda state, cost: state._replace(last=cost)
    return Bandit(
        lambda key: Drawn(dice().init(key).key, jnp.float32(0)), lambda state: state.last, update
    )


@pytest.mark.parametrize("make", [dice, growing, greedy], ids=lambda make: make.__name__)
def test_passes_what_is_right(make):
    assert len(testing.check_form(make())) >= 4


def test_passes_schedules_of_optax():
    assert len(testing.check_form(optax.cosine_decay_schedule(0.1, 10))) == 5


def counting_calls():
    """A sampler that remembers outside of its state how often it was asked."""
    calls = itertools.count()
    return Sampler(dice().init, lambda state: (jnp.int32(next(calls)), state))


def changing_types():
    """A controller whose quantity begins as an integer and goes on as a float."""
    return Controller(lambda: jnp.array(0, jnp.int32), lambda state, cost: state + cost)


def asks_the_host():
    """A sampler that leaves the device, which vmap does not follow."""

    def sample(state):
        face, new = dice().sample(state)
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), face.dtype), face), new

    return Sampler(dice().init, sample)


def always_another_seed():
    """A sampler whose seed does not decide."""
    seeds = itertools.count()
    return dice(fresh=lambda key: jax.random.key(next(seeds)))


WRONG = {
    "schedule_broadcasts": lambda: lambda count: jnp.where(jnp.ndim(count) > 0, 1.0, 0.5),
    "schedule_holds_its_end": lambda: lambda count: 1.0 - 0.1 * jnp.asarray(count, jnp.float32),
    "schedule_keeps_dtypes": lambda: lambda count: jnp.ones(3) * (count + 1),
    "schedule_is_a_hyperparameter": lambda: lambda count: 1.0 / (1 + int(count)),
    "schedule_joins": lambda: lambda count: 0.1 if count.dtype == jnp.int32 else 0.2,
    "form_jit_equals_eager": changing_types,
    "form_is_pure": counting_calls,
    "form_resumes": counting_calls,
    "form_vmaps": asks_the_host,
    "form_takes_a_seed_or_a_key": always_another_seed,
}


def test_there_is_a_specimen_for_every_check():
    assert set(WRONG) == set(testing.FORM_CHECKS)


@pytest.mark.parametrize("name", WRONG)
def test_catches(name):
    with pytest.raises(Exception):  # noqa: B017, PT011 (each fails in its own way)
        testing.FORM_CHECKS[name](WRONG[name]())


def test_names_every_check_that_failed():
    with pytest.raises(testing.ConformanceError, match="schedule_holds_its_end") as caught:
        testing.check_form(WRONG["schedule_holds_its_end"]())
    assert list(caught.value.failures) == ["schedule_holds_its_end"]


def test_refuses_what_has_no_form():
    with pytest.raises(TypeError, match="need a schedule, Controller, Sampler or Bandit, got 3"):
        testing.check_form(3)
