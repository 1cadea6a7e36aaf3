"""What all partitioners ask of labels and of their result."""

import jax
import numpy as np

from gradax._validate import integer


def checked_labels(
    who: str, labels: jax.typing.ArrayLike, num_classes: int | None = None
) -> np.ndarray:
    """Labels as an int64 vector, or a ValueError that names the first that is wrong."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{who}: labels must be a non-empty vector of integers, "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    allowed, outside = "must not be negative", labels < 0
    if num_classes is not None:
        integer(who, "num_classes", num_classes, at_least=1)
        allowed, outside = f"must lie in [0, {num_classes})", outside | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(f"{who}: labels {allowed}, got {labels[first]} at index {first}.")
    return labels.astype(np.int64)


def refuse_empty(who: str, partitions: list[np.ndarray], cure: str) -> list[np.ndarray]:
    """The partitions, or a ValueError that names the clients without an example."""
    empty = [client for client, part in enumerate(partitions) if len(part) == 0]
    if empty:
        raise ValueError(f"{who}: clients {empty} would get no example; {cure}.")
    return partitions
