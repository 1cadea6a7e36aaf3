"""Sequential codes: patterns of stragglers in numbers, training, loads, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated import coding


def play(scheme, stragglers, gradients):
    """Plays a pattern; gives each job's decoded sum as soon as it is due.

    ``gradients(job)`` are those of all parts, with a leading axis of parts.
    """
    scheme.reset()
    results, late_by = {}, np.asarray(stragglers, bool)
    for r, late in enumerate(late_by.T):
        for task in scheme.next_round():
            if not late[task.worker]:
                parts = gradients(task.job)
                combination = scheme.combination(task).items()
                results[task] = sum(weight * parts[part] for part, weight in combination)
        scheme.report(late)
        if r >= scheme.delay:
            yield r - scheme.delay, scheme.assemble(r - scheme.delay, results)


def bursty_patterns(n, B, W, lam, rounds):
    """All patterns of the bursty model, each ``bool[n, rounds]``."""
    subsets = (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1
    patterns = [[]]
    for _ in range(rounds):
        patterns = [
            [*pattern, late]
            for pattern in patterns
            for late in subsets
            if coding.conforms(np.stack([*pattern, late], axis=1), B, W, lam)
        ]
    return [np.stack(pattern, axis=1) for pattern in patterns]


def assert_decodes(scheme, patterns):
    parts = np.random.default_rng(0).normal(size=(40, len(scheme.fractions)))
    for pattern in patterns:
        for job, total in play(scheme, pattern, lambda job: parts[job]):
            np.testing.assert_allclose(total, parts[job].sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "rounds", "count"),
    [((3, 1, 2, 1), 5, 97), ((3, 1, 2, 2), 5, 1015), ((3, 2, 3, 1), 4, None)],
)
def test_msgc_decodes_every_pattern_of_its_model(parameters, rounds, count):
    patterns = bursty_patterns(*parameters, rounds)
    assert count is None or len(patterns) == count
    assert_decodes(coding.MSGC(*parameters), patterns[:: 1 + len(patterns) // 400])


@pytest.mark.parametrize("parameters", [(4, 1, 3, 2), (4, 2, 3, 3), (5, 2, 5, 4)])
def test_srsgc_decodes_patterns_of_its_model(parameters):
    n, B, W, lam = parameters
    assert_decodes(coding.SRSGC(*parameters), random_patterns(n, B, W, lam, 40))


@pytest.mark.parametrize("parameters", [(4, 2, 4, 2), (3, 2, 3, 3), (4, 1, 3, 4), (4, 2, 3, 0)])
def test_msgc_decodes_patterns_of_larger_models(parameters):
    n, B, W, lam = parameters
    patterns = random_patterns(n, B, W, lam, 40)
    assert lam == 0 or any(pattern.any() for pattern in patterns)
    assert_decodes(coding.MSGC(*parameters), patterns)


def test_msgc_decodes_patterns_of_the_arbitrary_model():
    rng, patterns = np.random.default_rng(0), []
    while len(patterns) < 60:
        pattern = rng.random((3, 8)) < 0.4
        if coding.conforms_arbitrary(pattern, 2, 4, 2) and not coding.conforms(pattern, 2, 3, 2):
            patterns.append(pattern)
    assert_decodes(coding.MSGC(3, 2, 3, 2), patterns)


def random_patterns(n, B, W, lam, count):
    """Draws rounds one after the other, each kept if the model allows."""
    rng, patterns = np.random.default_rng(0), []
    for _ in range(count):
        scheme = coding.MSGC(n, B, W, lam)
        for _ in range(12):
            scheme.next_round()
            late = rng.random(n) < 0.5
            scheme.report(late if scheme.accepts(late) else [])
        patterns.append(np.stack(scheme._late, axis=1))
        assert coding.conforms(patterns[-1], B, W, lam)
    return patterns


@pytest.mark.parametrize("where", [np.s_[:2, 1], np.s_[0, :2]], ids=["coded", "plain"])
def test_a_pattern_outside_of_the_model_fails(where):
    """Combinations are missing, or a part that only one worker owns."""
    scheme = coding.MSGC(3, 1, 2, 1)
    late = np.zeros((3, 5), bool)
    late[where] = True
    with pytest.raises(RuntimeError, match=r"MSGC: job 0 cannot be decoded after round 1; it is"):
        list(play(scheme, late, lambda job: np.ones((40, 1))))


@pytest.mark.parametrize(
    "scheme", [coding.GC(5, 2), coding.SRSGC(4, 1, 3, 2), coding.MSGC(4, 2, 3, 2)], ids=repr
)
def test_without_stragglers_nothing_is_done_twice(scheme):
    done, parts = [], np.random.default_rng(0).normal(size=(20, len(scheme.fractions)))
    for job, total in play(scheme, np.zeros((scheme.n, 8), bool), lambda job: parts[job]):
        np.testing.assert_allclose(total, parts[job].sum(), rtol=1e-9)
    scheme.reset()
    for _ in range(8):
        done += scheme.next_round()
        scheme.report([])
    assert len(set(done)) == len(done)


@pytest.mark.parametrize(
    ("scheme", "load", "delay"),
    [
        (coding.MSGC(256, 1, 2, 27), 0.0075431, 1),
        (coding.SRSGC(256, 2, 3, 23), 13 / 256, 2),
        (coding.GC(256, 15), 0.0625, 0),
        (coding.MSGC(3, 1, 2, 1), 4 / 9, 1),
        (coding.MSGC(3, 2, 3, 2), 1 / 2, 3),
        (coding.MSGC(4, 2, 3, 0), 1 / 4, 3),
        (coding.MSGC(4, 2, 3, 4), 4 / (4 * 2), 3),
        (coding.MSGC(4, 2, 4, 3), (3 + 2) / (4 * 3 + 2 * 1), 4),  # the lower bound
    ],
    ids=repr,
)
def test_loads(scheme, load, delay):
    assert scheme.load == pytest.approx(load, rel=1e-5)
    assert scheme.delay == delay
    assert scheme.fractions.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("parameters", [(3, 1, 2, 1), (3, 2, 3, 2), (4, 2, 3, 0)])
def test_a_worker_computes_as_much_as_the_load_says(parameters):
    scheme = coding.MSGC(*parameters)
    for _ in range(8):
        tasks = scheme.next_round()
        scheme.report([])
    for worker in range(scheme.n):
        parts = [p for t in tasks if t.worker == worker for p in scheme.combination(t)]
        assert scheme.fractions[parts].sum() == pytest.approx(scheme.load)


def test_retries_replace_and_stragglers_lose_the_whole_round():
    scheme = coding.MSGC(4, 2, 3, 2)
    for late in ([], [1], [1]):
        tasks = scheme.next_round()
        scheme.report(late)
    # Worker 1 has lost its second part of job 0 and its first of job 1.
    again = [task for task in scheme.next_round() if task.worker == 1]
    assert [(task.job, task.kind, task.part) for task in again] == [
        (0, "plain", 3),
        (1, "plain", 2),
        (2, "plain", 3),
        (3, "plain", 2),
    ]
    assert len(tasks) == 12


def test_srsgc_repeats_no_more_than_needed():
    scheme = coding.SRSGC(6, 1, 3, 4)
    assert scheme.s == 2
    scheme.next_round()
    scheme.report([1, 2, 4, 5])
    jobs = [task.job for task in scheme.next_round()]
    assert jobs == [1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("scheme", [coding.MSGC(4, 2, 3, 2), coding.SRSGC(4, 1, 3, 2)], ids=repr)
def test_several_models_trained_in_turn_equal_uncoded_training(scheme):
    """Gradients of real losses, coded, decoded, applied; under injected stragglers."""
    models, steps, rng = scheme.delay + 1, 3, np.random.default_rng(0)
    x = rng.normal(size=(26, 2))
    y = rng.normal(size=(models, 26))
    grad = jax.jit(jax.grad(lambda w, x, y, use: jnp.sum(use * (x @ w - y) ** 2)))
    uses = np.zeros((len(scheme.fractions), 26))
    for part, rows in enumerate(scheme.split(26)):
        uses[part, rows] = 1.0
    assert (uses.sum(axis=0) == 1).all()
    rounds = models * steps + scheme.delay
    slow = coding.straggler_model("markov", 4, rounds, enter=0.3, leave=0.7, seed=3)
    run = coding.simulate_rounds(scheme, np.where(slow, 9.0, 1.0))
    assert run.stragglers.any()
    with jax.enable_x64(True):
        weights = np.zeros((models, 2))
        of_part = jax.vmap(grad, (None, None, None, 0))
        gradients = {}

        def parts_of(job):  # the gradient is taken where the model stands when the job begins
            if job not in gradients:
                model = job % models
                gradients[job] = np.asarray(of_part(weights[model], x, y[model], uses))
            return gradients[job]

        for job, total in play(scheme, run.stragglers, parts_of):
            if job < models * steps:
                weights[job % models] -= 0.01 * total
        expected = np.zeros((models, 2))
        for job in range(models * steps):
            model = job % models
            expected[model] -= 0.01 * np.asarray(grad(expected[model], x, y[model], np.ones(26)))
    np.testing.assert_allclose(weights, expected, rtol=1e-10)


def test_conforms_is_what_its_words_say():
    rng = np.random.default_rng(0)
    for _ in range(200):
        B, W, lam = 2, 4, 2
        late = rng.random((3, 7)) < 0.25
        windows = [late[:, r : r + W] for r in range(4)]
        few = all(window.any(axis=1).sum() <= lam for window in windows)
        spread = [np.ptp(np.flatnonzero(row)) for w in windows for row in w if row.any()]
        assert coding.conforms(late, B, W, lam) == (few and max(spread, default=0) <= B - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coding.MSGC(4, 0, 2, 1), r"MSGC: B must be an integer >= 1, got 0"),
        (lambda: coding.MSGC(4, 2, 2, 1), r"MSGC: W must be above B = 2, got 2"),
        (lambda: coding.MSGC(4, 1, 2, 5), r"MSGC: lam must be at most n = 4, got 5"),
        (lambda: coding.MSGC(4, 1, 2, -1), r"MSGC: lam must be an integer >= 0, got -1"),
        (lambda: coding.SRSGC(4, 2, 4, 1), r"SRSGC: W - 1 must be a multiple of B = 2, got W = 4"),
        (lambda: coding.SRSGC(0, 1, 2, 0), r"SRSGC: n must be an integer >= 1, got 0"),
        (lambda: coding.GC(4, 4), r"GC: s must be below n = 4, got 4"),
        (lambda: coding.GC(4, 1).split(0), r"GC: num_examples must be an integer >= 1, got 0"),
        (lambda: coding.GC(4, 1).accepts([4]), r"GC: stragglers must be 4 booleans or numbers"),
        (lambda: coding.GC(4, 1).accepts([True]), r"GC: stragglers must be 4 booleans"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounds_are_opened_and_closed_in_turn():
    scheme = coding.GC(3, 1)
    with pytest.raises(RuntimeError, match="GC: call next_round before report"):
        scheme.report([])
    scheme.next_round()
    with pytest.raises(RuntimeError, match="GC: report round 0 before the next one"):
        scheme.next_round()
    scheme.report([0, 1])
    with pytest.raises(RuntimeError, match="GC: job 0 cannot be decoded after round 0"):
        scheme.decode(0)
    with pytest.raises(RuntimeError, match="GC: job 7 cannot be decoded after round 0"):
        scheme.decode(7)
