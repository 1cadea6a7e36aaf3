"""DiceSGD: what clipping removed is fed back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate
from gradax._wide import wide, widen
from gradax.catalogue import register

from ._clip import clip_tree, clipped_sum, example_grads, num_rows
from ._noise import add_normal
from ._papers import DICE


class DiceState(NamedTuple):
    """State of :func:`dice_aggregate`.

    Attributes:
      error: like params, in single precision at least: what clipping has removed. It must
        stay secret: it is not private.
      key: of the next draw, this participant's own.
    """

    error: optax.Updates
    key: jax.Array


_EXAMPLE = {"clip_gradient": 100.0, "clip_error": 100.0, "noise_std": 1e-6, "key": 0}


def _check(who, clip_gradient, clip_error, noise_std) -> None:
    _validate.interval(who, "clip_gradient", clip_gradient, "(0, inf]")
    _validate.interval(who, "clip_error", clip_error, "(0, inf]")
    _validate.interval(who, "noise_std", noise_std, "[0, inf)")
    numbers = isinstance(clip_gradient, int | float) and isinstance(clip_error, int | float)
    if numbers and clip_error < clip_gradient:
        raise ValueError(
            f"{who}: clip_error must be at least clip_gradient={clip_gradient}, got {clip_error}: "
            "a smaller one may leave no fixed point."
        )


def dice_noise_std(
    noise_multiplier: float, clip_gradient: float, clip_error: float, batch_size: float
) -> float:
    r"""Noise of DiceSGD as the authors' code has it: more than DP-SGD's.

    .. math::
        \sigma = \frac{z C_1}{B} \sqrt{1 + 2 C_2 / C_1},

    with :math:`z` from an accountant of DP-SGD. The authors mark their factor as provisional;
    the theorem of the paper has constants of its own, so take an epsilon that rests on this
    function as that of their code.

    Args:
      noise_multiplier: :math:`z`.
      clip_gradient: :math:`C_1`.
      clip_error: :math:`C_2`.
      batch_size: :math:`B`.

    Returns:
      The standard deviation of the noise on the mean.

    Examples:
      >>> from gradax import federated
      >>> round(federated.dice_noise_std(1.0, 1.0, 1.0, batch_size=1), 3)
      1.732
    """
    for name, value in {"clip_gradient": clip_gradient, "batch_size": batch_size}.items():
        _validate.interval("dice_noise_std", name, value, "(0, inf)")
    _check("dice_noise_std", clip_gradient, clip_error, noise_multiplier)
    return (
        noise_multiplier * clip_gradient * (1 + 2 * clip_error / clip_gradient) ** 0.5 / batch_size
    )


@register("producer", DICE, needs=("per_example_grads",), example=_EXAMPLE)
def dice_aggregate(
    clip_gradient: jax.typing.ArrayLike,
    clip_error: jax.typing.ArrayLike,
    noise_std: jax.typing.ArrayLike,
    key: jax.Array | int,
) -> optax.GradientTransformationExtraArgs:
    r"""Clips the gradients of single examples and feeds back what was clipped away.

    With the examples' gradients :math:`g_i`, their mean :math:`\bar g` and the error
    :math:`e_0 = 0`,

    .. math::
        v_t &= \tfrac{1}{B} \textstyle\sum_i \operatorname{clip}(g_i, C_1)
               + \operatorname{clip}(e_t, C_2), \\
        e_{t+1} &= e_t + \bar g - v_t,

    and :math:`v_t + \mathcal N(0, \sigma^2)` is emitted. The error absorbs the bias of the
    clipping: without noise, SGD with this gradient is at :math:`x_0 - \eta (\sum_s \bar g_s -
    e_t)`. Stands where :func:`private_gradient` stands; keeps one copy of params.

    Only what is emitted is private. The error is made of raw gradients: do not publish it, nor a
    checkpoint that holds it.

    Args:
      clip_gradient: :math:`C_1 > 0`.
      clip_error: :math:`C_2 \ge C_1`.
      noise_std: :math:`\sigma \ge 0` of the noise on the mean; see :func:`dice_noise_std`.
      key: random key or seed; every participant draws its own numbers.

    Returns:
      A transformation with a :class:`DiceState`. It reads ``per_example_grads``, or
      ``per_example_grad_fn``.

    Raises:
      ValueError: if a number is out of range, ``clip_error`` is below ``clip_gradient``, or
        ``key`` is missing.
      MissingExtraError: if ``update`` receives neither extra.

    Examples:
      The first example is cut by 4; half of that comes back in the next step:

      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.dice_aggregate(1.0, 2.0, 0.0, key=0)
      >>> x, rows = jnp.array(0.0), jnp.array([5.0, 1.0])
      >>> state = tx.init(x)
      >>> for _ in range(2):
      ...     updates, state = tx.update(x, state, x, per_example_grads=rows)
      ...     print(float(updates), float(state.error))
      1.0 2.0
      3.0 2.0

    References:
      Zhang et al., `Differentially Private SGD Without Clipping Bias: An Error-Feedback
      Approach <https://arxiv.org/abs/2311.14632>`_, 2023.
    """
    who = "dice_aggregate"
    _check(who, clip_gradient, clip_error, noise_std)
    first = _keys.as_key(who, key)

    def init_fn(params):
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, wide(jnp.result_type(p))), params)
        return DiceState(zeros, jnp.array(first, copy=True))

    def update_fn(updates, state, params=None, **extras):
        examples = example_grads(who, params, extras)
        key, own = jax.random.split(state.key)
        rows, total = num_rows(examples), clipped_sum(examples, clip_gradient)
        fed_back = clip_tree(state.error, clip_error)
        direction = jax.tree.map(lambda s, e: s / rows + e, total, fed_back)
        renew = lambda e, g, v: e + jnp.mean(widen(g), axis=0) - v
        error = jax.tree.map(renew, state.error, examples, direction)
        noisy = add_normal(own, direction, noise_std)
        emitted = jax.tree.map(lambda v, like: v.astype(like.dtype), noisy, updates)
        return emitted, DiceState(error, key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@register(
    "alias",
    DICE,
    needs=("per_example_grads",),
    example={"learning_rate": 1e-3, **_EXAMPLE},
)
def dice_sgd(
    learning_rate: optax.ScalarOrSchedule,
    clip_gradient: jax.typing.ArrayLike,
    clip_error: jax.typing.ArrayLike,
    noise_std: jax.typing.ArrayLike,
    key: jax.Array | int,
) -> optax.GradientTransformationExtraArgs:
    """DiceSGD, ready to use: :func:`dice_aggregate` times minus the learning rate.

    Args:
      learning_rate: a number or a schedule of the count.
      clip_gradient: as in :func:`dice_aggregate`.
      clip_error: as in :func:`dice_aggregate`.
      noise_std: as in :func:`dice_aggregate`.
      key: as in :func:`dice_aggregate`.

    Returns:
      The chained transformation.

    Raises:
      ValueError: as :func:`dice_aggregate`.

    Examples:
      Three numbers are averaged although two of three gradients are clipped:

      >>> import gradax, jax.numpy as jnp
      >>> from gradax import federated
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> x, numbers = jnp.array(0.0), jnp.array([0.0, 1.0, 8.0])
      >>> tx = federated.dice_sgd(0.2, 0.5, 0.5, 0.0, key=0)
      >>> state, step = tx.init(x), gradax.make_step(loss_fn, tx)
      >>> for _ in range(300):
      ...     x, state, _ = step(x, state, numbers)
      >>> round(float(x), 3)
      3.0

    References:
      Zhang et al., `Differentially Private SGD Without Clipping Bias: An Error-Feedback
      Approach <https://arxiv.org/abs/2311.14632>`_, 2023.
    """
    _validate.learning_rate("dice_sgd", learning_rate)
    return optax.chain(
        dice_aggregate(clip_gradient, clip_error, noise_std, key),
        optax.scale_by_learning_rate(learning_rate),
    )
