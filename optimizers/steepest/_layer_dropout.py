"""layer_dropout: each step trains a random set of layers; the others rest, state and all."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue

#: Numbers of layers, a tree (prefix of params) or a function from params to one.
Labels: TypeAlias = Any | Callable[[optax.Params], Any]

#: A probability for each layer, or a function of the count that returns them.
Probs: TypeAlias = Sequence[float] | jax.typing.ArrayLike | Callable[[jax.Array], jax.Array]

Law = Literal["cutoff", "independent"]
LAWS = ("cutoff", "independent")
KINDS = ("uniform", "all", "linear", "epoch_shift")

PAPER = catalogue.Paper(
    title="Drop-Muon: Update Less, Converge Faster",
    authors="Gruntkowska et al.",
    year=2025,
    arxiv="2510.02239",
)


class LayerDropoutState(NamedTuple):
    """State of :func:`layer_dropout`.

    Attributes:
      count: ``int32[]``, number of updates made.
      key: typed key from which the layers of the coming step are drawn.
      inclusion: ``float32[layers]``, probability of each layer to take part in the coming step.
      common: ``bool[]``, whether one draw decides for all layers, as a cutoff does.
      active: ``bool[layers]``, which layers took part in the last step.
      inner_states: state of the inner transformation for each layer.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: jax.Array
    inclusion: jax.Array
    common: jax.Array
    active: jax.Array
    inner_states: tuple[optax.OptState, ...]


@catalogue.register("function", PAPER, example={"kind": "uniform", "num_layers": 3})
def cutoff_probs(
    kind: Literal["uniform", "all", "linear", "epoch_shift"],
    num_layers: int,
    *,
    alpha: jax.typing.ArrayLike = 0.5,
    tau: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""Probabilities of the cutoff: of each layer to be the first that is trained.

    With the layers :math:`j = 0, \ldots, b - 1` from input to output,

    - ``"uniform"``: :math:`p_j = 1 / b`, half of the layers (and a half layer) on average;
    - ``"all"``: :math:`p_0 = 1`, nothing is dropped;
    - ``"linear"``: :math:`p_j \propto b - j`, early cutoffs are likelier;
    - ``"epoch_shift"``: :math:`p_j \propto \exp(\alpha [(1 - \tau)(b - 1 - j) + \tau j])`, which
      moves from early to late cutoffs while the progress :math:`\tau` goes from 0 to 1. Here
      the formula of a port stands for that of the paper's appendix, which was not at hand.

    Args:
      kind: one of the laws above.
      num_layers: the number :math:`b \ge 1` of layers.
      alpha: :math:`\alpha`, finite; how far ``"epoch_shift"`` is from uniform.
      tau: progress :math:`\tau`, in ``[0, 1]``; a traced one is clipped.

    Returns:
      ``float32[num_layers]``, adding up to one.

    Raises:
      ValueError: if an argument cannot work.

    Examples:
      >>> import gradax
      >>> print(gradax.optimizers.cutoff_probs("epoch_shift", 4, alpha=0.5).round(4))
      [0.4551 0.276  0.1674 0.1015]

      With a progress that follows the count, for :func:`layer_dropout`:

      >>> law = lambda count: gradax.optimizers.cutoff_probs("epoch_shift", 4, tau=count / 1000)
      >>> print(law(500))
      [0.25 0.25 0.25 0.25]

    References:
      Gruntkowska et al., `Drop-Muon: Update Less, Converge Faster
      <https://arxiv.org/abs/2510.02239>`_, 2025.
    """
    _validate.one_of("cutoff_probs", "kind", kind, KINDS)
    _validate.integer("cutoff_probs", "num_layers", num_layers, at_least=1)
    _validate.interval("cutoff_probs", "alpha", alpha, "(-inf, inf)")
    _validate.interval("cutoff_probs", "tau", tau, "[0, 1]")
    layer = jnp.arange(num_layers, dtype=jnp.float32)
    if kind == "all":
        return (layer == 0).astype(jnp.float32)
    if kind == "linear":
        return (num_layers - layer) / jnp.sum(num_layers - layer)
    if kind == "uniform":
        return jnp.full(num_layers, 1 / num_layers, jnp.float32)
    progress = jnp.clip(jnp.asarray(tau, jnp.float32), 0.0, 1.0)
    late = (1 - progress) * (num_layers - 1 - layer) + progress * layer
    return jax.nn.softmax(jnp.asarray(alpha, jnp.float32) * late)


def layers_of(who: str, param_labels: Any, num_layers: int | None = None) -> int:
    """Checks a tree of layer numbers and counts the layers.

    Args:
      who: public name of the factory.
      param_labels: the tree.
      num_layers: how many layers there must be; ``None`` leaves that to the tree.

    Returns:
      The number of layers.

    Raises:
      ValueError: unless the labels are 0, 1, ... without a gap, as many as there must be.
    """
    labels = jax.tree.leaves(param_labels)
    whole = all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in labels)
    found = sorted(set(map(int, labels))) if whole else []
    count = len(found) if num_layers is None else num_layers
    if not found or found != list(range(count)):
        upper = "..." if num_layers is None else num_layers - 1
        raise ValueError(
            f"{who}: param_labels must number the layers 0 to {upper} without a gap, "
            f"got {sorted(set(labels), key=str)}."
        )
    return count


def _check_probs(who: str, probs: Any, law: Law) -> int:
    """Raises unless probabilities can work; returns how many there are."""
    if callable(probs):
        shape = jax.eval_shape(probs, jax.ShapeDtypeStruct((), jnp.int32)).shape
    else:
        shape = np.shape(probs)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"{who}: probs must have one probability for each layer, got shape {shape}."
        )
    if callable(probs) or isinstance(probs, jax.core.Tracer):
        return shape[0]
    values = np.asarray(probs, np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"{who}: probs must lie in [0, 1], got {values.tolist()}.")
    if law == "cutoff" and abs(values.sum() - 1) > 1e-4:
        raise ValueError(
            f"{who}: probs must add up to 1, unless law='independent', got {values.tolist()}."
        )
    return shape[0]


def _inclusion(probs: Any, count: jax.Array, law: Law) -> jax.Array:
    """Probability of each layer to take part in a step."""
    values = jnp.array(probs(count) if callable(probs) else probs, jnp.float32)
    if law == "independent":
        return values
    # The last layer lies behind every cutoff: exactly 1, whatever rounding does.
    upto = jnp.cumsum(values)
    return upto / upto[-1]


def _draw(state: LayerDropoutState) -> tuple[jax.Array, jax.Array]:
    """The next key, and the layers of the coming step."""
    key, now = jax.random.split(state.key)
    position = jax.random.uniform(now, state.inclusion.shape, jnp.float32)
    position = jnp.where(state.common, position[0], position)
    return key, position < state.inclusion


def _unless_resting(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Updates only if ``layer_works``; else nothing of ``inner`` is computed."""
    inner = optax.with_extra_args_support(inner)

    def update_fn(updates, state, params=None, *, layer_works, **extra_args):
        def work():
            new, after = inner.update(updates, state, params, **extra_args)
            return jax.tree.map(lambda u, g: u.astype(g.dtype), new, updates), after

        rest = lambda: (jax.tree.map(jnp.zeros_like, updates), state)
        return jax.lax.cond(layer_works, work, rest)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _is_partial(tree: Any) -> bool:
    """Whether a wrapper outside hides leaves, or there are none."""
    is_hidden = lambda node: isinstance(node, optax.MaskedNode)
    return not jax.tree.leaves(tree) or any(
        map(is_hidden, jax.tree.leaves(tree, is_leaf=is_hidden))
    )


@catalogue.register(
    "wrapper",
    PAPER,
    example={
        "inner": optax.scale_by_adam(),
        "param_labels": lambda params: jax.tree.map(lambda leaf: 0, params),
        "probs": (0.7,),
        "law": "independent",
    },
)
def layer_dropout(
    inner: optax.GradientTransformation,
    param_labels: Labels,
    probs: Probs,
    key: jax.Array | int = 0,
    *,
    law: Law = "cutoff",
) -> optax.GradientTransformationExtraArgs:
    r"""Updates a random set of layers in each step; the other layers rest.

    Layers are numbered from input to output. A cutoff :math:`s` is drawn with the probabilities
    :math:`p`, and the layers :math:`s, \ldots, b - 1` go through ``inner``; layer :math:`i` is
    among them with probability :math:`\sum_{j \le i} p_j`, the last one always. A layer that
    rests gets the update zero and keeps its inner state bit for bit, counters included, and
    nothing of ``inner`` is computed for it (under ``vmap``, where a batch can disagree, it is
    computed and thrown away).

    Keep schedules and learning rates outside, where every step counts, and weight decay inside,
    where it rests too. The gradients of resting layers are ignored:
    :func:`value_and_grad_from_cutoff` does not compute them, for the cutoff that
    :func:`sample_cutoff` tells beforehand. ``inner`` sees one layer at a time, so norms over the
    whole tree become norms of layers, and it cannot call a ``value_fn`` or ``grad_fn``.

    Args:
      inner: transformation of each layer, with a state of its own for every layer.
      param_labels: number of the layer of each leaf, from 0: a tree of integers (a prefix of
        params), or a function from params to one.
      probs: ``[num_layers]``, the cutoff's probabilities, such as :func:`cutoff_probs` makes; or
        a function of the count that returns them.
      key: random key or seed, on which the layers depend.
      law: ``"cutoff"``, or ``"independent"``: each layer takes part by itself, with its own
        probability ``probs[i]``. Static.

    Returns:
      A transformation whose state is a :class:`LayerDropoutState`; it needs params if ``inner``
      does, and hands extra arguments on. Updates have the dtype of the gradients.

    Raises:
      ValueError: if probabilities are out of range, do not add up to one or are not one for each
        layer, or if the labels have gaps.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> params = {"first": jnp.zeros(2), "last": jnp.zeros(2)}
      >>> tx = gradax.optimizers.layer_dropout(
      ...     optax.sgd(0.1), {"first": 0, "last": 1}, probs=[0.0, 1.0]
      ... )
      >>> grads = {"first": jnp.ones(2), "last": jnp.ones(2)}
      >>> updates, state = tx.update(grads, tx.init(params))
      >>> print(updates["first"], updates["last"], state.active)
      [0. 0.] [-0.1 -0.1] [False  True]

    References:
      Gruntkowska et al., `Drop-Muon: Update Less, Converge Faster
      <https://arxiv.org/abs/2510.02239>`_, 2025.
    """
    who = "layer_dropout"
    _validate.one_of(who, "law", law, LAWS)
    num_layers = _check_probs(who, probs, law)
    if not callable(param_labels):
        layers_of(who, param_labels, num_layers)

    def labels(tree):
        return param_labels(tree) if callable(param_labels) else param_labels

    def only(layer):
        return lambda tree: jax.tree.map(lambda label: label == layer, labels(tree))

    layers = [
        optax.masked(_unless_resting(inner), only(layer), mask_compatible_extra_args=True)
        for layer in range(num_layers)
    ]

    def init_fn(params):
        if not _is_partial(params):
            layers_of(who, labels(params), num_layers)
        count = jnp.zeros([], jnp.int32)
        return LayerDropoutState(
            count=count,
            key=jax.random.key(key) if isinstance(key, int) else jnp.array(key, copy=True),
            inclusion=_inclusion(probs, count, law),
            common=jnp.array(law == "cutoff"),
            active=jnp.zeros(num_layers, jnp.bool_),
            inner_states=tuple(layer.init(params) for layer in layers),
        )

    def update_fn(updates, state, params=None, **extra_args):
        count = optax.safe_increment(state.count)
        next_key, active = _draw(state)
        inner_states = []
        for layer, inner_state, works in zip(layers, state.inner_states, active, strict=True):
            updates, inner_state = layer.update(
                updates, inner_state, params, layer_works=works, **extra_args
            )
            inner_states.append(inner_state)
        return updates, LayerDropoutState(
            count=count,
            key=next_key,
            inclusion=_inclusion(probs, count, law),
            common=state.common,
            active=active,
            inner_states=tuple(inner_states),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register("function", PAPER)
def sample_cutoff(opt_state: optax.OptState) -> jax.Array:
    """Tells the first layer that the coming update will train.

    The state holds the key from which ``update`` draws, so that this draws the same.

    Args:
      opt_state: a :class:`LayerDropoutState`, or the state of a transformation in which there is
        one, before the update.

    Returns:
      ``int32[]``, the smallest number of the layers that take part; the last layer's if none
      does.

    Raises:
      ValueError: unless there is exactly one such state.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> params = {"first": jnp.zeros(2), "last": jnp.zeros(2)}
      >>> tx = gradax.optimizers.layer_dropout(optax.sgd(0.1), {"first": 0, "last": 1}, [0.5, 0.5])
      >>> state = tx.init(params)
      >>> cutoff = gradax.optimizers.sample_cutoff(state)
      >>> _, state = tx.update(params, state)
      >>> print(state.active[cutoff], state.active.sum() == 2 - cutoff)
      True True

    References:
      Gruntkowska et al., `Drop-Muon: Update Less, Converge Faster
      <https://arxiv.org/abs/2510.02239>`_, 2025.
    """
    is_ours = lambda node: isinstance(node, LayerDropoutState)
    states = [node for node in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(node)]
    if len(states) != 1:
        raise ValueError(
            f"sample_cutoff: opt_state must hold one LayerDropoutState, got {len(states)}."
        )
    _, active = _draw(states[0])
    return jnp.where(jnp.any(active), jnp.argmax(active), len(active) - 1).astype(jnp.int32)


@catalogue.register("function", PAPER)
def value_and_grad_from_cutoff(
    loss_fn: Callable[[optax.Params], Any],
    params: optax.Params,
    cutoff: jax.typing.ArrayLike,
    param_labels: Labels,
    *,
    has_aux: bool = False,
) -> tuple[Any, optax.Updates]:
    r"""Computes a loss and the gradients of the layers from a cutoff on; the others are zero.

    Back-propagation ends at the cutoff: one program is compiled for each layer number, and one
    of them runs (all of them under ``vmap`` over cutoffs). Compile time grows with the number of
    layers; label groups of layers alike if it is too long.

    Args:
      loss_fn: loss on the batch, ``params -> scalar``, or ``(scalar, aux)`` with ``has_aux``.
      params: where to compute it.
      cutoff: first layer whose gradients are wanted, ``int32[]``, clipped to the layers.
      param_labels: as in :func:`layer_dropout`.
      has_aux: as in ``jax.value_and_grad``. Static.

    Returns:
      ``(value, grads)`` as of ``jax.value_and_grad``, with zeros for the layers before ``cutoff``.

    Raises:
      ValueError: if the labels have gaps.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> params = {"first": jnp.array(2.0), "last": jnp.array(3.0)}
      >>> value, grads = gradax.optimizers.value_and_grad_from_cutoff(
      ...     lambda p: p["first"] * p["last"], params, 1, {"first": 0, "last": 1}
      ... )
      >>> print(value, grads["first"], grads["last"])
      6.0 0.0 2.0

    References:
      Gruntkowska et al., `Drop-Muon: Update Less, Converge Faster
      <https://arxiv.org/abs/2510.02239>`_, 2025.
    """
    labels = param_labels(params) if callable(param_labels) else param_labels
    num_layers = layers_of("value_and_grad_from_cutoff", labels)
    spread = jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part), labels, params)
    of_leaf = jax.tree.leaves(spread)
    leaves: list[jax.Array] = jax.tree.leaves(params)
    tree: Any = jax.tree.structure(params)

    def from_layer(first):
        trained = [i for i, label in enumerate(of_leaf) if label >= first]

        def loss(values):
            merged = dict(enumerate(leaves)) | dict(zip(trained, values, strict=True))
            return loss_fn(tree.unflatten(merged.values()))

        def branch():
            # Only what is trained is an input: nothing before it is ever differentiated.
            outcome, found = jax.value_and_grad(loss, has_aux=has_aux)([leaves[i] for i in trained])
            grads = dict(zip(trained, found, strict=True))
            filled = [grads.get(i, jnp.zeros_like(leaf)) for i, leaf in enumerate(leaves)]
            return outcome, tree.unflatten(filled)

        return branch

    return jax.lax.switch(jnp.asarray(cutoff), [from_layer(i) for i in range(num_layers)])
