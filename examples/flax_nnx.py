"""Train a Flax NNX network with a chain of gradax transformations.

    python examples/flax_nnx.py --epochs 20

``nnx.Optimizer.update(model, grads, **extras)`` hands its keyword arguments on to the chain, so a
transformation that needs more than the gradient (here the one of SAM, which asks for a second
gradient elsewhere) works as soon as the step passes ``value``, ``value_fn`` and ``grad_fn``.
"""

import argparse

import jax
import numpy as np
import optax
from flax import nnx

from gradax import optimizers, schedules
from gradax.federated import data


class Classifier(nnx.Module):
    """Two layers for small images."""

    def __init__(self, pixels: int, hidden: int, classes: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(pixels, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[batch, classes]`` of images ``[batch, ...]``."""
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def loss_fn(model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
    logits = model(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def extras(model: nnx.Module, batch: dict[str, jax.Array]) -> dict:
    """What a transformation may ask for, as functions of the parameters on this batch."""
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)

    def value_fn(params, *_):
        return loss_fn(nnx.merge(graphdef, params, rest), batch)

    return {"value_fn": value_fn, "grad_fn": lambda params, *_: jax.grad(value_fn)(params)}


@nnx.jit
def train_step(model: nnx.Module, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]):
    value, grads = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads, value=value, grad=grads, **extras(model, batch))
    return value


@nnx.jit
def accuracy(model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
    return (model(batch["x"]).argmax(-1) == batch["y"]).mean()


def make_chain(num_steps: int) -> optax.GradientTransformation:
    """SAM's gradient, diffGrad's direction, a rate that decays to zero: one line each."""
    return optax.chain(
        optimizers.sam_gradient(rho=0.05),
        optimizers.scale_by_diffgrad(),
        optax.scale_by_learning_rate(schedules.linear_decay_schedule(5e-3, num_steps)),
    )


def train(epochs: int, batch_size: int = 64, hidden: int = 64, seed: int = 0) -> float:
    """Trains on scikit-learn's digits and returns the accuracy on the test images."""
    digits, rng = data.load("digits"), np.random.default_rng(seed)
    steps_per_epoch = len(digits.train["y"]) // batch_size
    model = Classifier(64, hidden, digits.num_classes, rngs=nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, make_chain(epochs * steps_per_epoch), wrt=nnx.Param)
    for epoch in range(epochs):
        order = rng.permutation(len(digits.train["y"]))[: steps_per_epoch * batch_size]
        for rows in order.reshape(steps_per_epoch, batch_size):
            batch = {name: leaf[rows] for name, leaf in digits.train.items()}
            value = train_step(model, optimizer, batch)
        print(f"epoch {epoch + 1}: loss {value:.4f}, test {accuracy(model, digits.test):.3f}")
    return float(accuracy(model, digits.test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    train(parser.parse_args().epochs)


if __name__ == "__main__":
    main()
