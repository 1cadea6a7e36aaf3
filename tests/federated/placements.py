"""The ways to lay participants out, so that one test can run a function in all of them.

A placement runs ``function(*trees)``, written for one participant, on trees with a leading
axis of ``size`` participants, and returns what they return, stacked in the same order. The
devices are the four forced ones of ``conftest.py``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

DEVICES, LANES = 4, 2


@dataclasses.dataclass(frozen=True)
class Placement:
    """One way to lay participants out.

    Attributes:
      name: for the test's id.
      axis_name: what the function's collectives use.
      size: number of participants.
      place: turns a function of one participant into one of all, in the layout of ``shape``.
      shape: leading axes of the layout.
    """

    name: str
    axis_name: str | tuple[str, ...]
    size: int
    place: Callable[[Callable[..., Any]], Callable[..., Any]]
    shape: tuple[int, ...]

    def run(self, function: Callable[..., Any], *trees: Any) -> Any:
        laid_out = jax.tree.map(lambda x: x.reshape(*self.shape, *x.shape[1:]), trees)
        result = self.place(function)(*laid_out)
        merged = len(self.shape)
        return jax.tree.map(lambda x: x.reshape(self.size, *x.shape[merged:]), result)


def _mesh():
    return jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))


def _vmap(function):
    return jax.jit(jax.vmap(function, axis_name="lanes"))


def _nested_vmap(function):
    return jax.jit(jax.vmap(jax.vmap(function, axis_name="lanes"), axis_name="devices"))


def _pmap(function):
    return jax.pmap(function, axis_name="devices")


def _pmap_of_vmap(function):
    return jax.pmap(jax.vmap(function, axis_name="lanes"), axis_name="devices")


def _shard_map(function):
    def block(*trees):
        result = function(*jax.tree.map(lambda x: x[0], trees))
        return jax.tree.map(lambda x: x[None], result)

    return _sharded(block)


def _shard_map_of_vmap(function):
    return _sharded(jax.vmap(function, axis_name="lanes"))


def _sharded(block):
    spec = PartitionSpec("devices")
    return jax.jit(
        jax.shard_map(block, mesh=_mesh(), in_specs=spec, out_specs=spec, check_vma=False)
    )


_BOTH, _MANY = ("devices", "lanes"), DEVICES * LANES

PLACEMENTS = [
    Placement("vmap", "lanes", _MANY, _vmap, (_MANY,)),
    Placement("nested_vmap", _BOTH, _MANY, _nested_vmap, (DEVICES, LANES)),
    Placement("pmap", "devices", DEVICES, _pmap, (DEVICES,)),
    Placement("pmap_of_vmap", _BOTH, _MANY, _pmap_of_vmap, (DEVICES, LANES)),
    Placement("shard_map", "devices", DEVICES, _shard_map, (DEVICES,)),
    Placement("shard_map_of_vmap", _BOTH, _MANY, _shard_map_of_vmap, (_MANY,)),
]
