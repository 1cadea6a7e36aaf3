"""FedJAX, pfl-research and Flower as contestants in the federated rounds."""

import json
import os
import pathlib
import subprocess
import threading

import _federated
import _measure
import _peer
import environments
import jax
import numpy as np


class FedJax:
    """The rounds by FedJAX, in this process.

    Args:
      network: with the convolution that suits FedJAX.
      rounds: of a turn.
    """

    def __init__(self, network: _federated.Network, rounds: int):
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
        import fedjax

        clients = fedjax.InMemoryFederatedData(dict(enumerate(_federated.images())))
        self._algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            lambda params, batch, key: jax.grad(network.loss)(params, batch),
            fedjax.optimizers.sgd(_federated.LEARNING_RATE),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(
                batch_size=_federated.BATCH, num_epochs=_federated.EPOCHS
            ),
        )
        self._sampler = fedjax.client_samplers.UniformGetClientSampler(
            fd=clients, num_clients=_federated.COHORT, seed=0
        )
        self._network, self._rounds = network, rounds
        self._state = self._algorithm.init(network.init(jax.random.key(0)))

    def turn(self) -> None:
        """Plays some rounds."""
        for _ in range(self._rounds):
            self._state, _ = self._algorithm.apply(self._state, self._sampler.sample())
        jax.block_until_ready(self._state.params)

    def finish(self) -> float:
        """Returns the mean training loss."""
        return _federated.training_loss(self._network, self._state.params)


class Pfl(_peer.Peer):
    """The rounds by pfl-research, in its own environment and process.

    Args:
      name: of the network, `MLP` or `CNN`.
      network: the same in JAX, for the parameters to start from.
      rounds: of a turn.
    """

    def __init__(self, name: str, network: _federated.Network, rounds: int):
        super().__init__("pfl", "_pfl_peer.py", ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
        self._rounds = rounds
        self.ask(pfl_task(name, network, self.folder))

    def turn(self) -> None:
        """Lets the peer play some rounds."""
        self.seconds += float(self.ask(str(self._rounds)))

    def finish(self) -> float:
        """Returns the mean training loss."""
        return float(self.ask("loss"))


def pfl_task(name: str, network: _federated.Network, folder: pathlib.Path) -> str:
    """Saves the parameters to start from; returns what to tell pfl's process first."""
    path = folder / "start.npz"
    start = network.init(jax.random.key(0))
    np.savez(path, **{key: np.asarray(leaf) for key, leaf in start.items()})
    return json.dumps({"network": name, "start": str(path)})


class Flower:
    """The rounds by Flower's simulation, in its own environment and process.

    Clients train locally in one jitted scan or step by step, turn by turn as asked for.

    Args:
      rounds: of a turn.
      turns: in all.
      judged: rounds after which the model's loss is taken.
    """

    def __init__(self, rounds: int, turns: int, judged: int):
        self._process = subprocess.Popen(
            flower_command(rounds, turns, judged),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | FLOWER_ENVIRONMENT,
        )
        self._log: list[str] = []
        # Flower logs much; a pipe that nobody reads would fill and stop it.
        threading.Thread(target=self._read_log, daemon=True).start()
        self._wait_for("ready")

    def _read_log(self):
        self._log.extend(self._process.stderr)

    def _wait_for(self, word: str) -> str:
        for line in self._process.stdout:
            if line.startswith(f"turn: {word}"):
                return line
        raise RuntimeError(f"Flower ended before {word!r}:\n{''.join(self._log[-40:])}")

    def turn(self, form: str) -> None:
        """Lets Flower play some rounds."""
        self._process.stdin.write(f"{form}\n")
        self._process.stdin.flush()
        self._wait_for("done")

    def finish(self) -> float:
        """Waits for the end; returns the mean training loss."""
        loss = float(self._wait_for("loss").split()[-1])
        self._process.stdin.close()
        self._process.wait(timeout=120)
        return loss


FLOWER_ENVIRONMENT = {
    "PYTHONPATH": str(_measure.FOLDER),
    "XLA_FLAGS": _measure.ONE_THREAD,
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def flower_command(rounds: int, turns: int, judged: int) -> list[str]:
    """What starts Flower; a line of its input says how clients train in the next turn."""
    script = _measure.FOLDER / "_flower_server.py"
    return [environments.python("flower"), str(script), *map(str, (rounds, turns, judged))]
