"""Refined schedules: record gradient norms in one run, derive the next run's schedule."""

import bisect
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import catalogue
from gradax._validate import integer, interval, learning_rate, one_of

_PAPER = catalogue.Paper(
    title="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    authors="Defazio et al.",
    year=2023,
    arxiv="2310.07831",
)
#: Power of the recorded number whose inverse is the weight of a step.
_POWERS = {"l2": 2, "l1": 1, "precond": 1}
_FORMAT = "gradax refined schedule, version 1"


class GradientNormsState(NamedTuple):
    """State of :func:`record_gradient_norms`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      norms: ``float32[num_steps]``, norm of the gradient of each update, zero where none was.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    norms: jax.Array


@catalogue.register("diagnostic", _PAPER, example={"num_steps": 8})
def record_gradient_norms(num_steps: int, ord: int = 2) -> optax.GradientTransformation:
    r"""Passes gradients through and records the norm of each.

    Stands first in a chain: the norms of clipped gradients say nothing. With ``axis_name``
    reductions it stands after the mean over participants, with gradient accumulation inside
    ``optax.MultiSteps``. Norms are over all leaves, in float32 at least; updates beyond
    ``num_steps`` are counted, but not recorded.

    Args:
      num_steps: length of the record, a Python integer.
      ord: 2 for :math:`\|g\|_2` (plain SGD), 1 for :math:`\|g\|_1` (Adam and its kin).

    Returns:
      The identity, whose state is a :class:`GradientNormsState`; params unused.

    Raises:
      ValueError: if ``num_steps`` is below 1 or ``ord`` is neither 1 nor 2.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import schedules
      >>> tx = optax.chain(schedules.record_gradient_norms(3), optax.sgd(0.1))
      >>> state = tx.init(jnp.zeros(2))
      >>> for scale in (1.0, 2.0):
      ...     _, state = tx.update(scale * jnp.array([3.0, 4.0]), state)
      >>> optax.tree.get(state, "norms").tolist()
      [5.0, 10.0, 0.0]

    References:
      Defazio et al., `When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement
      <https://arxiv.org/abs/2310.07831>`_, 2023.
    """
    integer("record_gradient_norms", "num_steps", num_steps, at_least=1)
    one_of("record_gradient_norms", "ord", ord, (1, 2))

    def leaf_power_sum(leaf):
        size = jnp.abs(leaf)
        size = size.astype(jnp.promote_types(size.dtype, jnp.float32))
        return jnp.sum(size**ord)

    def norm(updates):
        total = sum(leaf_power_sum(leaf) for leaf in jax.tree.leaves(updates))
        return jnp.asarray(jnp.sqrt(total) if ord == 2 else total, jnp.float32)

    def init_fn(params):
        del params
        return GradientNormsState(
            count=jnp.zeros([], jnp.int32), norms=jnp.zeros([num_steps], jnp.float32)
        )

    def update_fn(updates, state, params=None):
        del params
        norms = state.norms.at[state.count].set(norm(updates), mode="drop")
        return updates, GradientNormsState(optax.safe_increment(state.count), norms)

    return optax.GradientTransformation(init_fn, update_fn)


def smooth_gradient_norms(grad_norms: jax.typing.ArrayLike, smoothing: float = 0.1) -> np.ndarray:
    """Running median of a record of norms: outliers go, trends and edges stay.

    The window holds ``2 * (floor(smoothing * T) // 2) + 1`` of the ``T`` values. Beyond the left
    end the first value is repeated, beyond the right end the record is reflected.

    Args:
      grad_norms: ``[T]``, one positive number per update.
      smoothing: width of the window as a fraction of the record, in ``[0, 1)``; 0 does nothing.

    Returns:
      ``float64[T]``.

    Raises:
      ValueError: if there are fewer than two norms, one is not positive and finite, or
        ``smoothing`` lies outside ``[0, 1)``.

    Examples:
      >>> from gradax import schedules
      >>> schedules.smooth_gradient_norms([1.0, 1.0, 9.0, 1.0, 2.0], smoothing=0.5).tolist()
      [1.0, 1.0, 1.0, 2.0, 1.0]
    """
    norms = _checked_norms("smooth_gradient_norms", grad_norms, smoothing)
    half = int(smoothing * norms.size) // 2
    around = np.pad(np.pad(norms, (0, half), mode="reflect"), (half, 0), mode="edge").tolist()
    # A sorted window that loses one value and gains one: no T-by-width array is ever made.
    window = sorted(around[: 2 * half + 1])
    medians = [window[half]]
    for leaving, entering in zip(around, around[2 * half + 1 :], strict=False):
        del window[bisect.bisect_left(window, leaving)]
        bisect.insort(window, entering)
        medians.append(window[half])
    return np.array(medians)


@catalogue.register("function", _PAPER, example={"grad_norms": (2.0, 1.0, 1.0, 2.0)})
def refine_schedule(
    grad_norms: jax.typing.ArrayLike,
    *,
    norm: str = "l2",
    smoothing: float = 0.1,
    normalize: bool = True,
    distance: float | None = None,
) -> np.ndarray:
    r"""The schedule that a record of gradient norms calls for, in closed form, on the host.

    For convex functions and any weights :math:`w_t > 0`, gradient descent with the steps
    :math:`\eta_t = w_t \sum_{p > t} w_p / \sum_p w_p` ends at a point with

    .. math::
        f(x_T) - f^\star \le \frac{1}{\sum_t w_t}
            \Bigl(\frac{D^2}{2} + \frac{1}{2} \sum_t w_t^2 G_t^2\Bigr),

    where :math:`D` is the distance to the solution and :math:`G_t` the norm of gradient
    :math:`t`. The best weights are proportional to :math:`G_t^{-2}`, and the schedule to

    .. math::
        s_t = w_t \sum_{p = t + 1}^{T - 1} w_p.

    Equal norms give linear decay; large early gradients give a warm-up. For diagonally
    preconditioned methods the same argument gives
    :math:`w_t \propto 1 / \sum_i g_{t,i}^2 / b_i` with their denominators :math:`b_i`, which is
    near :math:`1 / \|g_t\|_1`.

    Refine only when the noise dominates late gradients. Where they vanish with the loss, as on
    separable data, the schedule peaks late and does worse than linear decay.

    Args:
      grad_norms: ``[T]``, one positive number per update.
      norm: what was recorded: ``"l2"`` norms, ``"l1"`` norms, or ``"precond"``, the sums
        :math:`\sum_i g_{t,i}^2 / b_i`.
      smoothing: width of the running median, as a fraction of ``T``, in ``[0, 1)``.
      normalize: divide by the largest entry, for :func:`refined_schedule`; otherwise :math:`s_t`.
      distance: :math:`D`; if given, the steps :math:`\eta_t` that minimise the bound are
        returned, which is then :math:`D / \sqrt{\sum_t G_t^{-2}}`; needs ``norm="l2"``.

    Returns:
      ``float64[T]``, not negative, the last entry exactly 0.

    Raises:
      ValueError: if there are fewer than two norms, one is not positive and finite,
        ``smoothing`` lies outside ``[0, 1)``, ``norm`` is unknown, or ``distance`` is not
        positive or given for another norm.

    Examples:
      >>> from gradax import schedules
      >>> schedules.refine_schedule([2.0, 1.0, 1.0, 2.0], smoothing=0.0).round(3).tolist()
      [0.45, 1.0, 0.2, 0.0]

    References:
      Defazio et al., `When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement
      <https://arxiv.org/abs/2310.07831>`_, 2023.
    """
    one_of("refine_schedule", "norm", norm, _POWERS)
    norms = _checked_norms("refine_schedule", grad_norms, smoothing)
    if distance is not None:
        interval("refine_schedule", "distance", distance, "(0, inf)")
        if norm != "l2":
            raise ValueError(f"refine_schedule: distance needs norm='l2', got norm={norm!r}.")
    norms = smooth_gradient_norms(norms, smoothing)
    # In units of the smallest norm the weights lie in (0, 1] and cannot overflow.
    unit = norms.min()
    weights = (norms / unit) ** -_POWERS[norm]
    tails = np.append(np.cumsum(weights[:0:-1])[::-1], 0.0)
    table = weights * tails
    if distance is not None:
        return table * distance / (unit * weights.sum() * np.sqrt(weights.sum()))
    return table / table.max() if normalize else table * unit ** (-2 * _POWERS[norm])


@catalogue.register(
    "schedule", _PAPER, example={"peak_value": 0.1, "table": (0.5, 1.0, 0.75, 0.5, 0.25, 0.0)}
)
def refined_schedule(
    peak_value: jax.typing.ArrayLike, table: jax.typing.ArrayLike
) -> optax.Schedule:
    """A table as a schedule: ``peak_value * table[count]``, the last entry held afterwards.

    Args:
      peak_value: what the table is multiplied by; tuned, as any learning rate.
      table: ``[num_steps]``, from :func:`refine_schedule` or :func:`load_schedule_table`;
        concrete numbers, not traced ones.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``peak_value`` is negative, or the table is not a vector of at least one
        finite number that is not negative.

    Examples:
      >>> from gradax import schedules
      >>> table = schedules.refine_schedule([1.0] * 5, smoothing=0.0)
      >>> schedule = schedules.refined_schedule(0.5, table)
      >>> [float(schedule(count)) for count in range(6)]
      [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]

    References:
      Defazio et al., `When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement
      <https://arxiv.org/abs/2310.07831>`_, 2023.
    """
    learning_rate("refined_schedule", peak_value, "peak_value")
    numbers = _checked_table("refined_schedule", table)
    # Weakly typed, as the zeros are: the value takes the dtype of what it multiplies.
    values = jnp.full(numbers.shape, 0.0).at[:].set(numbers)
    return lambda count: peak_value * values[jnp.clip(count, 0, values.size - 1)]


def save_schedule_table(path: str | os.PathLike[str], table: jax.typing.ArrayLike) -> None:
    """Writes a table of schedule values to a JSON file, whole or not at all.

    Args:
      path: the file; replaced if it exists.
      table: ``[num_steps]``, from :func:`refine_schedule`.

    Raises:
      ValueError: if the table is not a vector of finite numbers that are not negative.

    Examples:
      >>> import pathlib, tempfile
      >>> from gradax import schedules
      >>> table = schedules.refine_schedule([1.0, 3.0, 2.0], smoothing=0.0)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "table.json"
      ...     schedules.save_schedule_table(path, table)
      ...     bool((schedules.load_schedule_table(path) == table).all())
      True
    """
    values = _checked_table("save_schedule_table", table)
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"format": _FORMAT, "table": values.tolist()}) + "\n")
    partial.replace(path)


def load_schedule_table(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a table that :func:`save_schedule_table` wrote, bit for bit.

    Args:
      path: the file.

    Returns:
      ``float64[num_steps]``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file holds something else.

    Examples:
      >>> import pathlib, tempfile
      >>> from gradax import schedules
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "table.json"
      ...     schedules.save_schedule_table(path, [1.0, 0.1, 0.0])
      ...     schedules.load_schedule_table(path).tolist()
      [1.0, 0.1, 0.0]
    """
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"load_schedule_table: {path} is not a JSON file.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"load_schedule_table: {path} does not say {_FORMAT!r}.")
    return _checked_table("load_schedule_table", content.get("table"))


def _checked_norms(who: str, grad_norms: jax.typing.ArrayLike, smoothing: float) -> np.ndarray:
    interval(who, "smoothing", smoothing, "[0, 1)")
    norms = np.asarray(grad_norms, np.float64)
    if norms.ndim != 1 or norms.size < 2:
        raise ValueError(
            f"{who}: grad_norms must be a vector of at least 2 norms, got shape {norms.shape}."
        )
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if wrong.size:
        raise ValueError(
            f"{who}: gradient norms must be positive and finite; "
            f"got {norms[wrong[0]]} at step {wrong[0]}."
        )
    return norms


def _checked_table(who: str, table: Any) -> np.ndarray:
    try:
        values = np.asarray(table, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: table must hold numbers.") from error
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{who}: table must be a non-empty vector, got shape {values.shape}.")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"{who}: table must hold finite numbers that are not negative.")
    return values
