"""Refined schedules: recording, the closed form, the table as a schedule and on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import schedules

positive = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40)


def test_constant_norms_give_linear_decay():
    table = schedules.refine_schedule([3.0] * 5, smoothing=0.0)
    np.testing.assert_allclose(table, [1, 0.75, 0.5, 0.25, 0], rtol=1e-15)
    steps = schedules.refine_schedule([1.0] * 5, smoothing=0.0, distance=np.sqrt(5))
    line = schedules.linear_decay_schedule(1.0, 4)
    np.testing.assert_allclose(steps, line(jnp.arange(5)), atol=1e-7)


def test_hand_computed_tables():
    norms = [2.0, 1.0, 1.0, 2.0]
    refine = lambda **kwargs: schedules.refine_schedule(norms, smoothing=0, **kwargs)
    np.testing.assert_allclose(refine(), [0.45, 1, 0.2, 0])
    np.testing.assert_allclose(refine(normalize=False), [0.5625, 1.25, 0.25, 0])
    np.testing.assert_allclose(refine(distance=1), [0.142302, 0.316228, 0.063246, 0], atol=1e-6)
    # Weights 1/G = 1/2, 1, 1, 1/2 for both kinds of preconditioned norm.
    np.testing.assert_allclose(refine(norm="l1", normalize=False), [1.25, 1.5, 0.5, 0])
    np.testing.assert_array_equal(refine(norm="precond"), refine(norm="l1"))


@settings(deadline=None, max_examples=25)
@given(norms=positive, factor=st.floats(1e-30, 1e30), smoothing=st.floats(0, 0.99))
def test_table_is_scale_free_and_ends_in_exactly_zero(norms, factor, smoothing):
    for norm in ("l2", "l1"):
        table = schedules.refine_schedule(norms, norm=norm, smoothing=smoothing)
        scaled = np.array(norms) * factor
        again = schedules.refine_schedule(scaled, norm=norm, smoothing=smoothing)
        np.testing.assert_allclose(again, table, rtol=1e-9, atol=1e-300)
        assert table[-1] == 0.0
        assert table.max() == 1.0
        assert (table >= 0).all()
        assert table.dtype == np.float64


@settings(deadline=None, max_examples=25)
@given(norms=positive, smoothing=st.floats(0, 0.99))
def test_smoothing_is_the_running_median_of_its_definition(norms, smoothing):
    size = len(norms)
    width = 2 * (int(smoothing * size) // 2) + 1
    reflected = np.pad(np.array(norms), (0, 2 * width), mode="reflect")
    around = np.pad(reflected, width // 2, mode="edge")
    expected = [np.median(around[t : t + width]) for t in range(size)]
    np.testing.assert_array_equal(schedules.smooth_gradient_norms(norms, smoothing), expected)


def test_smoothing_keeps_constants_and_removes_spikes():
    constant = np.full(50, 1.7)
    np.testing.assert_array_equal(schedules.smooth_gradient_norms(constant, 0.2), constant)
    spiked = constant.copy()
    spiked[20:24] = 100.0
    np.testing.assert_array_equal(schedules.smooth_gradient_norms(spiked, 0.2), constant)
    np.testing.assert_array_equal(schedules.smooth_gradient_norms(spiked, 0.0), spiked)


@pytest.mark.parametrize("ord", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_records_norms_over_all_leaves_and_passes_updates_through(ord, dtype):
    grads = {"w": jnp.arange(6.0).reshape(2, 3).astype(dtype), "b": jnp.asarray(-2.0, dtype)}
    grads |= {"none": None, "empty": jnp.zeros((0, 4), dtype)}
    tx = schedules.record_gradient_norms(3, ord=ord)
    update, state = jax.jit(tx.update), tx.init(grads)
    for _ in range(2):
        updates, state = update(grads, state)
    for name in ("w", "b", "empty"):
        assert updates[name].dtype == dtype
        np.testing.assert_array_equal(updates[name], grads[name])
    expected = np.linalg.norm([0, 1, 2, 3, 4, 5, -2], ord=ord)
    np.testing.assert_allclose(state.norms, [expected, expected, 0], rtol=1e-6)
    assert state.norms.dtype == jnp.float32
    assert int(state.count) == 2


def test_sums_of_squares_do_not_stay_in_bfloat16():
    grads = jnp.ones(5000, jnp.bfloat16)
    tx = schedules.record_gradient_norms(1)
    _, state = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(state.norms, np.sqrt(5000), rtol=1e-5)


def test_ignores_updates_beyond_the_horizon():
    tx = schedules.record_gradient_norms(2)

    def step(state, size):
        return tx.update({"x": size}, state)[1], None

    sizes = jnp.arange(1.0, 7.0)
    state, _ = jax.lax.scan(step, tx.init({"x": sizes[0]}), sizes)
    np.testing.assert_array_equal(state.norms, [1.0, 2.0])
    assert int(state.count) == 6


def test_record_refine_replay():
    # Gradients twice as large in the first fifth: the second run warms up.
    tx = optax.chain(schedules.record_gradient_norms(20), optax.sgd(0.1))
    params = jnp.zeros(3)
    state = tx.init(params)
    for t in range(20):
        _, state = tx.update(jnp.ones(3) * (2.0 if t < 4 else 1.0), state, params)
    table = schedules.refine_schedule(optax.tree.get(state, "norms"), smoothing=0.0)
    assert int(np.argmax(table)) == 4
    assert 0.2 < table[0] < 0.5
    second = optax.inject_hyperparams(optax.sgd)(schedules.refined_schedule(0.5, table))
    state = second.init(params)
    for t in range(22):
        _, state = second.update(params, state)
        expected = 0.5 * table[min(t, 19)]
        np.testing.assert_allclose(schedules.current_learning_rate(state), expected, rtol=1e-6)


def test_table_schedule_broadcasts_holds_its_end_and_works_under_jit_and_vmap():
    schedule = schedules.refined_schedule(2.0, [0.5, 1.0, 0.25])
    counts = jnp.array([-1, 0, 1, 2, 3, np.iinfo(np.int32).max])
    for run in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        np.testing.assert_allclose(run(counts), [1.0, 1.0, 2.0, 0.5, 0.5, 0.5])
    joined = optax.join_schedules([optax.constant_schedule(9.0), schedule], [2])
    np.testing.assert_allclose(joined(jnp.arange(5)), [9.0, 9.0, 1.0, 2.0, 0.5])
    traced = jax.jit(lambda peak: schedules.refined_schedule(peak, [0.5, 1.0])(1))
    np.testing.assert_allclose(traced(3.0), 3.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_table_schedule_keeps_the_dtype_of_params(dtype):
    with jax.enable_x64(True):
        tx = optax.sgd(schedules.refined_schedule(0.1, np.linspace(1, 0, 5)))
        params = jnp.ones(2, dtype)
        assert tx.update(params, tx.init(params))[0].dtype == dtype


def test_saved_tables_come_back_bit_for_bit(tmp_path):
    table = schedules.refine_schedule(np.random.default_rng(1).uniform(0.5, 2, size=33))
    path = tmp_path / "run.json"
    schedules.save_schedule_table(path, [1.0])
    schedules.save_schedule_table(path, table)
    np.testing.assert_array_equal(schedules.load_schedule_table(path), table)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is not a JSON file"),
        ("[1, 2]", "does not say 'gradax refined schedule, version 1'"),
        ('{"format": "gradax refined schedule, version 1"}', "table must"),
        ('{"format": "gradax refined schedule, version 1", "table": ["a"]}', "must hold numbers"),
        ('{"format": "gradax refined schedule, version 1", "table": [NaN]}', "finite numbers"),
    ],
)
def test_refuses_files_that_hold_no_table(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        schedules.load_schedule_table(tmp_path / "x.json")


def test_refuses_to_write_a_bad_table_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "run.json"
    schedules.save_schedule_table(path, [1.0, 0.0])
    with pytest.raises(ValueError, match="finite numbers"):
        schedules.save_schedule_table(path, [1.0, float("nan")])
    np.testing.assert_array_equal(schedules.load_schedule_table(path), [1.0, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.record_gradient_norms(0), "num_steps must be an integer >= 1, got 0"),
        (lambda: schedules.record_gradient_norms(5, ord=3), "ord must be one of 1, 2, got 3"),
        (lambda: schedules.refine_schedule([1.0]), r"at least 2 norms, got shape \(1,\)"),
        (lambda: schedules.refine_schedule([[1.0, 2.0]]), r"got shape \(1, 2\)"),
        (lambda: schedules.refine_schedule([1.0, 0.0]), r"positive and finite; got 0.0 at step 1"),
        (lambda: schedules.refine_schedule([np.nan, 1.0]), "got nan at step 0"),
        (lambda: schedules.refine_schedule([1.0, 2.0, np.inf]), "got inf at step 2"),
        (lambda: schedules.refine_schedule([1.0, 2.0], smoothing=1.0), r"smoothing must lie in \["),
        (lambda: schedules.refine_schedule([1.0, 2.0], smoothing=-0.1), "smoothing must lie in"),
        (lambda: schedules.smooth_gradient_norms([1.0, 2.0], 2.0), "smoothing must lie in"),
        (
            lambda: schedules.refine_schedule([1.0, 2.0], norm="max"),
            "norm must be one of 'l2', 'l1', 'precond', got 'max'",
        ),
        (lambda: schedules.refine_schedule([1.0, 2.0], distance=0.0), "distance must lie in"),
        (
            lambda: schedules.refine_schedule([1.0, 2.0], norm="l1", distance=1.0),
            "distance needs norm='l2'",
        ),
        (lambda: schedules.refined_schedule(-1.0, [1.0]), "peak_value must lie in"),
        (lambda: schedules.refined_schedule(1.0, []), "non-empty vector"),
        (lambda: schedules.refined_schedule(1.0, [[1.0]]), r"got shape \(1, 1\)"),
        (lambda: schedules.refined_schedule(1.0, [1.0, -1.0]), "not negative"),
        (lambda: schedules.refined_schedule(1.0, "table.json"), "must hold numbers"),
    ],
)
def test_rejects_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
