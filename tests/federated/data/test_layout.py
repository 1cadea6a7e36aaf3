"""Layouts of client data: what goes in comes out, and bad indices are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated

data = federated.data
ARRAYS = {
    "x": np.arange(24.0, dtype=np.float32).reshape(8, 3),
    "y": (np.arange(8, dtype=np.int32), np.arange(8) % 2 == 0),
}
PARTS = [np.array([4, 2, 7]), np.array([1]), np.array([0, 5])]


@pytest.mark.parametrize("lay_out", [data.padded, data.flat])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_round_trip(lay_out, place):
    clients = jax.tree.map(place, lay_out(ARRAYS, PARTS))
    assert clients.num_clients == 3
    np.testing.assert_array_equal(clients.counts, [3, 1, 2])
    assert clients.counts.dtype == np.int32
    for client, part in enumerate(PARTS):
        mine = data.client_arrays(clients, client)
        expected = jax.tree.map(lambda leaf, part=part: leaf[part], ARRAYS)
        jax.tree.map(np.testing.assert_array_equal, mine, expected)
        assert mine["x"].dtype == np.float32


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=5),
)
def test_round_trip_of_any_lists(lists):
    for lay_out in (data.padded, data.flat):
        clients = lay_out(ARRAYS, lists)
        for client, part in enumerate(lists):
            mine = data.client_arrays(clients, client)["y"][0]
            assert mine.tolist() == part


def test_padding_repeats_the_clients_own_examples():
    clients = data.padded(ARRAYS, PARTS)
    assert clients.max_examples == 3
    assert clients.offsets is None
    np.testing.assert_array_equal(clients.arrays["y"][0], [[4, 2, 7], [1, 1, 1], [0, 5, 0]])


def test_flat_lies_end_to_end():
    clients = data.flat(ARRAYS, PARTS)
    assert clients.max_examples is None
    np.testing.assert_array_equal(clients.offsets, [0, 3, 4])
    assert clients.offsets.dtype == np.int32
    np.testing.assert_array_equal(clients.arrays["y"][0], [4, 2, 7, 1, 0, 5])


@pytest.mark.parametrize("lay_out", [data.padded, data.flat])
def test_is_a_pytree_that_jit_takes(lay_out):
    clients = lay_out(ARRAYS, PARTS)

    @jax.jit
    def twice(clients):
        assert clients.num_clients == 3
        return jax.tree.map(lambda leaf: leaf, clients), clients.counts * 2

    back, doubled = twice(clients)
    assert isinstance(back, data.ClientData)
    np.testing.assert_array_equal(doubled, [6, 2, 4])
    assert back.max_examples == clients.max_examples


def test_to_padded_masks_what_is_repeated():
    indices, mask = data.to_padded(PARTS)
    np.testing.assert_array_equal(indices, [[4, 2, 7], [1, 1, 1], [0, 5, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    assert (indices.dtype, mask.dtype) == (np.int64, np.bool_)


@pytest.mark.parametrize("lay_out", [data.padded, data.flat])
@pytest.mark.parametrize(
    ("arrays", "parts", "message"),
    [
        (ARRAYS, [], "at least one client, got none"),
        (ARRAYS, [[0], [], [1], []], r"got empty clients \[1, 3\]"),
        (ARRAYS, [[0], [8]], r"client 1 must lie in \[0, 8\), got 8"),
        (ARRAYS, [[-1]], r"client 0 must lie in \[0, 8\), got -1"),
        (ARRAYS, [[0.5]], "vector of integers, got float64"),
        (ARRAYS, [[[0, 1]]], r"got int64 of shape \(1, 2\)"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, [[0]], r"equal length, got lengths \[3, 4\]"),
        ({"x": np.zeros(3), "y": 1.0}, [[0]], "leading axis of examples"),
        ({}, [[0]], "leading axis of examples"),
    ],
)
def test_refuses_what_does_not_fit(lay_out, arrays, parts, message):
    with pytest.raises(ValueError, match=rf"{lay_out.__name__}: .*{message}"):
        lay_out(arrays, parts)


def test_to_padded_refuses_negative_indices():
    with pytest.raises(ValueError, match="client 1 must not be negative, got -2"):
        data.to_padded([[0], [3, -2]])


@pytest.mark.parametrize("client", [-1, 3])
def test_refuses_a_client_that_is_not_there(client):
    with pytest.raises(ValueError, match=rf"client must lie in \[0, 3\), got {client}"):
        data.client_arrays(data.flat(ARRAYS, PARTS), client)
