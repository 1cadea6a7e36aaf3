"""Margins of homogeneous networks in any norm, and how far training is from maximizing one."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax.optimizers.steepest.norms import NormLike, product

from ._make_monitor import make_monitor, record_dtype, widened

PAPER = catalogue.Paper(
    title="The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural Networks",
    authors="Gronich and Vardi",
    year=2026,
    arxiv="2602.16340",
)


def _margins(who, logits, labels):
    """By how much the score of the right class exceeds every other one, for each example."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    fits = logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] > 1)
    if not fits or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{who}: logits must have shape [examples], or [examples, classes] with two classes "
            f"at least, and labels shape [examples], got {logits.shape} and {labels.shape}."
        )
    if logits.ndim == 1:
        return jnp.where(labels > 0, logits, -logits)
    right = labels[:, None] == jnp.arange(logits.shape[1])
    others = jnp.max(jnp.where(right, -jnp.inf, logits), axis=1)
    return jnp.sum(jnp.where(right, logits, 0), axis=1) - others


@catalogue.register("function", PAPER)
def normalized_margin(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    params: optax.Params,
    norm: NormLike,
    degree: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Smallest margin of a homogeneous network, divided by the length of its parameters.

    .. math::
        \gamma(w) = \frac{\min_i y_i f(x_i; w)}{\|w\|^L}

    for :math:`f(x; c w) = c^L f(x; w)`, so that lengthening the parameters changes nothing.
    With more than two classes the margin of an example is the logit of its class minus the
    largest other one.

    Args:
      logits: ``[examples]`` for two classes, else ``[examples, classes]``.
      labels: ``[examples]``; for two classes positive or not, else numbers of classes.
      params: the parameters that gave the logits.
      norm: as in :func:`gradax.optimizers.norms.product`; norms of leaves are combined by their
        maximum.
      degree: :math:`L`, for instance 3 for two layers without biases around a squared relu.

    Returns:
      The normalized margin, a scalar; negative while an example is misclassified.

    Raises:
      ValueError: if shapes do not fit, ``degree`` is not positive, or the norm does not fit
        params.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> x, y, w = jnp.array([[2.0, 0.0], [0.0, -3.0]]), jnp.array([1, -1]), jnp.array([3.0, 4.0])
      >>> for norm in ("l2", "linf"):
      ...     print(gradax.optimizers.normalized_margin(x @ w, y, w, norm, degree=1))
      1.2
      1.5

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    _validate.interval("normalized_margin", "degree", degree, "(0, inf)")
    margins = _margins("normalized_margin", logits, labels)
    return jnp.min(margins) / product(norm).norm(params) ** degree


@catalogue.register("function", PAPER)
def kkt_alignment(grads: optax.Updates, params: optax.Params, norm: NormLike) -> jax.Array:
    r"""Says how nearly parameters are stationary for the margin problem in a norm.

    .. math::
        \frac{\langle h, w \rangle}{\|h\|_* \, \|w\|} \in [-1, 1], \qquad
        h = \sum_i \lambda_i \, y_i \nabla f(x_i; w), \quad \lambda_i \ge 0

    It is 1 where :math:`w` points along a Karush-Kuhn-Tucker point of the problem to maximize
    the margin in the norm, with multipliers :math:`\lambda`. Multipliers that late in training
    concentrate on the smallest margins are the weights of examples in the gradient of an
    exponential, logistic or cross-entropy loss, so :math:`h` is minus that gradient.

    Args:
      grads: gradient of the loss on all examples, like params; its size does not matter.
      params: the parameters, real.
      norm: as in :func:`gradax.optimizers.norms.product`; norms of leaves are combined by their
        maximum.

    Returns:
      The alignment, a scalar; NaN for zero gradients or parameters.

    Raises:
      ValueError: if the norm does not fit params.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> w, h = jnp.array([2.0, -2.0]), jnp.array([3.0, -1.0])
      >>> for norm in ("linf", "l2"):
      ...     print(f"{gradax.optimizers.kkt_alignment(-h, w, norm):.3f}")
      1.000
      0.894

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    whole = product(norm)
    downhill = -optax.tree.vdot(widened(grads), widened(params))
    return downhill / (whole.dual(grads) * whole.norm(params))


class MarginsState(NamedTuple):
    """State of :func:`monitor_margins`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      margin: scalar, the smallest margin.
      normalized_margins: a scalar for each norm, by its name in ``norms``.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    margin: jax.Array
    normalized_margins: dict[str, jax.Array]


@catalogue.register(
    "diagnostic",
    PAPER,
    needs=("margins",),
    example={"norms": {"l2": "global_l2", "largest": "linf"}, "degree": 2.0},
)
def monitor_margins(
    norms: Mapping[str, NormLike], degree: jax.typing.ArrayLike, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    r"""Records the smallest margin over the length of the parameters in several norms.

    The loss knows the margins :math:`y_i f(x_i; w)` already: with :func:`gradax.make_step` let
    it return them in its ``aux``, as ``{"margins": ...}``. Margins and parameters are those
    before the update. A record costs one pass over the parameters for each norm, and singular
    values for spectral ones.

    Args:
      norms: norm by name, each as in :func:`gradax.optimizers.norms.product`; norms of leaves
        are combined by their maximum. Under its name its value stands in the state.
      degree: :math:`L`, the power of the parameters' length with which the network grows.
      every: number of updates from one record to the next. Static.

    Returns:
      A transformation that leaves updates as they are, and whose state is a
      :class:`MarginsState`, NaN before the first record. It needs params and the extra
      ``margins``.

    Raises:
      ValueError: if an argument cannot work; in ``init``, if a norm does not fit params.
      MissingExtraError: in ``update``, without ``margins``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.array([1.0, -1.0])
      >>> def loss_fn(w, batch):
      ...     margins = y * (x @ w)
      ...     return jnp.mean(jax.nn.softplus(-margins)), {"margins": margins}
      >>> monitor = gradax.optimizers.monitor_margins({"l2": "global_l2", "linf": "linf"}, degree=1)
      >>> tx, w = optax.chain(optax.sgd(0.1), monitor), jnp.array([3.0, -4.0])
      >>> _, state, _ = gradax.make_step(loss_fn, tx)(w, tx.init(w), None)
      >>> print(optax.tree.get(state, "l2"), optax.tree.get(state, "linf"))
      1.2 1.5

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    who = "monitor_margins"
    if not isinstance(norms, Mapping) or not norms:
        raise ValueError(f"{who}: norms must map names to norms, got {norms!r}.")
    _validate.interval(who, "degree", degree, "(0, inf)")
    lengths = {name: product(norm).norm for name, norm in norms.items()}

    def blank(params):
        jax.eval_shape(lambda w: [length(w) for length in lengths.values()], params)
        nan = lambda: jnp.full([], jnp.nan, record_dtype(params))
        return {"normalized_margins": {name: nan() for name in lengths}}

    def measure(updates, state, params, *, margins=None, **extra_args):
        del updates, state, extra_args
        params = _extras.require_params(who, params)
        smallest = jnp.min(_extras.require(who, "margins", margins))
        found = {name: smallest / length(params) ** degree for name, length in lengths.items()}
        return {"margin": smallest, "normalized_margins": found}

    return make_monitor(who, MarginsState, measure, blank, every=every)
