"""Muon: momentum whose singular values are all made alike, for the matrices of a network."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from gradax import _validate, catalogue

from ._layout import DimensionNumbers, Layout, by_rank, find, partition_labels
from ._muon_dimension_numbers import muon_dimension_numbers
from ._orthogonalize import (
    PAPER,
    PRECONDITIONINGS,
    Orthogonalizer,
    Preconditioning,
    apply_orthogonalizer,
    resolve_coefficients,
)
from ._stacks import check_stack_sharding, in_stacks, lying_like, split_like, whole

#: Factor on the update of a matrix, or a function of its fan-in and fan-out.
Scale = Literal["spectral", "rms", "mup", "none"] | Callable[[int, int], jax.typing.ArrayLike]

_SCALES: dict[str, Callable[[int, int], float]] = {
    "spectral": lambda fan_in, fan_out: math.sqrt(max(1.0, fan_out / fan_in)),
    "rms": lambda fan_in, fan_out: 0.2 * math.sqrt(max(fan_in, fan_out)),
    "mup": lambda fan_in, fan_out: math.sqrt(fan_out / fan_in),
    "none": lambda fan_in, fan_out: 1.0,
}


class OrthogonalizedMomentumState(NamedTuple):
    """State of :func:`scale_by_orthogonalized_momentum`.

    Attributes:
      count: ``int32[]``, number of updates made.
      mu: like params (in ``mu_dtype`` if given), running mean :math:`M_t` of the gradient;
        ``MaskedNode`` where a leaf is no matrix.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mu: optax.Updates


def _momentum(grads, mu, count, beta, nesterov, bias_correction):
    """What is orthogonalized: the new momentum, or one step ahead of it."""
    if not nesterov:
        return optax.tree.bias_correction(mu, beta, count) if bias_correction else mu
    if bias_correction:  # each term as optax.contrib.muon corrects it
        mu = optax.tree.bias_correction(mu, beta, optax.safe_increment(count))
        grads = optax.tree.bias_correction(grads, beta, count)
    return optax.tree.update_moment(grads, mu, beta, 1)


def _stacks_by_default() -> bool:
    """Whether one large product is faster than many small ones: not on CPU, where copies cost."""
    return jax.default_backend() != "cpu"


@catalogue.register("direction", PAPER, example={"dimension_numbers": by_rank})
def scale_by_orthogonalized_momentum(
    beta: jax.typing.ArrayLike = 0.95,
    nesterov: bool = True,
    bias_correction: bool = False,
    orthogonalizer: Orthogonalizer = "ns5",
    ns_steps: int = 5,
    ns_dtype: jax.typing.DTypeLike | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    eps: jax.typing.ArrayLike = 1e-7,
    scale: Scale = "spectral",
    dimension_numbers: DimensionNumbers | None = None,
    stack_leaves: bool | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    *,
    stack_sharding: NamedSharding | None = None,
    ns_coeffs: Any = None,
    preconditioning: Preconditioning = "frobenius",
    adaptive: bool = False,
) -> optax.GradientTransformation:
    r"""Turns gradients of matrices into Muon directions, before the learning rate.

    .. math::
        M_t = \beta M_{t-1} + (1 - \beta) g_t, \qquad
        U_t = \beta M_t + (1 - \beta) g_t, \qquad
        O_t = s \cdot \operatorname{orthogonalize}(U_t)

    with :math:`U_t = M_t` without ``nesterov``. All singular directions move at the same speed:
    the step is the steepest descent in the spectral norm.

    Args:
      beta: decay :math:`\beta` of the momentum, in ``[0, 1)``.
      nesterov: look one step ahead. Static.
      bias_correction: divide momentum and gradient as ``optax.contrib.muon`` does, by one minus
        :math:`\beta^{t+1}` and :math:`\beta^t`; it changes the first steps. The original has
        none. Static.
      orthogonalizer: as in :func:`orthogonalize`.
      ns_steps: as in :func:`orthogonalize`. Static.
      ns_dtype: as in :func:`orthogonalize`; bfloat16 is what the original uses.
      mu_dtype: dtype of the momentum; ``None`` means that of params.
      eps: as in :func:`orthogonalize`.
      scale: the factor :math:`s`: ``"spectral"`` is
        :math:`\sqrt{\max(1, \text{fan-out} / \text{fan-in})}`; ``"rms"`` is
        :math:`0.2 \sqrt{\max(\text{fan-in}, \text{fan-out})}`, with which learning rates and
        decay of AdamW carry over; ``"mup"`` is :math:`\sqrt{\text{fan-out} / \text{fan-in}}`;
        ``"none"`` is 1; or a function of fan-in and fan-out.
      dimension_numbers: ``optax.contrib.MuonDimensionNumbers`` for all leaves, or a tree of
        them (a prefix of params), or a function from params to such a tree. Axes not named
        count stacked matrices. ``None`` in the tree lets a leaf's gradient pass unchanged.
        Without it every leaf has to be a matrix ``(in, out)``.
      stack_leaves: orthogonalize leaves of the same shape and dtype as one batch, which compiles
        in half the time. ``None`` means no on CPU, where one by one they run faster, and yes on
        accelerators. Static.
      axis_name: named axis of devices with equal gradients, under ``pmap`` or ``shard_map``;
        each orthogonalizes its share of every stack, and one gather per shape follows.
      stack_sharding: the same under ``jit`` on a mesh, for replicated and for split parameters:
        a ``NamedSharding`` that splits the first axis, such as ``NamedSharding(mesh,
        P("data"))``. Matrices are brought to their device before the iterations, and all
        results to all devices after them.
      ns_coeffs: as in :func:`orthogonalize`.
      preconditioning: as in :func:`orthogonalize`.
      adaptive: multiply each matrix by its dual norm :math:`\langle U_t, O_t \rangle` (before
        the factor :math:`s`), so that the step follows the size of the gradient. Static.

    Returns:
      A transformation whose state is an :class:`OrthogonalizedMomentumState`; params are not
      read. Directions have the dtype of the gradients.

    Raises:
      ValueError: if an argument cannot work, or a leaf is no matrix and ``dimension_numbers``
        does not say so.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx = gradax.optimizers.scale_by_orthogonalized_momentum(orthogonalizer="svd")
      >>> g = jnp.array([[3.0, 0.0], [4.0, 5.0]])
      >>> direction, state = tx.update(g, tx.init(g))
      >>> print(jnp.linalg.svd(direction, compute_uv=False).round(3))
      [1. 1.]

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024.

      Liu et al., `Muon is Scalable for LLM Training <https://arxiv.org/abs/2502.16982>`_, 2025.
    """
    who = "scale_by_orthogonalized_momentum"
    _validate.interval(who, "beta", beta, "[0, 1)")
    _validate.interval(who, "eps", eps, "(0, inf)")
    _validate.one_of(who, "preconditioning", preconditioning, PRECONDITIONINGS)
    if not callable(scale):
        _validate.one_of(who, "scale", scale, _SCALES)
    factor = scale if callable(scale) else _SCALES[scale]
    triples = resolve_coefficients(who, orthogonalizer, ns_steps, ns_coeffs)
    check_stack_sharding(who, stack_sharding, axis_name)
    shared = axis_name is not None or stack_sharding is not None

    def orthogonal(x):
        return apply_orthogonalizer(x, orthogonalizer, triples, preconditioning, eps, ns_dtype)

    def directions(momenta: list[jax.Array], layouts: list[Layout]) -> list[jax.Array]:
        matrices = [layout.matrices(whole(u)) for layout, u in zip(layouts, momenta, strict=True)]
        if shared or (_stacks_by_default() if stack_leaves is None else stack_leaves):
            results = in_stacks(matrices, orthogonal, axis_name, stack_sharding)
        else:
            results = [orthogonal(x) for x in matrices]
        if adaptive:
            dual = lambda x, o: jnp.sum(jnp.conj(x) * o, axis=(-2, -1), keepdims=True)
            results = [dual(x, o) * o for x, o in zip(matrices, results, strict=True)]
        scaled: list[Any] = [
            factor(layout.fan_in, layout.fan_out) * o if o.size else o
            for layout, o in zip(layouts, results, strict=True)
        ]
        made = zip(layouts, scaled, momenta, strict=True)
        return [split_like(layout.leaf(o), u) for layout, o, u in made]

    def init_fn(params):
        layouts = find(who, dimension_numbers, params)
        mu = [
            optax.MaskedNode() if layout is None else optax.tree.zeros_like(leaf, dtype=mu_dtype)
            for leaf, layout in zip(jax.tree.leaves(params), layouts, strict=True)
        ]
        mu = jax.tree.unflatten(jax.tree.structure(params), mu)
        return OrthogonalizedMomentumState(jnp.zeros([], jnp.int32), mu)

    def update_fn(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        tree: Any = jax.tree.structure(updates)
        leaves, mu = jax.tree.leaves(updates), tree.flatten_up_to(state.mu)
        layouts = dict(enumerate(find(who, dimension_numbers, updates)))
        chosen = {i: layout for i, layout in layouts.items() if layout is not None}
        grads, old = [leaves[i] for i in chosen], [mu[i] for i in chosen]
        new = optax.tree.update_moment(grads, old, beta, 1)
        momenta = _momentum(grads, new, count, beta, nesterov, bias_correction)
        momenta = [lying_like(u, m, stack_sharding) for u, m in zip(momenta, old, strict=True)]
        results = directions(momenta, list(chosen.values()))
        for i, result, moment in zip(chosen, results, new, strict=True):
            leaves[i], mu[i] = result.astype(leaves[i].dtype), moment.astype(mu[i].dtype)
        return tree.unflatten(leaves), OrthogonalizedMomentumState(count, tree.unflatten(mu))

    return optax.GradientTransformation(init_fn, update_fn)


#: The name under which users of ``optax.contrib`` look for it.
scale_by_muon = scale_by_orthogonalized_momentum


def _check_numbers(**numbers: Any) -> None:
    """Raises unless the numbers given to :func:`muon` can work."""
    special = {
        "eps": "(0, inf)",
        "consistent_rms": "(0, inf)",
        **dict.fromkeys(("beta", "adam_b1", "adam_b2"), "[0, 1)"),
    }
    for name, value in numbers.items():
        _validate.interval("muon", name, value, special.get(name, "[0, inf)"))


@catalogue.register("alias", PAPER, example={"learning_rate": 2e-2})
def muon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: Any = None,
    ns_steps: int = 5,
    beta: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps_root: jax.typing.ArrayLike = 0.0,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: jax.typing.ArrayLike | None = None,
    bias_correction: bool = False,
    orthogonalizer: Orthogonalizer = "ns5",
    ns_dtype: jax.typing.DTypeLike | None = None,
    scale: Scale = "spectral",
    stack_leaves: bool | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    stack_sharding: NamedSharding | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon, ready to use: matrices by orthogonalized momentum, all other leaves by AdamW.

    .. math::
        W_{t+1} = W_t - \eta_t \, (O_t + \lambda W_t)

    with :math:`O_t` of :func:`scale_by_orthogonalized_momentum`. It takes the arguments of
    ``optax.contrib.muon``, with which it agrees if ``bias_correction=True`` (the original has
    none) on leaves that both take for matrices. Embeddings and output layers train better with
    AdamW: :func:`muon_dimension_numbers` finds them by their names.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      ns_coeffs: as in :func:`orthogonalize`.
      ns_steps: as in :func:`orthogonalize`. Static.
      beta: as in :func:`scale_by_orthogonalized_momentum`.
      eps: positive; as in :func:`orthogonalize`, and in Adam.
      weight_decay: decoupled decay :math:`\lambda \ge 0` of the matrices.
      weight_decay_mask: as in :func:`optax.add_decayed_weights`.
      mu_dtype: dtype of all first moments; ``None`` means that of params.
      nesterov: look one step ahead, in Muon and in Adam. Static.
      adaptive: as in :func:`scale_by_orthogonalized_momentum`. Static.
      preconditioning: as in :func:`orthogonalize`.
      adam_b1: decay of Adam's first moment, in ``[0, 1)``.
      adam_b2: decay of Adam's second moment, in ``[0, 1)``.
      adam_eps_root: added under Adam's square root, not negative.
      adam_weight_decay: decoupled decay of the other leaves.
      adam_learning_rate: learning rate of the other leaves; ``None`` means the same.
      muon_weight_dimension_numbers: which leaves are matrices, as ``dimension_numbers`` of
        :func:`scale_by_orthogonalized_momentum`; where it says ``None``, AdamW is used. The
        default is :func:`muon_dimension_numbers`.
      consistent_rms: root mean square that updates of all shapes shall have, such as 0.2;
        instead of ``scale``.
      bias_correction: as in :func:`scale_by_orthogonalized_momentum`. Static.
      orthogonalizer: as in :func:`orthogonalize`.
      ns_dtype: as in :func:`orthogonalize`.
      scale: as in :func:`scale_by_orthogonalized_momentum`.
      stack_leaves: as in :func:`scale_by_orthogonalized_momentum`. Static.
      axis_name: as in :func:`scale_by_orthogonalized_momentum`.
      stack_sharding: as in :func:`scale_by_orthogonalized_momentum`.

    Returns:
      The transformation; it needs params.

    Raises:
      ValueError: if an argument cannot work.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> x = jax.random.normal(jax.random.key(1), (32, 4))
      >>> loss = lambda p: jnp.mean((x @ p["w"] + p["b"] - x[:, ::-1]) ** 2)
      >>> p = {"w": jnp.zeros((4, 4)), "b": jnp.ones(4)}
      >>> tx = gradax.optimizers.muon(optax.linear_schedule(0.1, 0.0, 100))
      >>> state = tx.init(p)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(p), state, p)
      ...     p = optax.apply_updates(p, updates)
      >>> bool(loss(p) < 1e-3)
      True

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024.

      Liu et al., `Muon is Scalable for LLM Training <https://arxiv.org/abs/2502.16982>`_, 2025.
    """
    if adam_learning_rate is None:
        adam_learning_rate = learning_rate
    _check_numbers(
        learning_rate=learning_rate,
        adam_learning_rate=adam_learning_rate,
        beta=beta,
        eps=eps,
        weight_decay=weight_decay,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        consistent_rms=consistent_rms,
    )
    if consistent_rms is not None:
        if scale != "spectral":
            raise ValueError(f"muon: scale must be left out with consistent_rms, got {scale!r}.")
        scale = lambda fan_in, fan_out: consistent_rms * math.sqrt(max(fan_in, fan_out))
    dimension_numbers = muon_weight_dimension_numbers
    if dimension_numbers is None:
        dimension_numbers = muon_dimension_numbers
    matrix = scale_by_orthogonalized_momentum(
        beta=beta,
        nesterov=nesterov,
        bias_correction=bias_correction,
        orthogonalizer=orthogonalizer,
        ns_steps=ns_steps,
        ns_dtype=ns_dtype,
        mu_dtype=mu_dtype,
        eps=eps,
        scale=scale,
        dimension_numbers=dimension_numbers,
        stack_leaves=stack_leaves,
        axis_name=axis_name,
        stack_sharding=stack_sharding,
        ns_coeffs=ns_coeffs,
        preconditioning=preconditioning,
        adaptive=adaptive,
    )
    other = optax.adamw(
        adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        mu_dtype=mu_dtype,
        weight_decay=adam_weight_decay,
        nesterov=nesterov,
    )

    return optax.partition(
        {
            "matrix": optax.chain(
                matrix,
                optax.add_decayed_weights(weight_decay, weight_decay_mask),
                optax.scale_by_learning_rate(learning_rate),
            ),
            "other": other,
        },
        partition_labels("muon", dimension_numbers),
    )
