"""Leaves of every rank, none at all, and every container."""

import dataclasses
import importlib.util
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradax.testing._compare import close, finite, same_types
from gradax.testing._dtypes import keeps_types
from gradax.testing._registry import check
from gradax.testing._subject import Subject

_VECTOR = (0.3, 1.2, 2.1)


def _vector() -> jax.Array:
    return jnp.array(_VECTOR)


def _run_from(subject: Subject, *trees: Any) -> list[Any]:
    """Where two steps lead from each tree, all in one compilation."""
    run = subject.run()
    walk = lambda params: run.walk(params, run.init(params))[0]
    starts = [subject.lift(tree) for tree in trees]
    for start in starts:
        keeps_types(subject, start)
    ends = jax.jit(lambda starts: [walk(start) for start in starts])(starts)
    for start, end in zip(starts, ends, strict=True):
        same_types("params", end, start)
        finite("params", end)
    return ends


@check()
def scalar_leaf(subject: Subject) -> None:
    """Scalars work, alone and beside a vector."""
    _run_from(subject, jnp.array(0.7), {"s": jnp.array(0.7), "v": _vector()})


@check()
def empty_leaf(subject: Subject) -> None:
    """Leaves of size 0 work beside others."""
    empty = [jnp.zeros(shape) for shape in ((0,), (2, 0), (0, 2))]
    _run_from(subject, {"empty": empty, "v": _vector()})


@check()
def empty_tree(subject: Subject) -> None:
    """A tree without leaves works."""
    _run_from(subject, {})


@check()
def none_leaf(subject: Subject) -> None:
    """None stays None and changes nothing for the others."""
    with_none, without = _run_from(subject, {"n": None, "v": _vector()}, {"v": _vector()})
    close("params", with_none["v"], without["v"])


@check()
def ranks(subject: Subject) -> None:
    """Leaves of one to four dimensions work."""
    shapes = ((2,), (1, 3), (2, 1, 2), (1, 2, 2, 1))
    leaf = lambda shape: jnp.linspace(0.3, 2.1, math.prod(shape)).reshape(shape)
    _run_from(subject, *({f"r{len(shape)}": leaf(shape)} for shape in shapes))


class _Pair(NamedTuple):
    b: Any
    w: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Dataclass:
    b: Any
    w: Any


@check()
def containers(subject: Subject) -> None:
    """Dict, tuple, list, NamedTuple and dataclass give the same numbers."""
    b, w = jnp.array([0.3, 2.1]), jnp.array([[0.3, 0.9], [1.5, 2.1]])
    trees = ({"b": b, "w": w}, (b, w), [b, w], _Pair(b, w), _Dataclass(b, w))
    first, *others = _run_from(subject, *trees)
    for other in others:
        close(type(other).__name__, jax.tree.leaves(other), jax.tree.leaves(first))


@check(applies=lambda subject: importlib.util.find_spec("flax") is not None)
def nnx_state(subject: Subject) -> None:
    """The state of a Flax NNX module gives the numbers of a dict."""
    from flax import nnx

    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    leaves = jax.tree.leaves(state)
    ours, plain = _run_from(subject, state, {str(k): leaf for k, leaf in enumerate(leaves)})
    close("params", jax.tree.leaves(ours), jax.tree.leaves(plain))
