"""What the methods of mirror descent share: two mirror maps, and leaves of every dtype."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate
from gradax._wide import wide

#: Geometry of a step: straight lines, or the simplex of each slice along the last axis.
Mirror = Literal["euclidean", "entropic"]


def check_mirror(who: str, mirror: Any, companion: str, value: Any) -> None:
    """Raises unless the mirror is known, and alone where it cannot have a companion.

    Args:
      who: public name of the factory.
      mirror: the argument ``mirror``.
      companion: name of the argument that only the Euclidean mirror can go with.
      value: that argument.

    Raises:
      ValueError: if ``mirror`` is no mirror, or is ``"entropic"`` beside a companion.
    """
    _validate.one_of(who, "mirror", mirror, get_args(Mirror))
    if mirror == "entropic" and value is not None:
        raise ValueError(f"{who}: {companion} must be None with mirror='entropic', got {value!r}.")


def require_real(who: str, tree: Any) -> None:
    """Raises if a leaf is complex.

    Args:
      who: public name of the transformation.
      tree: pytree of arrays.

    Raises:
      ValueError: if there is a complex leaf.
    """
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise ValueError(f"{who}: params must be real, got a complex leaf.")


def check_simplex(who: str, params: Any) -> None:
    """Raises unless every slice along the last axis is a distribution, as far as can be seen.

    Args:
      who: public name of the transformation.
      params: pytree of arrays; traced and abstract leaves pass.

    Raises:
      ValueError: if a slice has a negative entry or does not sum to one.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        seen = known(leaf)
        if seen is None or seen.size == 0:
            continue
        sums = np.atleast_1d(seen).sum(axis=-1)
        # A thousandth, or a rounding error of one: users write 0.333.
        tolerance = max(1e-3, float(jnp.finfo(jnp.result_type(leaf)).eps))
        if not (np.all(seen >= 0) and np.all(np.abs(sums - 1) <= tolerance)):
            raise ValueError(
                f"{who}: params{jax.tree_util.keystr(path)} must be non-negative and sum to 1 "
                f"along the last axis with mirror='entropic', got {seen}."
            )


def known(leaf: Any) -> np.ndarray | None:
    """The numbers of a leaf in double precision, or ``None`` if they cannot be read here.

    Args:
      leaf: an array, a number, a tracer or a ``jax.ShapeDtypeStruct``.

    Returns:
      A NumPy array, or ``None`` under a trace, without values, or on another host.
    """
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return None
    return np.asarray(leaf, np.float64)


def fresh(leaf: Any) -> jax.Array:
    """A copy of a leaf; zeros where it has a shape but no numbers.

    Args:
      leaf: an array, a number or a ``jax.ShapeDtypeStruct``.

    Returns:
      An array of its own buffer.
    """
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return jnp.zeros_like(leaf) if abstract else jnp.array(leaf)


def real_scalar(value: Any, dtype: Any) -> jax.Array:
    """A real number as a scalar that promotes nothing of this dtype."""
    return jnp.asarray(value, jnp.finfo(dtype).dtype)


def mirror_step(
    mirror: Mirror, point: optax.Params, grads: optax.Updates, step: jax.typing.ArrayLike
) -> optax.Params:
    """Minimises the linear model plus the divergence from a point over the step.

    Args:
      mirror: the geometry.
      point: tree the step starts from.
      grads: tree of slopes.
      step: scalar step size.

    Returns:
      A tree like ``point``, with its dtypes.
    """
    leaf_step = _euclidean if mirror == "euclidean" else _entropic
    return jax.tree.map(lambda x, g: leaf_step(x, g, step), point, grads)


def _euclidean(x, g, step):
    dtype = wide(x.dtype)
    return (x.astype(dtype) - real_scalar(step, dtype) * g.astype(dtype)).astype(x.dtype)


def _entropic(x, g, step):
    if x.size == 0:
        return x
    dtype = wide(x.dtype)
    x_row, g_row = (jnp.atleast_1d(leaf).astype(dtype) for leaf in (x, g))
    # softmax subtracts the largest exponent, so none overflows; the logarithm keeps zeros zero.
    row = jax.nn.softmax(jnp.log(x_row) - real_scalar(step, dtype) * g_row, axis=-1)
    return row.reshape(x.shape).astype(x.dtype)


def displacement(target: optax.Params, params: optax.Params) -> optax.Updates:
    """What has to be added to the parameters so that they become the target.

    Args:
      target: tree like params, of any dtype.
      params: the parameters.

    Returns:
      A tree with the dtypes of params.
    """
    return jax.tree.map(lambda x, w: (x - w).astype(w.dtype), target, params)
