"""Train a Flax network on several devices: one batch spread over them, or a worker on each.

    python examples/data_parallel.py --method ef21 --devices 4

``whole`` takes the step of one device, with the batch spread over all. In ``ef21`` and ``median``
every device is a worker with a gradient of its own: the first sends compressed corrections of it,
the second takes the median of all workers in each coordinate. Without accelerators the devices
are parts of the CPU, which shows that it works, not how fast it is.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradax
from gradax import federated, optimizers
from gradax.federated import data

MODEL = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])

METHODS = {
    "whole": [],
    "ef21": [federated.ef21(federated.top_k(0.05), "data")],
    "median": [federated.coordinate_median("data")],
}


def loss_fn(params, batch):
    logits = MODEL.apply(params, batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"correct": logits.argmax(-1) == batch["y"]}


def make_training(method: str, mesh: jax.sharding.Mesh, params: optax.Params):
    """The step, and the state of its transformation."""
    tx = optax.chain(*METHODS[method], optimizers.diffgrad(5e-3))
    if method == "whole":
        return gradax.make_step(loss_fn, tx, mesh=mesh, donate=True), tx.init(params)
    step = gradax.make_step(loss_fn, tx, mesh=mesh, per_worker="gradients", donate=True)
    return step, federated.init_participants(tx, params, jnp.arange(mesh.size))


def train(method: str, epochs: int, batch_size: int = 64, seed: int = 0) -> float:
    """Trains on scikit-learn's digits and returns the accuracy on the test images."""
    digits, rng = data.load("digits"), np.random.default_rng(seed)
    flat = lambda part: part | {"x": part["x"].reshape(len(part["x"]), -1)}
    images, test = flat(digits.train), flat(digits.test)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    params = MODEL.init(jax.random.key(seed), images["x"][:1])
    step, state = make_training(method, mesh, params)
    evaluate, accuracy = jax.jit(loss_fn), 0.0
    for epoch in range(epochs):
        order = rng.permutation(len(images["y"]))
        for rows in order[: len(order) // batch_size * batch_size].reshape(-1, batch_size):
            batch = {name: leaf[rows] for name, leaf in images.items()}
            params, state, metrics = step(params, state, batch)
        accuracy = float(evaluate(params, test)[1]["correct"].mean())
        print(f"epoch {epoch + 1}: loss {metrics['loss']:.4f}, test {accuracy:.3f}")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", choices=METHODS, default="whole")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--devices", type=int, default=4, help="if there is only a CPU")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    train(options.method, options.epochs)


if __name__ == "__main__":
    main()
