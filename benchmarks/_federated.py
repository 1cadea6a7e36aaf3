"""Both networks of the federated contestants in plain JAX, without gradax.

So that the peers that use JAX can import it in environments of their own.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _federated_task import (
    BATCH,
    CLASSES,
    COHORT,
    EPOCHS,
    EXAMPLES,
    LEARNING_RATE,
    NUM_CLIENTS,
    images,
)

__all__ = [
    "BATCH",
    "CLASSES",
    "COHORT",
    "EPOCHS",
    "EXAMPLES",
    "LEARNING_RATE",
    "NUM_CLIENTS",
    "Network",
    "cnn",
    "im2col_convolution",
    "images",
    "mlp",
    "training_loss",
    "xla_convolution",
]

Params = dict[str, jax.Array]
Batch = Mapping[str, Any]


class Network(NamedTuple):
    """A network and its cross entropy.

    Attributes:
      init: `init(key) -> params`.
      apply: `apply(params, images) -> logits`, images `[n, 28, 28, 1]`.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], jax.Array]

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """Mean cross entropy on `batch["x"]`, `batch["y"]`."""
        logits = jax.nn.log_softmax(self.apply(params, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(logits, batch["y"][:, None], axis=1))


def training_loss(network: Network, params: Params) -> float:
    """Mean loss over all clients' examples."""
    loss = jax.jit(network.loss)
    return float(np.mean([loss(params, client) for client in images()]))


def mlp(sizes: tuple[int, ...] = (784, 200, 200, CLASSES)) -> Network:
    """Layers of these sizes with rectifiers between them."""
    shapes = {f"dense{i}": pair for i, pair in enumerate(itertools.pairwise(sizes))}

    def apply(params, images):
        hidden = images.reshape(len(images), -1)
        *inner, last = shapes
        for name in inner:
            hidden = jax.nn.relu(_dense(params, name, hidden))
        return _dense(params, last, hidden)

    return Network(functools.partial(_init, shapes), apply)


def cnn(convolve: Callable[[jax.Array, jax.Array], jax.Array]) -> Network:
    """Two 5x5 convolutions with 16 and 32 channels, each with a 2x2 maximum, and one layer.

    Args:
      convolve: `convolve(images, kernel)`, zero padding, same size.
    """
    shapes = {"conv0": (5, 5, 1, 16), "conv1": (5, 5, 16, 32), "dense": (7 * 7 * 32, CLASSES)}

    def apply(params, images):
        hidden = images
        for name in ("conv0", "conv1"):
            hidden = convolve(hidden, params[f"{name}/kernel"]) + params[f"{name}/bias"]
            hidden = jax.nn.relu(_pool(hidden))
        return _dense(params, "dense", hidden.reshape(len(images), -1))

    return Network(functools.partial(_init, shapes), apply)


def xla_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution that XLA offers; fast on CPU outside of loops only."""
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def im2col_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same convolution as matrix products over shifted copies; as fast inside loops.

    The kernel's size is odd, and the width a multiple of one less where there is one channel.
    """
    return (_row_convolution if images.shape[-1] > 1 else _block_convolution)(images, kernel)


def _block_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """One channel: a product makes `size - 1` neighbours at once, which see two such blocks."""
    count, height, width, _ = images.shape
    size, outputs = kernel.shape[0], kernel.shape[-1]
    block = size - 1
    padded = jnp.pad(images[..., 0], ((0, 0), (block // 2, block // 2), (block // 2, block // 2)))
    blocks = padded.reshape(count, height + block, width // block + 1, block)
    seen = jnp.concatenate([blocks[:, :, :-1], blocks[:, :, 1:]], axis=-1)
    columns = jnp.concatenate([seen[:, row : row + height] for row in range(size)], axis=-1)
    place = lambda i: jnp.pad(kernel[:, :, 0], ((0, 0), (i, block - 1 - i), (0, 0)))
    matrix = jnp.stack([place(i) for i in range(block)], axis=2)
    product = columns @ matrix.reshape(size * 2 * block, block * outputs)
    return product.reshape(count, height, width, outputs)


def _shift(images: jax.Array, size: int, axis: int) -> jax.Array:
    """Puts `size` copies, shifted along an axis and padded with zeros, side by side as channels."""
    before, length = (size - 1) // 2, images.shape[axis]
    border = [(0, 0)] * 4
    border[axis] = (before, size - 1 - before)
    padded = jnp.pad(images, border)
    take = lambda first: jax.lax.slice_in_dim(padded, first, first + length, axis=axis)
    return jnp.concatenate([take(first) for first in range(size)], axis=-1)


def _add_shifted(parts: jax.Array, axis: int) -> jax.Array:
    """Adds `parts[..., i, :]` shifted by `i` places along an axis; undoes :func:`_shift`."""
    size, length = parts.shape[3], parts.shape[axis]
    before = (size - 1) // 2
    border = [(0, 0)] * 5
    border[axis] = (before, size - 1 - before)
    padded = jnp.pad(parts, border)
    take = lambda first: jax.lax.slice_in_dim(padded, first, first + length, axis=axis)
    return sum(take(i)[..., i, :] for i in range(size))


@jax.custom_vjp
def _row_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """More channels: copies shifted along the rows only, and a product for all rows that see them.

    A fifth of the memory of all shifted copies for 5x5, and products of a good shape both ways.
    """
    return _row_forward(images, kernel)[0]


def _row_forward(images, kernel):
    size, _, inputs, outputs = kernel.shape
    shifted = _shift(images, size, axis=2)
    matrix = kernel.reshape(size, size * inputs, outputs).transpose(1, 0, 2)
    parts = shifted @ matrix.reshape(size * inputs, size * outputs)
    sums = _add_shifted(parts.reshape(*images.shape[:3], size, outputs), axis=1)
    return sums, (shifted, kernel)


def _row_backward(residuals, gradient):
    # By hand, because the transpose that autodiff makes multiplies in a slower order.
    shifted, kernel = residuals
    size, _, inputs, outputs = kernel.shape
    # Both shifts run the other way round in the transpose.
    flipped = kernel[::-1, ::-1].reshape(size, size, inputs, outputs)
    spread = jax.lax.optimization_barrier(_shift(gradient, size, axis=1))
    columns = spread.reshape(-1, size * outputs)
    kernel_gradient = (shifted.reshape(-1, size * inputs).T @ columns).reshape(
        size, inputs, size, outputs
    )
    matrix = flipped.transpose(0, 3, 1, 2).reshape(size * outputs, size * inputs)
    parts = (columns @ matrix).reshape(*gradient.shape[:3], size, inputs)
    return _add_shifted(parts, axis=2), kernel_gradient.transpose(2, 0, 1, 3)[::-1]


_row_convolution.defvjp(_row_forward, _row_backward)


def _init(shapes: dict[str, tuple[int, ...]], key: jax.Array) -> Params:
    params = {}
    for each, (name, shape) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        params[f"{name}/kernel"] = deviation * jax.random.normal(each, shape, jnp.float32)
        params[f"{name}/bias"] = jnp.zeros(shape[-1], jnp.float32)
    return params


def _dense(params: Params, name: str, inputs: jax.Array) -> jax.Array:
    return inputs @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def _pool(images: jax.Array) -> jax.Array:
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    rows = jnp.maximum(blocks[:, :, 0], blocks[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])
