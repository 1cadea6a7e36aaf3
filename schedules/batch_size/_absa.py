"""ABSA: the batch grows when the loss surface gets flatter, beside adversarial examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue
from gradax.schedules._protocols import Controller

PAPER = catalogue.Paper(
    title="Large Batch Size Training of Neural Networks with Adversarial Training and "
    "Second-Order Information",
    authors="Yao et al.",
    year=2018,
    arxiv="1810.01021",
)
_FGSM = catalogue.Paper(
    title="Explaining and Harnessing Adversarial Examples",
    authors="Goodfellow et al.",
    year=2014,
    arxiv="1412.6572",
)


class ABSAState(NamedTuple):
    """State of :func:`absa_controller`.

    Attributes:
      ratio: ``int32[]``, the batch size over the initial one.
      lr_scale: ``float32[]``, factor on the learning rate, equal to ``ratio`` (linear rule).
      adversarial_ratio: ``float32[]``, share of adversarial examples in a batch.
      reference_eig: ``float32[]``, the eigenvalue that last made the batch grow, or the first;
        NaN before it.
      epochs_since_growth: ``int32[]``.
      measuring: ``bool[]``, whether the next update needs an eigenvalue: not at the largest ratio.
    """

    ratio: jax.Array
    lr_scale: jax.Array
    adversarial_ratio: jax.Array
    reference_eig: jax.Array
    epochs_since_growth: jax.Array
    measuring: jax.Array


@catalogue.register("controller", PAPER, example={"max_ratio": 16, "num_epochs": 8})
def absa_controller(
    max_ratio: int,
    factor: jax.typing.ArrayLike = 2,
    duration: int | None = 10,
    *,
    adversarial_ratio: jax.typing.ArrayLike = 0.2,
    num_epochs: int | None = None,
) -> Controller:
    r"""Multiplies batch and learning rate when the top Hessian eigenvalue has fallen enough.

    Call ``update`` at the end of each epoch, numbered from zero. Let :math:`e` be the absolute
    value of the eigenvalue and :math:`e_{ref}` the one that last made the batch grow (at first:
    the first). If :math:`e \le e_{ref} / c`, or after ``duration`` epochs without growth, the
    ratio is multiplied by :math:`c` and the share of adversarial examples divided by it; at the
    largest ratio, and in the second half of training, that share is zero. Growth by duration
    leaves :math:`e_{ref}` alone.

    Decay the learning rate by a schedule of your own, and multiply it by ``lr_scale``. Measure
    the eigenvalue on a batch, in evaluation mode; ten power iterations do. One that is not
    finite leaves the state as it is.

    Args:
      max_ratio: largest ratio of the batch size to the initial one. Static.
      factor: :math:`c > 1`; a ratio that is no integer is rounded down, but grows by one at
        least.
      duration: epochs after which the batch grows anyway; ``None`` for never. Static.
      adversarial_ratio: the share to begin with, in ``[0, 1]``; see :func:`fgsm_perturb`.
      num_epochs: length of training, in whose second half there are no adversarial examples.
        ``None`` if unknown. Static.

    Returns:
      A :class:`Controller` with ``init() -> ABSAState`` and
      ``update(state, eigenvalue, epoch) -> ABSAState``.

    Raises:
      ValueError: if an argument is out of its range.

    Examples:
      >>> from gradax import schedules
      >>> controller = schedules.absa_controller(max_ratio=8)
      >>> state = controller.init()
      >>> for epoch, eigenvalue in enumerate([40.0, 30.0, 19.0, 9.0]):
      ...     state = controller.update(state, eigenvalue, epoch)
      ...     print(state.ratio, f"{state.adversarial_ratio:.2f}")
      1 0.20
      1 0.20
      2 0.10
      4 0.05

    References:
      Yao et al., `Large Batch Size Training of Neural Networks with Adversarial Training and
      Second-Order Information <https://arxiv.org/abs/1810.01021>`_, 2018.
    """
    who = "absa_controller"
    _validate.integer(who, "max_ratio", max_ratio, at_least=1)
    _validate.interval(who, "factor", factor, "(1, inf)")
    _validate.interval(who, "adversarial_ratio", adversarial_ratio, "[0, 1]")
    for name, value in (("duration", duration), ("num_epochs", num_epochs)):
        if value is not None:
            _validate.integer(who, name, value, at_least=1)

    def init():
        return ABSAState(
            ratio=jnp.ones([], jnp.int32),
            lr_scale=jnp.ones([], jnp.float32),
            adversarial_ratio=jnp.array(adversarial_ratio, jnp.float32),
            reference_eig=jnp.full([], jnp.nan, jnp.float32),
            epochs_since_growth=jnp.zeros([], jnp.int32),
            measuring=jnp.asarray(max_ratio > 1),
        )

    def grown(ratio):
        larger = jnp.floor(jnp.asarray(factor * ratio, jnp.float32)).astype(jnp.int32)
        return jnp.minimum(jnp.maximum(larger, ratio + 1), max_ratio).astype(jnp.int32)

    def update(
        state: ABSAState, eigenvalue: jax.typing.ArrayLike, epoch: jax.typing.ArrayLike
    ) -> ABSAState:
        e = jnp.abs(jnp.asarray(eigenvalue, jnp.float32))
        first = jnp.isnan(state.reference_eig)
        flatter = state.measuring & (e <= state.reference_eig / factor)
        since = jnp.where(flatter, 0, state.epochs_since_growth + state.measuring)
        grows = flatter | (since >= duration) if duration is not None else flatter
        ratio = jnp.where(grows, grown(state.ratio), state.ratio)
        share = jnp.where(grows, state.adversarial_ratio / factor, state.adversarial_ratio)
        clean = ratio >= max_ratio
        if num_epochs is not None:
            clean |= jnp.asarray(epoch) + 1 >= num_epochs // 2
        new = ABSAState(
            ratio=ratio,
            lr_scale=ratio.astype(jnp.float32),
            adversarial_ratio=jnp.where(clean, 0.0, share).astype(jnp.float32),
            reference_eig=jnp.where(state.measuring & (first | flatter), e, state.reference_eig),
            epochs_since_growth=jnp.where(grows, 0, since).astype(jnp.int32),
            measuring=ratio < max_ratio,
        )
        return optax.tree.where(jnp.isfinite(e), new, state)

    return Controller(init, update)


@catalogue.register("function", _FGSM, example={"grads": np.ones(2), "inputs": np.zeros(2)})
def fgsm_perturb(
    grads: Any,
    inputs: Any,
    eps: jax.typing.ArrayLike = 0.005,
    share: jax.typing.ArrayLike | None = None,
) -> Any:
    r"""Makes examples adversarial by one step along the sign of the loss's gradient.

    .. math::
        x' = x + \epsilon \operatorname{sign} \nabla_x \ell(x)

    Args:
      grads: gradient of the loss with respect to the inputs.
      inputs: array or tree :math:`x`; cut the result to the range of valid inputs yourself.
      eps: :math:`\epsilon \ge 0`, in units of the inputs.
      share: the part of the batch that is changed, its first examples, rounded up, along the
        leading axis; may be traced, as ``ABSAState.adversarial_ratio`` is. ``None`` for all.

    Returns:
      Like ``inputs``.

    Raises:
      ValueError: if ``eps`` or ``share`` is a number out of its range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import schedules
      >>> grads, inputs = jnp.array([3.0, -0.1, 0.0, 2.0]), jnp.zeros(4)
      >>> print(schedules.fgsm_perturb(grads, inputs, eps=0.5))
      [ 0.5 -0.5  0.   0.5]
      >>> print(schedules.fgsm_perturb(grads, inputs, eps=0.5, share=0.25))
      [0.5 0.  0.  0. ]

    References:
      Goodfellow, Shlens and Szegedy, `Explaining and Harnessing Adversarial Examples
      <https://arxiv.org/abs/1412.6572>`_, 2014.
    """
    _validate.interval("fgsm_perturb", "eps", eps, "[0, inf)")
    _validate.interval("fgsm_perturb", "share", share, "[0, 1]")

    def of_leaf(g, x):
        step = eps * jnp.sign(g)
        if share is not None:
            index = jnp.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
            step = jnp.where(index < share * x.shape[0], step, 0)
        return (x + step).astype(x.dtype)

    return jax.tree.map(of_leaf, grads, inputs)
