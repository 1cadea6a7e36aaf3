"""Label skew by dealing out whole classes or label-sorted shards."""

import jax
import numpy as np

from gradax import catalogue
from gradax._validate import integer, one_of

from ._labels import checked_labels, refuse_empty


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Federated Learning on Non-IID Data Silos: An Experimental Study",
        authors="Li et al.",
        year=2021,
        arxiv="2102.02079",
    ),
    example={
        "labels": (0, 0, 1, 1, 2, 2),
        "num_clients": 3,
        "classes_per_client": 2,
        "mode": "deterministic",
    },
)
def partition_pathological(
    labels: jax.typing.ArrayLike,
    num_clients: int,
    classes_per_client: int,
    mode: str = "random",
    shuffle: bool = True,
    seed: int = 0,
    *,
    num_classes: int | None = None,
) -> list[np.ndarray]:
    """Gives every client a fixed number of classes; holders of a class share it equally.

    With the same seed the result is that of Flower Datasets' ``PathologicalPartitioner``.

    Args:
      labels: ``[n]``, integers, the class of each example.
      num_clients: number of clients.
      classes_per_client: number of classes each client holds.
      mode: ``"deterministic"``: client ``j`` gets the classes ``j, j + 1, ...`` modulo their
        number; ``"first_deterministic"``: class ``j`` modulo their number, the others at random;
        ``"random"``: all at random.
      shuffle: shuffle each client's examples, which otherwise come class by class.
      seed: of NumPy's generator.
      num_classes: if given, labels must lie in ``[0, num_classes)``.

    Returns:
      One ``int64`` array of indices into ``labels`` per client; disjoint. A class that nobody
      holds, possible with few clients, is left out.

    Raises:
      ValueError: if a label is negative or outside the classes, ``classes_per_client`` exceeds
        the number of classes, ``mode`` is unknown, or a client would stay empty.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> labels = np.repeat([0, 1, 2], 4)
      >>> parts = data.partition_pathological(labels, 3, 2, mode="deterministic")
      >>> [sorted(set(labels[part].tolist())) for part in parts]
      [[0, 1], [1, 2], [0, 2]]

    References:
      Li et al., `Federated Learning on Non-IID Data Silos: An Experimental Study
      <https://arxiv.org/abs/2102.02079>`_, 2021.
    """
    who = "partition_pathological"
    labels = checked_labels(who, labels, num_classes)
    integer(who, "num_clients", num_clients, at_least=1)
    integer(who, "classes_per_client", classes_per_client, at_least=1)
    one_of(who, "mode", mode, ("random", "deterministic", "first_deterministic"))
    classes = np.unique(labels)
    if classes_per_client > classes.size:
        raise ValueError(
            f"{who}: classes_per_client must be at most {classes.size}, the number of classes, "
            f"got {classes_per_client}."
        )
    rng = np.random.default_rng(seed)
    held = _assign_classes(rng, classes.size, num_clients, classes_per_client, mode)
    pieces: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for place, label in enumerate(classes):
        holders = [client for client in range(num_clients) if place in held[client]]
        members = np.flatnonzero(labels == label)
        shares = np.array_split(members, len(holders)) if holders else []
        for client, share in zip(holders, shares, strict=True):
            pieces[client].append(share)
    parts = [np.concatenate(piece) for piece in pieces]
    refuse_empty(who, parts, "use fewer clients or more classes for each")
    if shuffle:
        for part in parts:
            rng.shuffle(part)
    return parts


def _assign_classes(rng, num_classes, num_clients, classes_per_client, mode):
    """The places of the classes that each client holds."""
    if mode == "random":
        draw = lambda: set(rng.choice(num_classes, size=classes_per_client, replace=False).tolist())
        return [draw() for _ in range(num_clients)]
    if mode == "deterministic":
        offsets = range(classes_per_client)
        return [{(j + i) % num_classes for i in offsets} for j in range(num_clients)]
    held = []
    for client in range(num_clients):
        mine = {client % num_classes}
        while len(mine) < classes_per_client:
            mine.add(int(rng.choice(num_classes)))
        held.append(mine)
    return held


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Communication-Efficient Learning of Deep Networks from Decentralized Data",
        authors="McMahan et al.",
        year=2016,
        arxiv="1602.05629",
    ),
    example={"labels": (0, 0, 1, 1, 2, 2, 3, 3), "num_clients": 2, "shards_per_client": 2},
)
def partition_shards(
    labels: jax.typing.ArrayLike,
    num_clients: int,
    shards_per_client: int = 2,
    keep_remainder: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    *,
    num_classes: int | None = None,
) -> list[np.ndarray]:
    r"""Sorts examples by label, cuts them in equal shards, and deals the shards at random.

    The split of the first paper on federated averaging, with two shards for each client: most
    clients then hold two classes. A shard has :math:`\lfloor n / (N s) \rfloor` examples. With the
    same seed, and the remainder left out, the result is that of Flower Datasets'
    ``ShardPartitioner``.

    Args:
      labels: ``[n]``, integers, the class of each example.
      num_clients: number :math:`N` of clients.
      shards_per_client: number :math:`s` of shards that each client gets.
      keep_remainder: append the :math:`n \bmod N s` examples that are left over to the last
        shard, rather than leaving them out.
      shuffle: shuffle each client's examples, which otherwise come shard by shard.
      seed: of NumPy's generator.
      num_classes: if given, labels must lie in ``[0, num_classes)``.

    Returns:
      One ``int64`` array of indices into ``labels`` per client; disjoint.

    Raises:
      ValueError: if a label is negative or outside the classes, or there are fewer examples
        than shards.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> parts = data.partition_shards(np.repeat([0, 1, 2, 3], 6), num_clients=3)
      >>> [len(part) for part in parts]
      [8, 8, 8]

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized Data
      <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    who = "partition_shards"
    labels = checked_labels(who, labels, num_classes)
    integer(who, "num_clients", num_clients, at_least=1)
    integer(who, "shards_per_client", shards_per_client, at_least=1)
    num_shards = num_clients * shards_per_client
    size = labels.size // num_shards
    if size == 0:
        raise ValueError(
            f"{who}: num_clients * shards_per_client must be at most {labels.size}, the number "
            f"of examples, got {num_shards}."
        )
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    # What is left over may itself make whole shards: then chance decides which ones are dealt.
    available = num_shards if keep_remainder else labels.size // size
    end = labels.size if keep_remainder else available * size
    shards = np.split(order[:end], size * np.arange(1, available))
    dealt = rng.permutation(available)[:num_shards].reshape(num_clients, shards_per_client)
    parts = [np.concatenate([shards[shard] for shard in mine]) for mine in dealt]
    if shuffle:
        for part in parts:
            rng.shuffle(part)
    return parts
