"""Drop-Muon: Muon on a random set of layers in each step."""

from typing import Literal

import jax
import optax

from gradax import _validate, catalogue

from ._layer_dropout import PAPER, Labels, Law, Probs, cutoff_probs, layer_dropout, layers_of
from ._layout import DimensionNumbers, partition_labels
from ._muon import Scale, scale_by_orthogonalized_momentum
from ._muon_dimension_numbers import muon_dimension_numbers
from ._orthogonalize import Orthogonalizer

STEPS = ("lmo", "sharp")


def _check_numbers(**numbers: object) -> None:
    """Raises unless the numbers given to :func:`drop_muon` can work."""
    decays = ("momentum", "adam_b1", "adam_b2")
    special = {"eps": "(0, inf)", **dict.fromkeys(decays, "[0, 1)")}
    for name, value in numbers.items():
        _validate.interval("drop_muon", name, value, special.get(name, "[0, inf)"))


def _resolve_probs(probs: Probs | str, param_labels: Labels) -> Probs:
    """Turns the name of a law into its probabilities."""
    if not isinstance(probs, str):
        return probs
    _validate.one_of("drop_muon", "probs", probs, ("uniform", "all", "linear"))
    if callable(param_labels):
        raise ValueError(
            "drop_muon: probs must be numbers where param_labels is a function, such as "
            f"cutoff_probs({probs!r}, num_layers), got {probs!r}."
        )
    return cutoff_probs(probs, layers_of("drop_muon", param_labels))  # type: ignore[arg-type]


@catalogue.register(
    "alias",
    PAPER,
    example={
        "learning_rate": 2e-2,
        "param_labels": lambda params: jax.tree.map(lambda leaf: 0, params),
        "probs": (0.7,),
        "law": "independent",
    },
)
def drop_muon(
    learning_rate: optax.ScalarOrSchedule,
    param_labels: Labels,
    probs: Probs | Literal["uniform", "all", "linear"] = "uniform",
    key: jax.Array | int = 0,
    *,
    law: Law = "cutoff",
    step: Literal["lmo", "sharp"] = "lmo",
    momentum: jax.typing.ArrayLike = 0.9,
    nesterov: bool = False,
    weight_decay: jax.typing.ArrayLike = 0.0,
    orthogonalizer: Orthogonalizer = "ns5",
    ns_steps: int = 5,
    ns_dtype: jax.typing.DTypeLike | None = None,
    eps: jax.typing.ArrayLike = 1e-7,
    scale: Scale | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    dimension_numbers: DimensionNumbers | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps: jax.typing.ArrayLike = 1e-8,
    adam_weight_decay: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Drop-Muon, ready to use: Muon on a random set of layers, all others stand still.

    For the layers of the step (:func:`layer_dropout`),

    .. math::
        M_i \leftarrow \beta M_i + (1 - \beta) g_i, \qquad
        X_i \leftarrow X_i - \eta \cdot
        \begin{cases} s\, \operatorname{polar}(M_i) & \text{lmo} \\
        s\, \|M_i\|_* \operatorname{polar}(M_i) & \text{sharp} \end{cases}

    with the nuclear norm :math:`\|\cdot\|_*`; weights and momentum of the other layers do not
    change, and no orthogonal matrix is computed for them. The momentum :math:`\beta` is the
    weight of the *old* buffer; the paper's is one minus it. Leaves that are no matrices take
    Adam's direction, and rest with their layer. Schedules count every step.

    A step costs less, but trains fewer layers: for equal steps, and on a small problem for equal
    work too, the loss ends higher than Muon's. What can be won is time, where early layers
    are expensive and :func:`value_and_grad_from_cutoff` skips them in back-propagation.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      param_labels: as in :func:`layer_dropout`.
      probs: as in :func:`layer_dropout`; or the name of a law of :func:`cutoff_probs`, if
        ``param_labels`` is a tree. ``"all"`` drops nothing.
      key: as in :func:`layer_dropout`.
      law: as in :func:`layer_dropout`. Static.
      step: ``"lmo"``, all steps of the same length; ``"sharp"``, in proportion to the dual norm,
        for which :math:`\eta = 1 / L` where the gradient is :math:`L`-Lipschitz. Static.
      momentum: :math:`\beta`, in ``[0, 1)``; the deterministic theory takes 0.
      nesterov: as in :func:`muon`. Static.
      weight_decay: decoupled decay of the matrices of the step.
      orthogonalizer: as in :func:`orthogonalize`; stands for the polar factor.
      ns_steps: as in :func:`orthogonalize`. Static.
      ns_dtype: as in :func:`orthogonalize`.
      eps: as in :func:`orthogonalize`.
      scale: factor :math:`s` as in :func:`scale_by_orthogonalized_momentum`; ``None`` means
        ``"spectral"`` for ``"lmo"``, as in :func:`muon`, and ``"none"`` for ``"sharp"``. The
        paper has none.
      mu_dtype: dtype of all first moments; ``None`` means that of params.
      dimension_numbers: which leaves are matrices, as in :func:`muon`; by default
        :func:`muon_dimension_numbers`.
      adam_learning_rate: learning rate of the other leaves; ``None`` means the same.
      adam_b1: decay of Adam's first moment, in ``[0, 1)``.
      adam_b2: decay of Adam's second moment, in ``[0, 1)``.
      adam_eps: added to Adam's root, not negative.
      adam_weight_decay: decoupled decay of the other leaves of the step.

    Returns:
      The transformation; it needs params.

    Raises:
      ValueError: if an argument cannot work.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> x = jax.random.normal(jax.random.key(1), (32, 4))
      >>> params, layers = [jnp.eye(4), jnp.eye(4)], [0, 1]
      >>> loss = lambda p: jnp.mean((x @ p[0] @ p[1] - x[:, ::-1]) ** 2)
      >>> tx = gradax.optimizers.drop_muon(optax.linear_schedule(0.1, 0.0, 200), layers)
      >>> @jax.jit
      ... def train(params, state):
      ...     cutoff = gradax.optimizers.sample_cutoff(state)
      ...     value, grads = gradax.optimizers.value_and_grad_from_cutoff(
      ...         loss, params, cutoff, layers
      ...     )
      ...     updates, state = tx.update(grads, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> state = tx.init(params)
      >>> for _ in range(200):
      ...     params, state = train(params, state)
      >>> bool(loss(params) < 1e-3)
      True

    References:
      Gruntkowska et al., `Drop-Muon: Update Less, Converge Faster
      <https://arxiv.org/abs/2510.02239>`_, 2025.
    """
    _check_numbers(
        learning_rate=learning_rate,
        adam_learning_rate=adam_learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        eps=eps,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps=adam_eps,
        adam_weight_decay=adam_weight_decay,
    )
    _validate.one_of("drop_muon", "step", step, STEPS)
    if dimension_numbers is None:
        dimension_numbers = muon_dimension_numbers
    if scale is None:
        scale = "spectral" if step == "lmo" else "none"
    matrix = scale_by_orthogonalized_momentum(
        beta=momentum,
        nesterov=nesterov,
        orthogonalizer=orthogonalizer,
        ns_steps=ns_steps,
        ns_dtype=ns_dtype,
        mu_dtype=mu_dtype,
        eps=eps,
        scale=scale,
        dimension_numbers=dimension_numbers,
        adaptive=step == "sharp",
    )
    adam = optax.scale_by_adam(adam_b1, adam_b2, adam_eps, mu_dtype=mu_dtype, nesterov=nesterov)
    kinds = partition_labels("drop_muon", dimension_numbers)
    direction = optax.partition(
        {
            "matrix": optax.chain(matrix, optax.add_decayed_weights(weight_decay)),
            "other": optax.chain(adam, optax.add_decayed_weights(adam_weight_decay)),
        },
        kinds,
    )
    if adam_learning_rate is None:
        adam_learning_rate = learning_rate
    rates = {"matrix": learning_rate, "other": adam_learning_rate}
    return optax.chain(
        layer_dropout(direction, param_labels, _resolve_probs(probs, param_labels), key, law=law),
        optax.partition({k: optax.scale_by_learning_rate(v) for k, v in rates.items()}, kinds),
    )
