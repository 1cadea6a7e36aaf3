"""Single rounds of the engine: what is compiled, what is recorded, what goes over the wire."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gradax import federated
from gradax.federated.simulation._engine import Engine
from gradax.federated.simulation._local import Batching, Objective

N = 4
NUMBERS = federated.data.padded(np.arange(N, dtype=np.float32), list(np.arange(N)[:, None]))


def loss_fn(x, batch):
    return jnp.mean((x - batch) ** 2) / 2


def make_engine(algorithm, **options):
    return Engine(
        algorithm=algorithm,
        objective=Objective.of(loss_fn, None),
        batching=Batching.plan(NUMBERS, None, 1, None, replace=False),
        num_clients=N,
        **options,
    )


def costly_in_even_rounds():
    """A client that computes something only in every other round."""

    def update(updates, state, params=None, *, round, **extras):
        del params, extras
        cheap, dear = (lambda u: u), (lambda u: lax.fori_loop(0, 9, lambda _, v: jnp.sin(v), u))
        return lax.cond(round % 2 == 0, dear, cheap, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@pytest.mark.parametrize("cohort", [None, federated.uniform_cohort(N, 3)], ids=["all", "drawn"])
def test_with_chunks_of_one_a_branch_stays_a_branch(cohort):
    client = optax.chain(costly_in_even_rounds(), optax.sgd(0.1))
    algorithm = federated.fedavg(0.1)._replace(client=client)
    engine = make_engine(algorithm, chunk=1, cohort=cohort)
    state = engine.init(jnp.array(0.5), jax.random.key(0))
    compiled = jax.jit(engine.round).lower(state, NUMBERS).compile().as_text()
    assert compiled.count("conditional(") == 1


def depends_on_the_lane():
    update = lambda u, s, p=None, *, client_id, **_: (
        lax.cond(
            client_id % 2 == 0,
            lambda v: lax.fori_loop(0, 9, lambda _, w: jnp.sin(w), v),
            lambda v: v,
            u,
        ),
        s,
    )
    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@pytest.mark.parametrize(("chunk", "branches"), [(1, 1), (2, 0)])
def test_a_branch_on_the_client_is_one_only_in_chunks_of_one(chunk, branches):
    algorithm = federated.fedavg(0.1)._replace(client=depends_on_the_lane())
    engine = make_engine(algorithm, chunk=chunk)
    state = engine.init(jnp.array(0.5), jax.random.key(0))
    compiled = jax.jit(engine.round).lower(state, NUMBERS).compile().as_text()
    assert compiled.count("conditional(") == branches


def test_with_chunks_of_one_no_store_is_copied():
    """One row of it is written in each step of the scan; the rest stays where it is."""
    engine = make_engine(federated.fedspeed(0.1), chunk=1, cohort=federated.uniform_cohort(N, 3))
    params = jnp.zeros(1000)
    engine = Engine(**{**vars(engine), "objective": Objective(None, lambda x, batch: x - batch)})
    state = engine.init(params, jax.random.key(0))
    step = jax.jit(engine.round, donate_argnums=0)
    compiled = step.lower(state, NUMBERS).compile().as_text()
    body = [line for line in compiled.splitlines() if " copy(" in line and f"f32[{N},1000]" in line]
    assert not body


class Report(NamedTuple):
    wire_bytes: jax.Array
    norm: jax.Array


def report(size, field=Report):
    """Says that a client sends ``size * (1 + id)`` bytes, and the norm of its message."""

    def update(updates, state, params=None, *, client_id, **extras):
        del state, params, extras
        return updates, field(jnp.int32(size * (1 + client_id)), optax.tree.norm(updates))

    init = lambda params: field(jnp.int32(0), jnp.zeros([]))
    return optax.GradientTransformationExtraArgs(init, update)


def simulate(client, rounds=1, **options):
    algorithm = federated.fedavg(1.0)._replace(client=optax.chain(optax.scale(-1.0), *client))
    settings = {"batch_size": None, "num_steps": 1, "segment": rounds, **options}
    return federated.simulate(
        algorithm, loss_fn, jnp.array(1.0), NUMBERS, rounds, **settings
    ).history


def test_static_sizes_unless_a_client_reports_others():
    assert simulate(()).rows[0]["bytes_up"] == N * 4
    history = simulate(
        (report(100),),
        rounds=2,
        cohort=federated.scheduled_cohort(N, np.array([[0, 3, N], [2, N, N]])),
    )
    assert history.column("bytes_up") == [100 + 400, 300]
    assert history.column("bytes_down") == [8, 4]


def test_the_last_reporter_of_a_chain_wins():
    assert simulate((report(100), report(7))).rows[0]["bytes_up"] == 7 * (1 + 2 + 3 + 4)


def test_large_reports_are_added_in_python_numbers():
    assert simulate((report(2**28),)).rows[0]["bytes_up"] == 2**28 * 10


class Copies(NamedTuple):
    wire_bytes: jax.Array
    wire_copies: jax.Array


def test_a_message_may_be_sent_to_several():
    field = lambda size, norm: Copies(size, jnp.int32(2))
    assert simulate((report(10, field),)).rows[0]["bytes_up"] == 2 * 100
    assert simulate((report(10, field),) * 2).rows[0]["bytes_up"] == 4 * 100


@pytest.mark.parametrize("chunk", [1, 3])
def test_records_the_mean_over_those_present(chunk):
    cohort = federated.scheduled_cohort(N, np.array([[3, 1, N, N]]))
    history = simulate((report(1),), record=("norm",), cohort=cohort, chunk=chunk)
    assert history.last("norm") == pytest.approx((2 + 0) / 2)
    assert history.last("loss") == pytest.approx((2 + 0) / 2)
    assert history.last("num_active") == 2


def test_a_name_to_record_must_be_one_field():
    with pytest.raises(ValueError, match="there are 2 named 'norm'"):
        simulate((report(1), report(1)), record=("norm",))


def test_an_empty_round_records_nothing():
    row = simulate((), cohort=federated.scheduled_cohort(N, np.array([[N]]))).rows[0]
    assert row["num_active"] == row["bytes_up"] == row["bytes_down"] == 0
    assert "loss" not in row
