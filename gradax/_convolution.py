"""Convolutions as matrix products, which XLA runs well inside loops on CPU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

#: Rows of a patch up to which all shifted copies are made; beyond, those of one axis.
_SMALL_PATCH = 64


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Computes ``jax.lax.conv_general_dilated``, on CPU by matrix products.

    XLA's convolution is many times slower inside a loop than outside on CPU, and rounds of local
    steps are loops. This function has the same arguments and values (up to rounding), and
    derivatives of any order; hand it to a Flax layer as its ``conv_general_dilated``. Copies of
    the input that are shifted by the places of the kernel (of one row, where there are many
    channels) stand side by side, and one product does the rest. Elsewhere than on CPU, and for
    what is not an ordinary two-dimensional convolution (groups, dilated inputs), it is
    JAX's own.

    Args:
      lhs: input, ``[batch, height, width, channels]`` in the order of ``dimension_numbers``.
      rhs: kernel.
      window_strides: two integers.
      padding: ``"SAME"``, ``"VALID"`` or pairs of numbers.
      lhs_dilation: as for JAX's function; the following too.
      rhs_dilation: dilation of the kernel.
      dimension_numbers: the order of the axes.
      feature_group_count: groups of channels.
      batch_group_count: groups of the batch.
      precision: of the products.
      preferred_element_type: dtype of the output.
      out_sharding: of the output, on meshes with explicit axes.

    Returns:
      The convolution, as JAX's function returns it.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import gradax
      >>> from flax import nnx
      >>> layer = nnx.Conv(
      ...     1, 4, (3, 3), conv_general_dilated=gradax.conv_general_dilated, rngs=nnx.Rngs(0)
      ... )
      >>> layer(jnp.ones((2, 8, 8, 1))).shape
      (2, 8, 8, 4)
    """
    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ordinary = (
        lhs.ndim == 4
        and feature_group_count == batch_group_count == 1
        and set(lhs_dilation or (1,)) == {1}
        and out_sharding is None
    )
    if not ordinary or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            order,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
            out_sharding,
        )
    images, kernel = _channels_last(lhs, order.lhs_spec), _inputs_outputs_last(rhs, order.rhs_spec)
    dilation = tuple(rhs_dilation or (1, 1))
    window = tuple((n - 1) * d + 1 for n, d in zip(kernel.shape[:2], dilation, strict=True))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], window, window_strides, padding)
    axes = tuple(zip(window_strides, dilation, padding, strict=True))
    few = kernel[..., 0].size <= _SMALL_PATCH or window_strides[0] > 1
    out = (_by_patches if few else _by_rows)(images, kernel, axes, precision)
    # From [batch, height, width, channels] to the order that was asked for.
    places = (order.out_spec[0], *order.out_spec[2:], order.out_spec[1])
    out = jnp.transpose(out, [places.index(axis) for axis in range(4)])
    return out if preferred_element_type is None else out.astype(preferred_element_type)


def _channels_last(images, spec):
    return jnp.transpose(images, (spec[0], *spec[2:], spec[1]))


def _inputs_outputs_last(kernel, spec):
    return jnp.transpose(kernel, (*spec[2:], spec[1], spec[0]))


def _places(images, axis: int, size: int, stride: int, dilation: int, padding) -> list[jax.Array]:
    """What each of ``size`` places of the kernel sees along an axis, once it is padded."""
    # Negative padding cuts, which jnp.pad refuses.
    borders = [(0, 0, 0)] * images.ndim
    borders[axis] = (*padding, 0)
    images = lax.pad(images, jnp.zeros([], images.dtype), borders)
    length = (images.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    reach = (length - 1) * stride + 1
    first = [place * dilation for place in range(size)]
    return [lax.slice_in_dim(images, at, at + reach, stride, axis) for at in first]


def _by_patches(images, kernel, axes, precision):
    """All shifted copies side by side, one product: for few channels, or strides."""
    height, width, _, outputs = kernel.shape
    rows = _places(images, 1, height, *axes[0])
    seen = [place for row in rows for place in _places(row, 2, width, *axes[1])]
    return _product(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, outputs), precision)


def _by_rows(images, kernel, axes, precision):
    """Copies shifted along the width only; a product for all rows of the kernel, then sums.

    It needs ``width`` copies of the input instead of ``height * width``.
    """
    height, width, inputs, outputs = kernel.shape
    columns = jnp.concatenate(_places(images, 2, width, *axes[1]), axis=-1)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)
    parts = _product(columns, matrix, precision)
    parts = parts.reshape(*parts.shape[:-1], height, outputs)
    rows = _places(parts, 1, height, *axes[0])
    return sum(row[..., place, :] for place, row in enumerate(rows))


def _product(columns, matrix, precision):
    """One matrix product for the whole batch; one for each image takes twice the time."""
    flat = columns.reshape(-1, columns.shape[-1])
    out = jnp.matmul(flat, matrix, precision=precision)
    return out.reshape(*columns.shape[:-1], matrix.shape[-1])
