"""Clients by the loss on their data: pools, turns, scoring, and what a run reports of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from gradax import federated, schedules
from tests.federated.simulation.problems import (
    EXAMPLES,
    FLAT,
    NUM_CLIENTS,
    PADDED,
    PARAMS,
    PARTS,
    assert_same_bits,
    loss_fn,
    simulate,
)

N = NUM_CLIENTS
LOSSES = jnp.array([0.3, 0.9, 0.1, 0.7, 0.5, 0.2, 0.8, 0.6])
EASY_FIRST = np.argsort(LOSSES)
WHOLE = lambda count: N


def play(cohort, rounds, losses=LOSSES):
    """Participants of each round without nobody, sizes of pools, numbers of scored clients."""
    extra = {"losses_fn": lambda: losses} if cohort.uses_losses else {}
    draw = jax.jit(lambda state, key: cohort.draw(state, key, 0, **extra))
    state, rows = cohort.init(), []
    for key in jax.random.split(jax.random.key(0), rounds):
        drawn, state = draw(state, key)
        assert drawn.ids.shape == (cohort.size,)
        assert drawn.ids.dtype == jnp.int32
        ids = [number for number in drawn.ids.tolist() if number < cohort.num_clients]
        rows.append((ids, int(state.pool_size), int(drawn.num_scored)))
    return rows


def curriculum(pacing, order="curriculum", size=3):
    return federated.client_curriculum(pacing, order, num_clients=N, size=size)


def test_a_pool_is_dealt_out_before_clients_are_scored_again():
    pacing = schedules.pacing_schedule("linear", 1.0, 0.5, num_steps=20, num_items=N)
    rows = play(curriculum(pacing), 5)
    # Pools of 4 (no update yet), 4.8 (4 updates) and 5.6 (8 updates) clients.
    assert [size for _, size, _ in rows] == [4, 4, 4, 4, 5]
    assert [len(ids) for ids, _, _ in rows] == [3, 1, 3, 1, 3]
    assert [scored for _, _, scored in rows] == [N, 0, N, 0, N]
    for first, second in (rows[:2], rows[2:4]):
        assert sorted(first[0] + second[0]) == sorted(EASY_FIRST[:4])
    assert set(rows[4][0]) <= set(EASY_FIRST[:5].tolist())


def test_anti_takes_the_hard_ones_and_is_the_curriculum_of_minus_the_loss():
    half = lambda count: N // 2
    rows = play(curriculum(half, "anti", size=4), 3)
    assert all(sorted(ids) == sorted(EASY_FIRST[4:]) for ids, _, _ in rows)
    assert rows == play(curriculum(half, size=4), 3, -LOSSES)


def test_random_order_scores_nobody_and_takes_all_alike():
    cohort = curriculum(lambda count: 4, "random", size=4)
    rows = play(cohort, 300)
    assert not cohort.uses_losses
    assert all(scored == 0 for _, _, scored in rows)
    shares = np.bincount(np.concatenate([ids for ids, _, _ in rows])) / 300
    np.testing.assert_allclose(shares, 0.5, atol=4 * np.sqrt(0.25 / 300))


def test_a_pool_of_everybody_is_a_random_partition_whatever_the_losses():
    cohort = curriculum(WHOLE, size=4)
    rows = play(cohort, 40)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert sorted(first[0] + second[0]) == list(range(N))
    assert len({tuple(sorted(ids)) for ids, _, _ in rows[::2]}) > 10


def listening():
    """A cohort of two that remembers what it was told."""
    draw = lambda state, key, round, losses_fn: (federated.Draw(jnp.arange(2)), losses_fn())
    return federated.Cohort(2, N, lambda: jnp.zeros(N), draw, uses_losses=True)


@pytest.mark.parametrize("data", [PADDED, FLAT], ids=["padded", "flat"])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_losses_are_those_on_all_data_of_each_client(data, chunk):
    own = [jax.tree.map(lambda leaf, part=part: leaf[part], EXAMPLES) for part in PARTS]
    expected = [float(loss_fn(PARAMS, examples)) for examples in own]
    result = simulate(federated.fedavg(0.1), data, 1, cohort=listening(), chunk=chunk)
    np.testing.assert_allclose(result.state.cohort, expected, rtol=1e-5)


def growing(order="curriculum"):
    pacing = schedules.pacing_schedule("linear", 1.0, 0.4, num_steps=12, num_items=N)
    return federated.client_curriculum(pacing, order, num_clients=N, size=2)


def test_the_history_counts_what_scoring_sends():
    result = simulate(federated.fedavg(0.1), cohort=growing())
    size = 4 * sum(np.size(leaf) for leaf in PARAMS.values())
    for row in result.history.rows:
        scored = row.get("num_scored", 0)
        assert row["bytes_up"] == size * row["num_active"] + 4 * scored
        assert row["bytes_down"] == size * (N if scored else row["num_active"])
    assert result.history.column("num_scored") == [N, N]
    assert result.history.column("num_active") == [2, 1, 2, 2]


def test_segments_and_devices_change_nothing():
    whole = simulate(federated.fedavg(0.1), cohort=growing())
    parts = simulate(federated.fedavg(0.1), cohort=growing(), segment=1)
    assert_same_bits(parts.state.cohort, whole.state.cohort)
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(AxisType.Auto,))
    spread = simulate(federated.fedavg(0.1), cohort=growing(), mesh=mesh)
    assert_same_bits(
        jax.tree.map(np.asarray, spread.state.cohort), jax.tree.map(np.asarray, whole.state.cohort)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curriculum(WHOLE, "hard"), "order must be one of 'curriculum', 'anti', 'random'"),
        (lambda: curriculum(WHOLE, size=9), "size must not exceed the number of clients, 8"),
        (lambda: curriculum(4), "pacing must be a function of the count, got 4"),
        (
            lambda: simulate(
                federated.fedavg(0.1), cohort=growing(), loss_fn=None, grad_fn=jax.grad(loss_fn)
            ),
            "it needs loss_fn= and an algorithm with a server",
        ),
        (lambda: simulate(optax.sgd(0.1), cohort=growing()), "an algorithm with a server"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call()
