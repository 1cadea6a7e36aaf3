"""monitor_update_ratio: length of the update over length of the weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, catalogue

from ._leaf_groups import LeafGroups
from ._make_monitor import make_monitor

PAPER = catalogue.Paper(
    title="Large Batch Training of Convolutional Networks",
    authors="You et al.",
    year=2017,
    arxiv="1708.03888",
)


class UpdateRatioState(NamedTuple):
    r"""State of :func:`monitor_update_ratio`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      update_ratio: scalar, :math:`\|u\| / \|w\|` over the whole tree.
      update_ratios: ``[groups]``, the same of each leaf or label.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    update_ratio: jax.Array
    update_ratios: jax.Array


@catalogue.register("diagnostic", PAPER)
def monitor_update_ratio(
    every: int = 1, *, param_labels: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Records how long the update is compared with the weights.

    .. math::
        \frac{\|u\|}{\|w\|} \quad \text{over the whole tree and over each leaf or label.}

    Put it last in a chain, so that :math:`u` is what is added to params :math:`w`. Layers whose
    ratio lies far from that of the others are those that layer-wise rates such as LARS are
    about. No gradient is computed; a record reads updates and params once. The ratio of weights
    that are all zero is infinite, or NaN if the update is zero too.

    Args:
      every: number of updates from one record to the next. Static.
      param_labels: labels of leaves as for :func:`optax.partition`: a tree like params or a
        prefix of it, or a function of params that returns one. Leaves with the same label are
        measured together. ``None`` measures each leaf. Static.

    Returns:
      A transformation that leaves updates as they are, and whose state is an
      :class:`UpdateRatioState`, NaN before the first record. ``update_ratios`` is in the order
      of ``jax.tree.leaves(params)``, or of the sorted labels. It needs params.

    Raises:
      ValueError: if ``every`` is no positive integer; in ``update``, if labels do not fit
        params.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> w = {"a": jnp.array([3.0, 4.0]), "b": jnp.ones(1)}
      >>> g = {"a": jnp.ones(2), "b": jnp.ones(1)}
      >>> tx = optax.chain(optax.sgd(0.5), gradax.optimizers.monitor_update_ratio())
      >>> updates, state = tx.update(g, tx.init(w), w)
      >>> print(optax.tree.get(state, "update_ratios").round(3))
      [0.141 0.5  ]

    References:
      You et al., `Large Batch Training of Convolutional Networks
      <https://arxiv.org/abs/1708.03888>`_, 2017.
    """
    groups = LeafGroups("monitor_update_ratio", param_labels)

    def blank(params):
        return {"update_ratios": groups.nan(params)}

    def measure(updates, state, params, **extra_args):
        del state, extra_args
        params = _extras.require_params("monitor_update_ratio", params)
        u, w = groups.squared_norms(updates), groups.squared_norms(params)
        return {
            "update_ratio": jnp.sqrt(jnp.sum(u)) / jnp.sqrt(jnp.sum(w)),
            "update_ratios": jnp.sqrt(u) / jnp.sqrt(w),
        }

    return make_monitor("monitor_update_ratio", UpdateRatioState, measure, blank, every=every)
