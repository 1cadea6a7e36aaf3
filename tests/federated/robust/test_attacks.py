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


@pytest.mark.parametrize("evals", [1, 2, 7, 20])
@pytest.mark.parametrize("rule", [rules.mean, rules.median, rules.trimmed_mean])
def test_the_search_is_the_line_search(evals, rule):
    with jax.enable_x64(True):
        honest = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))

        def damage(tau):
            lie = attacks.a_little_is_enough(honest, tau)
            rows = jnp.concatenate([honest, jnp.stack([lie, lie])])
            return float(jnp.linalg.norm(rule(rows, 2) - honest.mean(axis=0)))

        search = functools.partial(
            attacks.search_factor, attacks.a_little_is_enough, rule, f=2, evals=evals
        )
        found = jax.jit(lambda rows: search(honest=rows))(honest)
        assert float(found) == pytest.approx(line_search(damage, evals, 0.0, 10.0, 0.8))


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
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
