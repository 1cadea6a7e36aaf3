"""Rows of many clients: reading for a cohort, writing back."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated.simulation import _store

N = 4
STORE = {"a": jnp.arange(8.0).reshape(N, 2), "n": jnp.arange(N), "none": None}


@pytest.mark.parametrize("ids", [[2], [3, 0], [1, 0, 2]])
def test_reads_rows(ids):
    rows = _store.read(STORE, jnp.array(ids))
    np.testing.assert_array_equal(rows["a"], STORE["a"][jnp.array(ids)])
    np.testing.assert_array_equal(rows["n"], ids)
    assert rows["none"] is None


@pytest.mark.parametrize("ids", [[2], [3, 0], [1, N], [N], [N, N, 0]])
def test_writes_rows_and_drops_what_nobody_wrote(ids):
    rows = {"a": -jnp.ones((len(ids), 2)), "n": -jnp.ones(len(ids), int), "none": None}
    new = _store.write(STORE, jnp.array(ids), rows)
    present = [i for i in ids if i < N]
    expected = np.arange(8.0).reshape(N, 2)
    expected[present] = -1
    np.testing.assert_array_equal(new["a"], expected)
    assert (np.flatnonzero(new["n"] == -1) == sorted(present)).all()


def test_nobody_reads_some_row():
    assert _store.read(STORE, jnp.array([N]))["n"].shape == (1,)


def test_everybody_is_not_gathered():
    assert _store.read(STORE, None) is STORE
    assert _store.write(STORE, None, "rows") == "rows"


def test_a_stateless_client_has_no_store():
    assert _store.write((), jnp.array([1]), ()) == ()
    assert _store.read((), jnp.array([1])) == ()
