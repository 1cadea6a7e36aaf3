"""What a partition looks like: numbers to print, a picture to look at."""

import dataclasses
from typing import Any

import jax
import numpy as np

from gradax import _optional

from ._labels import checked_labels
from ._layout import Partitions, checked_partitions


@dataclasses.dataclass(frozen=True, eq=False)
class PartitionSummary:
    """Who holds how many examples of which class; printing it gives a table.

    Attributes:
      class_counts: ``int64[num_clients, num_classes]``.
    """

    class_counts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """``int64[num_clients]``, number of examples of each client."""
        return self.class_counts.sum(axis=1)

    @property
    def label_skew(self) -> float:
        """Mean total-variation distance of clients' class frequencies from those of all.

        0 means that every client looks like the whole; near 1, that classes are not shared.
        """
        own = self.class_counts / self.sizes[:, None]
        everybody = self.class_counts.sum(axis=0) / self.sizes.sum()
        return float(np.abs(own - everybody).sum(axis=1).mean() / 2)

    def __str__(self) -> str:
        num_clients, num_classes = self.class_counts.shape
        sizes = self.sizes
        lines = [
            f"{num_clients} clients, {sizes.sum()} examples, {num_classes} classes; "
            f"size {sizes.min()} to {sizes.max()}, median {np.median(sizes):g}; "
            f"label skew {self.label_skew:.2f}",
            "client   size   examples of each class",
        ]
        shown = range(num_clients) if num_clients <= 12 else [*range(8), *range(num_clients)[-3:]]
        for place, client in enumerate(shown):
            if place and client != shown[place - 1] + 1:
                lines.append("   ...")
            counts = " ".join(f"{count:5d}" for count in self.class_counts[client])
            lines.append(f"{client:6d} {sizes[client]:6d}   {counts}")
        return "\n".join(lines)


def describe(partitions: Partitions, labels: jax.typing.ArrayLike) -> PartitionSummary:
    """Counts the examples of every class at every client.

    Args:
      partitions: one integer array of indices into ``labels`` per client.
      labels: ``[n]``, integers, the class of each example.

    Returns:
      The counts, with sizes and a measure of skew; ``print`` it.

    Raises:
      ValueError: if labels are not integers, a client is empty, or an index is out of range.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> labels = np.array([0, 0, 0, 1, 1, 2])
      >>> print(data.describe([np.array([0, 1, 3]), np.array([2, 4, 5])], labels))
      2 clients, 6 examples, 3 classes; size 3 to 3, median 3; label skew 0.17
      client   size   examples of each class
           0      3       2     1     0
           1      3       1     1     1
    """
    labels = checked_labels("describe", labels)
    rows = checked_partitions("describe", partitions, labels.size)
    num_classes = int(labels.max()) + 1
    counts = [np.bincount(labels[row], minlength=num_classes) for row in rows]
    return PartitionSummary(np.stack(counts))


def plot_partition(partitions: Partitions, labels: jax.typing.ArrayLike, ax: Any = None) -> Any:
    """Draws a bar for every client, divided into classes.

    Args:
      partitions: one integer array of indices into ``labels`` per client.
      labels: ``[n]``, integers, the class of each example.
      ax: matplotlib axes to draw into; a new figure's if ``None``.

    Returns:
      The axes.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: as :func:`describe`.

    Examples:
      >>> import matplotlib
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> matplotlib.use("Agg")
      >>> ax = data.plot_partition([np.array([0, 1]), np.array([2])], np.array([0, 1, 1]))
      >>> ax.get_xlabel()
      'examples'
    """
    pyplot = _optional.load("matplotlib.pyplot", "plot", "plot_partition")
    counts = describe(partitions, labels).class_counts
    num_clients, num_classes = counts.shape
    if ax is None:
        ax = pyplot.subplots(figsize=(6, min(3 + 0.08 * num_clients, 10)))[1]
    colours = pyplot.get_cmap("tab20" if num_classes <= 20 else "turbo", num_classes)
    starts = np.cumsum(counts, axis=1) - counts
    for label in range(num_classes):
        bars = {"left": starts[:, label], "height": 0.9, "color": colours(label)}
        ax.barh(np.arange(num_clients), counts[:, label], label=str(label), **bars)
    ax.set(xlabel="examples", ylabel="client", ylim=(num_clients - 0.5, -0.5))
    if num_classes <= 20:
        ax.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax
