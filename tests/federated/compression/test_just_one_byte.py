"""Just One Byte: machines stay equal bit by bit, and so does who replays the bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated
from tests.federated.placements import PLACEMENTS

KEY, RATE, STEPS = 5, 0.05, 6
START = np.linspace(-1, 2, 37, dtype=np.float32)


def loss(params, target):
    errors = jax.tree.map(lambda x, y: jnp.mean((x - y) ** 2), params, target)
    return sum(jax.tree.leaves(errors))


def targets(machines):
    return np.random.default_rng(0).normal(size=(machines, 37)).astype(np.float32)


def train(tx, start, target, steps=STEPS, state=None, **extras):
    """One machine: its parameters, state and bytes after some steps."""
    value_fn = functools.partial(loss, target=target)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(None, state, params, value_fn=value_fn, **extras)
        return (optax.apply_updates(params, updates), state), state.last_codes

    first = start, tx.init(start) if state is None else state
    (params, state), codes = jax.lax.scan(step, first, length=steps)
    return params, state, codes


def on_all(tx, start, target, **options):
    """All machines, their bytes in the form of a log."""
    mapped = {name: x for name, x in options.items() if name != "steps"}
    fixed = {name: x for name, x in options.items() if name == "steps"}
    run = lambda target, mapped: train(tx, start, target, **fixed, **mapped)
    params, state, codes = jax.jit(jax.vmap(run, axis_name="nodes"))(target, mapped)
    return params, state, jnp.swapaxes(codes, 0, 1)


def assert_equal(actual, expected):
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, right)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@functools.cache
def four_machines():
    """Four machines with a tree of parameters that keep a log."""
    tx = federated.just_one_byte(RATE, "nodes", key=KEY, log_length=20)
    tree = {"b": START[0], "w": START.reshape(1, 37)}
    goals = {"b": targets(4)[:, 0], "w": targets(4)[:, None]}
    return tx, tree, goals, *on_all(tx, tree, goals)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_machines_and_replay_are_equal_bit_by_bit_in_every_placement(placement):
    tx = federated.just_one_byte(RATE, placement.axis_name, num_samples=2, key=KEY)
    run = lambda target: train(tx, START, target)[::2]
    params, codes = placement.run(run, targets(placement.size))
    log = np.swapaxes(np.asarray(codes), 0, 1)
    replayed = federated.replay_bytes(START, log, KEY, RATE)
    assert (np.asarray(replayed) != START).all()
    assert (np.asarray(params) == replayed).all()
    assert len({tuple(codes) for codes in log.reshape(STEPS, -1).T}) == 2 * placement.size


def test_simulate_keeps_a_log_and_machines_join_and_leave():
    """Machine 3 joins after four rounds, machine 0 leaves after eight."""
    tx = federated.just_one_byte(RATE, "nodes", num_samples=2, key=KEY, log_length=12)
    rng = np.random.default_rng(1)
    examples = rng.normal(size=(32, 37)).astype(np.float32)
    data = federated.data.padded(examples, np.arange(32).reshape(4, 8))
    nobody, present = 4, [[0, 1, 2]] * 4 + [[0, 1, 2, 3]] * 4 + [[1, 2, 3]] * 4
    ids = np.array([row + [nobody] * (4 - len(row)) for row in present], np.int32)
    arguments = tx, lambda x, batch: jnp.mean((x - batch) ** 2), START, data
    settings = {"cohort": federated.scheduled_cohort(4, ids), "batch_size": 4, "segment": 4}
    first = federated.simulate(*arguments, rounds=4, num_steps=2, **settings)
    np.testing.assert_array_equal(first.params[3], START)  # not there yet
    caught_up = federated.replay_bytes(START, federated.byte_log(first.state), KEY, RATE)
    assert (first.params[:3] == caught_up).all()
    joined = first.state._replace(params=first.params.at[3].set(caught_up))
    last = federated.simulate(*arguments, rounds=12, num_steps=2, state=joined, **settings)
    log = federated.byte_log(last.state)
    assert log.shape == (12, 4, 2)
    absent = (log == 128).all(axis=2)
    np.testing.assert_array_equal(absent.sum(axis=1), [1] * 4 + [0] * 4 + [1] * 4)
    replayed = federated.replay_bytes(START, log, KEY, RATE)
    assert (last.params[1:] == replayed).all()
    # Who left stands where it was, and could come back.
    back = federated.replay_bytes(last.params[0], log[8:], KEY, RATE, start=8)
    np.testing.assert_array_equal(back, replayed)
    assert last.history.column("bytes_up") == [4 * 2] * 4 + [3 * 2] * 4


def test_who_joins_late_goes_on_with_the_others():
    tx, start, goals, params, state, log = four_machines()
    late = federated.replay_bytes(start, log, KEY, RATE)
    assert_equal(row(params, 0), late)
    # Machine 3 falls out; one with a fresh state takes its place.
    replace = lambda old, new: old.at[3].set(new)
    everybody = jax.tree.map(replace, (params, state), (late, tx.init(start)))
    go_on = jax.vmap(lambda p, s, t: train(tx, p, t, 3, s)[:2], axis_name="nodes")
    after, states = jax.jit(go_on)(*everybody, goals)
    for machine in range(1, 4):
        assert_equal(row(after, machine), row(after, 0))
    assert states.count.tolist() == [STEPS + 3] * 4


def test_who_is_not_active_sends_nothing_and_follows():
    tx = federated.just_one_byte(RATE, "nodes", key=KEY)
    active = jnp.array([[True, False, True], [False] * 3])
    run = lambda active: on_all(tx, START, targets(3), active=active, steps=1)
    params, state, log = jax.vmap(run)(active)
    assert (log[0, :, 1] == 128).all()
    assert (log[0, :, ::2] != 128).all()
    assert state.wire_bytes.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert (params[0] == params[0, 0]).all()
    # The mean is one over two machines, not three.
    half = federated.replay_bytes(START, log[0], KEY, RATE / 2, reduce="sum")
    np.testing.assert_allclose(params[0, 0], half, rtol=1e-6)
    np.testing.assert_array_equal(params[1], [START] * 3)  # nobody sent anything


def test_reduce_divides():
    log = np.full((1, 4, 1), 64, np.uint8)  # a slope of one each
    zero = jnp.zeros(8)
    moved = lambda reduce: federated.replay_bytes(zero, log, KEY, RATE, reduce=reduce)
    np.testing.assert_allclose(4 * moved("mean"), moved("sum"), rtol=1e-5)
    np.testing.assert_allclose(2 * moved("sqrt"), moved("sum"), rtol=1e-5)


def one_machine(tx, x, value_fn):
    """The update of a machine that is alone."""
    update = lambda x: tx.update(None, tx.init(x), x, value_fn=value_fn)
    return row(jax.jit(jax.vmap(update, axis_name="nodes"))(x[None]), 0)


def test_alone_and_unquantized_it_is_the_two_point_estimate():
    with jax.enable_x64(True):
        Q, x = np.diag([1.0, 3.0, 0.5]), np.array([1.0, -2.0, 0.7])
        tx = federated.just_one_byte(RATE, "nodes", quantize=False, eps=0.5, key=KEY)
        update, state = one_machine(tx, jnp.asarray(x), lambda x: x @ Q @ x / 2)
        # On a quadratic the central difference is exact for every eps.
        slope = state.last_codes[0]
        z = -update / (RATE * slope)
        np.testing.assert_allclose(slope, (Q @ x) @ z, rtol=1e-9)
        assert state.wire_bytes == 8


def test_slope_times_direction_is_the_gradient_on_average():
    Q, x = jnp.diag(jnp.array([1.0, 3.0, 0.5])), jnp.array([1.0, -2.0, 0.7])
    tx = federated.just_one_byte(1.0, "nodes", quantize=False, eps=0.1, num_samples=20_000, key=KEY)
    update, _ = one_machine(tx, x, lambda x: x @ Q @ x / 2)
    # Each entry has a standard deviation of at most |g| sqrt(2 / 20,000).
    np.testing.assert_allclose(-update, Q @ x, atol=0.25)


def test_samples_take_batches_or_numbers():
    x = jnp.array([1.0, 2.0])
    tx = federated.just_one_byte(RATE, "nodes", num_samples=3, quantize=False, key=KEY)
    at = jnp.array([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])

    def sent(value_fn, **extras):
        update = lambda x: tx.update(None, tx.init(x), x, value_fn=value_fn, **extras)[1]
        return jax.jit(jax.vmap(update, axis_name="nodes"))(x[None]).last_codes

    numbered = sent(lambda x, s: jnp.sum((x - at[s]) ** 2))
    batches = sent(lambda x, *_, batch=None: jnp.sum((x - batch) ** 2), batches=at)
    np.testing.assert_array_equal(numbered, batches)
    same = sent(lambda x: jnp.sum((x - at[0]) ** 2))
    assert same[0, 0] == numbered[0, 0]
    assert (same[0, 1:] != numbered[0, 1:]).all()


def test_directions_of_samples_machines_and_steps_all_differ():
    # One log for each step, machine and sample, in which only that one speaks.
    logs = 64 * np.eye(12, dtype=np.uint8).reshape(12, 2, 3, 2)
    replay = lambda log: federated.replay_bytes(jnp.zeros(4), log, KEY, 1.0, reduce="sum")
    directions = jax.vmap(replay)(logs)
    assert len(np.unique(np.asarray(directions), axis=0)) == 12


def test_a_schedule_is_read_at_the_step():
    schedule = optax.piecewise_constant_schedule(0.1, {2: 0.0})
    log = np.full((4, 1, 1), 70, np.uint8)
    two = federated.replay_bytes(START, log[:2], KEY, schedule)
    np.testing.assert_array_equal(two, federated.replay_bytes(START, log, KEY, schedule))
    assert (two != START).all()


def test_a_loss_that_is_not_finite_sends_zero():
    tx = federated.just_one_byte(RATE, "nodes", key=KEY)
    update, state = one_machine(tx, jnp.ones(2), lambda x: jnp.nan * jnp.sum(x))
    assert state.last_codes.tolist() == [0]
    np.testing.assert_array_equal(update, 0)


def test_integer_leaves_stay():
    tx = federated.just_one_byte(RATE, "nodes", key=KEY)
    params = {"steps": jnp.array([7]), "w": jnp.ones((1, 2))}
    value_fn = lambda p: jnp.sum(p["w"] ** 2) * p["steps"]
    update = lambda p: tx.update(None, tx.init(p), p, value_fn=value_fn)[0]
    updates = jax.jit(jax.vmap(update, axis_name="nodes"))(params)
    assert updates["steps"].dtype == jnp.int32
    assert updates["steps"] == 0
    assert (updates["w"] != 0).all()


def test_works_in_a_training_step():
    tx = federated.just_one_byte(0.02, "nodes", key=KEY)
    step = gradax.make_step(lambda w, batch: jnp.mean((w - batch) ** 2), tx)
    batches = jnp.arange(4.0)[:, None]
    w, state = jnp.zeros((4, 1)), jax.vmap(tx.init)(jnp.zeros((4, 1)))
    body = lambda carry, _: (jax.vmap(step, axis_name="nodes")(*carry, batches)[:2], None)
    w, _ = jax.lax.scan(body, (w, state), length=200)[0]
    np.testing.assert_allclose(w, 1.5, atol=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, r"just_one_byte: eps must lie in \(0, inf\), got 0.0"),
        ({"num_samples": 0}, r"just_one_byte: num_samples must be an integer >= 1, got 0"),
        ({"num_samples": 1.5}, r"num_samples must be an integer >= 1, got 1.5"),
        ({"log_length": -1}, r"log_length must be an integer >= 0, got -1"),
        ({"reduce": "max"}, r"reduce must be one of 'mean', 'sqrt', 'sum', got 'max'"),
        ({"log_scale": 0.0}, r"log_scale must lie in \(0, inf\), got 0.0"),
        ({"learning_rate": -1.0}, r"learning_rate must lie in \[0, inf\), got -1.0"),
        ({"key": None}, r"just_one_byte: key must be a JAX key or an integer"),
        ({"axis_name": 3}, r"axis_name must be a string or a tuple of them, got 3"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.just_one_byte(**{"learning_rate": 0.1, "axis_name": "nodes"} | arguments)


def test_params_loss_and_axis_are_asked_for():
    tx, x = federated.just_one_byte(RATE, "nodes"), jnp.zeros(2)
    with pytest.raises(ValueError, match="just_one_byte needs params"):
        tx.update(None, tx.init(x), value_fn=jnp.sum)
    with pytest.raises(ValueError, match="just_one_byte needs value_fn="):
        tx.update(None, tx.init(x), x)
    with pytest.raises(ValueError, match="axis_name 'nodes' is not bound"):
        tx.update(None, tx.init(x), x, value_fn=jnp.sum)


def test_bad_logs_are_refused():
    with pytest.raises(ValueError, match=r"byte_log must have the axes .*, got \(4, 2\)"):
        federated.replay_bytes(START, np.zeros((4, 2), np.uint8), KEY, RATE)
    with pytest.raises(ValueError, match=r"start must be an integer >= 0, got -1"):
        federated.replay_bytes(START, np.zeros((4, 2, 1), np.uint8), KEY, RATE, start=-1)
    with pytest.raises(ValueError, match=r"byte_log: state must hold one .* there are 0"):
        federated.byte_log(optax.EmptyState())
    with pytest.raises(ValueError, match=r"num_steps must be at most log_length = 20, got 21"):
        federated.byte_log(four_machines()[4], 21)
