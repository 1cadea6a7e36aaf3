"""Coresets: greedy choice against plain and exhaustive search, weights, classes, gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import gradax
from gradax import schedules
from gradax.schedules.sampling import _coreset

LINE = np.array([[0.0], [1.0], [2.0], [9.0], [10.0]])


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def clusters(size=60, width=5, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, width)) * 3
    return centres[rng.integers(6, size=size)] + rng.normal(size=(size, width))


def objective(similarity, chosen):
    return np.maximum(similarity[:, list(chosen)].max(axis=1), 0).sum()


def plain_greedy(similarity, budget):
    """Every gain of every candidate at every choice; ``argmax`` takes the first of equals."""
    cover, chosen, gains = np.zeros(len(similarity)), [], []
    for _ in range(budget):
        gain = np.maximum(similarity - cover[:, None], 0).sum(axis=0)
        gain[chosen] = -1
        chosen.append(int(np.argmax(gain)))
        gains.append(gain[chosen[-1]])
        cover = np.maximum(cover, similarity[:, chosen[-1]])
    return chosen, gains


@settings(deadline=None, max_examples=25)
@given(data=st.data(), size=st.integers(1, 9))
def test_equals_plain_greedy_with_many_ties(data, size):
    entries = st.lists(st.integers(-2, 3), min_size=size**2, max_size=size**2)
    similarity = np.array(data.draw(entries), float).reshape(size, size)
    coreset = schedules.facility_location(similarity, size)
    chosen, gains = plain_greedy(similarity, size)
    assert coreset.indices.tolist() == chosen
    assert coreset.gains.tolist() == gains


def test_sums_are_exact_so_that_ties_stay_ties():
    # In floating point 0.1 + 0.2 + 0.3 is more than 0.3 + 0.2 + 0.1.
    similarity = np.array([[0.3, 0.0, 0.1], [0.2, 0.0, 0.2], [0.1, 0.0, 0.3]])
    coreset = schedules.facility_location(similarity, 1)
    assert coreset.indices[0] == 0
    np.testing.assert_allclose(coreset.gains, 0.6, rtol=1e-14)


def test_of_equally_similar_choices_the_first_gets_the_weight():
    coreset = schedules.facility_location([[5, 0, 1], [0, 4, 1], [1, 1, 1]], 2)
    assert coreset.indices.tolist() == [0, 1]
    assert coreset.weights.tolist() == [2, 1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_greedy_reaches_its_share_of_the_best_value(seed):
    similarity = np.random.default_rng(seed).uniform(size=(9, 9)) ** 4
    for budget in (2, 3, 4):
        best = max(objective(similarity, c) for c in itertools.combinations(range(9), budget))
        coreset = schedules.facility_location(similarity, budget)
        assert coreset.gains.sum() >= (1 - 1 / np.e) * best
        np.testing.assert_allclose(
            coreset.gains.sum(), objective(similarity, coreset.indices), rtol=1e-12
        )


def test_candidates_are_columns():
    similarity = np.array([[1.0, 9.0], [0.0, 1.0]])
    assert schedules.facility_location(similarity, 1).indices.tolist() == [1]
    assert schedules.facility_location(similarity.T, 1).indices.tolist() == [0]


@pytest.mark.parametrize("similarity", ["max_minus", "exp"])
def test_features_equal_the_matrix_of_their_similarities(similarity):
    points = clusters()
    d = distances(points)
    matrix = d.max() - d if similarity == "max_minus" else np.exp(-d / points.shape[1])
    expected = schedules.facility_location(matrix, 12)
    coreset = schedules.gradient_coreset(points, 12, similarity=similarity)
    np.testing.assert_array_equal(coreset.indices, expected.indices)
    np.testing.assert_array_equal(coreset.weights, expected.weights)
    np.testing.assert_allclose(coreset.gains, expected.gains, rtol=1e-9)
    assert np.all(np.diff(coreset.gains) <= 0)
    nearest = np.argmin(d[:, coreset.indices], axis=1)
    np.testing.assert_array_equal(coreset.weights, np.bincount(nearest))


def test_rows_on_demand_and_small_blocks_change_nothing(monkeypatch):
    points = clusters(seed=1)
    whole = schedules.gradient_coreset(points, 15)
    monkeypatch.setattr(_coreset, "_WHOLE", 0)
    monkeypatch.setattr(_coreset, "_BLOCK", 200)
    for expected, found in zip(whole, schedules.gradient_coreset(points, 15), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_few_candidates_are_looked_at_twice(monkeypatch):
    seen = []
    choose = _coreset._Lazy.__init__

    def counted(self, evaluate, gains):
        def counting(batch, cover):
            seen.extend(batch)
            return evaluate(batch, cover)

        choose(self, counting, gains)

    monkeypatch.setattr(_coreset._Lazy, "__init__", counted)
    schedules.gradient_coreset(clusters(400), 40)
    assert len(seen) < 400 * 39 / 5


def test_all_points_have_weight_one():
    for points in (clusters(20), np.ones((4, 2)), np.zeros((3, 0))):
        coreset = schedules.gradient_coreset(points, len(points))
        assert sorted(coreset.indices) == list(range(len(points)))
        np.testing.assert_array_equal(coreset.weights, 1)


def test_one_of_two_duplicates_stands_for_both():
    unique = np.random.default_rng(0).normal(size=(50, 64))
    coreset = schedules.gradient_coreset(np.concatenate([unique, unique[:7]]), 50)
    assert sorted(coreset.indices) == list(range(50))
    np.testing.assert_array_equal(coreset.weights, np.where(coreset.indices < 7, 2, 1))


def test_features_may_lie_far_from_the_origin():
    points = np.round(clusters() * 1024) / 1024
    near, far = (schedules.gradient_coreset(points + shift, 10) for shift in (0.0, 2.0**28))
    np.testing.assert_array_equal(far.indices, near.indices)
    np.testing.assert_array_equal(far.weights, near.weights)


def test_mirror_images_tie_and_the_first_is_taken():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(20, 6))
    points = np.concatenate([half, -half])[rng.permutation(40)]
    coreset = schedules.gradient_coreset(points, 1)
    mirror = np.argmin(np.linalg.norm(points + points[coreset.indices[0]], axis=1))
    assert coreset.indices[0] < mirror


def test_weights_over_their_mean():
    coreset = schedules.gradient_coreset(LINE, 2)
    assert coreset.weights.tolist() == [3, 2]
    np.testing.assert_allclose(coreset.loss_weights, [1.2, 0.8], rtol=1e-6)
    assert coreset.loss_weights.dtype == np.float32


@pytest.mark.parametrize(
    ("sizes", "budget", "equal", "proportional"),
    [
        ((10, 10, 10), 10, (4, 3, 3), (4, 3, 3)),
        ((2, 10, 20), 16, (2, 7, 7), (1, 5, 10)),
        ((1, 1, 30), 20, (1, 1, 18), (1, 1, 18)),
        ((3, 4, 5), 12, (3, 4, 5), (3, 4, 5)),
        ((3, 4, 5), 1, (1, 0, 0), (0, 0, 1)),
    ],
)
def test_budgets_of_classes(sizes, budget, equal, proportional):
    labels = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c"], sizes))
    features = np.random.default_rng(1).normal(size=(len(labels), 3))
    for allocation, counts in (("equal", equal), ("proportional", proportional)):
        coreset = schedules.gradient_coreset(features, budget, labels, allocation=allocation)
        expected = np.repeat(["a", "b", "c"], counts)
        np.testing.assert_array_equal(labels[coreset.indices], expected)
        held = [size for size, count in zip(sizes, counts, strict=True) if count]
        assert coreset.weights.sum() == sum(held)


def test_classes_are_chosen_as_if_alone():
    points = clusters()
    labels = np.arange(60) % 2
    both = schedules.gradient_coreset(points, 10, labels)
    odd = schedules.gradient_coreset(points[1::2], 5)
    np.testing.assert_array_equal(both.indices[5:], 1 + 2 * odd.indices)
    np.testing.assert_array_equal(both.weights[5:], odd.weights)


def test_drawing_all_candidates_is_looking_at_all():
    points = clusters()
    expected = schedules.gradient_coreset(points, 8)
    coreset = schedules.gradient_coreset(points, 8, sample_size=60, key=0)
    np.testing.assert_array_equal(coreset.indices, expected.indices)
    np.testing.assert_allclose(coreset.gains[1:], expected.gains[1:], rtol=1e-9)
    assert coreset.gains[0] >= expected.gains[0]


def test_draws_follow_the_key_and_are_nearly_as_good():
    points = clusters(200)
    matrix = np.exp(-distances(points) / 5)
    draw = lambda key: schedules.facility_location(matrix, 20, sample_size=30, key=key)
    first = draw(jax.random.key(1))
    np.testing.assert_array_equal(first.indices, draw(1).indices)
    assert first.indices.tolist() != draw(2).indices.tolist()
    assert len(set(first.indices)) == 20
    assert first.gains.sum() > 0.95 * schedules.facility_location(matrix, 20).gains.sum()
    assert first.weights.sum() == 200


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_any_real_dtype_and_shape_of_features(dtype):
    features = jnp.asarray(LINE, dtype).reshape(5, 1, 1)
    np.testing.assert_array_equal(schedules.gradient_coreset(features, 2).indices, [2, 3])


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def embed(self, x):
        return nnx.tanh(self.hidden(x))

    def __call__(self, x):
        return self.head(self.embed(x))


def test_last_layer_gradients_are_those_of_a_flax_network():
    model = Net(nnx.Rngs(0))
    x, y = np.random.default_rng(1).normal(size=(5, 4)), np.array([0, 2, 1, 1, 0])
    graph, params = nnx.split(model)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    @jax.grad
    def per_example(params, x, y):
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    expected = per_example(params, x, y)["head"]
    bias = schedules.last_layer_gradients(model(x), y)
    kernel = schedules.last_layer_gradients(model(x), y, model.embed(x))
    np.testing.assert_allclose(bias, expected["bias"][...], atol=1e-6)
    np.testing.assert_allclose(kernel, expected["kernel"][...].reshape(5, -1), atol=1e-6)


def test_last_layer_gradients_keep_dtype_and_leading_axes():
    logits = jnp.zeros((2, 3, 4), jnp.bfloat16)
    gradients = schedules.last_layer_gradients(logits, jnp.zeros((2, 3), int))
    assert gradients.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradients[1, 2], [-0.75, 0.25, 0.25, 0.25])
    assert schedules.last_layer_gradients(logits[:0], jnp.zeros((0, 3), int)).shape == (0, 3, 4)


def test_weighted_loss_has_nearly_the_gradient_of_all():
    x, y = clusters(300, 8, seed=4), np.arange(300) % 3
    weights = 0.1 * np.random.default_rng(0).normal(size=(8, 3))
    gradients = np.asarray(schedules.last_layer_gradients(x @ weights, y, x), np.float64)
    coreset = schedules.gradient_coreset(gradients, 30, y)

    def error(rows, scale):
        weighted = np.mean(scale[:, None] * gradients[rows], axis=0)
        return np.linalg.norm(weighted - gradients.mean(axis=0))

    chosen = error(coreset.indices, coreset.loss_weights)
    rng, ones = np.random.default_rng(0), np.ones(30)
    random = [error(rng.choice(300, 30, replace=False), ones) for _ in range(20)]
    assert chosen < 0.7 * np.mean(random)
    # The limit that theory gives, for the mean instead of the sum.
    apart = distances(gradients)[:, coreset.indices]
    apart[y[:, None] != y[coreset.indices]] = np.inf
    assert chosen <= apart.min(axis=1).mean()


def test_trains_with_the_step_of_the_package():
    coreset = schedules.gradient_coreset(LINE, 2)
    batch = (jnp.asarray(LINE[coreset.indices, 0]), jnp.asarray(coreset.loss_weights))
    loss = lambda w, batch: jnp.mean(batch[1] * (w - batch[0]) ** 2)
    tx = optax.sgd(0.5)
    step = gradax.make_step(loss, tx)
    w, _, _ = step(jnp.zeros(()), tx.init(jnp.zeros(())), batch)
    np.testing.assert_allclose(w, (3 * 2 + 2 * 9) / 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget must be an integer >= 1, got 0"),
        ({"budget": 2.0}, "budget must be an integer >= 1, got 2.0"),
        ({"budget": 6}, "budget must not exceed the 5 points, got 6"),
        ({"features": LINE * np.nan}, "features must be finite"),
        ({"features": LINE * 1j}, "features must be real, got complex128"),
        ({"features": 1.0}, "features must have an axis of examples"),
        ({"labels": [0, 1]}, r"labels must be as many as the 5 examples, got the shape \(2,\)"),
        ({"similarity": "cosine"}, "similarity must be one of 'max_minus', 'exp'"),
        ({"allocation": "any"}, "allocation must be one of 'equal', 'proportional'"),
        ({"sample_size": 0, "key": 0}, "sample_size must be an integer >= 1, got 0"),
        ({"sample_size": 2}, "key must be a JAX key or an integer"),
        ({"key": 0}, "key must be None without sample_size"),
    ],
)
def test_rejects_bad_input(arguments, message):
    with pytest.raises(ValueError, match=f"gradient_coreset: {message}"):
        schedules.gradient_coreset(**{"features": LINE, "budget": 2} | arguments)


@pytest.mark.parametrize("shape", [(2, 3), (4,)])
def test_rejects_what_is_no_square_matrix(shape):
    with pytest.raises(ValueError, match="similarity must be a square matrix, got shape"):
        schedules.facility_location(np.ones(shape), 1)


def test_rejects_traced_features():
    with pytest.raises(ValueError, match="features must not be traced; choose outside of jit"):
        jax.jit(lambda x: schedules.gradient_coreset(x, 2))(LINE)


@pytest.mark.parametrize(
    ("labels", "embedding", "message"),
    [
        ([0], None, "labels must have the shape of logits without the last axis"),
        ([0.0, 1.0], None, "labels must be integers, got float32"),
        ([0, 3], None, r"labels must lie in \[0, 3\), got 3"),
        ([-1, 0], None, r"labels must lie in \[0, 3\), got -1"),
        ([0, 1], np.ones((3, 2)), "embedding must have one vector for each label"),
    ],
)
def test_rejects_labels_and_embeddings_that_do_not_fit(labels, embedding, message):
    with pytest.raises(ValueError, match=f"last_layer_gradients: {message}"):
        schedules.last_layer_gradients(jnp.zeros((2, 3)), jnp.array(labels), embedding)
