"""Clients of equal or of very different sizes, blind to labels."""

import numpy as np

from gradax import catalogue
from gradax._validate import integer, interval, one_of

from ._labels import refuse_empty


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Federated Learning on Non-IID Data Silos: An Experimental Study",
        authors="Li et al.",
        year=2021,
        arxiv="2102.02079",
    ),
    example={"n": 12, "num_clients": 3, "kind": "linear"},
)
def partition_sizes(
    n: int,
    num_clients: int,
    kind: str = "linear",
    seed: int = 0,
    *,
    alpha: float = 1.0,
    sigma: float = 1.0,
    shuffle: bool = True,
) -> list[np.ndarray]:
    r"""Quantity skew: clients hold unequal numbers of examples.

    With the shares :math:`p_i \propto` :math:`i + 1` (``"linear"``), :math:`(i + 1)^2`
    (``"square"``), :math:`e^i` (``"exponential"``), a draw from
    :math:`\operatorname{Dir}(\alpha \mathbf{1}_N)` (``"dirichlet"``) or :math:`e^{\sigma z_i}` with
    standard normal :math:`z_i` (``"lognormal"``), client :math:`i` gets
    :math:`\lfloor p_i n \rfloor` examples; the largest client gets the rest as well.

    Args:
      n: number of examples.
      num_clients: number :math:`N` of clients.
      kind: the rule.
      seed: of NumPy's generator.
      alpha: concentration :math:`\alpha > 0`, for ``"dirichlet"``.
      sigma: spread :math:`\sigma \ge 0`, for ``"lognormal"``.
      shuffle: deal the examples at random; otherwise in their order, which mixes in label skew
        if they are sorted.

    Returns:
      One ``int64`` array of indices below ``n`` per client; disjoint, together all indices.

    Raises:
      ValueError: if ``kind`` is unknown, an argument outside its range, or a client would get
        no example.

    Examples:
      >>> from gradax.federated import data
      >>> [len(part) for part in data.partition_sizes(100, 4, "linear")]
      [10, 20, 30, 40]

    References:
      Li et al., `Federated Learning on Non-IID Data Silos: An Experimental Study
      <https://arxiv.org/abs/2102.02079>`_, 2021.
    """
    who = "partition_sizes"
    integer(who, "n", n, at_least=1)
    integer(who, "num_clients", num_clients, at_least=1)
    interval(who, "alpha", alpha, "(0, inf)")
    interval(who, "sigma", sigma, "[0, inf)")
    rng = np.random.default_rng(seed)
    client = np.arange(num_clients)
    rules = {
        "linear": lambda: client + 1.0,
        "square": lambda: (client + 1.0) ** 2,
        # Relative to the largest: e^i itself overflows from 710 clients on.
        "exponential": lambda: np.exp(client - client[-1]),
        "dirichlet": lambda: rng.dirichlet(np.full(num_clients, alpha)),
        "lognormal": lambda: np.exp(sigma * rng.standard_normal(num_clients)),
    }
    one_of(who, "kind", kind, rules)
    shares = rules[kind]()
    sizes = np.floor(shares / shares.sum() * n).astype(np.int64)
    # Of equal shares the last client counts as the largest.
    sizes[num_clients - 1 - np.argmax(shares[::-1])] += n - sizes.sum()
    parts = np.split(_order(rng, n, shuffle), np.cumsum(sizes)[:-1])
    return refuse_empty(who, parts, "use fewer clients or a milder kind")


@catalogue.register(
    "function",
    catalogue.Paper(
        title="Communication-Efficient Learning of Deep Networks from Decentralized Data",
        authors="McMahan et al.",
        year=2016,
        arxiv="1602.05629",
    ),
    example={"n": 12, "num_clients": 3},
)
def partition_iid(
    n: int, num_clients: int, seed: int = 0, *, shuffle: bool = True
) -> list[np.ndarray]:
    """Deals examples at random into parts of equal size, to within one.

    Args:
      n: number of examples.
      num_clients: number of clients; the first ``n mod num_clients`` get one more.
      seed: of NumPy's generator.
      shuffle: deal at random; otherwise cut in order, for examples that are shuffled already.

    Returns:
      One ``int64`` array of indices below ``n`` per client; disjoint, together all indices.

    Raises:
      ValueError: if there are fewer examples than clients.

    Examples:
      >>> from gradax.federated import data
      >>> [len(part) for part in data.partition_iid(10, num_clients=4)]
      [3, 3, 2, 2]

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized Data
      <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    who = "partition_iid"
    integer(who, "n", n, at_least=1)
    integer(who, "num_clients", num_clients, at_least=1)
    parts = np.array_split(_order(np.random.default_rng(seed), n, shuffle), num_clients)
    return refuse_empty(who, parts, f"num_clients must be at most n = {n}")


def _order(rng, n, shuffle):
    return rng.permutation(n) if shuffle else np.arange(n)
