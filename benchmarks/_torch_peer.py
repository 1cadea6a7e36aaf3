"""Makes steps of pytorch_optimizer's optimizers: some for each line on standard input.

The first line of input, in JSON, says which optimizers with which arguments, where the arrays
lie, and how many steps make a turn. A line with the name of an optimizer asks for a turn of it,
`save <name>` for its parameters.
"""

import gc
import json
import sys
import time
from typing import Any

import numpy as np
import pytorch_optimizer
import torch


def main() -> None:
    """Answers each turn with the seconds of CPU time it took."""
    torch.set_num_threads(1)
    task = json.loads(sys.stdin.readline())
    with np.load(task["arrays"]) as archive:
        arrays = dict(archive)
    runs = {name: Run(arrays, **one) for name, one in task["optimizers"].items()}
    gc.collect()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "save":
            runs[words[1]].save(words[2])
            print("saved", flush=True)
            continue
        began = time.process_time()
        for _ in range(task["steps"]):
            runs[words[0]].optimizer.step()
        print(time.process_time() - began, flush=True)


class Run:
    """An optimizer on parameters of its own, with gradients that stay.

    Args:
      arrays: `params/<name>` and `grads/<name>`.
      method: name of the class in pytorch_optimizer.
      arguments: of the class.
    """

    def __init__(self, arrays: dict[str, np.ndarray], method: str, arguments: dict[str, Any]):
        names = [name.partition("/")[2] for name in arrays if name.startswith("params/")]
        self._params = {name: torch.nn.Parameter(_tensor(arrays, "params", name)) for name in names}
        for name, param in self._params.items():
            param.grad = _tensor(arrays, "grads", name)
        self.optimizer = getattr(pytorch_optimizer, method)(self._params.values(), **arguments)

    def save(self, path: str) -> None:
        """Writes the parameters as JAX has them."""
        arrays = {name: _other_way(param.detach().numpy()) for name, param in self._params.items()}
        np.savez(path, **arrays)


def _tensor(arrays: dict[str, np.ndarray], kind: str, name: str) -> torch.Tensor:
    return torch.from_numpy(_other_way(arrays[f"{kind}/{name}"]).copy())


def _other_way(array: np.ndarray) -> np.ndarray:
    """Torch has the axis of outputs first and Flax has it last, here as in the models of each."""
    return np.ascontiguousarray(array.T)


if __name__ == "__main__":
    main()
