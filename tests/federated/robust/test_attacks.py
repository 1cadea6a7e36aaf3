"""Attacks: golden values, formulas, the search for the worst factor, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.golden import assert_follows, golden_cases

attacks, rules = federated.attacks, federated.rules
HONEST = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
noise = functools.partial(attacks.gaussian, key=jax.random.key(0))


@pytest.mark.parametrize("case", golden_cases("byz_attacks"), ids=lambda case: case["name"])
def test_follows_the_golden_case(case):
    assert_follows("byz_attacks", case)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (attacks.sign_flip, [-1.0, -1 / 3]),
        (attacks.inner_product, [-2.0, -2 / 3]),
        (functools.partial(attacks.inner_product, tau=0.1), [-0.1, -1 / 30]),
        (attacks.a_little_is_enough, [2.5, 1.1993587]),
        (functools.partial(attacks.a_little_is_enough, tau=0.0), [1.0, 1 / 3]),
        (attacks.mimic, [0.0, 0.0]),
        (functools.partial(attacks.mimic, k=2), [2.0, 1.0]),
        (functools.partial(noise, mu=3.0, sigma=0.0), [3.0, 3.0]),
    ],
)
def test_the_worked_examples(attack, expected):
    np.testing.assert_allclose(attack(HONEST), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "attack",
    [attacks.sign_flip, attacks.inner_product, attacks.a_little_is_enough, attacks.mimic, noise],
    ids=["sign_flip", "inner_product", "alie", "mimic", "gaussian"],
)
def test_keeps_structure_shapes_and_dtypes(attack):
    honest = {
        "half": jnp.ones((3, 2, 2), jnp.bfloat16),
        "scalar": jnp.arange(3.0),
        "empty": jnp.zeros((3, 0)),
        "masked": None,
    }
    lie = attack(honest)
    assert lie["half"].shape == (2, 2)
    assert lie["half"].dtype == jnp.bfloat16
    assert lie["scalar"].shape == ()
    assert lie["scalar"].dtype == jnp.float32
    assert lie["empty"].shape == (0,)
    assert lie["masked"] is None


def test_noise_has_its_mean_and_deviation():
    lie = attacks.gaussian(jnp.zeros((1, 20_000)), jax.random.key(1), mu=2.0, sigma=3.0)
    assert float(lie.mean()) == pytest.approx(2.0, abs=0.1)
    assert float(lie.std()) == pytest.approx(3.0, abs=0.1)


def test_noise_differs_between_leaves_and_keys():
    honest = {"a": jnp.zeros((1, 4)), "b": jnp.zeros((1, 4))}
    first, second = (attacks.gaussian(honest, jax.random.key(s)) for s in (1, 2))
    assert (first["a"] != first["b"]).all()
    assert (first["a"] != second["a"]).all()


def test_labels_are_mirrored():
    labels = jnp.array([[0, 3], [1, 2]], jnp.int32)
    flipped = attacks.label_flip_targets(labels, 4)
    assert flipped.tolist() == [[3, 0], [2, 1]]
    assert flipped.dtype == labels.dtype
    assert (attacks.label_flip_targets(flipped, 4) == labels).all()


def line_search(damage, evals, start, delta, ratio):
    """The search in plain Python."""
    best, best_damage, expanding = start, damage(start), True
    for _ in range(evals - 1):
        value = damage(best + delta)
        if value > best_damage:
            best, best_damage = best + delta, value
            delta *= 2.0 if expanding else ratio
        else:
            expanding, delta = False, delta * ratio
    return best


def search_both_ways(damage, evals, start, delta, ratio):
    """The search of MoNNA's authors: after the first failure towards the best, then below it."""
    best, best_damage, last, expanding = start, damage(start), start, True
    for _ in range(evals - 1):
        if expanding:
            last = best + delta
        elif last < best:
            last += delta
        else:
            lower = last - delta
            while lower < 0:
                lower = (lower + last) / 2
            last = lower
        value = damage(last)
        better = value > best_damage
        expanding = expanding and better
        if better:
            best, best_damage = last, value
        delta *= 2.0 if expanding else ratio
    return best


SEARCHES = {"upwards": line_search, "both ways": search_both_ways}


@pytest.mark.parametrize("evals", [1, 2, 7, 20])
@pytest.mark.parametrize("ways", SEARCHES)
@pytest.mark.parametrize("rule", [rules.mean, rules.median, rules.trimmed_mean])
def test_the_search_is_the_line_search(evals, ways, rule):
    with jax.enable_x64(True):
        honest = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))

        @jax.jit
        def damage(tau):
            lie = attacks.a_little_is_enough(honest, tau)
            rows = jnp.concatenate([honest, jnp.stack([lie, lie])])
            return jnp.linalg.norm(rule(rows, 2) - honest.mean(axis=0))

        options = {"evals": evals, "start": 0.0, "delta": 3.0, "ratio": 0.8}
        search = functools.partial(
            attacks.search_factor,
            attacks.a_little_is_enough,
            rule,
            f=2,
            both_ways=ways == "both ways",
            **options,
        )
        found = jax.jit(lambda rows: search(honest=rows))(honest)
        expected = SEARCHES[ways](lambda tau: float(damage(tau)), **options)
        assert float(found) == pytest.approx(expected)


def test_the_search_goes_down_but_not_below_zero():
    # The damage is largest at 0.3, which only steps downwards can find.
    peak = lambda rows, f: jnp.maximum(1.0 - jnp.abs(rows[-1] - 0.3), 0.0)
    search = functools.partial(
        attacks.search_factor, lambda honest, tau: tau * jnp.ones(1), peak, jnp.zeros((2, 1)), 1
    )
    upwards, both = (float(search(delta=1.0, evals=16, both_ways=b)) for b in (False, True))
    assert upwards > 0.5
    assert both == pytest.approx(0.3, abs=0.05)


def test_an_optimized_attack_searches_now_and_then():
    lie, options = attacks.a_little_is_enough, {"evals": 6, "delta": 1.0}
    attack = attacks.optimized(lie, rules.krum, 1, every=2, **options)
    draw = lambda seed: np.random.default_rng(seed).normal(size=(5, 2)).astype(np.float32)
    rounds = jnp.stack([draw(seed) for seed in (0, 4, 6)])

    def step(state, honest):
        vector, state = attack.update(honest, state)
        return state, (vector, state.tau)

    run = jax.jit(lambda rounds: jax.lax.scan(step, attack.init(rounds[0, 0]), rounds)[1])
    vectors, taus = run(rounds)
    search = jax.jit(lambda rows: attacks.search_factor(lie, rules.krum, rows, 1, **options))
    first, last = (float(search(rounds[number])) for number in (0, 2))
    np.testing.assert_allclose(taus, [first, first, last])
    assert first != last
    for vector, tau, honest in zip(vectors, taus, rounds, strict=True):
        np.testing.assert_allclose(vector, lie(honest, tau), rtol=1e-5)


def oja(rounds):
    """The direction of the learning phase in NumPy."""
    centre, z = 0.0, None
    for t, rows in enumerate(rounds, start=1):
        centre = centre + (rows.mean(axis=0) - centre) / t
        deviations = rows - centre
        if z is None:
            z = deviations[np.argmax(np.linalg.norm(deviations, axis=1))]
            z = z / np.linalg.norm(z)
        z = (t - 1) / t * z + deviations.T @ (deviations @ z) / t
        z /= np.linalg.norm(z)
    return z


def test_mimic_learns_whom_to_copy():
    rng = np.random.default_rng(0)
    spread = np.diag([1.0, 5.0, 0.5])
    rounds = (rng.normal(size=(12, 5, 3)) @ spread).astype(np.float32)
    tree = {"a": rounds[..., :1], "b": rounds[..., 1:], "n": np.ones((12, 5), int), "none": None}
    attack = attacks.learned_mimic(learning_steps=8)

    def step(state, honest):
        vector, state = attack.update(honest, state)
        return state, (vector, state.direction)

    message = {"a": jnp.zeros(1), "b": jnp.zeros(2), "n": jnp.zeros((), int), "none": None}
    run = jax.jit(lambda rounds: jax.lax.scan(step, attack.init(message), rounds)[1])
    vectors, directions = run(tree)
    sent = np.concatenate([vectors["a"], vectors["b"]], axis=1)
    direction = np.concatenate(directions, axis=1)
    z = oja(rounds[:8])
    assert abs(z[1]) > 0.95  # where the spread is largest
    np.testing.assert_allclose(direction[7:], np.tile(z, (5, 1)), rtol=1e-4, atol=1e-5)
    whom = [0] * 8 + [int(np.argmax(np.abs(rows @ z))) for rows in rounds[8:]]
    assert len(set(whom[8:])) > 1
    np.testing.assert_array_equal(sent, rounds[np.arange(12), whom])
    assert vectors["n"].tolist() == [1] * 12


def test_mimic_bears_messages_that_do_not_differ():
    attack = attacks.learned_mimic(1)
    state = attack.init(HONEST[0])
    for _ in range(2):
        vector, state = attack.update(jnp.ones((3, 2)), state)
    np.testing.assert_array_equal(vector, 1.0)
    assert jnp.isfinite(state.direction[0]).all()


@pytest.mark.parametrize("layout", [federated.data.padded, federated.data.flat])
def test_only_the_labels_of_attackers_are_flipped(layout):
    arrays = {"x": np.arange(6.0), "y": np.array([0, 1, 2, 3, 0, 1])}
    parts = [np.array([0, 1, 2]), np.array([5]), np.array([3, 4])]
    data = layout(arrays, parts)
    flipped = attacks.flip_labels(data, [2, 0], num_classes=4)
    for client, expected in enumerate([[3, 2, 1], [1], [0, 3]]):
        found = federated.data.client_arrays(flipped, client)
        assert found["y"].tolist() == expected
        assert found["x"].tolist() == arrays["x"][parts[client]].tolist()
    assert federated.data.client_arrays(data, 0)["y"].tolist() == [0, 1, 2]
    assert flipped.arrays["y"].dtype == data.arrays["y"].dtype


LABELLED = federated.data.padded({"y": np.arange(2)}, [np.array([0]), np.array([1])])


def test_the_search_measures_the_whole_tree():
    tree = {"a": HONEST[:, 0], "b": HONEST[:, 1:]}
    search = functools.partial(attacks.search_factor, attacks.inner_product, rules.trimmed_mean)
    assert float(search(tree, 1)) == pytest.approx(float(search(HONEST, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attacks.sign_flip(jnp.zeros((0, 2))), r"at least one participant"),
        (lambda: attacks.a_little_is_enough(HONEST[:1]), r"at least 2 messages, got 1"),
        (lambda: attacks.mimic(HONEST, 3), r"mimic: k must lie in \[0, 3\), got 3"),
        (lambda: attacks.mimic(HONEST, -1), r"mimic: k must be an integer >= 0, got -1"),
        (lambda: noise(HONEST, sigma=-1.0), r"gaussian: sigma must lie in \[0, inf\), got -1.0"),
        (lambda: attacks.label_flip_targets(jnp.zeros(1), 1), r"num_classes must be an integer"),
        (lambda: attacks.search_factor(noise, rules.mean, HONEST, 0), r"f must be an integer >= 1"),
        (
            lambda: attacks.search_factor(noise, rules.mean, HONEST, 1, evals=0),
            r"evals must be an integer >= 1, got 0",
        ),
        (
            lambda: attacks.search_factor(noise, rules.mean, HONEST, 1, ratio=1.0),
            r"ratio must lie in \(0, 1\), got 1.0",
        ),
        (
            lambda: attacks.search_factor(noise, rules.mean, HONEST, 1, delta=0.0),
            r"delta must lie in \(0, inf\), got 0.0",
        ),
        (
            lambda: attacks.optimized(noise, rules.mean, 1, every=0),
            r"optimized: every must be an integer >= 1, got 0",
        ),
        (
            lambda: attacks.optimized(noise, rules.mean, 1, start=-1.0),
            r"optimized: start must lie in \[0, inf\), got -1.0",
        ),
        (lambda: attacks.learned_mimic(0), r"learning_steps must be an integer >= 1, got 0"),
        (
            lambda: attacks.flip_labels(LABELLED, [1, 2], 2),
            r"clients must lie in \[0, 2\), got \[2\]",
        ),
        (lambda: attacks.flip_labels(LABELLED, [1], 2, "z"), r"must be a dict that holds 'z'"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
