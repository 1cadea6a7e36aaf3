"""AGVM: modules of a network, each slowed down or sped up to one level of gradient noise."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import inner_product, wide_dtype, widen
from gradax.federated import axis

PAPER = catalogue.Paper(
    title="Large-batch Optimization for Dense Visual Predictions",
    authors="Xue et al.",
    year=2022,
    arxiv="2210.11078",
)

WHO = "scale_by_agvm"

Labels = Any | Callable[[Any], Any]


class AGVMState(NamedTuple):
    """State of :func:`scale_by_agvm`.

    Attributes:
      count: ``int32[]``, number of updates made.
      scales: label -> ``float[]``, the factor :math:`s_i` of the module. For a tree without leaves
        a single number.
      inner_state: state of ``inner``.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    scales: dict[str, jax.Array] | jax.Array
    inner_state: optax.OptState


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _leaves_of(tree: Any, like: Any) -> list[Any]:
    """The leaves of ``tree`` that ``like`` has too, in its order; ``like`` may be masked."""
    pick = lambda node, part: node if _is_masked(node) else part
    return jax.tree.leaves(jax.tree.map(pick, like, tree, is_leaf=_is_masked))


def _label_leaves(param_labels: Labels, tree: Any, anchor: str) -> list[str]:
    """The label of each leaf, in the order of the leaves."""
    prefix = param_labels(tree) if callable(param_labels) else param_labels
    labels = jax.tree.leaves(jax.tree.broadcast(prefix, tree))
    _check_labels(labels, anchor)
    return labels


def _check_labels(labels: list[Any], anchor: Any) -> None:
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise ValueError(f"{WHO}: param_labels must be strings, got {wrong[0]!r}.")
    if anchor not in labels:
        raise ValueError(
            f"{WHO}: anchor must be one of the labels {sorted(set(labels))}, got {anchor!r}."
        )


def _check_clip(clip: Any) -> None:
    try:
        low, high = clip
        valid = 0 < low <= 1 <= high < math.inf
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{WHO}: clip must be a pair with 0 < low <= 1 <= high < inf, got {clip!r}."
        )


def _disagreement(a: list[jax.Array], b: list[jax.Array], dtype: Any) -> jax.Array:
    """One minus the cosine between two halves; zero where one of them is zero."""
    norms = [jnp.sqrt(inner_product(half, half, dtype)) for half in (a, b)]
    silent = (norms[0] == 0) | (norms[1] == 0)
    inverse = [1 / jnp.where(silent, 1.0, norm) for norm in norms]
    # Half the squared distance of the unit vectors: near zero, one minus the cosine would be
    # nothing but rounding, which eps does not cover in single precision.
    apart = [widen(x) * inverse[0] - widen(y) * inverse[1] for x, y in zip(a, b, strict=True)]
    return jnp.where(silent, 0.0, inner_product(apart, apart, dtype) / 2)


def _renewed(
    scales: dict[str, jax.Array],
    anchor: str,
    labels: list[str],
    halves: list[list[jax.Array]],
    decay: Any,
    clip: tuple[float, float],
    eps: Any,
) -> dict[str, jax.Array]:
    """The scales after an update that renews them."""

    def noise(module, dtype):
        mine = [number for number, label in enumerate(labels) if label == module]
        a, b = ([half[number] for number in mine] for half in halves)
        return _disagreement(a, b, dtype)

    def renew(scale, phi):
        ratio = jnp.clip((phis[anchor] + eps) / (phi + eps), *clip)
        after = (scale + (1 - decay) * (jnp.sqrt(ratio) - scale)).astype(scale.dtype)
        return jnp.where(jnp.isfinite(after), after, scale)

    phis = {module: noise(module, scale.dtype) for module, scale in scales.items()}
    return jax.tree.map(renew, scales, phis)


def _halves_of_axis(grad: Any, axis_name: Any) -> tuple[Any, Any]:
    """Mean gradients of the lower and of the upper half of the participants."""
    first = axis.index(axis_name) < axis.size(axis_name) // 2
    weight = 2.0 / axis.size(axis_name)
    lower = axis.weighted_sum(grad, jnp.where(first, weight, 0.0), axis_name)
    return lower, axis.weighted_sum(grad, jnp.where(first, 0.0, weight), axis_name)


def _check_even(axis_name: Any) -> None:
    if axis.size(axis_name) % 2:
        raise ValueError(
            f"{WHO}: axis_name must have an even number of participants to be halved, "
            f"{axis_name!r} has {axis.size(axis_name)}."
        )


def _second_moment(inner_state: Any) -> Any:
    try:
        nu = optax.tree.get(inner_state, "nu")
    except KeyError:  # there are several
        nu = None
    if nu is None:
        raise ValueError(f"{WHO}: b2 is given, so the state of inner must have one nu.")
    return nu


def _precondition(
    half: list[jax.Array], inner_state: Any, b2: Any, adam_eps: Any
) -> list[jax.Array]:
    """Divides a half by the root that Adam would take after seeing it."""

    def leaf(g, v):
        g = widen(g)
        return g / (jnp.sqrt(b2 * v + (1 - b2) * jnp.square(jnp.abs(g))) + adam_eps)

    return list(map(leaf, half, jax.tree.leaves(_second_moment(inner_state))))


def _first_leaf_and_others(params: Any) -> Any:
    """Labels for tests: the first leaf of any tree is one module, all others are another."""
    leaves, treedef = jax.tree.flatten(params)
    labels = ["backbone", *["head"] * len(leaves)]
    return jax.tree.unflatten(treedef, labels[: len(leaves)])


@catalogue.register(
    "direction",
    PAPER,
    needs=("half_grads",),
    example={"param_labels": _first_leaf_and_others, "anchor": "backbone", "every": 1},
)
def scale_by_agvm(
    param_labels: Labels,
    anchor: str,
    *,
    decay: jax.typing.ArrayLike = 0.97,
    every: int = 10,
    start: int = 0,
    stop: int | None = None,
    clip: tuple[float, float] = (0.5, 10.0),
    eps: jax.typing.ArrayLike = 1e-6,
    inner: optax.GradientTransformation | None = None,
    b2: jax.typing.ArrayLike | None = None,
    adam_eps: jax.typing.ArrayLike = 1e-8,
    axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each module's direction so that its gradient noise follows an anchor module's.

    With the gradients :math:`A_i, B_i` of module :math:`i` on the two halves of the batch, and
    module 1 as the anchor,

    .. math::
        \Phi_i = 1 - \frac{\langle A_i, B_i \rangle}{\|A_i\| \, \|B_i\|}, \qquad
        s_i \leftarrow \gamma s_i + (1 - \gamma)
            \sqrt{\operatorname{clip}\Bigl(\frac{\Phi_1 + \epsilon}{\Phi_i + \epsilon}\Bigr)}

    every few updates, starting from :math:`s_i = 1`, and :math:`u_i \leftarrow s_i u_i` in all of
    them. A module noisier than the anchor is slowed down, a quieter one sped up; the anchor
    itself keeps the scale 1. A zero half counts as noiseless. A new scale that is not finite is
    left out.

    The halves come in one of three ways. As the extra ``half_grads``, either a pair of trees or
    a function of params that returns the pair: the function, which
    :func:`gradax.make_step` supplies, is called in due updates only (under :func:`optax.masked` it
    would be given masked params: pass the pair there). Or, with ``axis_name``, from the extra
    ``grad``, each participant's own gradient: the lower half of the axis is :math:`A`, the upper
    half :math:`B`.

    Put it behind whatever makes the direction, momentum and weight decay included, and before or
    after the learning rate. With Adam the halves are first divided as Adam would divide them,

    .. math::
        A_i \leftarrow \frac{A_i}{\sqrt{\beta_2 v + (1 - \beta_2) A_i^2} + \epsilon_a}

    for which Adam has to run inside: ``scale_by_agvm(..., inner=optax.scale_by_adam(), b2=0.999)``.
    Each step then copies :math:`v` (on CPU), since the halves have to see it as it was before.

    Args:
      param_labels: strings that name the module of each leaf, a tree like params or a prefix of
        it, or a function of params (or updates) that returns one. Static.
      anchor: label of the module that the others follow, the backbone as a rule. Static.
      decay: :math:`\gamma`, in ``[0, 1)``.
      every: updates from one renewal of the scales to the next, counted from update 0; the paper
        takes 10, and 5 for batches above a thousand. Static.
      start: first update that may renew the scales; the end of the warm-up is a good one. Static.
      stop: last update that may renew them; ``None`` means no end. Static.
      clip: least and greatest ratio under the root. Static.
      eps: :math:`\epsilon > 0`.
      inner: transformation that makes the direction; ``None`` takes the updates as they come.
      b2: :math:`\beta_2`, decay of the second moment ``nu`` in the state of ``inner``, in
        ``[0, 1)``; ``None`` leaves the halves as they are.
      adam_eps: :math:`\epsilon_a > 0`.
      axis_name: named axis of the participants whose gradients make the halves; an even number.

    Returns:
      A transformation whose state is an :class:`AGVMState`. It needs ``half_grads``, and params
      if that is a function; or ``grad`` if ``axis_name`` is given.

    Raises:
      ValueError: if a constant is out of its range, ``anchor`` is no label, the axis is odd, or
        ``b2`` is given and the state of ``inner`` has not exactly one ``nu``.

    Examples:
      The halves agree on the backbone less than on the head, whose steps become longer.

      >>> import gradax, jax.numpy as jnp
      >>> w = {"backbone": jnp.zeros(2), "head": jnp.zeros(2)}
      >>> labels = {"backbone": "backbone", "head": "head"}
      >>> tx = gradax.optimizers.scale_by_agvm(labels, "backbone")
      >>> a = {"backbone": jnp.array([1.0, 0.0]), "head": jnp.array([1.0, 0.0])}
      >>> b = {"backbone": jnp.array([1.0, 1.0]), "head": jnp.array([1.0, 0.1])}
      >>> updates, state = tx.update(a, tx.init(w), w, half_grads=(a, b))
      >>> print({module: round(float(scale), 4) for module, scale in state.scales.items()})
      {'backbone': 1.0, 'head': 1.0649}

    References:
      Xue et al., `Large-batch Optimization for Dense Visual Predictions
      <https://arxiv.org/abs/2210.11078>`_, 2022.
    """
    _validate.interval(WHO, "decay", decay, "[0, 1)")
    _validate.integer(WHO, "every", every, at_least=1)
    _validate.integer(WHO, "start", start, at_least=0)
    if stop is not None:
        _validate.integer(WHO, "stop", stop, at_least=start)
    _check_clip(clip)
    _validate.interval(WHO, "eps", eps, "(0, inf)")
    _validate.interval(WHO, "b2", b2, "[0, 1)")
    _validate.interval(WHO, "adam_eps", adam_eps, "(0, inf)")
    if axis_name is not None:
        axis.names(axis_name)
    if not callable(param_labels):
        _check_labels(jax.tree.leaves(param_labels), anchor)
    inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)

    def init_fn(params):
        count, inner_state = jnp.zeros([], jnp.int32), inner.init(params)
        if b2 is not None:
            _second_moment(inner_state)
        leaves = jax.tree.leaves(params)
        if not leaves:
            # Nobody can be asked for labels. The single number stands for all scales when
            # optax.tree.map_params compares an empty tree's state with a real one.
            return AGVMState(count, jnp.ones([]), inner_state)
        labels, dtype = _label_leaves(param_labels, params, anchor), wide_dtype(*leaves)
        scales = {label: jnp.ones([], dtype) for label in sorted(set(labels))}
        return AGVMState(count, scales, inner_state)

    def halves(updates, inner_state, params, half_grads, grad):
        if axis_name is not None:
            half_grads = _halves_of_axis(grad, axis_name)
        elif callable(half_grads):
            half_grads = half_grads(_extras.require_params(WHO, params))
        pair = [_leaves_of(half, updates) for half in half_grads]
        if b2 is None:
            return pair
        return [_precondition(half, inner_state, b2, adam_eps) for half in pair]

    def scales_after(updates, state, *sources):
        labels = _label_leaves(param_labels, updates, anchor)
        due = (state.count >= start) & (state.count % every == 0)
        if stop is not None:
            due &= state.count <= stop

        def renew():
            pair = halves(updates, state.inner_state, *sources)
            return _renewed(state.scales, anchor, labels, pair, decay, clip, eps)

        return labels, jax.lax.cond(due, renew, lambda: state.scales)

    def update_fn(updates, state, params=None, *, half_grads=None, grad=None, **extra_args):
        if axis_name is None:
            _extras.require(WHO, "half_grads", half_grads)
        else:
            _extras.require(WHO, "grad", grad)
            _check_even(axis_name)
        more = {"half_grads": half_grads, "grad": grad} | extra_args
        directions, inner_state = inner.update(updates, state.inner_state, params, **more)
        scales, count = state.scales, optax.safe_increment(state.count)
        leaves, treedef = jax.tree.flatten(directions)
        if leaves:
            labels, scales = scales_after(updates, state, params, half_grads, grad)
            scaled = zip(labels, leaves, strict=True)
            leaves = [(scales[label] * u).astype(u.dtype) for label, u in scaled]
        return jax.tree.unflatten(treedef, leaves), AGVMState(count, scales, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
