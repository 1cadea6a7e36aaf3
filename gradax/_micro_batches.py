"""The micro-batches of a step as one batch: means, statistics and extras of those in use."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradax import _step
from gradax.schedules import GradientStats
from gradax.schedules.batch_size._statistics import (
    inner_product,
    squared,
    stats_of_means,
    widened,
)

WHO = "make_batch_step"
PER_EXAMPLE = "per_example"


def axes(batches: Any) -> tuple[int, int]:
    """Lengths of the leading axes, ``(capacity, size)``."""
    found = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(batches)}
    if len(found) != 1 or len(min(found)) < 2 or 0 in min(found):
        raise ValueError(
            f"{WHO}: every leaf of batches must have the same leading axes [micro-batches, "
            f"examples], none of them empty, got {sorted(found)}."
        )
    capacity, size = found.pop()
    return capacity, size


@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """The micro-batches that are in use, as one batch.

    Attributes:
      loss: ``(params, micro_batch) -> (value, aux)``.
      has_aux: whether the user's loss returns an aux.
      batches: leaves with the leading axes ``[capacity, size]``.
      num: ``int32[]``, how many micro-batches are used.
      size: examples in a micro-batch.
      chunk: examples whose gradients are held at once.
    """

    loss: _step.LossFn
    has_aux: bool
    batches: Any
    num: jax.Array
    size: int
    chunk: int

    @classmethod
    def of(
        cls,
        loss_fn: _step.LossFn,
        params: optax.Params,
        batches: Any,
        number: jax.typing.ArrayLike,
        kind: str | None,
        chunk: int | None,
    ) -> "MicroBatches":
        """Takes as many micro-batches as are there, and as statistics of a kind need."""
        capacity, size = axes(batches)
        if size % (chunk or size):
            raise ValueError(f"{WHO}: chunk must divide the {size} examples, got {chunk}.")
        least = 1 if kind is None or (kind == PER_EXAMPLE and size > 1) else 2
        if capacity < least:
            raise ValueError(f"{WHO}: statistics={kind!r} need two micro-batches of {size}.")
        loss, has_aux = _step.with_aux(loss_fn, params, jax.tree.map(lambda x: x[0], batches))
        num = jnp.clip(jnp.asarray(number, jnp.int32), least, capacity)
        return cls(loss, has_aux, batches, num, size, chunk or size)

    def at(self, index: jax.typing.ArrayLike) -> _step.Batch:
        """One micro-batch."""
        take = functools.partial(lax.dynamic_index_in_dim, index=index, keepdims=False)
        return jax.tree.map(take, self.batches)

    def mean_of(self, function: Callable[[_step.Batch], Any]) -> Any:
        """Mean of a function of a micro-batch, leaf by leaf, in the dtypes that it returns."""
        shapes = jax.eval_shape(lambda: function(self.at(0)))
        body = lambda index, means: _toward(means, function(self.at(index)), index)
        return _narrowed(lax.fori_loop(0, self.num, body, _zeros(shapes)), shapes)

    def means(self, params: optax.Params) -> tuple[jax.Array, Any, optax.Updates]:
        """Loss, aux and gradient."""
        return self.mean_of(functools.partial(self._value_aux_grad, params))

    def _value_aux_grad(self, params, micro_batch):
        (value, aux), grads = jax.value_and_grad(self.loss, has_aux=True)(params, micro_batch)
        return value, aux, grads

    def value_fn(self, params: optax.Params) -> jax.Array:
        """The loss, differentiable in both modes; JAX cannot go back through the loop itself."""

        @jax.custom_jvp
        def value_of(params):
            return self.mean_of(lambda micro_batch: self.loss(params, micro_batch)[0])

        @value_of.defjvp
        def _(primals, tangents):
            value, _, grads = self.means(*primals)
            slope = optax.tree.sum(
                jax.tree.map(lambda g, t: jnp.sum(jnp.real(g * t)), grads, *tangents)
            )
            return value, jnp.asarray(slope, value.dtype)

        return value_of(params)

    def closures(self) -> dict[str, Any]:
        """The functions of params that a transformation may ask for."""
        return {
            "value_fn": _step.line_searchable(self.value_fn),
            # optax's SAM passes a second positional argument.
            "grad_fn": lambda params, *_: self.means(params)[2],
        }

    def on_demand(self, aux: Any) -> dict[str, Callable[[], Any]]:
        """Extras that cost something to make, and those that only the loss can know."""
        own = aux if isinstance(aux, dict) else {}
        scalars = {name: entry for name, entry in own.items() if jnp.shape(entry) == ()}

        def half_grads(params):
            grad = lambda half: self._value_aux_grad(params, half)[2]
            return self.mean_of(lambda x: tuple(map(grad, _step.halves(WHO, x))))

        return {name: lambda entry=entry: entry for name, entry in scalars.items()} | {
            "half_grads": lambda: half_grads
        }

    def observe(
        self, params: optax.Params, kind: str, due: jax.typing.ArrayLike = True
    ) -> tuple[Any, GradientStats]:
        """What :meth:`means` returns, and the statistics on the way, if they are due.

        There is a loop for either case, and one of the two makes no turn. That holds under vmap
        too, where both branches of a ``lax.cond`` would be computed.
        """
        per_example = kind == PER_EXAMPLE
        sample = self._examples if per_example else self._micro_batch
        weight = self.size if per_example else 1
        shapes = jax.eval_shape(lambda: self._value_aux_grad(params, self.at(0)))

        def plainly(index, means):
            return _toward(means, self._value_aux_grad(params, self.at(index)), index)

        def observing(index, carry):
            means, squares = carry
            new, within = sample(params, self.at(index))
            squares = _pooled(squares, within, means[2], new[2], index, weight)
            return _toward(means, new, index), squares

        turns = jnp.where(due, self.num, 0)
        means = lax.fori_loop(0, self.num - turns, plainly, _zeros(shapes))
        squares = jax.tree.map(lambda leaf: jnp.zeros_like(jnp.real(leaf)), means[2])
        means, squares = lax.fori_loop(0, turns, observing, (means, squares))
        along = self._squares_along(params, means[2], turns, per_example)
        if not per_example:
            stats = stats_of_means(means[2], squares, along, self.num, self.size)
        else:
            total = self.num * self.size
            stats = GradientStats(means[2], squares, along / (total - 1), total)
        return _narrowed(means, shapes), stats

    def _of_example(self, params, example):
        return self.loss(params, _step.single(example))[0]

    def _examples(self, params, micro_batch):
        """Means over a micro-batch, and squared distances of its examples' gradients."""
        value, aux = self.loss(params, micro_batch)
        of_examples = jax.vmap(jax.grad(self._of_example), (None, 0))

        def body(index, carry):
            mean, squares = carry
            cut = lambda x: lax.dynamic_slice_in_dim(x, index * self.chunk, self.chunk)
            grads = widened(of_examples(params, jax.tree.map(cut, micro_batch)))
            new = jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
            within = jax.tree.map(lambda g, m: jnp.sum(squared(g - m), axis=0), grads, new)
            squares = _pooled(squares, within, mean, new, index, self.chunk)
            return _toward(mean, new, index), squares

        zeros = _zeros(params)
        start = zeros, jax.tree.map(lambda leaf: jnp.zeros_like(jnp.real(leaf)), zeros)
        mean, squares = lax.fori_loop(0, self.size // self.chunk, body, start)
        return (value, aux, mean), squares

    def _micro_batch(self, params, micro_batch):
        """Means over a micro-batch, which counts as one gradient."""
        means = self._value_aux_grad(params, micro_batch)
        return means, jax.tree.map(lambda g: jnp.zeros_like(jnp.real(g)), widened(means[2]))

    def _squares_along(self, params, mean, turns, per_example):
        """Sum of squares of the gradients' distances from the mean, along the mean."""
        # The slope in a direction is the gradient's inner product with it: no gradient is made.
        direction = jax.tree.map(lambda m, p: jnp.conj(m).astype(p.dtype), mean, params)
        centre = inner_product(mean, mean)

        def values(params, micro_batch):
            if per_example:
                return jax.vmap(self._of_example, (None, 0))(params, micro_batch)
            return self.loss(params, micro_batch)[0]

        def body(index, total):
            of_params = functools.partial(values, micro_batch=self.at(index))
            _, slopes = jax.jvp(of_params, (params,), (direction,))
            return total + jnp.sum((slopes.astype(centre.dtype) - centre) ** 2)

        return lax.fori_loop(0, turns, body, jnp.zeros_like(centre))


def _zeros(shapes):
    wide = lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))
    return jax.tree.map(wide, shapes)


def _toward(means, new, index):
    """Running means after one sample more."""

    def of_leaf(mean, leaf):
        weight = 1 / (index + 1).astype(jnp.finfo(mean.dtype).dtype)
        return mean + weight * (leaf.astype(mean.dtype) - mean)

    return jax.tree.map(of_leaf, means, new)


def _pooled(squares, within, mean, new, index, weight):
    """Squared distances from a mean that moves, after a sample of so many gradients more."""
    # Those within the sample, and a share of its own distance from the mean so far.
    share = weight * index / (index + 1)

    def of_leaf(total, inside, m, g):
        return total + inside + share.astype(total.dtype) * squared(g.astype(m.dtype) - m)

    return jax.tree.map(of_leaf, squares, within, mean, new)


def _narrowed(means, shapes):
    """Means in the dtypes of what they are means of, where these are no integers."""

    def of_leaf(mean, shape):
        return mean.astype(shape.dtype) if jnp.issubdtype(shape.dtype, jnp.inexact) else mean

    return jax.tree.map(of_leaf, means, shapes)
