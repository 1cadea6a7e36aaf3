"""A small classification task for the command line: packaged data and a multilayer perceptron."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax.federated import data


class Task(NamedTuple):
    """Data, a model's parameters and what is measured.

    Attributes:
      dataset: train and test examples.
      params: at the start, a list of layers.
      loss_fn: ``loss_fn(params, batch)``, mean cross entropy.
      accuracy: ``accuracy(params) -> scalar`` on the test examples.
    """

    dataset: data.Dataset
    params: Any
    loss_fn: Any
    accuracy: Any


def classification(name: str, hidden: Sequence[int], seed: int) -> Task:
    """Builds a task from a packaged data set.

    Args:
      name: of the data set, see ``gradax.federated.data.load``.
      hidden: widths of the hidden layers.
      seed: of the initial parameters.

    Returns:
      The task.
    """
    dataset = data.load(name)
    test = jax.tree.map(jnp.asarray, dataset.test)
    inputs = int(np.prod(dataset.train["x"].shape[1:]))
    params = _perceptron([inputs, *hidden, dataset.num_classes], jax.random.key(seed))

    def loss_fn(params, batch):
        logits = _logits(params, batch["x"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    def accuracy(params):
        return jnp.mean(jnp.argmax(_logits(params, test["x"]), axis=-1) == test["y"])

    return Task(dataset, params, loss_fn, accuracy)


def _perceptron(widths: Sequence[int], key: jax.Array) -> list[dict[str, jax.Array]]:
    """Layers with He-normal weights and zero biases."""
    layers = []
    for rows, columns in itertools.pairwise(widths):
        key, own = jax.random.split(key)
        weights = jax.random.normal(own, (rows, columns)) * np.sqrt(2 / rows).astype(np.float32)
        layers.append({"w": weights, "b": jnp.zeros(columns)})
    return layers


def _logits(layers, x):
    x = x.reshape(x.shape[0], -1)
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]
