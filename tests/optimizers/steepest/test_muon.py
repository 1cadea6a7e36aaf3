"""Muon: worked facts, agreement with optax's, stacks, shares of devices, layouts, bad input."""

import contextlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from optax.contrib import MuonDimensionNumbers

from gradax import optimizers


def _tree(seed, shapes, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


SHAPES = {"wide": (4, 6), "tall": (6, 4), "square": (5, 5), "again": (4, 6), "bias": (6,)}
MATRICES = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}


def _steps(tx, shapes, seeds=(1, 2, 3)):
    """Updates for a few random gradients."""
    params = _tree(0, shapes)
    update, state, found = jax.jit(tx.update), tx.init(params), []
    for seed in seeds:
        updates, state = update(_tree(seed, shapes), state, params)
        found.append(updates)
    return found


def _scaled(**options):
    return optimizers.scale_by_orthogonalized_momentum(**options)


@pytest.mark.parametrize(
    ("scale", "factor"),
    [
        ("spectral", lambda i, o: np.sqrt(max(1, o / i))),
        ("rms", lambda i, o: 0.2 * np.sqrt(max(i, o))),
        ("mup", lambda i, o: np.sqrt(o / i)),
        ("none", lambda i, o: 1.0),
        (lambda i, o: i + 10 * o, lambda i, o: i + 10 * o),
    ],
)
def test_all_singular_values_are_the_factor(scale, factor):
    for updates in _steps(_scaled(orthogonalizer="svd", scale=scale), MATRICES):
        for name, update in updates.items():
            values = np.linalg.svd(update, compute_uv=False)
            np.testing.assert_allclose(values, factor(*SHAPES[name]), rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_exact_step_is_steepest_for_the_spectral_norm(nesterov):
    grads = [_tree(seed, MATRICES) for seed in (1, 2)]
    tx = _scaled(beta=0.8, nesterov=nesterov, orthogonalizer="svd", scale="none")
    state = tx.init(grads[0])
    momentum = jax.tree.map(jnp.zeros_like, grads[0])
    for g in grads:
        updates, state = tx.update(g, state)
        momentum = jax.tree.map(lambda m, x: 0.8 * m + 0.2 * x, momentum, g)
        mixed = jax.tree.map(lambda m, x: 0.8 * m + 0.2 * x, momentum, g)
        for name, u in (mixed if nesterov else momentum).items():
            nuclear = np.linalg.svd(u, compute_uv=False).sum()
            np.testing.assert_allclose(jnp.vdot(u, updates[name]), nuclear, rtol=1e-5)


def test_reference_momentum_mixes_gradients_otherwise_than_the_corrected_one():
    # Weights of the first and second gradient, from the function that is orthogonalized.
    def weights(bias_correction):
        seen = []
        look = lambda x: seen.append(x) or x
        tx = _scaled(bias_correction=bias_correction, orthogonalizer=look, scale="none")
        first, second = jnp.diag(jnp.array([1.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0]))
        _, state = tx.update(first, tx.init(first))
        tx.update(second, state)
        return np.diag(seen[1][0])

    np.testing.assert_allclose(weights(False), [0.0451, 0.0975], atol=1e-4)
    np.testing.assert_allclose(weights(True), [0.3164, 0.8459], atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False, "weight_decay": 0.1},
        {"ns_coeffs": "dion", "preconditioning": "aol", "consistent_rms": 0.2},
        {"preconditioning": "schatten", "adaptive": True},
        {"preconditioning": "spectral", "adam_learning_rate": 0.5, "adam_weight_decay": 0.3},
    ],
)
def test_agrees_with_optax(options):
    ours = optimizers.muon(0.02, bias_correction=True, **options)
    theirs = optax.contrib.muon(0.02, **options)
    for u, v in zip(_steps(ours, SHAPES), _steps(theirs, SHAPES), strict=True):
        # Iterations in float32 differ by what the compiler fuses.
        chex.assert_trees_all_close(u, v, atol=5e-6)


def test_is_spectral_steepest_descent_without_memory():
    g = _tree(1, {"w": (3, 5)})
    tx = _scaled(beta=0.0, nesterov=False, orthogonalizer="svd", scale="none")
    u, _, vh = np.linalg.svd(g["w"], full_matrices=False)
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0]["w"], u @ vh, atol=1e-5)


def test_decays_by_the_rate_and_not_by_the_factor():
    g, w = _tree(1, {"w": (2, 8)}), _tree(2, {"w": (2, 8)})
    step = lambda **options: (lambda tx: tx.update(g, tx.init(w), w)[0]["w"])(
        optimizers.muon(0.1, **options)
    )
    np.testing.assert_allclose(step(weight_decay=0.5), step() - 0.1 * 0.5 * w["w"], atol=1e-6)


@pytest.mark.parametrize("orthogonalizer", ["ns5", "polar_express", "svd", lambda x: x / 2])
def test_stacked_leaves_give_the_same(orthogonalizer):
    shapes = {**MATRICES, "none": (0, 4), "row": (1, 6)}
    alone = _steps(_scaled(orthogonalizer=orthogonalizer), shapes)
    stacked = _steps(_scaled(orthogonalizer=orthogonalizer, stack_leaves=True), shapes)
    chex.assert_trees_all_close(alone, stacked, atol=2e-5)


def test_stacking_calls_once_per_shape_and_dtype():
    calls = []
    tx = _scaled(orthogonalizer=lambda x: calls.append(x.shape) or x, stack_leaves=True)
    grads = {**_tree(1, MATRICES), "low": jnp.ones((4, 6), jnp.bfloat16)}
    tx.update(grads, tx.init(grads))
    assert sorted(calls) == [(1, 4, 6), (1, 5, 5), (3, 4, 6)]


@pytest.mark.parametrize("place", ["vmap", "pmap", "shard_map"])
def test_devices_share_the_work(place):
    shapes = {f"w{k}": (4, 6) for k in range(6)} | {"tall": (6, 4), "square": (3, 3)}
    grads, calls = _tree(1, shapes), []

    def counted(batch):
        calls.append(batch.shape[0])
        return batch / (1e-6 + jnp.linalg.norm(batch, axis=(-2, -1), keepdims=True))

    alone, shared = (_scaled(orthogonalizer=counted, axis_name=name) for name in (None, "devices"))
    expected, _ = alone.update(grads, alone.init(grads))
    calls.clear()
    one = lambda grads: shared.update(grads, shared.init(grads))[0]
    copies = jax.tree.map(lambda x: jnp.stack([x] * 4), grads)
    if place == "vmap":
        found = jax.vmap(one, axis_name="devices")(copies)
    elif place == "pmap":
        found = jax.pmap(one, axis_name="devices")(copies)
    else:
        mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec
        body = lambda copies: jax.tree.map(
            lambda x: x[None], one(jax.tree.map(lambda x: x[0], copies))
        )
        found = jax.jit(
            jax.shard_map(body, mesh=mesh, in_specs=spec("devices"), out_specs=spec("devices"))
        )(copies)
    for device in range(4):
        own = {name: stack[device] for name, stack in found.items()}
        chex.assert_trees_all_close(own, expected, atol=1e-6)
    assert sorted(calls) == [1, 2]  # a quarter of one square, of seven others


def _on_a_mesh(tree, spec, kind):
    """A tree whose matrices are laid out by ``spec``, with the mesh and its context."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    lay = lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.ndim > 1 else jax.P()))
    context = jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext()
    return mesh, jax.tree.map(lay, tree), context


#: Seven matrices once turned alike, a stack of three among them, and five square ones.
PLACED = {
    **{f"w{k}": (8, 12) for k in range(3)},
    "tall": (12, 8),
    "layers": (3, 8, 12),
    "square": (5, 4, 4),
    "bias": (5,),
}
MATRICES_PLACED = {name: MuonDimensionNumbers(-2, -1) for name in PLACED if name != "bias"}
PLACED_AXES = MATRICES_PLACED | {"bias": None}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", [jax.P(), jax.P(None, "data")], ids=["replicated", "split"])
def test_devices_of_a_mesh_share_the_work_under_jit(spec, kind):
    grads = _tree(1, PLACED)
    alone = _scaled(dimension_numbers=PLACED_AXES, orthogonalizer="polar_express")
    expected, _ = alone.update(grads, alone.init(grads))
    mesh, (placed, state), context = _on_a_mesh((grads, alone.init(grads)), spec, kind)
    tx = _scaled(
        dimension_numbers=PLACED_AXES,
        orthogonalizer="polar_express",
        stack_sharding=NamedSharding(mesh, jax.P("data")),
    )
    with context:
        step = jax.jit(tx.update).lower(placed, state).compile()
        updates, after = step(placed, state)
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, old.ndim)
        chex.assert_trees_all_close(jax.device_get(updates), expected, atol=2e-5)
        if kind == AxisType.Explicit:
            types = lambda tree: [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)]
            assert types(updates) == types(placed)
    program = step.as_text()
    # Each device multiplies two of the seven, and two of the five.
    products = re.findall(r"= \w+\[([\d,]+)\]\S* dot\(", program)
    shapes = {tuple(map(int, shape.split(","))) for shape in products}
    assert shapes == {(2, 8, 8), (2, 8, 12), (2, 4, 4)}
    # After the iterations one gather for each shape; before them at most an exchange
    # for each leaf; none inside, where every device works on rows of its own.
    collectives = re.findall(r" ((?:all|collective|reduce)-[a-z-]+)\(", program)
    exchanges = collectives.count("all-to-all") + collectives.count("all-gather") - 2
    assert 0 <= exchanges <= len(MATRICES_PLACED)
    assert set(collectives) <= {"all-to-all", "all-gather"}
    if kind == AxisType.Auto:
        assert collectives.count("all-gather") == 2
    elif not spec:
        assert exchanges == 0


def test_matrices_split_over_explicit_axes_need_no_argument():
    grads = _tree(1, {"w": (8, 12), "v": (12, 4)})
    tx = _scaled()
    expected, _ = tx.update(grads, tx.init(grads))
    _, placed, context = _on_a_mesh(grads, jax.P("data"), AxisType.Explicit)
    with context:
        updates, _ = jax.jit(tx.update)(placed, jax.jit(tx.init)(placed))
        chex.assert_trees_all_close(jax.device_get(updates), expected, atol=2e-5)
        assert all(jax.typeof(u).sharding.spec == jax.P("data", None) for u in updates.values())


def test_leaves_are_stacked_where_the_platform_favours_it(monkeypatch):
    calls = []
    tx = _scaled(orthogonalizer=lambda x: calls.append(x.shape) or x)
    grads = _tree(1, MATRICES)
    for platform, shapes in (
        ("cpu", [(1, 4, 6)] * 3 + [(1, 5, 5)]),
        ("gpu", [(1, 5, 5), (3, 4, 6)]),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        tx.update(grads, tx.init(grads))
        assert sorted(calls) == shapes
        calls.clear()


@pytest.mark.parametrize(("stack_leaves", "adaptive"), [(False, True), (True, False)])
def test_scanned_layers_are_matrices_of_their_own(stack_leaves, adaptive):
    grads = {"scan": {"kernel": _tree(1, {"w": (3, 4, 6)})["w"]}, "head": jnp.ones((2, 3))}
    tx = optimizers.muon(1.0, stack_leaves=stack_leaves, adaptive=adaptive)
    updates, _ = tx.update(grads, tx.init(grads), grads)
    one = optimizers.muon(1.0, adaptive=adaptive)
    for layer in range(3):
        g = grads["scan"]["kernel"][layer]
        expected, _ = one.update(g, one.init(g), g)
        np.testing.assert_allclose(updates["scan"]["kernel"][layer], expected, atol=1e-5)


def test_narrow_products_are_accumulated_in_float32():
    g = jnp.ones((4, 6))
    tx = _scaled(ns_dtype=jnp.bfloat16)
    program = str(jax.make_jaxpr(tx.update)(g, tx.init(g)))
    products = re.findall(r":(\w+)\[[\d,]+\] = dot_general\[.*?\] (\w+) (\w+)", program, re.DOTALL)
    assert products
    assert {kind for kind, *_ in products} == {"f32"}
    types = dict(re.findall(r"\b(\w+):(\w+)\[", program))
    assert {types[name] for _, *names in products for name in names} == {"bf16"}


def test_an_unbound_axis_is_named():
    tx, g = _scaled(axis_name="devices"), jnp.eye(2)
    with pytest.raises(ValueError, match="axis_name 'devices' is not bound"):
        tx.update(g, tx.init(g))


def test_axes_can_be_chosen_and_the_rest_are_stacks():
    kernel, dense = _tree(1, {"k": (2, 3, 4, 5), "d": (3, 4)}).values()
    dims = {
        "conv": MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
        "heads": MuonDimensionNumbers(reduction_axis=-1, output_axis=-3),
        "dense": MuonDimensionNumbers(1, 0),
        "other": None,
    }
    grads = {"conv": kernel, "heads": kernel, "dense": dense, "other": dense}
    tx = _scaled(orthogonalizer="svd", dimension_numbers=dims)
    updates, state = tx.update(grads, tx.init(grads))
    exact = lambda x: optimizers.orthogonalize(x, "svd")
    conv = exact(kernel.reshape(24, 5)).reshape(kernel.shape)
    np.testing.assert_allclose(updates["conv"], conv, atol=1e-5)
    for i, j in np.ndindex(2, 4):  # fan-in 5, fan-out 3
        np.testing.assert_allclose(updates["heads"][i, :, j], exact(kernel[i, :, j]), atol=1e-5)
    np.testing.assert_allclose(updates["dense"], exact(dense), atol=1e-5)
    np.testing.assert_array_equal(updates["other"], dense)
    assert state.mu["other"] == optax.MaskedNode()


def test_one_specification_or_a_prefix_serves_many_leaves():
    grads = {"block": _tree(1, {"a": (3, 6), "b": (6, 2)}), "head": jnp.ones((2, 2))}
    dims = {"block": MuonDimensionNumbers(1, 0), "head": None}
    single = _scaled(dimension_numbers=MuonDimensionNumbers(1, 0))
    everywhere, _ = single.update(grads, single.init(grads))
    prefix = _scaled(dimension_numbers=dims)
    some, _ = prefix.update(grads, prefix.init(grads))
    chex.assert_trees_all_close(some["block"], everywhere["block"])
    np.testing.assert_array_equal(some["head"], grads["head"])


def test_muon_leaves_other_leaves_to_adamw():
    dims = {"wide": MuonDimensionNumbers(), "bias": None, "embedding": None}
    shapes = {"wide": (4, 6), "bias": (6,), "embedding": (5, 3)}
    tx = optimizers.muon(
        0.1, muon_weight_dimension_numbers=dims, adam_learning_rate=0.01, adam_weight_decay=0.2
    )
    adam = optax.adamw(0.01, weight_decay=0.2, nesterov=True)
    matrix = optax.chain(_scaled(eps=1e-8), optax.scale(-0.1))
    for ours, theirs, muon in zip(
        *(_steps(t, shapes) for t in (tx, adam)), _steps(matrix, {"wide": (4, 6)}), strict=True
    ):
        for name in ("bias", "embedding"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
        np.testing.assert_allclose(ours["wide"], muon["wide"], rtol=1e-5)


def test_consistent_rms_gives_all_shapes_the_same_root_mean_square():
    tx = optimizers.muon(1.0, consistent_rms=0.3, orthogonalizer="svd")
    updates = _steps(tx, MATRICES)[0]
    for name in MATRICES:
        np.testing.assert_allclose(np.sqrt(np.mean(updates[name] ** 2)), 0.3, rtol=1e-4)


def test_the_rms_factor_carries_adamw_rates_over():
    rms, spelled = (
        _steps(optimizers.muon(0.1, **options), SHAPES)
        for options in ({"scale": "rms"}, {"consistent_rms": 0.2})
    )
    chex.assert_trees_all_close(rms, spelled)


@pytest.mark.parametrize("params", [{}, {"w": jnp.zeros((0, 4)), "v": jnp.zeros((4, 0))}])
def test_nothing_to_do(params):
    tx = optimizers.muon(0.1, stack_leaves=True)
    updates, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_equal(updates, params)


def test_zero_gradients_give_zero_updates():
    g = jnp.zeros((3, 4))
    for orthogonalizer in ("ns5", "polar_express", "svd"):
        tx = _scaled(orthogonalizer=orthogonalizer)
        np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], 0.0)


def test_momentum_in_another_dtype():
    g = jnp.ones((2, 3), jnp.bfloat16)
    tx = _scaled(mu_dtype=jnp.float32)
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == jnp.bfloat16
    assert state.mu.dtype == jnp.float32


def test_optax_name_means_the_same():
    assert optimizers.scale_by_muon is optimizers.scale_by_orthogonalized_momentum


@pytest.mark.parametrize(
    ("dims", "params", "message"),
    [
        (None, {"b": jnp.ones(3)}, r"how the leaf params\['b'\] of shape \(3,\) is a matrix"),
        (None, {"k": jnp.ones((2, 2, 2))}, r"how the leaf params\['k'\]"),
        ({"a": None}, {"b": jnp.eye(2)}, r"how the leaf params\['b'\]"),
        ({"b": "in, out"}, {"b": jnp.eye(2)}, r"must consist of MuonDimensionNumbers and None"),
        (
            MuonDimensionNumbers(0, 2),
            {"b": jnp.eye(2)},
            r"must name different axes of the leaf params\['b'\] of shape \(2, 2\)",
        ),
        (MuonDimensionNumbers((0, 1), -1), {"b": jnp.eye(2)}, "must name different axes"),
        (MuonDimensionNumbers(), {"b": jnp.ones(3)}, "must name different axes"),
    ],
)
def test_names_leaves_that_are_no_matrices(dims, params, message):
    with pytest.raises(ValueError, match=f"scale_by_orthogonalized_momentum: .*{message}"):
        _scaled(dimension_numbers=dims).init(params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 1.0),
        ("eps", 0.0),
        ("ns_steps", 0),
        ("orthogonalizer", "qr"),
        ("scale", "large"),
        ("preconditioning", "none"),
        ("ns_coeffs", (1.0, 2.0)),
    ],
)
def test_rejects_bad_arguments(name, value):
    for factory in (_scaled, lambda **options: optimizers.muon(0.1, **options)):
        with pytest.raises(ValueError, match=f": {name} must "):
            factory(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -0.1),
        ("adam_learning_rate", -0.1),
        ("weight_decay", -0.1),
        ("adam_b1", 1.0),
        ("adam_b2", 1.0),
        ("adam_eps_root", -1e-8),
        ("adam_weight_decay", -0.1),
        ("consistent_rms", 0.0),
    ],
)
def test_muon_rejects_bad_numbers(name, value):
    with pytest.raises(ValueError, match=rf"muon: {name} must lie in .*got {value}"):
        optimizers.muon(**{"learning_rate": 0.1, name: value})


@pytest.mark.parametrize(
    "spec", [jax.P(), jax.P(None), jax.P(None, "data"), jax.P("data", "model")]
)
def test_refuses_shardings_that_do_not_split_the_stack(spec):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    for wrong in (NamedSharding(mesh, spec), spec, "data"):
        with pytest.raises(
            ValueError, match=r"stack_sharding must be a jax.sharding.NamedSharding"
        ):
            _scaled(stack_sharding=wrong)
    right = NamedSharding(mesh, jax.P(("data", "model")))
    with pytest.raises(ValueError, match="stack_sharding must be left out with axis_name"):
        optimizers.muon(0.1, stack_sharding=right, axis_name="data")


def test_muon_refuses_two_factors():
    with pytest.raises(ValueError, match="muon: scale must be left out with consistent_rms"):
        optimizers.muon(0.1, scale="rms", consistent_rms=0.2)
