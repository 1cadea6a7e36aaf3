"""Attackers who train honestly, on wrong labels."""

from collections.abc import Sequence

import jax
import numpy as np

from gradax import _validate

from ..data._layout import ClientData


def label_flip_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Turns label ``y`` into ``num_classes - 1 - y``: what attackers train on.

    Args:
      labels: integer labels in ``[0, num_classes)``.
      num_classes: number of classes.

    Returns:
      Labels of the same shape and dtype.

    Raises:
      ValueError: if ``num_classes`` is no integer above 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import attacks
      >>> attacks.label_flip_targets(jnp.array([0, 9, 4]), num_classes=10).tolist()
      [9, 0, 5]
    """
    _validate.integer("label_flip_targets", "num_classes", num_classes, at_least=2)
    return num_classes - 1 - labels


def flip_labels(
    data: ClientData, clients: Sequence[int], num_classes: int, label: str = "y"
) -> ClientData:
    """Gives some clients wrong labels: they follow the protocol, and pull the wrong way.

    Args:
      data: examples of all clients, in either layout.
      clients: numbers of the dishonest ones.
      num_classes: number of classes; label ``y`` becomes ``num_classes - 1 - y``.
      label: name of the labels in ``data.arrays``, a dict.

    Returns:
      Data like ``data`` with labels of their own; all else is shared.

    Raises:
      ValueError: if there is no such client or no such array, or ``num_classes`` is no integer
        above 1.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import attacks, data
      >>> clients = data.padded({"y": np.array([0, 1, 2, 2])}, [np.arange(2), np.arange(2, 4)])
      >>> attacks.flip_labels(clients, [1], num_classes=3).arrays["y"].tolist()
      [[0, 1], [0, 0]]

    References:
      Allen-Zhu et al., `Byzantine-Resilient Non-Convex Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.14368>`_, 2020.
    """
    who, count = "flip_labels", data.num_clients
    _validate.integer(who, "num_classes", num_classes, at_least=2)
    if not isinstance(data.arrays, dict) or label not in data.arrays:
        raise ValueError(f"{who}: data.arrays must be a dict that holds {label!r}.")
    strangers = [client for client in clients if client not in range(count)]
    if strangers:
        raise ValueError(f"{who}: clients must lie in [0, {count}), got {strangers}.")
    labels = np.array(data.arrays[label])
    for client in set(clients):
        start, stop = client, client + 1
        if data.offsets is not None:
            start = int(data.offsets[client])
            stop = start + int(data.counts[client])
        labels[start:stop] = num_classes - 1 - labels[start:stop]
    return data._replace(arrays={**data.arrays, label: labels})
