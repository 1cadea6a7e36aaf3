"""The mean of coded gradients, exact although some workers are late."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from gradax import _validate, catalogue
from gradax._wide import wide_dtype

from .. import axis
from ._codes import check_matrix, repetition_code

PAPER = catalogue.Paper(
    title="Gradient Coding: Avoiding Stragglers in Distributed Learning",
    authors="Tandon et al.",
    year=2016,
    arxiv="1612.03301",
)


class CodedMeanState(NamedTuple):
    """State of :func:`coded_mean`.

    Attributes:
      decoded: ``bool[]``, whether the last mean could be recovered.
    """

    decoded: jax.Array


@catalogue.register(
    "aggregate",
    PAPER,
    needs=("axis",),
    example={"code": repetition_code(4, 1), "axis_name": "workers"},
)
def coded_mean(
    code: npt.ArrayLike,
    axis_name: axis.AxisName,
    on_failure: str = "skip",
    tolerance: jax.typing.ArrayLike = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    r"""Recovers the mean gradient from coded messages of the workers who are on time.

    A worker's incoming update is its message :math:`c_i = \sum_j B_{ij} g_j`
    (``coding.encode``), where :math:`g_j` is the gradient of part :math:`j` of the data. With
    weights that satisfy :math:`\sum_i a_i B_{ij} = 1` for all parts and vanish for workers with
    the extra ``active=False``,

    .. math::
        \frac1n \sum_i a_i c_i = \frac1n \sum_j g_j .

    A code made for :math:`s` stragglers has such weights whoever these are. The weights of least
    norm are solved for in each update, a problem of the size of ``code``; no table of patterns is
    kept. What late workers computed is never read, be it NaN.

    Args:
      code: of ``coding.cyclic_code`` or ``coding.repetition_code``, ``[n, n]``.
      axis_name: axis of the workers; ``n`` is its size.
      on_failure: what to return if too many are late: zeros (``"skip"``) or ``"nan"``.
      tolerance: largest error of the combined weight of a part that counts as recovered. Codes
        whose weights are large lose digits in float32.

    Returns:
      An aggregate with the state :class:`CodedMeanState`; it needs the axis. An extra
      ``client_id`` (as ``simulate`` passes it) says which row of ``code`` is the worker's own,
      and then a cohort may be smaller than ``n``.

    Raises:
      ValueError: if ``code`` is no matrix of finite numbers, another argument is out of range;
        at trace time if the size of the axis is not that of the code.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> coding = gradax.federated.coding
      >>> code = coding.cyclic_code(3, 1)
      >>> tx = gradax.federated.coded_mean(code, "workers")
      >>> def worker(grads_of_parts, i, active):
      ...     message = coding.encode(grads_of_parts, code, i)
      ...     return tx.update(message, tx.init(message), active=active)[0]
      >>> parts = jnp.array([1.0, 2.0, 6.0])[coding.support(code)]
      >>> on_time = jnp.array([True, False, True])
      >>> means = jax.vmap(worker, axis_name="workers")(parts, jnp.arange(3), on_time)
      >>> means.round(4).tolist()
      [3.0, 3.0, 3.0]

    References:
      Tandon et al., `Gradient Coding <https://arxiv.org/abs/1612.03301>`_, 2016.
    """
    matrix = check_matrix("coded_mean", code)
    axis.names(axis_name)
    _validate.one_of("coded_mean", "on_failure", on_failure, ("skip", "nan"))
    _validate.interval("coded_mean", "tolerance", tolerance, "(0, inf)")

    def init_fn(params):
        del params
        return CodedMeanState(jnp.array(True))

    def update_fn(updates, state, params=None, *, active=None, client_id=None, **extra):
        del state, params, extra
        active = jnp.array(True) if active is None else jnp.asarray(active)
        lanes = axis.size(axis_name)
        if client_id is None and lanes != len(matrix):
            raise ValueError(
                f"coded_mean: code is one of {len(matrix)} workers, the axis has {lanes}."
            )
        number = axis.index(axis_name) if client_id is None else jnp.asarray(client_id)
        numbers, present = axis.all_gather((number, active), axis_name)
        inexact = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        dtype = wide_dtype(*filter(inexact, jax.tree.leaves(updates)))
        weights, error = _weights(matrix, numbers, present, dtype)
        decoded = error <= tolerance
        failed = 0.0 if on_failure == "skip" else jnp.nan
        on_time = jax.tree.map(lambda u: jnp.where(active, u, jnp.zeros_like(u)), updates)
        own = weights[axis.index(axis_name)] / matrix.shape[1]
        total = axis.weighted_sum(on_time, own, axis_name)
        keep = lambda x: jnp.where(decoded, x, jnp.asarray(failed, x.dtype))
        return jax.tree.map(keep, total), CodedMeanState(decoded)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _weights(
    matrix: np.ndarray, numbers: jax.Array, active: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Decoding weights of the lanes, and the largest error of the weight of a part."""
    present = active & (numbers < len(matrix))
    rows = jnp.asarray(matrix, dtype)[jnp.clip(numbers, 0, len(matrix) - 1)]
    rows = jnp.where(present[:, None], rows, 0)
    multiply = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    inverse = jnp.linalg.pinv(rows)
    weights, ones = jnp.zeros(len(rows), dtype), jnp.ones(matrix.shape[1], dtype)
    for _ in range(3):  # the residual of a pseudo-inverse alone grows with the condition number
        weights = weights + multiply(ones - multiply(weights, rows), inverse)
    return weights, jnp.max(jnp.abs(ones - multiply(weights, rows)))
