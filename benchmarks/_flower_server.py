"""Plays rounds of Flower's simulation: some for each line on standard input.

A line says how clients train locally, `steps` or `scan`. Flower calls `between_rounds` before
the first round and after each; it does the waiting.
"""

import sys

import _federated
import _flower_client
import jax
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

#: Rounds of a turn, turns in all, and the round whose model is judged.
ROUNDS, TURNS, JUDGED = map(int, sys.argv[1:])

app = ServerApp()


def say(words: str) -> None:
    """Tells the benchmark; other lines of standard output are Ray's."""
    print(f"turn: {words}", flush=True)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg from the common start."""
    network = _flower_client.network()
    start = network.init(jax.random.key(0))
    names = sorted(start)
    config, judged = ConfigRecord(), {}

    def between_rounds(number: int, arrays: ArrayRecord) -> None:
        if number == JUDGED:
            judged.update(zip(names, arrays.to_numpy_ndarrays(), strict=True))
        if number % ROUNDS == 0:
            say("done" if number else "ready")
            if number < ROUNDS * TURNS:
                config["form"] = sys.stdin.readline().strip()

    share = _federated.COHORT / _federated.NUM_CLIENTS
    FedAvg(fraction_train=share, fraction_evaluate=0.0).start(
        grid=grid,
        initial_arrays=ArrayRecord([np.asarray(start[name]) for name in names]),
        num_rounds=ROUNDS * TURNS,
        train_config=config,
        evaluate_fn=between_rounds,
    )
    loss = jax.jit(network.loss)
    say(f"loss {np.mean([loss(judged, client) for client in _federated.images()])}")


if __name__ == "__main__":
    run_simulation(
        server_app=app,
        client_app=_flower_client.app,
        num_supernodes=_federated.NUM_CLIENTS,
        backend_config={
            "init_args": {"include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
