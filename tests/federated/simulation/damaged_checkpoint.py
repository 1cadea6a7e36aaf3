"""Damages each file of a checkpoint in turn, and writes down what comes of reading it.

In a process of its own: orbax leaves failed reads behind in the background.
``damaged_checkpoint DIRECTORY`` prints a JSON list of ``[damage, file, outcome]``.
"""

import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gradax.federated import SimState
from gradax.federated.simulation._checkpoint import Checkpoints
from tests.federated.simulation.problems import assert_same_bits

DESCRIPTION, ROWS = {"client": "sgd"}, [{"round": 3, "loss": 0.25}]
DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flip": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "lost": lambda path: path.unlink(),
}


def flipped(content):
    """One bit of one byte is another one."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def first_state():
    numbers = jnp.asarray(np.random.default_rng(0).normal(size=(8, 64)), jnp.float32)
    return SimState(jnp.int32(3), jax.random.key(1), {"w": numbers[0] + 1}, numbers, (), (), ())


def save(directory, state):
    checkpoints = Checkpoints(directory, DESCRIPTION)
    checkpoints.save(state, ROWS)
    checkpoints.close()


def outcome(directory, state):
    """``same``, ``refused`` or what should not happen."""
    checkpoints = Checkpoints(directory, DESCRIPTION)
    try:
        found = checkpoints.restore(state)
        assert_same_bits(found[0], state)
        return "same" if found[1] == ROWS else f"history {found[1]}"
    except ValueError as error:
        return "refused" if "cannot be read; without" in str(error) else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        checkpoints.close()


def main(directory):
    state, whole, copy = first_state(), directory / "whole", directory / "copy"
    save(whole, state)
    found = [["none", "", outcome(whole, state)]]
    save(copy, state._replace(clients=state.clients.at[3, 5].add(1e-6)))
    shutil.copytree(whole / "3/run", copy / "3/run", dirs_exist_ok=True)
    found.append(["numbers of another state", "3/state", outcome(copy, state)])
    shutil.rmtree(copy)
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        for damage, harm in DAMAGES.items() if path.is_file() else ():
            shutil.copytree(whole, copy)
            harm(copy / name)
            found.append([damage, str(name), outcome(copy, state)])
            shutil.rmtree(copy)
    print(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
