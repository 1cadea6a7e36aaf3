"""monitor_fdr: whether training has become stationary, beside any optimizer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import inner_product
from gradax.optimizers.monitors._make_monitor import make_monitor, record_dtype

from ._fdr_sgd import PAPER, check_periods
from ._half_run import add_record, blank_blocks, half_run_means, ratio


class FDRMonitorState(NamedTuple):
    r"""State of :func:`monitor_fdr`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      fdr_left: scalar, mean of :math:`O_L` at the latest check.
      fdr_right: scalar, mean of :math:`O_R` at the latest check.
      fdr_ratio: scalar, the former over the latter.
      num_records: ``int32[]``, records since the averages began.
      blocks: ``[2 * max_checks, 2]``, sums of both over parts of that time.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    fdr_left: jax.Array
    fdr_right: jax.Array
    fdr_ratio: jax.Array
    num_records: jax.Array
    blocks: jax.Array


@catalogue.register("diagnostic", PAPER, example={"check_every": 2, "momentum": 0.5})
def monitor_fdr(
    check_every: int,
    every: int = 1,
    *,
    momentum: jax.typing.ArrayLike = 0.0,
    max_checks: int = 512,
) -> optax.GradientTransformationExtraArgs:
    r"""Records how far an optimizer is from being stationary.

    Whatever update :math:`u_t` is added to params :math:`\theta_t`, the mean of
    :math:`\|\theta\|^2` stands still if and only if those of :math:`-\langle \theta, u \rangle`
    and of :math:`\|u\|^2 / 2` are equal. With the same multiple of :math:`\|u\|^2` on both sides,

    .. math::
        O_L = -\langle \theta_t, u_t \rangle + \frac{\mu}{1 - \mu} \|u_t\|^2, \qquad
        O_R = \frac{1 + \mu}{2 (1 - \mu)} \|u_t\|^2 ,

    the means are those of :func:`fdr_observables` for SGD with momentum :math:`\mu`, times
    :math:`\eta (1 - \nu) / (1 - \mu)`, but for what happens at the ends of the time they are taken
    over. For all other optimizers they are what still holds, since nothing but the update is asked
    for; :math:`\mu` then says over how many steps updates resemble each other, as Adam's ``b1``
    does, and keeps the ratio from exaggerating small drifts.

    Means are over the second half of the time since the start. A ratio near one says that training
    goes in circles at this learning rate, and that a smaller one would help. A cross entropy
    without weight decay lets params grow for ever, and the ratio never comes to rest.

    Put it last in a chain, so that :math:`u` is what is added to params. No gradient is computed;
    a record reads updates and params once.

    Args:
      check_every: updates from one value of the averages to the next, such as an epoch.
        Static.
      every: updates from one record to the next; divides ``check_every``. With ``every=1`` the
        sum over records tells exactly how :math:`\|\theta\|^2` has changed; sparser records are
        noisier. Static.
      momentum: :math:`\mu` in ``[0, 1)``, that of the optimizer.
      max_checks: checks for which there is memory; after as many the averages begin anew.
        Static.

    Returns:
      A transformation that leaves updates as they are, and whose state is an
      :class:`FDRMonitorState`, NaN before the first check. It needs params.

    Raises:
      ValueError: if an argument is out of its range, or ``check_every`` no multiple of
        ``every``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> monitor = gradax.schedules.monitor_fdr(check_every=50, momentum=0.9)
      >>> tx = optax.chain(optax.adam(0.1, b1=0.9), monitor)
      >>> def step(carry, noise):
      ...     x, state = carry
      ...     updates, state = tx.update(x - 1.0 + noise, state, x)
      ...     return (optax.apply_updates(x, updates), state), None
      >>> x = 3 * jnp.ones(10)
      >>> noise = jax.random.normal(jax.random.key(0), (2000, 10))
      >>> (x, state), _ = jax.lax.scan(step, (x, tx.init(x)), noise)
      >>> print(optax.tree.get(state, "fdr_ratio").round(1))
      1.0

    References:
      Yaida, `Fluctuation-dissipation relations for stochastic gradient descent
      <https://arxiv.org/abs/1810.00004>`_, 2019.
    """
    who = "monitor_fdr"
    check_periods(who, check_every, every, max_checks)
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    length = check_every // every

    def blank(params):
        blocks = blank_blocks(max_checks, record_dtype(params))
        return {"num_records": jnp.zeros([], jnp.int32), "blocks": blocks}

    def measure(updates, state, params, **extra_args):
        del extra_args
        u = jax.tree.leaves(updates)
        w = jax.tree.leaves(_extras.require_params(who, params))
        dtype = state.blocks.dtype
        square = jnp.asarray(1 / (1 - momentum), dtype) * inner_product(u, u, dtype)
        mu = jnp.asarray(momentum, dtype)
        pair = mu * square - inner_product(w, u, dtype), (1 + mu) / 2 * square
        blocks = add_record(state.blocks, state.num_records, length, pair)
        records = state.num_records + 1
        checks, due = records // length, records % length == 0
        means = half_run_means(blocks, checks, length)
        full = due & (checks == max_checks)
        return {
            "fdr_left": jnp.where(due, means[0], state.fdr_left),
            "fdr_right": jnp.where(due, means[1], state.fdr_right),
            "fdr_ratio": jnp.where(due, ratio(means), state.fdr_ratio),
            "num_records": jnp.where(full, 0, records),
            "blocks": jnp.where(full, 0, blocks),
        }

    return make_monitor(who, FDRMonitorState, measure, blank, every=every)
