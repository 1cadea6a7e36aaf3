"""One script from a laptop to a pod: FedSpeed on scikit-learn's digits, wherever it is started.

python examples/laptop_to_pod.py
XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/laptop_to_pod.py --model 2
srun python examples/laptop_to_pod.py --distributed --checkpoint /shared/run
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

CLIENTS, COHORT = 32, 16


def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"].reshape(-1, 64) @ params["hidden"]) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def first_params(width=128):
    """Drawn by NumPy: every process must start from the same numbers."""
    rng = np.random.default_rng(0)
    shapes = {"hidden": (64, width), "out": (width, 10)}
    return {k: rng.normal(0, s[0] ** -0.5, s).astype(np.float32) for k, s in shapes.items()}


def own_clients(mesh, axes):
    """Loads the clients of this process, and joins them with those of the others."""
    train = federated.data.load("digits").train
    parts = federated.partition_dirichlet(train["y"], CLIENTS, alpha=0.3, min_size=1, seed=0)
    mine = [parts[i] for i in federated.data.process_clients(CLIENTS, mesh, axes)]
    return federated.data.from_processes(federated.data.padded(train, mine), CLIENTS, mesh, axes)


def main(argv: Sequence[str] | None = None) -> federated.SimResult:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distributed", action="store_true", help="one of several processes")
    parser.add_argument("--model", type=int, default=1, help="devices that share a model")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args(argv)
    if arguments.distributed:
        jax.distributed.initialize()  # before anything else asks for a device
    shape = jax.device_count() // arguments.model, arguments.model
    mesh = jax.make_mesh(shape, ("clients", "model"))
    test = federated.data.load("digits").test
    result = federated.simulate(
        federated.fedspeed(0.1),
        loss_fn,
        first_params(),
        own_clients(mesh, ("clients",)),
        arguments.rounds,
        cohort=COHORT,
        num_steps=10,
        evaluate=lambda params: {"loss_test": loss_fn(params, jax.tree.map(jnp.asarray, test))},
        mesh=mesh,
        shard_params="model",
        checkpoint=arguments.checkpoint,
    )
    if jax.process_index() == 0:
        hidden = result.state.params["hidden"]
        print(
            f"{jax.process_count()} processes, {jax.device_count()} devices, a device holds "
            f"{hidden.addressable_shards[0].data.shape} of {hidden.shape}: "
            f"test loss {result.history.last('loss_test'):.4f}"
        )
    return result


if __name__ == "__main__":
    main()
