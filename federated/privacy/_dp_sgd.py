"""DP-SGD's gradient: clipped example by example, with noise on the sum."""

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate
from gradax.catalogue import register

from ._clip import clipped_sum, example_grads, num_rows
from ._noise import GaussianNoiseState, add_normal
from ._papers import DP_SGD


@register(
    "producer",
    DP_SGD,
    needs=("per_example_grads",),
    example={"l2_norm_clip": 100.0, "noise_multiplier": 1e-6, "key": 0},
)
def private_gradient(
    l2_norm_clip: jax.typing.ArrayLike,
    noise_multiplier: jax.typing.ArrayLike,
    key: jax.Array | int,
    expected_batch_size: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes the gradient of DP-SGD from those of single examples; stands first in a chain.

    .. math::
        \tilde g = \frac{1}{B} \Bigl( \sum_i g_i \min\bigl(1, C / \lVert g_i \rVert\bigr)
        + \mathcal N\bigl(0, (z C)^2\bigr) \Bigr).

    The same as ``optax.contrib.differentially_private_aggregate``, which wants the examples as
    incoming updates; this one ignores them and reads an extra, so it also stands inside
    :func:`local_steps`, and an example whose gradient is not finite counts as zero. Memory: one
    gradient for each example of the batch.

    Args:
      l2_norm_clip: :math:`C > 0`, on the norm over all leaves.
      noise_multiplier: :math:`z \ge 0`.
      key: random key or seed; every participant draws its own numbers.
      expected_batch_size: :math:`B`; the number of examples of the batch by default. With
        Poisson sampling give the expected one.

    Returns:
      A transformation with a :class:`GaussianNoiseState`. It reads ``per_example_grads``, or
      ``per_example_grad_fn``.

    Raises:
      ValueError: if a number is out of range or ``key`` is missing.
      MissingExtraError: if ``update`` receives neither extra.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx = optax.chain(federated.private_gradient(1.0, 0.0, key=0), optax.sgd(1.0))
      >>> loss_fn = lambda x, batch: jnp.mean(batch * x)
      >>> step = gradax.make_step(loss_fn, tx)
      >>> x = jnp.array(0.0)
      >>> float(step(x, tx.init(x), jnp.array([0.5, 30.0]))[0])
      -0.75

    References:
      Abadi et al., `Deep Learning with Differential Privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.
    """
    who = "private_gradient"
    _validate.interval(who, "l2_norm_clip", l2_norm_clip, "(0, inf)")
    _validate.interval(who, "noise_multiplier", noise_multiplier, "[0, inf)")
    _validate.interval(who, "expected_batch_size", expected_batch_size, "(0, inf)")
    first = _keys.as_key(who, key)

    def init_fn(params):
        del params
        return GaussianNoiseState(None, jnp.array(first, copy=True))

    def update_fn(updates, state, params=None, **extras):
        examples = example_grads(who, params, extras)
        by = num_rows(examples) if expected_batch_size is None else expected_batch_size
        key, own = jax.random.split(state.key)
        total = clipped_sum(examples, l2_norm_clip)
        noisy = add_normal(own, total, l2_norm_clip * noise_multiplier)
        mean = jax.tree.map(lambda x, like: (x / by).astype(like.dtype), noisy, updates)
        return mean, GaussianNoiseState(None, key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
