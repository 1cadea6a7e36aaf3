"""AGVM: worked scales, when they change, and the ways in which halves arrive."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import gradax
from gradax import optimizers

LABELS = {"backbone": "backbone", "head": "head"}
QUIET = (jnp.array([1.0, 0.0]), jnp.array([1.0, 0.1]))
NOISY = (jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]))


def _halves(backbone, head):
    return tuple({"backbone": b, "head": h} for b, h in zip(backbone, head, strict=True))


def _tx(**options):
    return optimizers.scale_by_agvm(LABELS, "backbone", **options)


def _params(*shape):
    return {"backbone": jnp.ones(shape or (2,)), "head": jnp.ones(shape or (2,))}


def _scales(tx, *halves):
    """The scales after an update with each of the halves."""
    state, params = tx.init(_params()), _params()
    for half_grads in halves:
        updates, state = tx.update(params, state, params, half_grads=half_grads)
        chex.assert_trees_all_close(
            updates, {name: state.scales[name] * params[name] for name in params}
        )
        yield {name: float(scale) for name, scale in state.scales.items()}


@pytest.mark.parametrize(
    ("halves", "decay", "head"),
    [
        (_halves(NOISY, QUIET), 0.97, 1.0648683),
        (_halves(NOISY, QUIET), 0.0, np.sqrt(10)),
        (_halves(QUIET, NOISY), 0.0, np.sqrt(0.5)),
        (_halves(QUIET, NOISY), 0.97, 0.97 + 0.03 * np.sqrt(0.5)),
    ],
)
def test_scales_worked_out_by_hand(halves, decay, head):
    (scales,) = _scales(_tx(decay=decay), halves)
    assert scales["backbone"] == 1.0
    np.testing.assert_allclose(scales["head"], head, rtol=1e-6)


def test_a_ratio_inside_of_the_clip_in_closed_form():
    apart = lambda angle: (jnp.array([1.0, 0.0]), jnp.array([np.cos(angle), np.sin(angle)]))
    (scales,) = _scales(_tx(decay=0.5), _halves(apart(0.3), apart(0.4)))
    phi = [1 - np.cos(0.3) + 1e-6, 1 - np.cos(0.4) + 1e-6]
    np.testing.assert_allclose(scales["head"], 0.5 + 0.5 * np.sqrt(phi[0] / phi[1]), rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_anchor_keeps_its_scale_and_so_do_all_where_halves_agree(seed):
    rng = np.random.default_rng(seed)
    draw = lambda: {name: jnp.asarray(rng.normal(size=2), jnp.float32) for name in LABELS}
    random = [(draw(), draw()) for _ in range(5)]
    assert [scales["backbone"] for scales in _scales(_tx(every=1), *random)] == [1.0] * 5
    agreeing = [(half, half) for half, _ in random]
    for scales in _scales(_tx(every=1), *agreeing):
        assert scales == {"backbone": 1.0, "head": 1.0}


@pytest.mark.parametrize("factor", [1e-4, 3e5])
def test_the_size_of_a_modules_gradients_does_not_matter(factor):
    scaled = (QUIET[0] * factor, QUIET[1] * factor)
    (plain,), (other,) = (_scales(_tx(), _halves(NOISY, head)) for head in (QUIET, scaled))
    np.testing.assert_allclose(plain["head"], other["head"], rtol=1e-5)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_zero_half_counts_as_noiseless(empty):
    head = [jnp.array([3.0, 1.0])] * 2
    head[empty] = jnp.zeros(2)
    (scales,) = _scales(_tx(decay=0.0), _halves(NOISY, head))
    np.testing.assert_allclose(scales["head"], np.sqrt(10), rtol=1e-6)


def test_a_half_that_is_not_finite_leaves_the_scales():
    broken = (jnp.array([jnp.nan, 1.0]), jnp.array([1.0, 1.0]))
    for halves in (_halves(NOISY, broken), _halves(broken, NOISY)):
        (scales,) = _scales(_tx(), halves)
        assert scales == {"backbone": 1.0, "head": 1.0}


def test_halves_are_made_in_due_updates_only():
    tx, params, calls = _tx(every=3, start=2, stop=9), _params(), []

    def half_grads(params):
        jax.debug.callback(lambda: calls.append(len(heads)))
        return _halves(NOISY, QUIET)

    update, state, heads = jax.jit(tx.update, static_argnames="half_grads"), tx.init(params), []
    for _ in range(14):
        _, state = update(params, state, params, half_grads=half_grads)
        jax.effects_barrier()
        heads.append(float(state.scales["head"]))
    assert calls == [3, 6, 9]
    changed = [k for k, (a, b) in enumerate(zip([1.0, *heads], heads, strict=False)) if a != b]
    assert changed == calls


def test_make_step_supplies_halves_of_the_batch():
    rng = np.random.default_rng(1)
    batch = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    loss = lambda p, x: jnp.mean(((x @ p["backbone"] - 1) * (x @ p["head"])) ** 2)
    tx, params = optax.chain(optax.trace(0.9), _tx(), optax.scale(-0.1)), _params()
    found, _, _ = gradax.make_step(loss, tx)(params, tx.init(params), batch)
    pair = tuple(jax.grad(loss)(params, half) for half in (batch[:3], batch[3:]))
    grads = jax.grad(loss)(params, batch)
    updates, state = tx.update(grads, tx.init(params), params, half_grads=pair)
    chex.assert_trees_all_close(found, optax.apply_updates(params, updates), rtol=1e-5)
    assert state[1].scales["head"] != 1.0


def test_a_function_of_params_needs_params():
    tx = _tx()
    with pytest.raises(ValueError, match="scale_by_agvm needs params"):
        tx.update(_params(), tx.init(_params()), half_grads=lambda params: (params, params))


def test_adam_inside_divides_the_halves_as_it_divides_gradients():
    params, rng, scale = _params(), np.random.default_rng(1), 1.0
    draw = lambda: {name: jnp.asarray(rng.normal(size=2), jnp.float32) for name in LABELS}
    adam = optax.scale_by_adam(b2=0.9)
    tx = _tx(every=1, decay=0.5, inner=adam, b2=0.9, adam_eps=1e-3)
    state, adam_state = tx.init(params), adam.init(params)

    def disagreement(name, pair):
        nu = np.asarray(adam_state.nu[name])
        a, b = (np.asarray(half[name]) for half in pair)
        a, b = (g / (np.sqrt(0.9 * nu + 0.1 * g**2) + 1e-3) for g in (a, b))
        return 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    for _ in range(3):
        grads, pair = draw(), (draw(), draw())
        ratio = [disagreement(name, pair) + 1e-6 for name in ("backbone", "head")]
        scale = 0.5 * scale + 0.5 * np.sqrt(np.clip(ratio[0] / ratio[1], 0.5, 10.0))
        updates, state = tx.update(grads, state, params, half_grads=pair)
        direction, adam_state = adam.update(grads, adam_state)
        np.testing.assert_allclose(updates["head"], scale * direction["head"], rtol=1e-4)
        chex.assert_trees_all_close(updates["backbone"], direction["backbone"], rtol=1e-6)


def test_settles_where_the_noise_ratio_says():
    """Two modules of 500 coordinates: standard deviations 1.0 and 1.3, 8 examples a half."""
    tx, deviation = _tx(every=1), {"backbone": 1.0, "head": 1.3}
    ones = _params(500)

    def step(state, key):
        draw = lambda key: {
            name: 1 + deviation[name] / np.sqrt(8) * jax.random.normal(own, (500,))
            for name, own in zip(LABELS, jax.random.split(key), strict=True)
        }
        _, state = tx.update(ones, state, half_grads=tuple(map(draw, jax.random.split(key))))
        return state, state.scales

    keys = jax.random.split(jax.random.key(0), 200)
    scales = jax.jit(lambda: jax.lax.scan(step, tx.init(ones), keys)[1])()
    noise = lambda sigma: (sigma**2 / 8) / (1 + sigma**2 / 8)
    limit = np.sqrt(noise(1.0) / noise(1.3))
    np.testing.assert_allclose(limit, 0.798, atol=1e-3)
    np.testing.assert_allclose(scales["head"][50], 0.846, rtol=3e-2)
    np.testing.assert_allclose(scales["head"][199], limit, rtol=3e-2)
    np.testing.assert_array_equal(scales["backbone"], 1.0)


# Labels ----------------------------------------------------------------------------------


def test_labels_may_be_a_prefix_or_a_function():
    params = {"body": [jnp.ones(2), jnp.ones(3)], "head": jnp.ones(2)}
    labels = {"body": "backbone", "head": "head"}
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
    pair = tuple(jax.tree.map(draw, params) for _ in range(2))
    found = []
    for param_labels in (labels, lambda tree: labels):
        tx = optimizers.scale_by_agvm(param_labels, "backbone", decay=0.0)
        _, state = tx.update(params, tx.init(params), half_grads=pair)
        found.append(state.scales)
        # Wrapped tools compare the state with that of a tree without leaves.
        same = optax.tree.map_params(tx, lambda leaf: leaf, state)
        chex.assert_trees_all_equal(same, state)
    chex.assert_trees_all_equal(*found)
    ours = optimizers.scale_by_agvm({"a": "backbone", "head": "head"}, "backbone", decay=0.0)
    joined = lambda tree: {"a": jnp.concatenate(tree["body"]), "head": tree["head"]}
    one = joined(params)
    _, state = ours.update(one, ours.init(one), half_grads=tuple(map(joined, pair)))
    chex.assert_trees_all_close(state.scales, found[0], rtol=1e-5)


def test_under_a_mask_halves_may_be_whole_trees():
    params = _params() | {"frozen": jnp.ones(3)}
    tx = optax.masked(
        optimizers.scale_by_agvm(LABELS | {"frozen": "frozen"}, "backbone"),
        {"backbone": True, "head": True, "frozen": False},
    )
    pair = tuple(half | {"frozen": jnp.ones(3)} for half in _halves(NOISY, QUIET))
    updates, state = tx.update(params, tx.init(params), params, half_grads=pair)
    np.testing.assert_allclose(state.inner_state.scales["head"], 1.0648683, rtol=1e-6)
    chex.assert_trees_all_equal(updates["frozen"], params["frozen"])


# Halves of an axis -----------------------------------------------------------------------


def _axis_scales(place, count):
    """The head's scale of each of so many participants, and that of the two half means."""
    rng = np.random.default_rng(1)
    draw = lambda: jnp.asarray(rng.normal(size=(count, 2)) + 1, jnp.float32)
    grads = {"backbone": draw(), "head": draw()}

    def update(grad):
        tx = _tx(decay=0.5, axis_name="workers")
        _, state = tx.update(grad, tx.init(grad), grad=grad)
        return state.scales["head"]

    means = tuple(
        jax.tree.map(lambda g, at=at: g[at].mean(axis=0), grads)
        for at in (slice(count // 2), slice(count // 2, None))
    )
    (expected,) = _scales(_tx(decay=0.5), means)
    return place(update)(grads), expected["head"]


def _under_shard_map(update):
    mesh = jax.make_mesh((4,), ("workers",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = jax.P("workers")

    def block(grads):
        return update(jax.tree.map(lambda g: g[0], grads))[None]

    return jax.jit(jax.shard_map(block, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))


@pytest.mark.parametrize(
    "place",
    [
        lambda update: jax.jit(jax.vmap(update, axis_name="workers")),
        lambda update: jax.pmap(update, "workers", devices=jax.devices()[:4]),
        _under_shard_map,
    ],
    ids=["vmap", "pmap", "shard_map"],
)
def test_lower_and_upper_half_of_an_axis_make_the_halves(place):
    scales, expected = _axis_scales(place, 4)
    np.testing.assert_allclose(scales, expected, rtol=1e-5)
    assert expected != 1.0


def test_an_axis_has_to_be_even():
    with pytest.raises(ValueError, match=r"even number of participants.*'workers' has 3"):
        _axis_scales(lambda update: jax.vmap(update, axis_name="workers"), 3)


def test_an_axis_needs_the_gradient_of_each_participant():
    tx = _tx(axis_name="workers")
    with pytest.raises(ValueError, match="scale_by_agvm needs grad="):
        tx.update(_params(), tx.init(_params()))
    with pytest.raises(ValueError, match="axis_name 'workers' is not bound"):
        tx.update(_params(), tx.init(_params()), grad=_params())


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"every": 0}, "every must be an integer >= 1, got 0"),
        ({"start": -1}, "start must be an integer >= 0, got -1"),
        ({"start": 5, "stop": 4}, "stop must be an integer >= 5, got 4"),
        ({"clip": (0.5, 0.9)}, r"clip must be a pair .*got \(0.5, 0.9\)"),
        ({"clip": (0.0, 2.0)}, r"clip must be a pair .*got \(0.0, 2.0\)"),
        ({"clip": 3.0}, "clip must be a pair .*got 3.0"),
        ({"eps": 0.0}, r"eps must lie in \(0, inf\), got 0.0"),
        ({"b2": 1.0}, r"b2 must lie in \[0, 1\), got 1.0"),
        ({"adam_eps": 0.0}, r"adam_eps must lie in \(0, inf\), got 0.0"),
        ({"axis_name": ("a", "a")}, "axis_name must not repeat a name"),
        (
            {"anchor": "neck"},
            r"anchor must be one of the labels \['backbone', 'head'\], got 'neck'",
        ),
        ({"param_labels": {"a": 1, "b": "backbone"}}, "param_labels must be strings, got 1"),
    ],
)
def test_rejects_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        optimizers.scale_by_agvm(**{"param_labels": LABELS, "anchor": "backbone"} | options)


def test_rejects_at_init_what_only_params_can_tell():
    tx = optimizers.scale_by_agvm(lambda tree: jax.tree.map(lambda _: "head", tree), "backbone")
    with pytest.raises(ValueError, match=r"anchor must be one of the labels \['head'\]"):
        tx.init(_params())
    with pytest.raises(ValueError, match="b2 is given, so the state of inner must have one nu"):
        _tx(b2=0.999).init(_params())
