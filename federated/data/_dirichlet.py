"""Label skew by Dirichlet draws, in the two conventions that share the name."""

import jax
import numpy as np

from gradax import catalogue
from gradax._validate import integer, interval

from ._labels import checked_labels


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Bayesian Nonparametric Federated Learning of Neural Networks",
        authors="Yurochkin et al.",
        year=2019,
        arxiv="1905.12022",
    ),
    example={"labels": (0, 0, 0, 0, 1, 1, 1, 1), "num_clients": 2, "alpha": 1.0, "min_size": 1},
)
def partition_dirichlet(
    labels: jax.typing.ArrayLike,
    num_clients: int,
    alpha: float,
    min_size: int = 10,
    balance: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    *,
    num_classes: int | None = None,
    max_tries: int = 100,
) -> list[np.ndarray]:
    r"""Splits every class among the clients by shares drawn from a Dirichlet distribution.

    Label-wise convention: for each class :math:`c`, in order,

    .. math::
        p_c \sim \operatorname{Dir}(\alpha \mathbf{1}_N),

    and the class is cut in the proportions :math:`p_c`. Small :math:`\alpha` gives each class to
    few clients, large :math:`\alpha` gives everybody all classes. The sizes of clients vary too;
    :func:`partition_client_dirichlet` keeps them. With the same seed the result is that of
    Flower Datasets' ``DirichletPartitioner``.

    Args:
      labels: ``[n]``, integers, the class of each example.
      num_clients: number :math:`N` of clients.
      alpha: concentration :math:`\alpha > 0`.
      min_size: everything is drawn again while a client holds fewer examples.
      balance: give nothing more of later classes to a client that holds over :math:`n / N`.
      shuffle: shuffle each client's examples, which otherwise come class by class.
      seed: of NumPy's generator.
      num_classes: if given, labels must lie in ``[0, num_classes)``.
      max_tries: number of draws before giving up.

    Returns:
      One ``int64`` array of indices into ``labels`` per client; disjoint, together all indices.

    Raises:
      ValueError: if a label is negative or outside the classes, ``alpha`` is not positive, or no
        draw reaches ``min_size``.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> labels = np.repeat([0, 1, 2], 40)
      >>> parts = data.partition_dirichlet(labels, num_clients=4, alpha=0.5, seed=1)
      >>> sorted(np.concatenate(parts).tolist()) == list(range(120))
      True
      >>> min(len(part) for part in parts) >= 10
      True

    References:
      Yurochkin et al., `Bayesian Nonparametric Federated Learning of Neural Networks
      <https://arxiv.org/abs/1905.12022>`_, 2019.
    """
    who = "partition_dirichlet"
    labels = checked_labels(who, labels, num_classes)
    integer(who, "num_clients", num_clients, at_least=1)
    interval(who, "alpha", alpha, "(0, inf)")
    integer(who, "min_size", min_size, at_least=1)
    integer(who, "max_tries", max_tries, at_least=1)
    if min_size * num_clients > labels.size:
        raise ValueError(
            f"{who}: min_size must be at most {labels.size // num_clients} for {labels.size} "
            f"examples and {num_clients} clients, got {min_size}."
        )
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    full = labels.size / num_clients if balance else np.inf
    for _ in range(max_tries):
        parts = _cut_classes(rng, classes, num_clients, alpha, full)
        smallest = min(len(part) for part in parts)
        if smallest >= min_size:
            break
    else:
        raise ValueError(
            f"{who}: min_size = {min_size} was not reached in {max_tries} draws with "
            f"alpha = {alpha} (the last one left a client {smallest}); lower min_size, "
            "raise alpha, or set balance=True."
        )
    if shuffle:
        for part in parts:
            rng.shuffle(part)
    return parts


def _cut_classes(rng, classes, num_clients, alpha, full):
    """One draw: class by class, cut at the cumulated shares and dealt out."""
    pieces: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    sizes = np.zeros(num_clients, np.int64)
    for members in classes:
        shares = rng.dirichlet(np.full(num_clients, alpha))
        if (sizes > full).any():
            shares[sizes > full] = 0.0
            # With a tiny alpha all of the mass may have been on clients that are full.
            shares = shares if shares.sum() > 0 else (sizes <= full).astype(float)
            shares = shares / shares.sum()
        cuts = (np.cumsum(shares) * len(members)).astype(np.int64)[:-1]
        for client, piece in enumerate(np.split(members, cuts)):
            pieces[client].append(piece)
            sizes[client] += len(piece)
    return [np.concatenate(piece) for piece in pieces]


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Measuring the Effects of Non-Identical Data Distribution for Federated Visual "
        "Classification",
        authors="Hsu et al.",
        year=2019,
        arxiv="1909.06335",
    ),
    example={"labels": (0, 0, 0, 0, 1, 1, 1, 1), "sizes": (3, 5), "alpha": 1.0},
)
def partition_client_dirichlet(
    labels: jax.typing.ArrayLike,
    sizes: jax.typing.ArrayLike,
    alpha: float,
    seed: int = 0,
    *,
    num_classes: int | None = None,
) -> list[np.ndarray]:
    r"""Fills clients of given sizes by class frequencies drawn for each client.

    Client-wise convention: client :math:`i` draws :math:`q_i \sim \operatorname{Dir}(\alpha
    \mathbf{1}_C)` over the classes that occur. Examples are then handed out one at a time, to a
    client picked at random among those that are not full, of a class picked by its :math:`q_i`.
    Classes that have run out are left out and :math:`q_i` renormalised: no example is given
    twice, and the last clients to be filled take what there is.

    Args:
      labels: ``[n]``, integers, the class of each example.
      sizes: ``[num_clients]``, number of examples of each client; the sum is at most ``n``.
      alpha: concentration :math:`\alpha > 0`.
      seed: of NumPy's generator.
      num_classes: if given, labels must lie in ``[0, num_classes)``.

    Returns:
      One ``int64`` array of indices into ``labels`` per client, of the given sizes; disjoint.

    Raises:
      ValueError: if a label is negative or outside the classes, a size is below 1 or their sum
        exceeds ``n``, or ``alpha`` is not positive.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> labels = np.repeat([0, 1, 2], 40)
      >>> parts = data.partition_client_dirichlet(labels, sizes=[50, 20, 30], alpha=0.3)
      >>> [len(part) for part in parts], len(set(np.concatenate(parts).tolist()))
      ([50, 20, 30], 100)

    References:
      Hsu, Qi and Brown, `Measuring the Effects of Non-Identical Data Distribution for Federated
      Visual Classification <https://arxiv.org/abs/1909.06335>`_, 2019. Acar et al., `Federated
      Learning Based on Dynamic Regularization <https://arxiv.org/abs/2111.04263>`_, 2021.
    """
    who = "partition_client_dirichlet"
    labels = checked_labels(who, labels, num_classes)
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer) or not (sizes >= 1).all():
        raise ValueError(f"{who}: sizes must be a vector of integers >= 1, got {sizes.tolist()}.")
    if sizes.size == 0 or sizes.sum() > labels.size:
        raise ValueError(
            f"{who}: sizes must be at least one and sum to at most {labels.size}, "
            f"got {sizes.size} with sum {sizes.sum()}."
        )
    interval(who, "alpha", alpha, "(0, inf)")
    rng = np.random.default_rng(seed)
    stock = [
        rng.permutation(np.flatnonzero(labels == label)).tolist() for label in np.unique(labels)
    ]
    priors = rng.dirichlet(np.full(len(stock), alpha), size=sizes.size)
    return [np.array(part, np.int64) for part in _hand_out(rng, stock, priors, sizes)]


def _hand_out(rng, stock, priors, sizes):
    """Deals examples one by one; an exhausted class loses its column of the priors."""
    parts: list[list[int]] = [[] for _ in sizes]
    unfinished = list(range(len(sizes)))
    left = np.array([len(members) for members in stock])
    total = int(sizes.sum())
    for pick, uniform in zip(rng.random(total), rng.random(total), strict=True):
        place = int(pick * len(unfinished))
        client = unfinished[place]
        heights = np.cumsum(priors[client])
        if heights[-1] <= 0.0:  # all of this client's classes are gone: take from what is left
            heights = np.cumsum(left)
        label = int(np.searchsorted(heights, uniform * heights[-1], side="right"))
        parts[client].append(stock[label].pop())
        left[label] -= 1
        if left[label] == 0:
            priors[:, label] = 0.0
        if len(parts[client]) == sizes[client]:
            unfinished[place] = unfinished[-1]
            unfinished.pop()
    return parts
