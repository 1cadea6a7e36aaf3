"""ABSA: growth by eigenvalue and by duration; FGSM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import schedules


def states_after(rule, eigenvalues):
    update, state = jax.jit(rule.update), rule.init()
    for epoch, eigenvalue in enumerate(eigenvalues):
        state = update(state, eigenvalue, epoch)
        yield state


def ratios(rule, eigenvalues):
    return [int(state.ratio) for state in states_after(rule, eigenvalues)]


def test_halving_eigenvalues_double_the_batch_each_epoch():
    rule = schedules.absa_controller(max_ratio=8)
    assert ratios(rule, 2.0 ** -np.arange(6)) == [1, 2, 4, 8, 8, 8]
    last = list(states_after(rule, 2.0 ** -np.arange(6)))[-1]
    assert not last.measuring
    assert last.adversarial_ratio == 0.0
    assert last.reference_eig == 2.0**-3


def test_a_constant_eigenvalue_grows_by_duration_only():
    assert ratios(schedules.absa_controller(16, duration=None), [3.0] * 12) == [1] * 12
    assert ratios(schedules.absa_controller(16, duration=3), [3.0] * 7) == [1, 1, 2, 2, 2, 4, 4]


def test_growth_by_duration_keeps_the_reference():
    states = list(states_after(schedules.absa_controller(16, duration=2), [8.0, 7.0, 3.75]))
    assert [int(state.ratio) for state in states] == [1, 2, 4]
    assert [float(state.reference_eig) for state in states] == [8.0, 8.0, 3.75]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ratios_are_capped_powers_and_the_rate_follows(seed):
    eigenvalues = np.random.default_rng(seed).exponential(size=20) * 0.8 ** np.arange(20)
    for state in states_after(schedules.absa_controller(12, duration=4), eigenvalues):
        assert int(state.ratio) in (1, 2, 4, 8, 12)
        assert float(state.lr_scale) == int(state.ratio)
        share = 0.0 if state.ratio == 12 else 0.2 / int(state.ratio)
        np.testing.assert_allclose(state.adversarial_ratio, share, rtol=1e-6)


def test_the_sign_of_the_eigenvalue_does_not_count():
    values = np.array([4.0, -3.0, -1.9, 1.2, -0.9])
    rule = schedules.absa_controller(16)
    assert ratios(rule, values) == ratios(rule, np.abs(values)) == [1, 1, 2, 2, 4]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_eigenvalue_that_is_not_finite_changes_nothing(broken):
    before, after = states_after(schedules.absa_controller(16, duration=1), [4.0, broken])
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_factor_between_integers_grows_all_the_same():
    rule = schedules.absa_controller(16, factor=1.5, duration=1)
    assert ratios(rule, [1.0] * 7) == [2, 3, 4, 6, 9, 13, 16]


def test_the_second_half_of_training_is_clean():
    shares = [
        float(state.adversarial_ratio)
        for state in states_after(schedules.absa_controller(16, num_epochs=6), [1.0] * 4)
    ]
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.0, 0.0], rtol=1e-6)


def test_a_ratio_of_one_measures_nothing():
    rule = schedules.absa_controller(max_ratio=1)
    assert not rule.init().measuring
    assert ratios(rule, [4.0, 1.0]) == [1, 1]


def test_fgsm_climbs_in_each_input_and_keeps_dtypes():
    inputs = {"image": jnp.ones((3, 2), jnp.bfloat16), "scalar": jnp.zeros(3)}
    loss = lambda x: jnp.sum(x["image"] ** 2) - 3 * jnp.sum(x["scalar"])
    moved = schedules.fgsm_perturb(jax.grad(loss)(inputs), inputs, 0.25)
    np.testing.assert_array_equal(np.asarray(moved["image"], np.float32), 1.25)
    np.testing.assert_array_equal(moved["scalar"], -0.25)
    assert moved["image"].dtype == jnp.bfloat16


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.05, 1), (0.5, 4), (1.0, 8)])
def test_fgsm_of_a_share_changes_the_first_examples(share, changed):
    perturb = jax.jit(
        lambda share: schedules.fgsm_perturb(jnp.ones((8, 2)), jnp.zeros((8, 2)), 1.0, share)
    )
    expected = np.repeat(np.arange(8) < changed, 2).reshape(8, 2)
    np.testing.assert_array_equal(perturb(share), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.absa_controller(0), "absa_controller: max_ratio must be an integer >= 1"),
        (lambda s: s.absa_controller(4, factor=1.0), r"factor must lie in \(1, inf\), got 1.0"),
        (lambda s: s.absa_controller(4, duration=0), "duration must be an integer >= 1, got 0"),
        (lambda s: s.absa_controller(4, num_epochs=0), "num_epochs must be an integer >= 1"),
        (lambda s: s.absa_controller(4, adversarial_ratio=1.2), "adversarial_ratio must lie in"),
        (lambda s: s.fgsm_perturb(1.0, 1.0, -0.1), r"fgsm_perturb: eps must lie in \[0, inf\)"),
        (lambda s: s.fgsm_perturb(1.0, 1.0, 0.1, 2.0), r"share must lie in \[0, 1\], got 2.0"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)
