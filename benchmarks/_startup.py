"""FedAvg rounds of the perceptron from the start of a process to its end.

`python _startup.py gradax 100` plays as many rounds and prints the mean training loss; or `fedjax`.
"""

import sys

import _federated
import jax


def by_gradax(rounds: int) -> float:
    """The rounds as a user's script would play them."""
    import _simulation

    from gradax import federated

    network = _federated.mlp()
    result = federated.simulate(
        federated.fedavg(_federated.LEARNING_RATE),
        network.loss,
        network.init(jax.random.key(0)),
        _simulation.client_data(_federated.images()),
        rounds=rounds,
        **_simulation.SCHEDULE,
    )
    return _federated.training_loss(network, result.params)


def by_fedjax(rounds: int) -> float:
    """The same by FedJAX."""
    import _federated_peers

    peer = _federated_peers.FedJax(_federated.mlp(), rounds)
    peer.turn()
    return peer.finish()


if __name__ == "__main__":
    print({"gradax": by_gradax, "fedjax": by_fedjax}[sys.argv[1]](int(sys.argv[2])))
