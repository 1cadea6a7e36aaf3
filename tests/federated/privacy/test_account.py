"""Epsilon beside the rounds of a simulation, and every reason not to state it."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.simulation.problems import NUM_CLIENTS, assert_same_bits, simulate

N, DELTA = NUM_CLIENTS, 1e-3
PRIVATE = federated.dp_fedavg(0.1, 1.0, 2.0, N / 4, key=0)
POISSON = federated.poisson_cohort(N, 0.25)
ACCOUNT = federated.PrivacyAccount(DELTA, 0.25)


@functools.cache
def poisson_run():
    return simulate(PRIVATE, rounds=4, cohort=POISSON, segment=2, privacy=ACCOUNT)


def test_every_row_says_what_all_rounds_so_far_have_spent():
    result = poisson_run()
    expected = [federated.dp_epsilon(0.25, 2.0, made, DELTA) for made in (1, 2, 3, 4)]
    np.testing.assert_allclose(result.history.column("epsilon"), expected, rtol=1e-12)
    assert result.privacy.epsilon() == result.history.last("epsilon")
    assert result.privacy.num_rounds == 4


def test_accounting_changes_nothing_else():
    plain = simulate(PRIVATE, rounds=4, cohort=POISSON, segment=2)
    assert_same_bits(plain.params, poisson_run().params)
    assert plain.privacy is None
    assert "epsilon" not in plain.history.columns


def test_a_replaced_client_moves_the_sum_twice():
    account = federated.PrivacyAccount(DELTA, 0.25, "fixed")
    result = simulate(PRIVATE, rounds=2, cohort=2, privacy=account)
    twice = federated.dp_epsilon(0.25, 1.0, 2, DELTA, sampling="fixed", num_clients=N)
    assert result.history.last("epsilon") == pytest.approx(twice, rel=1e-12)


def test_the_tighter_accountant_speaks_at_the_end_of_a_segment():
    account = federated.PrivacyAccount(DELTA, 0.25, accountant="pld")
    result = simulate(PRIVATE, rounds=4, cohort=POISSON, segment=2, privacy=account)
    spoken = [row["round"] for row in result.history.rows if "epsilon" in row]
    assert spoken == [2, 4]
    assert result.history.last("epsilon") < poisson_run().history.last("epsilon")


def test_everybody_and_noise_that_changes_from_round_to_round():
    nodes = federated.diff2(0.1, 1.0, 1.0, 2.0, 4.0, restart_every=2, key=0)
    result = simulate(nodes, rounds=3, privacy=federated.PrivacyAccount(DELTA))
    # Two starts at 2 and a difference at 4: precisions add up.
    z = (2 / 2**2 + 1 / 4**2) ** -0.5
    assert result.history.last("epsilon") == pytest.approx(
        federated.dp_epsilon(1.0, z, 1, DELTA), rel=1e-9
    )


def test_local_steps_on_the_way_count_too():
    nodes = federated.bvr_l_sgd(0.1, 1.0, 1.0, 2.0, 4.0, None, key=0, noise_multiplier_local=3.0)
    result = simulate(nodes, rounds=2, num_steps=3, privacy=federated.PrivacyAccount(DELTA))
    z = (1 / 2**2 + 1 / 4**2 + 2 * 2 / 3**2) ** -0.5
    assert result.history.last("epsilon") == pytest.approx(
        federated.dp_epsilon(1.0, z, 1, DELTA), rel=1e-9
    )


def test_goes_on_with_what_was_spent():
    whole = poisson_run()
    run = functools.partial(simulate, PRIVATE, cohort=POISSON, segment=2)
    first = run(rounds=2, privacy=ACCOUNT)
    with pytest.raises(ValueError, match="accounts for 0 rounds, but the state has made 2"):
        run(rounds=4, state=jax.tree.map(jnp.copy, first.state), privacy=ACCOUNT)
    second = run(rounds=4, state=first.state, privacy=first.privacy)
    assert second.history.column("epsilon") == whole.history.column("epsilon")[2:]
    assert_same_bits(second.params, whole.params)


def test_the_account_is_part_of_the_checkpoint(tmp_path):
    run = functools.partial(simulate, PRIVATE, cohort=POISSON, segment=2, checkpoint=tmp_path)
    run(rounds=2, privacy=ACCOUNT)
    resumed = run(rounds=4, privacy=ACCOUNT)
    assert resumed.history.column("epsilon") == poisson_run().history.column("epsilon")
    assert resumed.privacy == poisson_run().privacy
    assert_same_bits(resumed.params, poisson_run().params)
    with pytest.raises(ValueError, match="privacy"):
        run(rounds=6, privacy=federated.PrivacyAccount(DELTA / 2, 0.25))


def test_a_budget_is_checked_before_the_first_round():
    spent = poisson_run().history.column("epsilon")
    for rounds, enough in ((3, True), (4, False)):
        limit = (spent[2] + spent[3]) / 2
        account = federated.PrivacyAccount(DELTA, 0.25, max_epsilon=limit)
        run = functools.partial(simulate, PRIVATE, rounds=rounds, cohort=POISSON, privacy=account)
        if enough:
            assert run().history.last("epsilon") <= limit
        else:
            with pytest.raises(ValueError, match=r"4 rounds spend epsilon = .* than max_epsilon"):
                run()


def by_losses():
    return federated.client_curriculum(lambda count: 4, num_clients=N, size=2)


NODES = federated.diff2(0.1, 1.0, 1.0, 2.0, 4.0, 2, key=0)
LOCAL = federated.dp_fedavg(0.1, 1.0, 2.0, 2, key=0, noise="local", min_clients=2)
SILENT = federated.dp_fedavg(0.1, 1.0, 0.0, 2, key=0)
FIXED = federated.PrivacyAccount(DELTA, 0.25, "fixed")
EVERYBODY = federated.PrivacyAccount(DELTA)


@pytest.mark.parametrize(
    ("algorithm", "cohort", "account", "message"),
    [
        (PRIVATE, 2, ACCOUNT, "fixed at rate 0.25 there, poisson at rate 0.25"),
        (PRIVATE, POISSON, FIXED, "poisson at rate 0.25 there, fixed at rate 0.25"),
        (PRIVATE, federated.poisson_cohort(N, 0.5), ACCOUNT, "at rate 0.5 there"),
        (PRIVATE, None, ACCOUNT, "everybody at rate 1 there"),
        (PRIVATE, POISSON._replace(draw=lambda *a: None), ACCOUNT, "nothing is known"),
        (PRIVATE, federated.weighted_cohort(N, 2, np.ones(N)), FIXED, "nothing is known"),
        (PRIVATE, federated.scheduled_cohort(N, np.arange(2)[None]), FIXED, "nothing is known"),
        (PRIVATE, federated.poisson_cohort(N, 0.25, 3), ACCOUNT, "cuts draws too often"),
        (PRIVATE, by_losses(), None, "must not draw its cohort by the losses"),
        (PRIVATE, POISSON, federated.PrivacyAccount(1 / N, 0.25), "delta must be below 1 / number"),
        (SILENT, POISSON, ACCOUNT, "without noise there is no"),
        (federated.fedavg(0.1), POISSON, ACCOUNT, "says what noise it holds"),
        (PRIVATE._replace(publishes=()), POISSON, ACCOUNT, "says what noise it holds"),
        (NODES, POISSON, ACCOUNT, "hides examples needs everybody"),
        (NODES, None, federated.PrivacyAccount(0.05), r"1 / number of examples = 0.0417"),
        (LOCAL, POISSON, ACCOUNT, "min_clients=2 participants in every round"),
    ],
)
def test_refuses_to_state_an_epsilon(algorithm, cohort, account, message):
    with pytest.raises(ValueError, match=message):
        simulate(algorithm, cohort=cohort, privacy=account)


def test_local_noise_counts_where_enough_take_part_for_sure():
    result = simulate(LOCAL, rounds=1, cohort=2, privacy=FIXED)
    assert result.history.last("epsilon") > 0


def test_says_what_to_install_before_the_first_round(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"gradax\[privacy\]"):
        simulate(PRIVATE, cohort=POISSON, privacy=ACCOUNT)


def test_refuses_what_is_no_account():
    with pytest.raises(TypeError, match="must be a PrivacyAccount"):
        simulate(PRIVATE, privacy=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta": 0.0}, "delta must lie"),
        ({"sampling_rate": 0.0}, "sampling_rate must lie"),
        ({"sampling": "all"}, "sampling must be one of"),
        ({"accountant": "zcdp"}, "accountant must be one of"),
        ({"max_epsilon": 0.0}, "max_epsilon must lie"),
        ({"sampling": "fixed", "accountant": "pld", "sampling_rate": 0.5}, "must be 'rdp'"),
    ],
)
def test_refuses_an_account(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.PrivacyAccount(**{"delta": 1e-3, **arguments})
