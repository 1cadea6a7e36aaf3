"""The ways to lay participants out, so that one test can run a function in all of them.

A placement runs ``function(*trees)``, written for one participant, on trees with a leading
axis of ``size`` participants, and returns what they return, stacked in the same order. The
devices are the forced ones of ``conftest.py``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

DEVICES, LANES = 4, 2


def make_mesh(*shape: int) -> jax.sharding.Mesh:
    """A mesh over the first devices, with one axis for each number in ``shape``."""
    names = ("devices",) if len(shape) == 1 else tuple(f"devices{k}" for k in range(len(shape)))
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(shape), devices=devices)


def on_one_device(tree: Any) -> Any:
    """Copies arrays, typed keys included, by way of the host."""

    def copy(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.asarray(np.asarray(leaf))
        data = jnp.asarray(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(copy, jax.block_until_ready(tree))


@dataclasses.dataclass(frozen=True)
class Placement:
    """One way to lay participants out.

    Attributes:
      name: for the test's id.
      axis_name: what the function's collectives use.
      place: ``place(function, devices, **options)``, from a function of one participant to a
        compiled one of all, in the layout of ``shape``; the options are those of ``jax.jit``.
      shape: leading axes of the layout.
      devices: how many share the first of them.
    """

    name: str
    axis_name: str | tuple[str, ...]
    place: Callable[..., Callable[..., Any]]
    shape: tuple[int, ...]
    devices: int = 1

    @property
    def size(self) -> int:
        """Number of participants."""
        return math.prod(self.shape)

    def lay_out(self, tree: Any) -> Any:
        """From one leading axis of participants to the layout, where the devices read it."""
        sharding = NamedSharding(make_mesh(self.devices), PartitionSpec("devices"))
        laid_out = jax.tree.map(lambda x: x.reshape(*self.shape, *x.shape[1:]), tree)
        return jax.device_put(laid_out, sharding)

    def compile(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Turns a function of one participant into one of all, in the layout."""
        return self.place(function, self.devices, **options)

    def merge(self, tree: Any) -> Any:
        """From the layout back to one leading axis of participants, on one device.

        It goes through the host: a program over all devices that is started while another one
        is under way can wait for it for ever, where devices share few cores.
        """
        merged = len(self.shape)
        join = lambda x: x.reshape(self.size, *x.shape[merged:])
        return jax.tree.map(join, on_one_device(tree))

    def run(self, function: Callable[..., Any], *trees: Any) -> Any:
        """Calls a function for all participants."""
        return self.merge(self.compile(function)(*self.lay_out(trees)))


def _vmap(function, devices, **options):
    del devices
    return jax.jit(jax.vmap(function, axis_name="lanes"), **options)


def _nested_vmap(function, devices, **options):
    del devices
    many = jax.vmap(jax.vmap(function, axis_name="lanes"), axis_name="devices")
    return jax.jit(many, **options)


def _pmap(function, devices, **options):
    return jax.pmap(function, "devices", devices=jax.devices()[:devices], **options)


def _pmap_of_vmap(function, devices, **options):
    return _pmap(jax.vmap(function, axis_name="lanes"), devices, **options)


def _shard_map(function, devices, **options):
    def block(*trees):
        result = function(*jax.tree.map(lambda x: x[0], trees))
        return jax.tree.map(lambda x: x[None], result)

    return _sharded(block, devices, **options)


def _shard_map_of_vmap(function, devices, **options):
    return _sharded(jax.vmap(function, axis_name="lanes"), devices, **options)


def _sharded(block, devices, **options):
    spec = PartitionSpec("devices")
    many = jax.shard_map(
        block, mesh=make_mesh(devices), in_specs=spec, out_specs=spec, check_vma=False
    )
    return jax.jit(many, **options)


_BOTH = ("devices", "lanes")


def vmap(lanes: int) -> Placement:
    """All participants are lanes of one device."""
    return Placement("vmap", "lanes", _vmap, (lanes,))


def pmap_of_vmap(devices: int, lanes: int) -> Placement:
    """Lanes within devices, by ``jax.pmap``."""
    return Placement("pmap_of_vmap", _BOTH, _pmap_of_vmap, (devices, lanes), devices)


def shard_map_of_vmap(devices: int, lanes: int) -> Placement:
    """Lanes within devices, by ``jax.shard_map``."""
    shape = (devices * lanes,)
    return Placement("shard_map_of_vmap", _BOTH, _shard_map_of_vmap, shape, devices)


PLACEMENTS = [
    vmap(DEVICES * LANES),
    Placement("nested_vmap", _BOTH, _nested_vmap, (DEVICES, LANES)),
    Placement("pmap", "devices", _pmap, (DEVICES,), DEVICES),
    pmap_of_vmap(DEVICES, LANES),
    Placement("shard_map", "devices", _shard_map, (DEVICES,), DEVICES),
    shard_map_of_vmap(DEVICES, LANES),
]
