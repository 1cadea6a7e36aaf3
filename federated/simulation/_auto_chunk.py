"""How many clients fit side by side, read off the compiled program."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..data._layout import ClientData
from ._engine import Engine
from ._placement import Placement
from ._state import SimState


def fit_chunk(
    engine: Engine,
    rounds_of: Callable[[Engine], Any],
    state: SimState,
    data: ClientData,
    length: int,
    budget: int,
) -> tuple[Engine, Any]:
    """Finds the largest chunk whose segment fits into the memory of a device.

    Where one client at a time is fastest, on one CPU with a server, that is the largest.

    Args:
      engine: of the run; its chunk is the largest to consider, ``None`` for all lanes.
      rounds_of: compiles segments of an engine; what it returns has a method ``lower``.
      state: shapes of the state of a run.
      data: of the run, on the host or not.
      length: rounds of a segment.
      budget: bytes per device, for data, states and all that a round needs.

    Returns:
      The engine with its chunk, and its segments, compiled.

    Raises:
      ValueError: if not even the smallest chunk fits.
    """
    arguments, made = placed_shapes(engine, state, data), {}

    def bytes_of(chunk):
        made[chunk] = rounds_of(dataclasses.replace(engine, chunk=chunk))
        return needed_bytes(made[chunk].lower(*arguments, length).compile())

    most = min(engine.chunk or engine.num_lanes, engine.num_lanes)
    chunk = choose_chunk(bytes_of, min(engine.placement.ways, most), most, budget)
    return dataclasses.replace(engine, chunk=chunk), made[chunk]


def placed_shapes(engine: Engine, state: SimState, data: ClientData) -> tuple[Any, Any]:
    """Shapes of the arguments of a segment that know where they will lie.

    Args:
      engine: of the run.
      state: shapes of its state.
      data: of the run, on the host or not.

    Returns:
      Those of the state and of the data.
    """
    placement = engine.placement
    data = placement.lay_out(data)
    shapes = state, jax.eval_shape(lambda tree: tree, data)
    if placement.mesh is None:
        return shapes
    places = placement.of_state(state, engine.row_fields), placement.of_data(data)
    of = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return jax.tree.map(of, shapes, places)


def choose_chunk(bytes_of: Callable[[int], int], least: int, most: int, budget: int) -> int:
    """Chooses by at most three questions; what is returned has been asked and fits.

    Bytes are taken to grow evenly from the least chunk to the largest.

    Args:
      bytes_of: bytes that a chunk needs.
      least: the smallest chunk; others are its multiples, or ``most``.
      most: the largest.
      budget: bytes there are.

    Returns:
      The chunk.

    Raises:
      ValueError: if the smallest chunk does not fit.

    Examples:
      >>> choose_chunk(lambda chunk: 100 + 10 * chunk, least=1, most=64, budget=300)
      16
    """
    high = bytes_of(most)
    if high <= budget:
        return most
    low = bytes_of(least) if least < most else high
    if low > budget:
        raise ValueError(
            f"simulate: chunk='auto': {least} client(s) side by side need {low:,} bytes per "
            f"device, memory_budget is {budget:,}."
        )
    slope = max(high - low, 1) / (most - least)
    room = least + int((budget - low) / slope)
    pieces = -(-most // max(least, min(room, most - 1)))
    # Chunks as even as they can be: 100 lanes go as 4 times 25, not as 30, 30, 30 and 10.
    even = -(-most // pieces)
    chunk = -(-even // least) * least
    if chunk > room:
        chunk = max(least, room // least * least)
    return chunk if chunk > least and bytes_of(chunk) <= budget else least


def needed_bytes(compiled: Any) -> int:
    """Memory of one device while a compiled program runs, its arguments included.

    Args:
      compiled: of jax.

    Returns:
      Bytes; what is donated counts once.
    """
    sizes = compiled.memory_analysis()
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + new + sizes.temp_size_in_bytes


def memory_for(placement: Placement, *held: Any) -> int:
    """Bytes that a run may use on each device.

    That is what the device reports to be free and what the run holds there already. Of a
    device that reports nothing, such as a CPU, it is half of the machine's available memory,
    shared among the devices.

    Args:
      placement: of the run.
      *held: trees of the run's arrays.

    Returns:
      Bytes; with several processes the least that one of them says, since all must choose the
      same chunk.

    Raises:
      ValueError: if the machine does not say how much memory it has.
    """
    devices = jax.local_devices()[:1] if placement.mesh is None else placement.mesh.local_devices
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"] + _bytes_on(devices[0], held)
    else:
        free = _available() // (2 * len(devices))
    if not placement.across_processes:
        return free
    # In megabytes: 64 bits would be cut to 32 on the way.
    return int(multihost_utils.process_allgather(np.int32(free >> 20)).min()) << 20


def _bytes_on(device: jax.Device, held: Any) -> int:
    """Bytes of a tree's arrays on a device."""
    arrays = [leaf for leaf in jax.tree.leaves(held) if isinstance(leaf, jax.Array)]
    shards = [shard for leaf in arrays for shard in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def _available() -> int:
    """Available memory of the machine."""
    table = pathlib.Path("/proc/meminfo")
    for line in table.read_text().splitlines() if table.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError("simulate: chunk='auto' needs memory_budget= on this system.")
