"""gradax.make_batch_step: one compilation for every batch size, the numbers of a fixed one."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import _extras, schedules

CAPACITY, SIZE = 12, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(CAPACITY, SIZE, 3)).astype(np.float32)
BATCHES = {"x": X, "y": np.tanh(X @ np.array([1.0, -2.0, 0.5], np.float32)) + 0.3}
PARAMS = {"w": jnp.array([0.3, -0.2, 0.1]), "b": jnp.float32(0.05)}


def loss_fn(params, batch):
    residual = jnp.tanh(batch["x"] @ params["w"]) + params["b"] - batch["y"]
    return jnp.mean(residual**2)


def loss_with_aux(params, batch):
    residual = jnp.tanh(batch["x"] @ params["w"]) + params["b"] - batch["y"]
    return jnp.mean(residual**2), {"bias": jnp.mean(residual), "above": jnp.sum(residual > 0)}


def joined(number, batches=BATCHES):
    """The first micro-batches as one batch."""
    return jax.tree.map(lambda x: x[:number].reshape(-1, *x.shape[2:]), batches)


def per_example_grads(params, number, loss=loss_fn, batches=BATCHES):
    of_one = lambda params, x: loss(params, jax.tree.map(lambda leaf: leaf[None], x))
    return jax.vmap(jax.grad(of_one), (None, 0))(params, joined(number, batches))


def asking(name, empty=()):
    """A transformation that asks for an extra, and keeps what it got."""

    def update(updates, state, params=None, **extras):
        del state
        got = _extras.require("asking", name, extras.get(name))
        return updates, got(params) if callable(got) else got

    return optax.GradientTransformationExtraArgs(lambda params: empty, update)


def test_ten_batch_sizes_one_trace_and_the_numbers_of_a_fixed_step():
    traces = []

    def counted(params, batch):
        traces.append(None)
        return loss_with_aux(params, batch)

    tx = optax.adam(0.1)
    step, fixed = gradax.make_batch_step(counted, tx), gradax.make_step(loss_with_aux, tx)
    params, state = PARAMS, tx.init(PARAMS)
    step(params, state, BATCHES, 1)
    first = len(traces)
    for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 12):
        expected, _, told = (
            fixed(params, state, joined(number)) if number in (1, 5, 12) else [0] * 3
        )
        params, state, metrics = step(params, state, BATCHES, number)
        assert metrics["batch_size"] == number * SIZE
        if told:
            chex.assert_trees_all_close(params, expected, rtol=1e-5)
            chex.assert_trees_all_close(metrics["loss"], told["loss"], rtol=1e-5)
            np.testing.assert_allclose(metrics["aux"]["bias"], told["aux"]["bias"], rtol=1e-4)
            mean_count = np.float32(told["aux"]["above"]) / number
            np.testing.assert_allclose(metrics["aux"]["above"], mean_count, rtol=1e-5)
    assert len(traces) == first


@pytest.mark.parametrize(("asked", "used"), [(0, 1), (-3, 1), (99, CAPACITY)])
def test_a_number_of_micro_batches_is_cut_to_what_is_there(asked, used):
    tx = optax.sgd(0.1)
    step = gradax.make_batch_step(loss_fn, tx)
    got, _, metrics = step(PARAMS, tx.init(PARAMS), BATCHES, asked)
    expected, _, _ = step(PARAMS, tx.init(PARAMS), BATCHES, used)
    chex.assert_trees_all_equal(got, expected)
    assert metrics["batch_size"] == used * SIZE


def test_accumulates_half_precision_in_single():
    # Ones, and one element that is lost as soon as it is added to them in bfloat16.
    gradient = np.ones((64, 1), np.float32)
    gradient[:32] += 2.0**-7
    step = gradax.make_batch_step(lambda w, g: jnp.mean(g.astype(w.dtype) * w), asking("grad"))
    w, state, _ = step(jnp.zeros([], jnp.bfloat16), (), gradient, 64)
    assert w.dtype == state.dtype == jnp.bfloat16
    assert float(state) in (1.0, 1.0 + 2.0**-7)
    wide = gradax.make_batch_step(
        lambda w, g: jnp.mean(g.astype(w.dtype) * w), asking("grad"), statistics="micro_batches"
    )(jnp.zeros([], jnp.bfloat16), (), gradient, 64)[2]["statistics"]
    np.testing.assert_allclose(wide.mean, 1 + 2.0**-8, rtol=1e-6)


# Extras ------------------------------------------------------------------------------------


def test_the_loss_can_be_differentiated_both_ways_as_a_line_search_does():
    tx = optax.lbfgs()
    got, _, _ = gradax.make_batch_step(loss_fn, tx)(PARAMS, tx.init(PARAMS), BATCHES, 5)
    expected, _, _ = gradax.make_step(loss_fn, tx)(PARAMS, tx.init(PARAMS), joined(5))
    chex.assert_trees_all_close(got, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["value", "grad", "value_fn", "grad_fn", "half_grads", "bias"])
def test_extras_are_those_of_the_batch_in_use(name):
    number = 3
    halves = [{k: v[:number, at] for k, v in BATCHES.items()} for at in (np.s_[:2], np.s_[2:])]
    grad = lambda batch: jax.grad(loss_fn)(PARAMS, batch)
    expected = {
        "value": loss_fn(PARAMS, joined(number)),
        "grad": grad(joined(number)),
        "half_grads": tuple(grad(joined(number, half)) for half in halves),
        "bias": loss_with_aux(PARAMS, joined(number))[1]["bias"],
    }
    expected |= {f"{name}_fn": expected[name] for name in ("value", "grad")}
    step = gradax.make_batch_step(loss_with_aux, asking(name))
    _, state, _ = step(PARAMS, (), BATCHES, number)
    chex.assert_trees_all_close(state, expected[name], rtol=1e-4)


def test_hessian_vector_products_go_through_the_loop():
    def update(updates, state, params=None, *, grad_fn, **extras):
        del state, extras
        return updates, jax.jvp(grad_fn, (params,), (updates,))[1]

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    _, state, _ = gradax.make_batch_step(loss_fn, tx)(PARAMS, (), BATCHES, 5)
    grad_fn = lambda params: jax.grad(loss_fn)(params, joined(5))
    expected = jax.jvp(grad_fn, (PARAMS,), (grad_fn(PARAMS),))[1]
    chex.assert_trees_all_close(state, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["per_example_grads", "residual"])
def test_names_an_extra_whose_shape_would_change(name):
    loss = lambda params, batch: (loss_fn(params, batch), {"residual": batch["y"]})
    with pytest.raises(gradax.MissingExtraError, match=f"asking needs {name}="):
        gradax.make_batch_step(loss, asking(name))(PARAMS, (), BATCHES, 1)


# Statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "chunk"), [(1, None), (5, 2), (5, 4)])
def test_statistics_per_example_are_those_of_all_examples(number, chunk):
    tx = optax.sgd(0.1)
    step = gradax.make_batch_step(loss_with_aux, tx, statistics="per_example", chunk=chunk)
    params, _, metrics = step(PARAMS, tx.init(PARAMS), BATCHES, number)
    expected = schedules.gradient_stats(per_example_grads(PARAMS, number))
    chex.assert_trees_all_close(metrics["statistics"], expected, rtol=1e-4)
    plain, _, told = gradax.make_batch_step(loss_with_aux, tx)(
        PARAMS, tx.init(PARAMS), BATCHES, number
    )
    chex.assert_trees_all_close(params, plain, rtol=1e-5)
    chex.assert_trees_all_close(metrics["aux"], told["aux"], rtol=1e-5)


def test_statistics_of_complex_parameters():
    def loss(w, batch):
        return jnp.mean(jnp.abs(batch["x"] @ w - batch["y"]) ** 2)

    w, tx = jnp.array([0.3 + 1j, -0.2, 0.1 - 2j], jnp.complex64), optax.sgd(0.1)
    step = gradax.make_batch_step(loss, tx, statistics="per_example")
    _, _, metrics = step(w, tx.init(w), BATCHES, 3)
    expected = schedules.gradient_stats(per_example_grads(w, 3, loss))
    chex.assert_trees_all_close(metrics["statistics"], expected, rtol=1e-4)


def test_statistics_of_micro_batches_are_those_of_as_many_workers():
    tx = optax.sgd(0.1)
    step = gradax.make_batch_step(loss_fn, tx, statistics="micro_batches")
    _, _, metrics = step(PARAMS, tx.init(PARAMS), BATCHES, 5)
    means = jax.vmap(jax.grad(loss_fn), (None, 0))(PARAMS, {k: v[:5] for k, v in BATCHES.items()})
    of_worker = lambda mean: schedules.variance_from_worker_means(mean, SIZE, "workers")
    expected = jax.vmap(of_worker, axis_name="workers")(means)
    first = jax.tree.map(lambda leaf: leaf[0], expected)
    chex.assert_trees_all_close(metrics["statistics"], first, rtol=1e-4)
    # One mean has no variance: two micro-batches are used at least.
    assert step(PARAMS, tx.init(PARAMS), BATCHES, 1)[2]["batch_size"] == 2 * SIZE


# Controllers -------------------------------------------------------------------------------


def test_the_controller_grows_the_batch_in_one_compilation_and_then_stops_testing():
    traces = []

    def counted(params, batch):
        traces.append(None)
        return loss_fn(params, batch)

    tx = optax.sgd(0.3)
    controller = schedules.adaptive_batch_size(
        eta=0.3, initial_batch_size=4, max_batch_size=48, multiple_of=4, max_growth=2.0
    )
    step = gradax.make_batch_step(counted, tx, controller=controller)
    params, opt_state, state = PARAMS, tx.init(PARAMS), controller.init()
    sizes, counts, statistics = [], [], []
    for _ in range(8):
        before, old = state, params
        params, opt_state, state, metrics = step(params, opt_state, state, BATCHES)
        assert metrics["batch_size"] == before.batch_size
        if before.batch_size == 16:
            stats = schedules.gradient_stats(per_example_grads(old, 4))
            chex.assert_trees_all_close(state, controller.update(before, stats), rtol=1e-3)
        sizes.append(int(metrics["batch_size"]))
        counts.append(len(traces))
        statistics.append(float(state.statistic))
    assert sizes[:5] == [4, 8, 16, 32, 48]
    assert counts[0] == counts[-1]
    assert not state.due
    assert statistics[3] == statistics[-1], "the largest batch is not tested any more"


class Doubling(NamedTuple):
    batch_size: jax.Array
    noise: jax.Array


def test_a_controller_of_ones_own():
    controller = schedules.Controller(
        lambda: Doubling(jnp.int32(3), jnp.float32(0)),
        lambda state, stats: Doubling(
            2 * state.batch_size, schedules.norm_test(stats, 1.0).astype(jnp.float32)
        ),
    )
    tx = optax.sgd(0.1)
    step = gradax.make_batch_step(
        loss_fn, tx, controller=controller, statistics="micro_batches", donate=True
    )
    params, opt_state = jax.tree.map(jnp.array, (PARAMS, tx.init(PARAMS)))
    state, given, sizes = controller.init(), params, []
    for _ in range(3):
        params, opt_state, state, metrics = step(params, opt_state, state, BATCHES)
        sizes.append(int(metrics["batch_size"]))
    # 3, 6 and 12 examples, rounded up to micro-batches of 4, two of them at least.
    assert sizes == [8, 8, 12]
    assert state.noise > 0
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


class EveryOther(NamedTuple):
    batch_size: jax.Array
    due: jax.Array
    noise: jax.Array


def test_statistics_that_are_not_due_are_not_computed():
    def update(state, stats):
        noise = jnp.sum(stats.sum_sq_diff["w"]) + stats.inner_product_variance
        return EveryOther(state.batch_size, ~state.due, noise)

    start = EveryOther(jnp.int32(12), jnp.array(True), jnp.float32(0))
    tx = optax.sgd(0.1)
    step = gradax.make_batch_step(
        loss_fn, tx, controller=schedules.Controller(lambda: start, update)
    )
    carry, noises = (PARAMS, tx.init(PARAMS), start), []
    for _ in range(2):
        *carry, metrics = step(*carry, BATCHES)
        noises.append(float(carry[2].noise))
    assert noises[0] > 0
    assert noises[1] == 0
    expected, plain = PARAMS, gradax.make_batch_step(loss_fn, tx)
    for _ in range(2):
        expected, _, told = plain(expected, tx.init(PARAMS), BATCHES, 3)
    chex.assert_trees_all_close(carry[0], expected, rtol=1e-5)
    chex.assert_trees_all_close(metrics, told, rtol=1e-5)


def test_on_a_mesh_the_numbers_are_the_same():
    mesh = jax.make_mesh((4,), ("data",))
    controller = schedules.adaptive_batch_size(
        "augmented", theta=0.3, nu=0.3, initial_batch_size=8, max_batch_size=48, multiple_of=4
    )
    tx = optax.adam(0.1)
    runs = []
    for options in ({"chunk": SIZE}, {"mesh": mesh}):
        step = gradax.make_batch_step(loss_fn, tx, controller=controller, **options)
        carry = (PARAMS, tx.init(PARAMS), controller.init())
        for _ in range(3):
            *carry, metrics = step(*carry, BATCHES)
        runs.append((carry, metrics))
    assert carry[0]["w"].sharding.device_set == set(mesh.devices.flat)
    assert runs[0][1]["batch_size"] > 8
    chex.assert_trees_all_close(runs[1], runs[0], rtol=1e-4)


# What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss_fn": 1.0}, TypeError, "make_batch_step: loss_fn must be callable, got 1.0"),
        ({"tx": optax.sgd}, TypeError, "tx must be an optax.GradientTransformation"),
        ({"statistics": "all"}, ValueError, "statistics must be one of None, 'per_example'"),
        ({"chunk": 0}, ValueError, "chunk must be an integer >= 1, got 0"),
        ({"controller": 3}, TypeError, "controller must be a Controller, got 3"),
        (
            {"controller": schedules.absa_controller(max_ratio=4)},
            ValueError,
            r"controller.update must take \(state, stats\), got \(state, eigenvalue, epoch\)",
        ),
    ],
    ids=["loss", "tx", "statistics", "chunk", "controller", "observation"],
)
def test_refuses_what_cannot_work(options, error, message):
    with pytest.raises(error, match=message):
        gradax.make_batch_step(**{"loss_fn": loss_fn, "tx": optax.sgd(0.1)} | options)


@pytest.mark.parametrize(
    "batches",
    [
        {"x": X, "y": BATCHES["y"][:2]},
        {"x": X[0, :, 0], "y": BATCHES["y"][0]},
        {"x": X[:, :0], "y": BATCHES["y"][:, :0]},
    ],
    ids=["lengths", "no micro-batches", "no examples"],
)
def test_refuses_batches_without_common_axes(batches):
    controller = schedules.adaptive_batch_size(initial_batch_size=4, max_batch_size=8)
    free = gradax.make_batch_step(loss_fn, optax.sgd(0.1))
    controlled = gradax.make_batch_step(loss_fn, optax.sgd(0.1), controller=controller)
    for call in (
        lambda: free(PARAMS, (), batches, 1),
        lambda: controlled(PARAMS, (), controller.init(), batches),
    ):
        with pytest.raises(ValueError, match=r"leading axes \[micro-batches, examples\]"):
            call()


def test_refuses_a_chunk_that_does_not_divide():
    step = gradax.make_batch_step(loss_fn, optax.sgd(0.1), chunk=3)
    with pytest.raises(ValueError, match="chunk must divide the 4 examples, got 3"):
        step(PARAMS, (), BATCHES, 1)


def test_refuses_statistics_of_a_single_micro_batch():
    step = gradax.make_batch_step(loss_fn, optax.sgd(0.1), statistics="micro_batches")
    with pytest.raises(ValueError, match="statistics='micro_batches' need two micro-batches"):
        step(PARAMS, (), {name: x[:1] for name, x in BATCHES.items()}, 1)
