"""Train a Flax Linen network with a chain of gradax transformations and a ``TrainState``.

    python examples/flax_linen.py --epochs 20

``TrainState.apply_gradients`` calls ``tx.update(grads, opt_state, params)`` and nothing more:
enough for a chain that needs only gradients. For any other, let ``gradax.make_step`` make the
step, and put what it returns back into the state.
"""

import argparse

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

import gradax
from gradax import optimizers, schedules
from gradax.federated import data


class Classifier(nn.Module):
    """Two layers for small images."""

    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[batch, classes]`` of images ``[batch, ...]``."""
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(x)


def make_loss(apply_fn):
    def loss_fn(params, batch):
        logits = apply_fn({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    return loss_fn


def make_train_step(state: TrainState):
    """A step for any transformation of the toolkit, in place of ``apply_gradients``."""
    step = gradax.make_step(make_loss(state.apply_fn), state.tx)

    def train_step(state, batch):
        params, opt_state, metrics = step(state.params, state.opt_state, batch)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


@jax.jit
def accuracy(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
    logits = state.apply_fn({"params": state.params}, batch["x"])
    return (logits.argmax(-1) == batch["y"]).mean()


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
    model = Classifier(hidden, digits.num_classes)
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(seed), digits.train["x"][:1])["params"],
        tx=make_chain(epochs * steps_per_epoch),
    )
    train_step = make_train_step(state)
    for epoch in range(epochs):
        order = rng.permutation(len(digits.train["y"]))[: steps_per_epoch * batch_size]
        for rows in order.reshape(steps_per_epoch, batch_size):
            state, metrics = train_step(state, {k: leaf[rows] for k, leaf in digits.train.items()})
        loss, correct = metrics["loss"], accuracy(state, digits.test)
        print(f"epoch {epoch + 1}: loss {loss:.4f}, test {correct:.3f}")
    return float(accuracy(state, digits.test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    train(parser.parse_args().epochs)


if __name__ == "__main__":
    main()
