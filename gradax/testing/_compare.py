"""Comparisons of pytrees that say which leaf differs and how."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def expect(condition: bool, message: str) -> None:
    """Raises an ``AssertionError`` with the message unless the condition holds.

    Not an assert statement: those vanish under ``python -O``.
    """
    if not condition:
        raise AssertionError(message)


def mentions(error: Exception, name: str) -> None:
    """Asserts that an error's message names an argument."""
    expect(name in str(error), f"The error does not name {name}: {error}")


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """Lists the leaves with their names; typed keys as their raw data."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "the array", raw(leaf)) for path, leaf in named]


def raw(leaf: Any) -> Any:
    """Replaces a concrete typed key by its raw data."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a concrete array of typed keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def same_structure(what: str, actual: Any, expected: Any) -> None:
    """Asserts that two trees have the same structure."""
    got: Any = jax.tree.structure(actual)
    want: Any = jax.tree.structure(expected)
    expect(got == want, f"{what} changes its tree structure from {want} to {got}.")


def same_types(what: str, actual: Any, expected: Any) -> None:
    """Asserts the same structure, and the same shape and dtype leaf by leaf."""
    same_structure(what, actual, expected)
    pairs = zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True)
    for (path, got), want in pairs:
        types = [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in (got, want)]
        name = jax.tree_util.keystr(path)
        expect(types[0] == types[1], f"{what}{name} changes from {types[1]} to {types[0]}.")


def close(what: str, actual: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Asserts that two trees agree to float tolerance."""
    same_structure(what, actual, expected)
    for (name, got), (_, want) in zip(leaves(actual), leaves(expected), strict=True):
        got, want = (np.asarray(side) for side in (got, want))
        if not np.issubdtype(got.dtype, np.complexfloating):
            got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol, atol, err_msg=f"{what}{name} differs.")


def equal(what: str, actual: Any, expected: Any) -> None:
    """Asserts that two trees are equal bit for bit."""
    same_structure(what, actual, expected)
    for (name, got), (_, want) in zip(leaves(actual), leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want, err_msg=f"{what}{name} differs.")


def finite(what: str, tree: Any) -> None:
    """Asserts that no leaf holds a NaN or an infinity."""
    for name, leaf in leaves(tree):
        expect(bool(jnp.all(jnp.isfinite(leaf))), f"{what}{name} is not finite: {leaf}.")


def wide_leaves(tree: Any) -> list[str]:
    """Names the leaves that take 64 bits per real number."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    wide = (np.dtype("float64"), np.dtype("complex128"))
    return [jax.tree_util.keystr(path) for path, leaf in named if jnp.result_type(leaf) in wide]
