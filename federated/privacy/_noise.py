"""Gaussian noise: one draw for a sum, or one for each participant."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate
from gradax._wide import real_dtype, wide, widen
from gradax.catalogue import register

from .. import axis
from ._papers import DP_FEDAVG


def add_normal(key: jax.Array, tree: Any, stddev: jax.typing.ArrayLike) -> Any:
    """Adds independent normal numbers to all coordinates.

    Args:
      key: of the draw.
      tree: of floating leaves.
      stddev: standard deviation of every real coordinate.

    Returns:
      A tree like ``tree``.
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))

    def noisy(leaf, own):
        # Noise drawn in half precision has gaps that show what it hides.
        draw = jax.random.normal(own, leaf.shape, wide(leaf.dtype))
        # Unit variance of a complex number is one half for each of its parts.
        parts = 2 if jnp.iscomplexobj(draw) else 1
        scale = jnp.asarray(stddev, real_dtype(draw)) * parts**0.5
        return (widen(leaf) + scale * draw).astype(leaf.dtype)

    noise = [noisy(*pair) for pair in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(structure, noise)


class GaussianNoiseState(NamedTuple):
    """State of :func:`add_gaussian_noise`; one of the two keys is there.

    Attributes:
      shared_key: of the next draw, common to all who hold the state.
      key: of the next draw, this participant's own.
    """

    shared_key: jax.Array | None
    key: jax.Array | None


@register("direction", DP_FEDAVG, example={"stddev": 1e-5, "key": 0})
def add_gaussian_noise(
    stddev: jax.typing.ArrayLike,
    key: jax.Array | int,
    axis_name: axis.AxisName | None = None,
) -> optax.GradientTransformation:
    r"""Adds :math:`\mathcal N(0, \sigma^2)` to every coordinate.

    On a server one draw hides a sum: state the sensitivity :math:`C` of the **sum** and divide
    the noise as the sum is divided, :math:`\sigma = z C / (q N)` for a sum over :math:`q N`
    expected clients. At the end of a client's chain every client adds its own.

    Draws are made in single precision at least, new ones in every update and leaf. This is the
    noise of a simulation: a real release needs a secret key from a cryptographic source, and
    floating-point normal numbers leak in their last bits.

    Args:
      stddev: :math:`\sigma \ge 0`, of every real coordinate.
      key: random key or seed.
      axis_name: ``None`` for a draw that is common to all who hold the state, as on a server;
        the axis of the participants for draws of their own. :func:`simulate` and
        :func:`init_participants` then give each of them another key.

    Returns:
      A transformation with a :class:`GaussianNoiseState`.

    Raises:
      ValueError: if ``stddev`` is negative or ``key`` is missing.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, zeros = federated.add_gaussian_noise(2.0, key=0), jnp.zeros(10_000)
      >>> noise, state = tx.update(zeros, tx.init(zeros))
      >>> round(float(jnp.std(noise)), 1)
      2.0

    References:
      McMahan et al., `Learning Differentially Private Recurrent Language Models
      <https://arxiv.org/abs/1710.06963>`_, 2017.
    """
    _validate.interval("add_gaussian_noise", "stddev", stddev, "[0, inf)")
    first = _keys.as_key("add_gaussian_noise", key)
    if axis_name is not None:
        axis.names(axis_name)

    def state_of(key):
        return GaussianNoiseState(key, None) if axis_name is None else GaussianNoiseState(None, key)

    def init_fn(params):
        del params
        return state_of(jnp.array(first, copy=True))

    def update_fn(updates, state, params=None):
        del params
        key, own = jax.random.split(state.shared_key if axis_name is None else state.key)
        return add_normal(own, updates, stddev), state_of(key)

    return optax.GradientTransformation(init_fn, update_fn)
