"""The state as data: made abstractly, donated, saved, counted, traced once."""

import importlib.util
import pickle
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax.testing._compare import close, equal, expect, is_key, same_types
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, Subject

_COUNTERS = ("count", "step", "mini_step", "gradient_step")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@check()
def abstract_init(subject: Subject) -> None:
    """Init works on jax.ShapeDtypeStruct and gives the types of a real init."""
    params = {"b": jnp.ones((3,)), "w": jnp.ones((3, 2))}
    tx = subject.make()
    abstract = tx.init(jax.eval_shape(lambda: params))
    same_types("the state", abstract, jax.eval_shape(tx.init, params))


@check()
def donation(subject: Subject) -> None:
    """Params and state can be donated: no two leaves share a buffer, none is the caller's."""
    run, params = subject.run(), subject.params()
    state = run.init(params)
    _no_shared_buffers({"params": params, "state": state})
    scale = jnp.array(subject.scale)
    step = jax.jit(lambda p, s: run.step(p, s, BOWL, scale), donate_argnums=(0, 1))
    for _ in range(2):
        params, state = step(params, state)
    close("the donated run", (params, state), subject.compiled.trajectory[1])


def _no_shared_buffers(tree: Any) -> None:
    seen: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, jax.Array) or is_key(leaf) or not leaf.size:
            continue
        name, pointer = jax.tree_util.keystr(path), leaf.unsafe_buffer_pointer()
        expect(pointer not in seen, f"{name} shares its buffer with {seen.get(pointer)}.")
        seen[pointer] = name


@check()
def no_retrace(subject: Subject) -> None:
    """The second step traces and compiles nothing new."""
    run, (params, state), traces = subject.run(), subject.compiled.trajectory[0], 0

    def step(params, state):
        nonlocal traces
        traces += 1
        return run.step(params, state, BOWL, subject.scale)

    traced = jax.jit(step)
    for _ in range(3):
        params, state = traced.eval_shape(params, state)
    expect(traces == 1, f"Three steps were traced {traces} times: the state changes its types.")


@check()
def serialization_pickle(subject: Subject) -> None:
    """Saved with pickle as NumPy arrays and loaded, the run goes on bit for bit."""

    def through_pickle(tree):
        return pickle.loads(pickle.dumps(jax.tree.map(np.asarray, tree)))

    _goes_on(subject, lambda tree: _with_raw_keys(through_pickle, tree))


@check(applies=lambda subject: _installed("flax"))
def serialization_flax(subject: Subject) -> None:
    """Saved with flax.serialization and loaded, the run goes on bit for bit."""
    from flax import serialization

    through_bytes = lambda tree: serialization.from_bytes(tree, serialization.to_bytes(tree))
    _goes_on(subject, lambda tree: _with_raw_keys(through_bytes, tree))


@check(applies=lambda subject: _installed("orbax.checkpoint") if _installed("orbax") else False)
def serialization_orbax(subject: Subject) -> None:
    """Saved with orbax and loaded, the run goes on bit for bit."""
    import orbax.checkpoint as ocp

    def through_orbax(tree):
        # A save that fails may still be writing when the folder is removed.
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            ocp.StandardCheckpointer() as checkpointer,
        ):
            checkpointer.save(Path(folder) / "saved", tree)
            checkpointer.wait_until_finished()
            return checkpointer.restore(Path(folder) / "saved", tree)

    _goes_on(subject, through_orbax)


def _with_raw_keys(function: Any, tree: Any) -> Any:
    """Applies a function to the tree with typed keys as raw data, and wraps them again."""
    unwrap = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    loaded = function(jax.tree.map(unwrap, tree))
    wrap = lambda old, new: (
        jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if is_key(old) else new
    )
    return jax.tree.map(wrap, tree, loaded)


def _goes_on(subject: Subject, save_and_load: Any) -> None:
    saved = subject.compiled.trajectory[1]
    loaded = save_and_load(saved)
    equal("what was loaded", loaded, saved)
    # NumPy arrays have no placement, so that the walk need not be compiled for another one.
    loaded = jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), loaded)
    resumed = subject.compiled.walk(*loaded)
    equal("the resumed run", resumed, subject.compiled.trajectory[2])


@check()
def count_saturates(subject: Subject) -> None:
    """A 32-bit counter at its maximum stays there instead of becoming negative."""
    params, state = subject.compiled.trajectory[1]
    highest = jnp.iinfo(jnp.int32).max

    def is_counter(path, leaf):
        named = str(getattr(path[-1], "name", getattr(path[-1], "key", ""))) if path else ""
        return named in _COUNTERS and jnp.result_type(leaf) == jnp.int32

    fill = lambda path, leaf: jnp.full_like(leaf, highest) if is_counter(path, leaf) else leaf
    filled = jax.tree_util.tree_map_with_path(fill, state)
    _, after = subject.compiled.walk(params, filled)
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        if is_counter(path, leaf):
            name = jax.tree_util.keystr(path)
            expect(bool(jnp.all(leaf >= 0)), f"{name} wraps from {highest} to {leaf}.")
