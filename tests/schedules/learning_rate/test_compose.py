"""Schedules made of schedules, and reading the current value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import schedules

LINE = optax.linear_schedule(1.0, 0.0, 8)
COUNTS = np.arange(30)


def at(schedule, counts=COUNTS):
    return np.asarray(schedule(jnp.asarray(counts)))


def test_scaling_and_multiplying():
    np.testing.assert_allclose(at(schedules.scale_schedule(LINE, 0.3)), 0.3 * at(LINE))
    product = schedules.multiply_schedules(LINE, optax.cosine_decay_schedule(2.0, 8), LINE)
    expected = at(LINE) ** 2 * at(optax.cosine_decay_schedule(2.0, 8))
    np.testing.assert_allclose(at(product), expected, rtol=1e-6)
    np.testing.assert_array_equal(at(schedules.multiply_schedules(LINE)), at(LINE))


def test_scale_may_be_a_hyperparameter():
    value = jax.jit(lambda factor: schedules.scale_schedule(LINE, factor)(4))(3.0)
    np.testing.assert_allclose(value, 1.5)


def test_warmup_meets_the_schedule_at_its_own_start():
    warm = schedules.with_warmup(LINE, 5, init_value=0.2)
    np.testing.assert_allclose(at(warm)[5:], at(LINE)[:25], rtol=1e-6)
    np.testing.assert_allclose(at(warm)[:5], 0.2 + 0.8 * np.arange(5) / 5, rtol=1e-6)
    assert schedules.with_warmup(LINE, 0) is LINE
    np.testing.assert_allclose(
        at(schedules.with_warmup(optax.constant_schedule(0.7), 10)),
        at(optax.warmup_constant_schedule(0.0, 0.7, 10)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("decay", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize("steps", [(3, 4, 5), (0, 4, 5), (3, 0, 5), (0, 0, 1)])
def test_warmup_stable_decay_by_its_definition(decay, steps):
    warmup, stable, length = steps
    schedule = schedules.warmup_stable_decay_schedule(
        0.3, *steps, init_value=0.05, end_value=0.1, decay=decay
    )
    z = np.clip((COUNTS - warmup - stable) / length, 0, 1)
    shape = {"linear": 1 - z, "cosine": (1 + np.cos(np.pi * z)) / 2, "sqrt": 1 - np.sqrt(z)}[decay]
    expected = 0.1 + 0.2 * shape
    rise = warmup > COUNTS
    expected[rise] = 0.05 + 0.25 * COUNTS[rise] / max(warmup, 1)
    np.testing.assert_allclose(at(schedule), expected, rtol=1e-5)
    assert float(schedule(warmup)) == np.float32(0.3)
    assert float(schedule(np.iinfo(np.int32).max)) == np.float32(0.1)


def test_linear_decay_without_the_rest_is_optax_linear():
    with jax.enable_x64(True):
        ours = schedules.warmup_stable_decay_schedule(0.3, 0, 0, 7)
        np.testing.assert_allclose(at(ours), at(optax.linear_schedule(0.3, 0.0, 7)), rtol=1e-14)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.scale_schedule(LINE, 0.5),
        schedules.multiply_schedules(LINE, LINE),
        schedules.with_warmup(LINE, 3),
        schedules.warmup_stable_decay_schedule(1.0, 2, 3, 4, decay="sqrt"),
    ],
    ids=["scale", "multiply", "warmup", "wsd"],
)
def test_works_one_by_one_under_jit_under_vmap_and_in_an_optimizer(schedule):
    one_by_one = np.array([float(schedule(count)) for count in range(12)])
    for run in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        np.testing.assert_allclose(run(jnp.arange(12)), one_by_one, rtol=1e-6)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    params = jnp.ones(2)
    state = tx.init(params)
    for value in one_by_one[:4]:
        _, state = tx.update(params, state, params)
        np.testing.assert_allclose(schedules.current_learning_rate(state), value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_composition_keeps_the_dtype_of_params(dtype):
    falling = schedules.linear_decay_schedule(0.5, 6)
    made = [
        schedules.scale_schedule(falling, 0.5),
        schedules.multiply_schedules(falling, falling),
        schedules.with_warmup(falling, 3),
        *(
            schedules.warmup_stable_decay_schedule(1.0, 1, 1, 2, decay=decay)
            for decay in ("linear", "cosine", "sqrt")
        ),
        schedules.refined_schedule(0.5, [0.5, 1.0, 0.0]),
    ]
    params = jnp.ones(2, dtype)
    with jax.enable_x64(True):
        for schedule in made:
            tx = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
            updates, _ = tx.update(params, tx.init(params), params)
            assert updates.dtype == dtype


def test_epochs():
    assert schedules.epochs(3, 1000, 128) == 21
    assert schedules.epochs(3, 1000, 128, drop_last=False) == 24
    assert schedules.epochs(0.5, 1000, 100) == 5
    assert schedules.epochs(0, 10, 3) == 0
    assert schedules.epochs(2, 10, 20, drop_last=False) == 2


def test_finds_the_learning_rate_in_any_nesting():
    params = {"w": jnp.ones(2)}
    inner = optax.inject_hyperparams(optax.adam)(learning_rate=LINE, b1=0.8)
    tx = optax.chain(optax.clip(1.0), optax.apply_if_finite(inner, 3))
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params)
    np.testing.assert_allclose(schedules.current_learning_rate(state), 0.75)
    assert np.ndim(jax.jit(schedules.current_learning_rate)(state)) == 0


def test_finds_a_field_of_that_name_when_nothing_is_injected():
    state = ({"momentum": jnp.zeros(2)}, {"learning_rate": jnp.float32(0.25)})
    assert float(schedules.current_learning_rate(state)) == 0.25


def test_says_what_is_there_when_there_is_no_learning_rate():
    with pytest.raises(KeyError, match=r"no learning_rate in the state, only \['count', 'mu', 'nu"):
        schedules.current_learning_rate(optax.adam(LINE).init(jnp.ones(2)))


def test_says_where_they_are_when_there_are_several():
    part = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    with pytest.raises(KeyError, match=r"several .* 0.hyperparams.learning_rate, 1.hyperparams"):
        schedules.current_learning_rate(optax.chain(part, part).init(jnp.ones(2)))


class Stateful(optax.schedules.StatefulSchedule):
    def init(self):
        return 0.0

    def update(self, state, **extra):
        return state

    def __call__(self, state, **extra):
        return state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.scale_schedule(0.1, 2.0), "scale_schedule: schedule must be a function"),
        (lambda: schedules.scale_schedule(Stateful(), 2.0), "got a stateful schedule"),
        (lambda: schedules.multiply_schedules(), "at least one"),
        (lambda: schedules.multiply_schedules(LINE, None), "must be a function of the count"),
        (lambda: schedules.with_warmup(LINE, -1), "warmup_steps must be an integer >= 0, got -1"),
        (lambda: schedules.with_warmup(1.0, 3), "with_warmup: schedule must be a function"),
        (lambda: schedules.warmup_stable_decay_schedule(1.0, 1, 1, 0), "decay_steps must be"),
        (lambda: schedules.warmup_stable_decay_schedule(1.0, 1, -1, 1), "stable_steps must be"),
        (lambda: schedules.warmup_stable_decay_schedule(-1.0, 1, 1, 1), "peak_value must lie in"),
        (
            lambda: schedules.warmup_stable_decay_schedule(1.0, 1, 1, 1, decay="step"),
            "decay must be one of 'linear', 'cosine', 'sqrt', got 'step'",
        ),
        (lambda: schedules.epochs(-1, 10, 2), r"n must lie in \[0, inf\), got -1"),
        (lambda: schedules.epochs("3", 10, 2), "n must be a number"),
        (lambda: schedules.epochs(1, 10, 20), "batch_size must not exceed dataset_size = 10"),
        (lambda: schedules.epochs(1, 10, 0), "batch_size must be an integer >= 1"),
    ],
)
def test_rejects_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
