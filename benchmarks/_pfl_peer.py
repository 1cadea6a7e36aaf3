"""pfl-research's side of the federated rounds; runs in the environment of `requirements/pfl.txt`.

The first line of input, in JSON, says which network, and where the parameters to start from lie.
A line with a number asks for that many rounds, `loss` for the mean training loss.
"""

import gc
import json
import sys
import time

import _federated_task
import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn


def main() -> None:
    """Answers each turn with the seconds of CPU time it took."""
    torch.set_num_threads(1)
    task = json.loads(sys.stdin.readline())
    with np.load(task["start"]) as start:
        run = Run(NETWORKS[task["network"]](), dict(start))
    gc.collect()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "loss":
            print(run.loss(), flush=True)
            continue
        began = time.process_time()
        run.play(int(line))
        print(time.process_time() - began, flush=True)


class Network(nn.Sequential):
    """Layers with what pfl asks of a model beside them."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        """The loss of a client."""
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


def mlp() -> Network:
    """The perceptron of `_federated.mlp`."""
    hidden = [nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
    return Network(*hidden, nn.Linear(200, _federated_task.CLASSES))


def cnn() -> Network:
    """The network of `_federated.cnn`, with torch's convolution and its order of axes."""
    convolution = lambda inputs, outputs: nn.Conv2d(inputs, outputs, 5, padding="same")
    hidden = [convolution(1, 16), nn.MaxPool2d(2), nn.ReLU()]
    hidden += [convolution(16, 32), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()]
    return Network(*hidden, nn.Linear(7 * 7 * 32, _federated_task.CLASSES))


NETWORKS = {"MLP": mlp, "CNN": cnn}


class Run:
    """FedAvg that goes on from turn to turn.

    Args:
      network: the model.
      start: its parameters, under the names of `_federated`.
    """

    def __init__(self, network: Network, start: dict[str, np.ndarray]):
        _load(network, start)
        self._network, self._rounds = network, 0
        self._users = {
            number: [torch.from_numpy(user["x"]).moveaxis(3, 1), torch.from_numpy(user["y"]).long()]
            for number, user in enumerate(_federated_task.images())
        }
        datasets = {number: Dataset(user, user_id=number) for number, user in self._users.items()}
        draw = np.random.default_rng(0).integers
        users = FederatedDataset(datasets.__getitem__, lambda: int(draw(len(datasets))))
        self._backend = SimulatedBackend(training_data=users, val_data=users)
        self._algorithm = FederatedAveraging()
        server = torch.optim.SGD(network.parameters(), lr=1.0)
        self._model = PyTorchModel(network, torch.optim.SGD, server)

    def play(self, rounds: int) -> None:
        """Plays some more rounds."""
        self._rounds += rounds
        self._algorithm.run(
            NNAlgorithmParams(
                central_num_iterations=self._rounds,
                evaluation_frequency=sys.maxsize,
                train_cohort_size=_federated_task.COHORT,
                val_cohort_size=None,
            ),
            self._backend,
            self._model,
            NNTrainHyperParams(
                local_num_epochs=_federated_task.EPOCHS,
                local_learning_rate=_federated_task.LEARNING_RATE,
                local_batch_size=_federated_task.BATCH,
            ),
            send_metrics_to_platform=False,  # they are printed where the answers go
        )

    @torch.no_grad()
    def loss(self) -> float:
        """Mean training loss of all users."""
        return float(np.mean([self._network.loss(*user).item() for user in self._users.values()]))


def _load(network: Network, start: dict[str, np.ndarray]) -> None:
    """Copies parameters from the names and the order of axes of `_federated`."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear | nn.Conv2d)]
    names = sorted({name.partition("/")[0] for name in start})
    for layer, name in zip(layers, names, strict=True):
        kernel = start[f"{name}/kernel"]
        if len(kernel) == 7 * 7 * 32:  # comes after the convolutions: rows, columns, channels
            kernel = kernel.reshape(7, 7, 32, -1)
        # Torch has outputs first, then channels.
        kernel = np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))
        layer.weight.data.copy_(torch.from_numpy(kernel).reshape(layer.weight.shape))
        layer.bias.data.copy_(torch.from_numpy(start[f"{name}/bias"]))


if __name__ == "__main__":
    main()
