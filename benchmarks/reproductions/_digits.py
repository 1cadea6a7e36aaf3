"""The digits of scikit-learn, and what experiments on them share: networks, schedules, a loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradax
from gradax import federated, schedules

Params = list[dict[str, jax.Array]]


def load() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns training and test examples, 1,437 and 360 images of 64 pixels in [0, 1]."""
    digits = federated.data.load("digits")
    flat = lambda part: {"x": part["x"].reshape(len(part["y"]), -1), "y": part["y"]}
    return flat(digits.train), flat(digits.test)


class Network(NamedTuple):
    """A perceptron; without a hidden layer it is softmax regression.

    Attributes:
      widths: of all layers.
      activation: of the hidden layers.
    """

    widths: tuple[int, ...] = (64, 32, 10)
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu

    def init(self, key: jax.Array) -> Params:
        """Draws weights of variance 2 / inputs for relu, else 1 / inputs; biases are zero."""
        gain = 2.0 if self.activation is jax.nn.relu else 1.0
        layers = []
        for rows, columns in zip(self.widths, self.widths[1:], strict=False):
            key, own = jax.random.split(key)
            weights = jax.random.normal(own, (rows, columns)) * jnp.sqrt(gain / rows)
            layers.append({"w": weights, "b": jnp.zeros(columns)})
        return layers

    def logits(self, params: Params, x: jax.Array) -> jax.Array:
        """Computes the logits of a batch."""
        for layer in params[:-1]:
            x = self.activation(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    def loss(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """Mean cross entropy of a batch."""
        logits = self.logits(params, batch["x"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    def accuracy(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """Share of a batch that is classified correctly."""
        return jnp.mean(jnp.argmax(self.logits(params, batch["x"]), axis=-1) == batch["y"])


def usual_schedules(num_steps: int) -> dict[str, optax.Schedule]:
    """Schedules with peak 1; stepwise divides by ten at 30, 60 and 90 % of the run."""
    drops = {int(num_steps * at): 0.1 for at in (0.3, 0.6, 0.9)}
    return {
        "constant": optax.constant_schedule(1.0),
        "stepwise": optax.piecewise_constant_schedule(1.0, drops),
        "1 / sqrt(t)": schedules.last_iterate_inv_sqrt_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, num_steps),
        "linear": schedules.linear_decay_schedule(1.0, num_steps),
    }


def inner_best(losses: jax.typing.ArrayLike) -> int:
    """Place of the smallest loss of a grid, which must not lie at the grid's edge."""
    best = int(np.nanargmin(losses))
    if best in (0, len(losses) - 1):
        raise ValueError(f"the best of {len(losses)} learning rates is the one at place {best}")
    return best


def train(
    loss_fn: Callable[[Any, Any], jax.Array],
    tx: optax.GradientTransformation,
    params: Any,
    examples: dict[str, np.ndarray],
    batch_size: int,
    num_steps: int,
    key: jax.Array,
) -> tuple[Any, optax.OptState]:
    """Trains in one scan, each epoch in a new order; returns parameters and optimizer state."""
    size, step = len(examples["y"]), gradax.make_step(loss_fn, tx)
    epochs = -(-num_steps * batch_size // size)
    orders = jax.vmap(lambda own: jax.random.permutation(own, size))(jax.random.split(key, epochs))
    indices = orders.reshape(-1)[: num_steps * batch_size].reshape(num_steps, batch_size)

    def body(carry, index):
        batch = {name: jnp.asarray(leaf)[index] for name, leaf in examples.items()}
        return step(*carry, batch)[:2], None

    return jax.lax.scan(body, (params, tx.init(params)), indices)[0]
