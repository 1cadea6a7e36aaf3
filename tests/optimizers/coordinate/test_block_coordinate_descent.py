"""Block coordinate descent: what is chosen, what one step wins, and what is refused."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import make_step, optimizers, testing

H = np.array([[4.0, 1, 0, 0], [1, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0.25]])
BLOCKS = [[0, 1], [2, 3]]
ROW_SUMS = [5.0, 4.0, 1.0, 0.25]


def _problem(seed, size=6):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(2 * size, size)) * rng.uniform(0.3, 2, size)
    return factor.T @ factor, rng.normal(size=size), rng.normal(size=size)


def _value(h, b, x):
    return 0.5 * x @ h @ x - b @ x


def _direction(rule, update, g, blocks=None, params=None, extras=(), **arguments):
    tx = optimizers.scale_by_block(rule, update, blocks, **arguments)
    like = jnp.asarray(g) if params is None else params
    update_fn = jax.jit(lambda g, state, params: tx.update(g, state, params, **dict(extras)))
    direction, state = update_fn(jnp.asarray(g), tx.init(like), params)
    return np.asarray(direction), state


def _descend(tx, h, b, x, steps):
    """All points of a run in double precision, and what was updated last."""
    with jax.enable_x64(True):
        h, b = jnp.asarray(h), jnp.asarray(b)

        def step(carry, _):
            x, state = carry
            grads = h @ x - b
            extras = {"value_fn": functools.partial(_value, h, b), "grad_fn": lambda x: h @ x - b}
            updates, state = tx.update(grads, state, x, **extras)
            x = optax.apply_updates(x, updates)
            return (x, state), (x, state[0].last_block)

        start = jnp.asarray(x)
        run = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps)[1])
        xs, chosen = run(start)
        return np.vstack([x, xs]), np.asarray(chosen)


# The worked example ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "expected"),
    [("lipschitz", [-0.082712, 0.133831]), ("matrix", [0, 0]), ("diagonal", [0, 0])],
)
def test_the_worked_example(update, expected):
    g = H @ np.ones(4)
    np.testing.assert_array_equal(g, [5, 4, 1, 0.25])
    for rule in ("gs", "gsl", "gsd", "gsq"):
        direction, state = _direction(rule, update, g, BLOCKS, hessian=H, diagonal=ROW_SUMS)
        np.testing.assert_allclose(1 - direction, [*expected, 1, 1], atol=1e-6)
        assert state.last_block == 0


@pytest.mark.parametrize("rule", ["gs", "gsl", "gsd", "gsq"])
def test_scores_are_those_of_the_worked_example(rule):
    """Growing the gradient of the second block by the root of the ratio tips the balance."""
    ratio = {
        "gs": 41 / 1.0625,
        "gsl": 8.878237 / 1.0625,
        "gsd": 9.0 / 1.25,
        "gsq": 9.0 / 1.25,
    }[rule]
    g = H @ np.ones(4)
    for factor, block in ((0.999, 0), (1.001, 1)):
        scaled = g * np.r_[1, 1, np.sqrt(ratio) * factor, np.sqrt(ratio) * factor]
        _, state = _direction(rule, "matrix", scaled, BLOCKS, hessian=H, diagonal=ROW_SUMS)
        assert state.last_block == block


# What one step wins ----------------------------------------------------------------------


def test_one_block_of_all_solves_a_quadratic_at_once():
    h, b, x = _problem(1)
    tx = optimizers.block_coordinate_descent("gsq", "matrix", [range(6)], hessian=h)
    xs, _ = _descend(tx, h, b, x, 1)
    np.testing.assert_allclose(xs[1], np.linalg.solve(h, b), rtol=1e-9)


def test_single_coordinates_make_rules_and_updates_coincide():
    h, b, x = _problem(2)
    singles = [[k] for k in range(6)]
    given = {"hessian": h, "diagonal": np.diag(h)}
    runs = [
        _descend(optimizers.block_coordinate_descent(rule, update, singles, **given), h, b, x, 6)
        for rule, update in (
            ("gsl", "lipschitz"),
            ("gsd", "matrix"),
            ("gsq", "diagonal"),
            ("gsq", "newton"),
        )
    ]
    for xs, chosen in runs[1:]:
        np.testing.assert_allclose(xs, runs[0][0], rtol=1e-9)
        np.testing.assert_array_equal(chosen, runs[0][1])
    variable = optimizers.block_coordinate_descent("gsd", "matrix", block_size=1, **given)
    xs, chosen = _descend(variable, h, b, x, 6)
    np.testing.assert_allclose(xs, runs[0][0], rtol=1e-9)
    np.testing.assert_array_equal(chosen[:, 0], runs[0][1])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_equal_bounds_make_gsl_the_same_as_gs(seed):
    g = np.random.default_rng(seed).normal(size=8)
    blocks = np.arange(8).reshape(4, 2)
    choices = [
        _direction(rule, "lipschitz", g, blocks, smoothness=3.0)[1] for rule in ("gs", "gsl")
    ]
    assert choices[0].last_block == choices[1].last_block


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_progress_of_gradient_and_matrix_updates(seed):
    h, b, x = _problem(seed)
    blocks = np.arange(6).reshape(3, 2)
    parts = [h[np.ix_(own, own)] for own in blocks]
    lipschitz = [np.linalg.eigvalsh(part)[-1] for part in parts]
    wins = {
        "lipschitz": lambda g, k: g[blocks[k]] @ g[blocks[k]] / lipschitz[k] / 2,
        "matrix": lambda g, k: g[blocks[k]] @ np.linalg.solve(parts[k], g[blocks[k]]) / 2,
    }
    value = functools.partial(_value, h, b)
    for update, win in wins.items():
        tx = optimizers.block_coordinate_descent("gsq", update, blocks, hessian=h)
        xs, chosen = _descend(tx, h, b, x, 8)
        for before, after, k in zip(xs, xs[1:], chosen, strict=False):
            g = h @ before - b
            fall = value(before) - value(after)
            assert fall >= win(g, k) - 1e-9
            if update == "matrix":
                # Equality, and no other block would have won as much.
                np.testing.assert_allclose(fall, max(win(g, j) for j in range(3)), atol=1e-9)


@pytest.mark.parametrize(
    ("rule", "update", "form"),
    [
        ("random", "lipschitz", {"blocks": [[0, 1], [2, 3], [4, 5]]}),
        ("cyclic", "diagonal", {"blocks": [[5, 0, 1, 2], [3, 4]]}),
        ("lipschitz", "matrix", {"blocks": [[0, 1], [2, 3], [4, 5]]}),
        ("random", "lipschitz", {"block_size": 4}),
        ("cyclic", "newton", {"block_size": 4}),
        ("gs", "matrix", {"block_size": 4}),
        ("gsd", "diagonal", {"block_size": 2}),
    ],
)
def test_never_rises_and_moves_one_block(rule, update, form):
    h, b, x = _problem(4)
    bounds = np.abs(h).sum(axis=1)
    tx = optimizers.block_coordinate_descent(
        rule, update, **form, hessian=h, diagonal=bounds, key=1
    )
    xs, chosen = _descend(tx, h, b, x, 12)
    values = [_value(h, b, x) for x in xs]
    assert np.all(np.diff(values) <= 1e-9)
    owns = [form["blocks"][block] if block.ndim == 0 else block for block in chosen]
    moved = [set(np.flatnonzero(a != b)) for a, b in itertools.pairwise(xs)]
    assert moved[0] == set(owns[0])
    assert all(those <= set(own) for those, own in zip(moved, owns, strict=True))


# Rules -----------------------------------------------------------------------------------


def test_cyclic_goes_round():
    h, b, x = _problem(1)
    blocks = [[0, 3], [1], [2, 4, 5]]
    fixed = optimizers.block_coordinate_descent("cyclic", "matrix", blocks, hessian=h)
    assert _descend(fixed, h, b, x, 5)[1].tolist() == [0, 1, 2, 0, 1]
    anew = optimizers.block_coordinate_descent("cyclic", "matrix", block_size=4, hessian=h)
    assert _descend(anew, h, b, x, 2)[1].tolist() == [[0, 1, 2, 3], [4, 5, 0, 1]]


@pytest.mark.parametrize(
    ("rule", "expected"), [("random", [1 / 3, 1 / 3, 1 / 3]), ("lipschitz", [0.1, 0.6, 0.3])]
)
def test_draws_blocks_with_their_probabilities(rule, expected):
    blocks = [[0], [1], [2]]
    tx = optimizers.scale_by_block(rule, "lipschitz", blocks, smoothness=[1, 6, 3], key=0)
    g = jnp.ones(3)

    def step(state, _):
        state = tx.update(g, state)[1]
        return state, state.last_block

    chosen = jax.jit(lambda: jax.lax.scan(step, tx.init(g), length=2000)[1])()
    np.testing.assert_allclose(np.bincount(chosen) / 2000, expected, atol=0.04)


def test_coordinates_chosen_anew_are_the_best_and_the_first_of_equals():
    g = np.array([1.0, -3.0, 2.0, 3.0, -2.0])
    _, state = _direction("gs", "lipschitz", g, block_size=3, smoothness=1.0)
    assert state.last_block.tolist() == [1, 3, 2]
    bounds = [0.1, 9.0, 4.0, 3.0, 1.0]
    direction, state = _direction("gsd", "diagonal", g, block_size=2, diagonal=bounds)
    assert state.last_block.tolist() == [0, 4]
    np.testing.assert_allclose(direction, [10, 0, 0, 0, -2])
    ties = np.ones(4)
    for form in ({"blocks": BLOCKS}, {"block_size": 2}):
        _, state = _direction("gs", "lipschitz", ties, **form, smoothness=1.0)
        assert np.max(state.last_block) <= 1


# Blocks of leaves ------------------------------------------------------------------------


def test_leaves_are_blocks_like_any_other():
    rng = np.random.default_rng(5)
    tree = {"a": jnp.asarray(rng.normal(size=(2, 2))), "b": jnp.asarray(rng.normal(size=4))}
    flat = jnp.concatenate([tree["a"].ravel(), tree["b"]])
    bounds, diagonal = [2.0, 0.5], rng.uniform(1, 3, 8) * np.r_[np.ones(4), np.full(4, 0.01)]
    by_leaf = {"a": diagonal[:4].reshape(2, 2), "b": diagonal[4:]}
    blocks, chosen = np.arange(8).reshape(2, 4), {}
    for rule, update in (("gs", "lipschitz"), ("gsl", "diagonal"), ("gsd", "lipschitz")):
        fixed = optimizers.scale_by_block(
            rule, update, blocks, smoothness=bounds, diagonal=diagonal
        )
        leaves = optimizers.scale_by_block(
            rule, update, smoothness={"a": 2.0, "b": 0.5}, diagonal=by_leaf
        )
        expected, state = fixed.update(flat, fixed.init(flat))
        found, leaf_state = leaves.update(tree, leaves.init(tree))
        found = jnp.concatenate([found["a"].ravel(), found["b"]])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert leaf_state.last_block == state.last_block
        chosen[rule] = int(state.last_block)
    assert chosen == {"gs": 0, "gsl": 1, "gsd": 1}


@pytest.mark.parametrize(
    "param_labels",
    [
        {"dense": "one", "scale": "two", "bias": "one"},
        lambda params: {name: "two" if name == "scale" else "one" for name in params},
    ],
)
def test_leaves_with_one_label_move_together(param_labels):
    g = {"bias": jnp.ones(2), "dense": jnp.ones(3), "scale": 2 * jnp.ones(1)}
    tx = optimizers.scale_by_block(
        "gs", param_labels=param_labels, smoothness={"one": 2.0, "two": 4.0}
    )
    direction, state = tx.update(g, tx.init(g))
    assert state.last_block == 0  # 5 against 4
    chex.assert_trees_all_equal(
        direction, {"bias": jnp.full(2, 0.5), "dense": jnp.full(3, 0.5), "scale": jnp.zeros(1)}
    )
    weighted = optimizers.scale_by_block(
        "gsl", param_labels=param_labels, smoothness={"one": 2.0, "two": 1.0}
    )
    direction, state = weighted.update(g, weighted.init(g))
    assert state.last_block == 1
    chex.assert_trees_all_equal(direction["scale"], 2 * jnp.ones(1))


# Hessians --------------------------------------------------------------------------------


def _steep(w):
    """Convex, not quadratic; Newton's full step overshoots from afar."""
    return jnp.sum(jnp.sqrt(1 + (w - jnp.arange(4.0)) ** 2)) + 0.1 * w[0] * w[2] + 0.2 * w @ w


def _block_hessian(params, indices):
    return jax.hessian(_steep)(params)[jnp.ix_(indices, indices)]


@pytest.mark.parametrize("form", [{"blocks": [[0, 2, 3], [1]]}, {"block_size": 3}])
def test_hessians_come_from_an_argument_a_function_or_the_gradient(form):
    w = jnp.array([2.0, -1.0, 3.0, 0.5])
    g, rule = jax.grad(_steep)(w), "gsq" if "blocks" in form else "gs"
    take = functools.partial(_direction, rule, "matrix", g, **form, params=w)
    constant, _ = take(hessian=jax.hessian(_steep)(w))
    np.testing.assert_allclose(
        take(extras={"block_hessian_fn": _block_hessian})[0], constant, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(
        take(extras={"grad_fn": jax.grad(_steep)})[0], constant, rtol=1e-4, atol=1e-7
    )


def test_blocks_of_a_hessian_may_be_given_alone():
    stacked = np.stack([H[:2, :2], H[2:, 2:]])
    g = H @ np.ones(4)
    whole = _direction("gsq", "matrix", g, BLOCKS, hessian=H)[0]
    np.testing.assert_array_equal(_direction("gsq", "matrix", g, BLOCKS, hessian=stacked)[0], whole)


@pytest.mark.parametrize("form", [{"blocks": [[0, 2, 3], [1]]}, {"block_size": 2}])
def test_newton_with_a_line_search_never_rises_and_converges_fast(form):
    tx = optimizers.block_coordinate_descent("gs", "newton", **form)
    w = jnp.array([30.0, -40.0, 20.0, 50.0])
    step, state = make_step(lambda w, batch: _steep(w), tx), tx.init(w)
    values = []
    for _ in range(30):
        w, state, metrics = step(w, state, 0)
        values.append(float(metrics["loss"]))
    assert np.all(np.diff(values) <= 1e-6)
    np.testing.assert_allclose(jax.grad(_steep)(w), 0, atol=1e-3)


def test_newton_shortens_a_step_that_is_too_long_and_turns_back_one_uphill():
    value = lambda w: jnp.sum(jnp.sqrt(1 + w**2))
    w = jnp.array([2.0])  # Newton's step goes to -8
    extras = {"grad_fn": jax.grad(value), "value_fn": value}
    take = functools.partial(_direction, "gs", "newton", block_size=1)
    direction, _ = take(jax.grad(value)(w), params=w, extras=extras)
    np.testing.assert_allclose(direction, 10 / 4, rtol=1e-5)
    hill = lambda w: jnp.sum(jnp.cos(w))
    w = jnp.array([0.5])
    extras = {"grad_fn": jax.grad(hill), "value_fn": hill, "value": hill(w)}
    direction, _ = take(jax.grad(hill)(w), params=w, extras=extras)
    np.testing.assert_allclose(direction, -np.sin(0.5), rtol=1e-5)


def test_newton_stays_where_no_step_helps():
    w = jnp.array([0.0])
    extras = {"block_hessian_fn": lambda w, own: jnp.eye(1), "value_fn": lambda w: jnp.sum(w**2)}
    direction, _ = _direction(
        "gs", "newton", np.array([1.0]), block_size=1, params=w, extras=extras
    )
    assert direction == 0


# Proximal steps --------------------------------------------------------------------------


def _soft(x, step):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.3 * step, 0)


@pytest.mark.parametrize(
    ("rule", "update", "form"),
    [
        ("gs", "lipschitz", {"blocks": [[0, 1, 4], [2, 3]]}),
        ("gsd", "diagonal", {"block_size": 2}),
        ("gs", "lipschitz", {"block_size": 2, "smoothness": 11.0}),
        ("gsl", "lipschitz", {"smoothness": 11.0}),
    ],
)
def test_finds_the_minimum_of_a_loss_with_an_l1_term(rule, update, form):
    h = np.diag([4.0, 1.0, 2.0, 3.0, 10.0])
    b = np.array([2.0, 0.2, -1.0, 0.1, 5.0])
    given = {"hessian": h, "diagonal": 2 * np.diag(h)} if len(form) == 1 else {}
    if "smoothness" in form and "block_size" not in form:
        given = {}
    tx = optimizers.block_coordinate_descent(rule, update, **form, **given, prox=_soft)
    xs, _ = _descend(tx, h, b, np.ones(5), 200)
    minimum = np.sign(b) * np.maximum(np.abs(b) - 0.3, 0) / np.diag(h)
    np.testing.assert_allclose(xs[-1], minimum, atol=1e-6)
    assert np.all(xs[-1][[1, 3]] == 0)


# The contract, for the forms that are not in the catalogue -------------------------------


@pytest.mark.parametrize(
    ("arguments", "needs"),
    [
        ({"rule": "random", "block_size": 1, "smoothness": 2.0, "key": 1}, ()),
        ({"rule": "gs", "update": "matrix", "block_size": 2}, ("block_hessian_fn",)),
        ({"rule": "gs", "update": "newton", "block_size": 1}, ("grad_fn", "value_fn")),
    ],
)
def test_other_forms_keep_the_contract(arguments, needs):
    checks = (
        "update_dtype",
        "float64_kept",
        "mixed_float32_float64",
        "no_float64_leak",
        "complex_kept",
        "state_stable",
        "no_retrace",
        "abstract_init",
        "zero_gradient",
    )
    build = lambda: optimizers.block_coordinate_descent(**arguments)
    ran = testing.check_transformation(build, needs=needs, checks=checks, kind="alias")
    assert ran == checks


# Refusals --------------------------------------------------------------------------------

PAIRS = {"blocks": BLOCKS}
SHORT = {"rule": "gs", "smoothness": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "best"}, "rule must be one of 'random'.*got 'best'"),
        ({"rule": "gs", "update": "sgd"}, "update must be one of 'lipschitz'.*got 'sgd'"),
        ({"rule": "gs"}, "update='lipschitz' needs smoothness or hessian"),
        ({"rule": "gsl", "update": "matrix", **PAIRS}, "rule='gsl' needs smoothness or hessian"),
        ({**SHORT, "rule": "gsd"}, "rule='gsd' needs diagonal"),
        ({"rule": "gs", "update": "diagonal"}, "update='diagonal' needs diagonal"),
        ({**SHORT, "smoothness": 0.0}, "smoothness must be positive and finite, got 0.0"),
        ({**SHORT, **PAIRS, "smoothness": [1.0, -2.0]}, "smoothness must be.*got -2.0"),
        ({**SHORT, "diagonal": [1.0, np.nan]}, "diagonal must be positive and finite, got nan"),
        ({**SHORT, "blocks": [[0, 1], [1, 2]]}, "blocks must hold each of 0 ... 3 once, 3 is"),
        ({**SHORT, "blocks": [[0, 1], [3]]}, "blocks must hold each of 0 ... 2 once, 2 is"),
        ({**SHORT, "blocks": [[0.0, 1.0]]}, "blocks must be lists of integers"),
        ({**SHORT, **PAIRS, "block_size": 2}, "block_size must be None beside blocks"),
        ({**SHORT, "block_size": 0}, "block_size must be an integer >= 1, got 0"),
        ({**SHORT, "rule": "gsl", "block_size": 2}, "rule='gsl' needs fixed blocks"),
        ({**SHORT, "rule": "gsq"}, "rule='gsq' needs blocks of coordinates"),
        ({"rule": "gs", "update": "newton"}, "update='newton' needs blocks of coordinates"),
        ({"rule": "gs", "hessian": H}, "hessian must be None where blocks are made of leaves"),
        ({**SHORT, **PAIRS, "smoothness": [1.0] * 3}, r"smoothness must have shape \(\) or \(2,\)"),
        ({**SHORT, **PAIRS, "diagonal": [1.0] * 3}, r"diagonal must have shape \(\) or \(4,\)"),
        ({"rule": "gs", **PAIRS, "hessian": H[:3]}, r"hessian must have shape \(4, 4\) or"),
        ({"rule": "gs", **PAIRS, "hessian": np.triu(H)}, "hessian must be symmetric"),
        (
            {"rule": "gsq", **PAIRS, "hessian": np.diag([1.0, 1, 1, 0])},
            "hessian must be positive definite on every block, it is not on block 1",
        ),
        ({"rule": "random", "smoothness": 1.0}, "key must be a JAX key or an integer"),
        (
            {"rule": "gs", "update": "matrix", **PAIRS, "prox": _soft},
            "prox must be None with update='matrix'",
        ),
        (
            {"rule": "gs", "block_size": 1, "hessian": H, "prox": _soft},
            "prox with block_size needs smoothness",
        ),
    ],
)
def test_rejects_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"scale_by_block: {message}"):
        optimizers.scale_by_block(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": BLOCKS}, "blocks must hold every coordinate of params once, they hold 4 of 5"),
        ({"block_size": 6}, "block_size must be at most the number of coordinates, 5, got 6"),
        ({"block_size": 1, "diagonal": [1.0] * 4}, r"diagonal must have shape \(\) or \(5,\)"),
        ({"block_size": 1, "hessian": H}, r"hessian must have shape \(5, 5\), got \(4, 4\)"),
        (
            {"param_labels": "one", "smoothness": {"two": 1.0}},
            "smoothness must have an entry for every label, got none for 'one'",
        ),
    ],
)
def test_rejects_what_does_not_fit_params(arguments, message):
    tx = optimizers.scale_by_block("gs", **{"smoothness": 1.0, **arguments})
    with pytest.raises(ValueError, match=message):
        tx.init(jnp.ones(5))


@pytest.mark.parametrize(
    ("update", "extras", "missing"),
    [
        ("matrix", (), "block_hessian_fn"),
        ("newton", {"block_hessian_fn": _block_hessian}, "value_fn"),
    ],
)
def test_names_a_missing_extra(update, extras, missing):
    with pytest.raises(ValueError, match=f"scale_by_block needs {missing}="):
        _direction("gs", update, np.ones(4), block_size=2, params=jnp.ones(4), extras=extras)


@pytest.mark.parametrize("arguments", [{"update": "matrix"}, {"smoothness": 1.0, "prox": _soft}])
def test_names_missing_params(arguments):
    extras = {"block_hessian_fn": _block_hessian}
    with pytest.raises(ValueError, match="scale_by_block needs params"):
        _direction(
            "gs", g=np.ones(4), block_size=2, extras=extras, **{"update": "lipschitz", **arguments}
        )
