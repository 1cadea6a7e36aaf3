"""muon_dimension_numbers: the hidden matrices of a network, by the names and ranks of leaves."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from gradax import catalogue

from ._orthogonalize import PAPER

#: Words in the name of a leaf, or of the module that holds it, that tell embeddings, norms and
#: output layers; words that begin with ``embed`` or end with ``norm`` do too.
_OUTSIDE = (
    *("emb", "wte", "wpe", "pos", "positional", "cls", "ln", "bn"),
    *("unembed", "unembedding", "logits", "classifier", "readout"),
)

#: Last words in the names of leaves that are vectors, one for each layer or head of a stack.
_VECTORS = ("bias", "biases", "scale", "offset", "gamma", "beta")


def _names(path: tuple[Any, ...]) -> list[str]:
    """Names on the way to a leaf; paths written as one key count as several."""
    last = path[-1] if path else None
    if len(path) > 1 and getattr(last, "name", None) == "value":
        path = path[:-1]  # the box around a variable of Flax NNX
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return [name for name in re.split(r"[/.]", text) if name]


def _words(name: str) -> list[str]:
    """``LMHead_0``, ``lm_head`` -> lm, head."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_outside(name: str) -> bool:
    """Whether a module or leaf of this name is an embedding, a norm or an output layer."""
    words = _words(name)
    return (
        any(w in _OUTSIDE or w.startswith("embed") or w.endswith("norm") for w in words)
        or (words[-1:] == ["head"] and words[-2:-1] not in (["multi"], ["attention"]))
        or words in (["output", "layer"], ["output", "projection"])
    )


def _is_refused(names: list[str]) -> bool:
    """Whether a leaf is no hidden matrix by its name or that of the module that holds it."""
    spoken = [name for name in names if not name.isdigit()]
    return any(map(_is_outside, spoken[-2:])) or any(
        word in _VECTORS for name in spoken[-1:] for word in _words(name)[-1:]
    )


def _is_in_scan(names: list[str]) -> bool:
    """Whether a module on the way to a leaf gives it a leading axis of layers."""
    *modules, leaf = names or [""]
    # Behind a number, as in layers/0 and layers/Conv_1, lie layers of their own.
    behind = [*modules[1:], leaf if leaf.isdigit() else "leaf"]
    return any(
        name.lower().startswith("scan")
        or (name.lower() in ("layers", "blocks") and not below[-1].isdigit())
        for name, below in zip(modules, behind, strict=False)
    )


#: Axes that are not named count stacked matrices.
_LAST_TWO = MuonDimensionNumbers(-2, -1)


def _kernel_axes(names: list[str], rank: int) -> MuonDimensionNumbers:
    """Axes of a Flax kernel whose rank, without the axis of layers, is three or more."""
    above, module, _ = ["", "", *(name for name in names if not name.isdigit())][-3:]
    if rank in (3, 4) and module in ("query", "key", "value"):
        return MuonDimensionNumbers(-3, (-2, -1))
    if rank in (3, 4) and module == "out" and "att" in above.lower():
        return MuonDimensionNumbers((-3, -2), -1)
    if rank > 3 or any(word.startswith("conv") for word in _words(module)):
        return MuonDimensionNumbers(tuple(range(-rank, -1)), -1)
    return _LAST_TWO


def _matches(patterns: str | Sequence[str], text: str) -> bool:
    listed = (patterns,) if isinstance(patterns, str) else patterns
    return any(re.search(pattern, text) for pattern in listed)


@catalogue.register("function", PAPER, example={"params": {"kernel": np.ones((2, 3))}})
def muon_dimension_numbers(
    params: optax.Params,
    *,
    exclude: str | Sequence[str] = (),
    include: str | Sequence[str] = (),
    stacked: str | Sequence[str] | None = None,
) -> Any:
    r"""Finds the hidden matrices of a network by the names and ranks of its leaves.

    A leaf is no matrix if its rank is below two, or if its own name or that of the module that
    holds it says

    - embedding: a word that begins with ``embed``, or ``wte``, ``wpe``, ``emb``, ``pos``, ...;
    - output layer: a last word ``head`` (but ``MultiHead...`` is none), ``logits``,
      ``classifier``, ``readout``, ``unembed``, ``output_layer``, ``output_projection``;
    - norm: a word that ends with ``norm``, ``ln``, ``bn``;
    - vector: a leaf ``bias``, ``scale``, ``offset``, ``gamma`` or ``beta``, which has rank two
      where layers are stacked, and in attention.

    All other leaves of rank two are matrices ``(in, out)``, whatever they are called. Of higher
    rank only a leaf ``kernel`` is one, read as Flax makes it: in ``query``, ``key``, ``value``
    as ``(in, heads * size)``, in ``out`` of an attention as ``(heads * size, out)``, in a module
    ``conv...`` and from rank four on as ``(height * width * in, out)``, else as a stack of
    matrices. Below a module ``scan...``, or ``layers`` or ``blocks`` without a number behind it,
    the first axis of leaves of rank three and more counts layers, and any name will do for the
    rest of two axes.

    Which layer of a plain perceptron is the last cannot be seen; exclude it by name. ``out``,
    ``output`` and ``out_proj`` occur inside of blocks and are not excluded.

    Args:
      params: params or updates; leaves may be masked out.
      exclude: regular expressions, searched for in the path of a leaf, such as
        ``"block/Dense_0/kernel"``; where one is found the leaf is no matrix.
      include: likewise: the leaf is not refused for its name, and its last two axes are the
        matrix unless it is a ``kernel``; ``exclude`` is stronger.
      stacked: likewise: the first axis counts layers, in leaves of every rank; replaces the
        rule about ``scan``, ``layers`` and ``blocks``.

    Returns:
      A tree like ``params`` of ``optax.contrib.MuonDimensionNumbers`` and ``None``, as
      :func:`muon` takes it. What it says about a leaf depends on its path and rank alone.

    Raises:
      ValueError: if a pattern is no regular expression.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> params = {
      ...     "wte": {"embedding": jnp.ones((9, 4))},
      ...     "Conv_0": {"kernel": jnp.ones((3, 3, 4, 5)), "bias": jnp.ones(5)},
      ...     "lm_head": {"kernel": jnp.ones((4, 9))},
      ... }
      >>> found = gradax.optimizers.muon_dimension_numbers(params)
      >>> print(found["Conv_0"]["kernel"].reduction_axis, found["Conv_0"]["bias"])
      (-4, -3, -2) None
      >>> print(found["wte"], found["lm_head"])
      {'embedding': None} {'kernel': None}

      To exclude a last layer by its number:

      >>> import functools
      >>> names = functools.partial(gradax.optimizers.muon_dimension_numbers, exclude="Dense_2")
      >>> tx = gradax.optimizers.muon(0.02, muon_weight_dimension_numbers=names)

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024.
    """
    for name, patterns in (("exclude", exclude), ("include", include), ("stacked", stacked or ())):
        try:
            _matches(patterns, "")
        except (re.error, TypeError) as error:
            raise ValueError(
                f"muon_dimension_numbers: {name} must be regular expressions, got {patterns!r}."
            ) from error

    def of_leaf(path, leaf):
        names = _names(path)
        text, rank = "/".join(names), jnp.ndim(leaf)
        included = _matches(include, text)
        if _matches(exclude, text) or (_is_refused(names) and not included):
            return None
        if stacked is not None:
            rank -= _matches(stacked, text)
        elif rank > 2 and _is_in_scan(names):
            rank -= 1
        if rank > 2 and names[-1:] == ["kernel"]:
            return _kernel_axes(names, rank)
        return _LAST_TWO if rank == 2 or (rank > 2 and included) else None

    return jax.tree_util.tree_map_with_path(of_leaf, params)
