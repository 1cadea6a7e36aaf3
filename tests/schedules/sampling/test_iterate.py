"""Batches on the host: passes, samplers, groups; saved and resumed; and grain."""

import itertools
import pickle

import jax
import numpy as np
import pytest

from gradax import schedules

DATA = {"x": np.arange(20.0).reshape(10, 2), "id": np.arange(10)}
GROUPS = [np.arange(7), np.arange(7, 10)]
ORDER = np.arange(10)[::-1]


def domains(**options):
    return schedules.domain_sampler((7, 3), np.inf, **{"batch_size": 6, **options})


def pool():
    return schedules.curriculum_pool(ORDER, lambda count: 4 + count, batch_size=3)


STREAMS = {
    "passes": lambda seed=0: schedules.batches(DATA, 3, seed=seed),
    "short ends": lambda seed=0: schedules.batches(DATA, 4, seed=seed, drop_last=False),
    "pool": lambda seed=0: schedules.batches(DATA, sampler=pool(), seed=seed),
    "groups": lambda seed=0: schedules.batches(DATA, sampler=domains(), groups=GROUPS, seed=seed),
}


def ids(stream, count=None):
    return [batch["id"].tolist() for batch in itertools.islice(stream, count)]


def test_passes_hold_every_example_once_in_changing_orders():
    passes = np.reshape(ids(schedules.batches(DATA, 5), 8), (4, 10))
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(10), (4, 1)))
    assert len(np.unique(passes, axis=0)) == 4


def test_batches_are_numpy_rows_of_the_data():
    batch = next(schedules.batches(DATA, 3))
    assert isinstance(batch["x"], np.ndarray)
    np.testing.assert_array_equal(batch["x"], DATA["x"][batch["id"]])


def test_ends_and_remainders():
    lengths = lambda **options: [
        len(row) for row in ids(schedules.batches(DATA, 4, num_epochs=2, **options))
    ]
    assert lengths() == [4, 4, 4, 4]
    assert lengths(drop_last=False) == [4, 4, 2, 4, 4, 2]
    in_order = schedules.batches(DATA, 4, shuffle=False, drop_last=False, num_epochs=1)
    assert ids(in_order) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_resumes_bit_for_bit_in_the_middle_of_a_pass(name):
    stream = STREAMS[name]()
    ids(stream, 2)
    saved = pickle.dumps(stream.get_state())
    rest = ids(stream, 6)
    for again in (stream, STREAMS[name]()):
        again.set_state(pickle.loads(saved))
        assert ids(again, 6) == rest


@pytest.mark.parametrize("name", STREAMS)
def test_the_seed_decides(name):
    same, other = STREAMS[name](), STREAMS[name](seed=1)
    assert ids(STREAMS[name](), 5) == ids(same, 5)
    assert ids(other, 5) != ids(STREAMS[name](), 5)


def test_a_saved_state_stands_still():
    stream = STREAMS["groups"]()
    saved = stream.get_state()
    ids(stream, 3)
    np.testing.assert_array_equal(saved["dealt"], 0)
    assert any(np.any(a != b) for a, b in zip(*states_of(saved, stream), strict=True))


def states_of(saved, stream):
    return saved["sampler"], stream.get_state()["sampler"]


def test_a_sampler_chooses_the_examples():
    expected, _ = pool().sample(pool().init(0))
    assert ids(STREAMS["pool"](), 1) == [expected.tolist()]


def test_groups_are_dealt_out_in_passes_of_their_own():
    flat = np.ravel(ids(STREAMS["groups"](), 40))
    for group in GROUPS:
        own = flat[np.isin(flat, group)]
        passes = own[: len(own) // len(group) * len(group)].reshape(-1, len(group))
        assert len(passes) > 10
        np.testing.assert_array_equal(np.sort(passes), np.tile(group, (len(passes), 1)))
    # Both groups come equally often, though one is smaller.
    np.testing.assert_allclose(np.mean(flat >= 7), 0.5, atol=4 * np.sqrt(0.25 / flat.size))


def test_a_choice_may_be_a_single_one():
    stream = schedules.batches(DATA, sampler=domains(batch_size=None), groups=GROUPS)
    assert next(stream)["x"].shape == (2,)


def test_it_is_an_iterator():
    stream = STREAMS["passes"]()
    assert iter(stream) is stream


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.batches(DATA), "batch_size must be an integer >= 1, got None"),
        (lambda s: s.batches(DATA, 11), "must not exceed the 10 examples with drop_last"),
        (lambda s: s.batches(DATA, 2, seed=-1), "seed must be an integer >= 0"),
        (lambda s: s.batches(DATA, 2, num_epochs=0), "num_epochs must be an integer >= 1"),
        (lambda s: s.batches({"a": np.zeros(2), "b": np.zeros(3)}, 1), "common leading axis"),
        (lambda s: s.batches(np.zeros(0), 1), "common leading axis of examples"),
        (lambda s: s.batches(3.0, 1), "common leading axis of examples"),
        (lambda s: s.batches(DATA, 2, groups=GROUPS), "groups= needs a sampler="),
        (lambda s: s.batches(DATA, 2, sampler=pool()), "are for streams without a sampler="),
        (lambda s: s.batches(DATA, sampler=iter([1])), "sampler must be a Sampler"),
        (
            lambda s: s.batches(DATA, sampler=domains(), groups=[[0], [10]]),
            r"groups\[1\] must hold indices of the 10 examples",
        ),
        (lambda s: s.batches(DATA, sampler=domains(), groups=[]), "groups must hold one at least"),
        (
            lambda s: ids(s.batches(DATA, sampler=domains(), groups=[np.arange(10)]), 9),
            "must choose from 1 groups, got",
        ),
        (
            lambda s: s.batches(DATA, 2).set_state(STREAMS["pool"]().get_state()),
            "state must come from the same arguments",
        ),
        (
            lambda s: s.batches(DATA, 2).set_state(s.batches(DATA, 2, seed=1).get_state()),
            "and seed 0; got .* and seed 1",
        ),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)


# grain -----------------------------------------------------------------------------------


@pytest.fixture
def grain():
    return pytest.importorskip("grain")


def loader(grain, sampler, groups=None):
    return grain.DataLoader(
        data_source=[{"id": number} for number in range(10)],
        sampler=schedules.grain_sampler(sampler, 4, num_examples=10, groups=groups),
        operations=[grain.transforms.Batch(6)],
        shard_options=grain.sharding.NoSharding(),
    )


def test_grain_reads_the_records_of_batches(grain):
    records = [batch["id"].tolist() for batch in loader(grain, domains(), GROUPS)]
    assert records == ids(STREAMS["groups"](), 4)


def test_grain_resumes(grain):
    stream = iter(loader(grain, domains(), GROUPS))
    next(stream)
    saved = stream.get_state()
    rest = [batch["id"].tolist() for batch in stream]
    again = iter(loader(grain, domains(), GROUPS))
    again.set_state(saved)
    assert [batch["id"].tolist() for batch in again] == rest
    other = schedules.grain_sampler(domains(), 4, groups=GROUPS, seed=1)
    assert repr(other) != repr(schedules.grain_sampler(domains(), 4, groups=GROUPS))


def test_records_have_generators_of_their_own_and_travel_to_workers(grain):
    sampler = schedules.grain_sampler(pool(), 2)
    draws = [record.rng.random() for record in (sampler[0], sampler[1], sampler[0])]
    assert draws[0] == draws[2] != draws[1]
    assert pickle.loads(pickle.dumps(sampler))[3].record_key == sampler[3].record_key
    with pytest.raises(IndexError, match=r"index must lie in \[0, 5\], got 6"):
        sampler[6]


def test_grain_refuses_choices_out_of_range(grain):
    with pytest.raises(ValueError, match="must choose from 5 examples"):
        schedules.grain_sampler(pool(), 8, num_examples=5)


def test_without_grain_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(ImportError, match=r"grain_sampler needs grain.*gradax\[grain\]"):
        schedules.grain_sampler(pool(), 1)


def test_drawing_leaves_no_array_on_another_device():
    assert jax.default_backend() == "cpu"
    stream = STREAMS["groups"]()
    next(stream)
    assert {type(leaf) for leaf in jax.tree.leaves(stream.get_state())} <= {np.ndarray, int}
