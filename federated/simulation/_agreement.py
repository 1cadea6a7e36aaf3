"""Several processes must play the same run: what differs is found before it does harm."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ._describe import describe


def check_agreement(mesh: jax.sharding.Mesh, parts: Mapping[str, Any]) -> None:
    """Raises, on all processes, unless all of them say the same.

    Replicated arrays are made by each process for itself; if they started from different
    numbers, nothing would complain and results would differ from device to device.

    Args:
      mesh: the devices of the run, of all processes.
      parts: what must be equal, by its name; the names are equal.

    Raises:
      ValueError: if something differs, or a process has no device in the mesh.
    """
    there = {device.process_index for device in mesh.devices.flat}
    if len(there) < jax.process_count():
        raise ValueError(
            f"simulate: mesh must hold devices of all {jax.process_count()} processes, or only "
            f"of this one; it holds those of {sorted(map(int, there))}."
        )
    texts = {name: describe(part) for name, part in parts.items()}
    digests = np.stack([_digest(text) for text in texts.values()])
    everyone = multihost_utils.process_allgather(digests)
    different = (everyone != everyone[:1]).any(axis=(0, 2))
    names = [name for name, differs in zip(texts, different, strict=True) if differs]
    if names:
        raise ValueError(
            f"simulate: the processes must play the same run, but differ in {', '.join(names)}; "
            f"here {names[0]} is {texts[names[0]][:160]}"
        )


def _digest(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
