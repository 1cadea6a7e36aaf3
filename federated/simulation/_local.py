"""What one participant sees: its examples, its batches, and its loss and gradient on them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate
from gradax._extras import MissingExtraError

from ..data._layout import ClientData


class Rows(NamedTuple):
    """The part of the data that a lane reads.

    Attributes:
      arrays: this client's padded examples, leaves ``[max_examples, ...]``, or the flat arrays
        of all clients.
      start: ``int32[]``, where this client's examples begin.
      count: ``int32[]``, how many it has.
    """

    arrays: Any
    start: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def take_rows(data: ClientData, ids: jax.Array | None) -> tuple[Rows, Rows]:
    """Gathers the clients' rows before any lane indexes them.

    On a mesh, indexing inside a lane would turn every batch of every local step into a
    collective.

    Args:
      data: all clients, on the device.
      ids: ``int32[lanes]``; an absent client reads the last one's. ``None`` means everybody.

    Returns:
      The rows of the lanes, and the ``in_axes`` under which ``vmap`` maps them.
    """
    pick = lambda leaf: leaf if ids is None else leaf.at[ids].get(mode="clip")
    counts = pick(data.counts)
    if data.offsets is not None:
        return Rows(data.arrays, pick(data.offsets), counts), Rows(None, 0, 0)  # type: ignore[arg-type]
    arrays = jax.tree.map(pick, data.arrays)
    return Rows(arrays, jnp.zeros_like(counts), counts), Rows(0, 0, 0)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a client's examples become the batches of a round.

    Attributes:
      batch_size: examples per batch; ``None`` means all examples in every step.
      num_steps: static number of local steps, the largest of all clients.
      num_epochs: passes over the client's own data, or ``None`` if ``num_steps`` is given.
      replace: draw examples independently, instead of in a shuffled order.
      width: the largest number of examples of a client.
      even: whether every client has ``width`` examples.
    """

    batch_size: int | None
    num_steps: int
    num_epochs: int | None
    replace: bool
    width: int
    even: bool

    @classmethod
    def plan(
        cls,
        data: ClientData,
        batch_size: int | None,
        num_steps: int | None,
        num_epochs: int | None,
        replace: bool,
    ) -> "Batching":
        """Checks the arguments against the data and fixes the static numbers.

        Args:
          data: all clients.
          batch_size: examples per batch, or ``None``.
          num_steps: local steps of every client, or ``None``.
          num_epochs: passes over each client's data, or ``None``; one if both are ``None``.
          replace: whether examples are drawn independently.

        Returns:
          The plan.

        Raises:
          ValueError: if a number is not positive, both are given, or a client is empty.
        """
        for name, value in (
            ("batch_size", batch_size),
            ("num_steps", num_steps),
            ("num_epochs", num_epochs),
        ):
            if value is not None:
                _validate.integer("simulate", name, value, at_least=1)
        if num_steps is not None and num_epochs is not None:
            raise ValueError("simulate: give num_steps or num_epochs, not both.")
        counts = np.asarray(data.counts)
        if counts.size == 0 or counts.min() < 1:
            empty = np.flatnonzero(counts < 1).tolist()
            raise ValueError(f"simulate: every client needs an example; empty clients: {empty}.")
        width = int(counts.max())
        if num_steps is None:
            num_epochs = num_epochs or 1
            num_steps = -(-num_epochs * width // (batch_size or width))
        even = bool(counts.min() == width) and data.max_examples in (None, width)
        return cls(batch_size, num_steps, num_epochs, replace, width, even)

    def steps_of(self, count: jax.Array) -> jax.Array | None:
        """Number of steps of a client with ``count`` examples; ``None`` if all are alike."""
        if self.num_epochs is None or self.batch_size is None or self.even:
            return None
        return (self.num_epochs * count + self.batch_size - 1) // self.batch_size

    def draw(self, key: jax.Array, count: jax.Array) -> jax.Array:
        """Draws the handles of a round, ``int32[num_steps, batch_size]``, indices of examples.

        Without replacement the client's examples are shuffled once and dealt out in that
        order, starting again when they are used up.
        """
        shape = (self.num_steps, self.batch_size or 1)
        if self.batch_size is None:
            return jnp.zeros(shape, jnp.int32)
        if self.replace:
            return jax.random.randint(key, shape, 0, count, jnp.int32)
        at_random = jax.random.uniform(key, (self.width,))
        last = jnp.where(jnp.arange(self.width) < count, at_random, 2.0)
        order = jnp.argsort(last).astype(jnp.int32)
        return order[jnp.arange(shape[0] * shape[1]) % count].reshape(shape)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Loss and gradient as the user gave them.

    Attributes:
      value: ``value(params, batch) -> scalar``, or ``None`` if there is no loss.
      grad: ``grad(params, batch) -> tree like params``.
    """

    value: Callable[[Any, Any], jax.Array] | None
    grad: Callable[[Any, Any], Any]

    @classmethod
    def of(cls, loss_fn: Callable | None, grad_fn: Callable | None) -> "Objective":
        """Derives the gradient from the loss unless it is given.

        Args:
          loss_fn: ``loss_fn(params, batch)``, a scalar or ``(scalar, aux)``; or ``None``.
          grad_fn: ``grad_fn(params, batch)``; or ``None``.

        Returns:
          The objective.

        Raises:
          ValueError: if both are ``None``.
        """
        if loss_fn is None:
            if grad_fn is None:
                raise ValueError("simulate: give loss_fn, or grad_fn, or both; got neither.")
            return cls(None, grad_fn)

        def value(params, batch):
            out = loss_fn(params, batch)
            return out[0] if isinstance(out, tuple) else out

        return cls(value, grad_fn or jax.grad(value))


class Local:
    """Loss and gradient of one participant, as the extras of a round.

    Args:
      objective: loss and gradient.
      batching: the plan.
      rows: this participant's data.
      key: randomness of this round and client, for the batches.
    """

    def __init__(self, objective: Objective, batching: Batching, rows: Rows, key: jax.Array):
        self._objective, self._batching, self._rows = objective, batching, rows
        self.batches = batching.draw(key, rows.count)

    def extras(self) -> dict[str, Any]:
        """The extras that come from the data."""
        extras = {
            "batches": self.batches,
            "grad_fn": self.grad_fn,
            "full_grad_fn": self.full_grad_fn,
            "per_example_grad_fn": self.per_example_grad_fn,
            "full_per_example_grad_fn": self.full_per_example_grad_fn,
            "num_examples": self._rows.count,
            "num_steps": self._batching.steps_of(self._rows.count),
        }
        return extras | ({"value_fn": self.value_fn} if self._objective.value else {})

    def grad_fn(self, params: optax.Params, *_: Any, batch: jax.Array | None = None) -> Any:
        """Gradient on the batch of a handle, by default the first one."""
        return self._on_batch(self._objective.grad, params, batch)

    def value_fn(self, params: optax.Params, *_: Any, batch: jax.Array | None = None) -> jax.Array:
        """Loss on the batch of a handle, by default the first one."""
        if self._objective.value is None:
            raise MissingExtraError("simulate without loss_fn", "value_fn")
        return self._on_batch(self._objective.value, params, batch)

    def full_grad_fn(self, params: optax.Params, *_: Any) -> Any:
        """Gradient on all of the participant's examples."""
        return self._on_everything(self._objective.grad, params)

    def per_example_grad_fn(
        self, params: optax.Params, *_: Any, batch: jax.Array | None = None
    ) -> Any:
        """Gradients of the single examples of a handle's batch, by default the first one's."""
        if self._batching.batch_size is None:
            if not self._batching.even:
                raise ValueError(
                    "simulate: gradients of single examples of a batch need batch_size=, since "
                    "clients have different numbers of examples."
                )
            return self.full_per_example_grad_fn(params)
        return self._singly(params, self._examples(self.batches[0] if batch is None else batch))

    def full_per_example_grad_fn(self, params: optax.Params, *_: Any) -> Any:
        """Gradients of all of the participant's examples; rows beyond them are zero."""
        index = jnp.arange(self._batching.width)
        rows = self._singly(params, self._examples(index))
        if self._batching.even:
            return rows
        own = index < self._rows.count
        blank = lambda x: jnp.where(own.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jax.tree.map(blank, rows)

    def _singly(self, params, examples):
        single = lambda x: self._objective.grad(params, jax.tree.map(lambda leaf: leaf[None], x))
        return jax.vmap(single)(examples)

    def full_value_fn(self, params: optax.Params, *_: Any) -> jax.Array:
        """Loss on all of the participant's examples."""
        return self._on_everything(self._objective.value, params)

    def _on_batch(self, function, params, handle):
        if self._batching.batch_size is None:
            return self._on_everything(function, params)
        return function(params, self._examples(self.batches[0] if handle is None else handle))

    def _on_everything(self, function, params):
        everything = self._examples(jnp.arange(self._batching.width))
        if self._batching.even:
            return function(params, everything)
        # Rows are padded: average over single examples, with weight zero for the padding.
        single = lambda example: function(params, jax.tree.map(lambda x: x[None], example))
        weight = (jnp.arange(self._batching.width) < self._rows.count) / self._rows.count
        mean = lambda x: jnp.tensordot(weight.astype(x.dtype), x, axes=1)
        return jax.tree.map(mean, jax.vmap(single)(everything))

    def _examples(self, handle):
        index = self._rows.start + handle
        return jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), self._rows.arrays)
