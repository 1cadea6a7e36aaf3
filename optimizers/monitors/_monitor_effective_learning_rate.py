"""monitor_effective_learning_rate: how far a step goes for its gradient, and on the sphere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, catalogue

from ._leaf_groups import LeafGroups
from ._make_monitor import make_monitor

PAPER = catalogue.Paper(
    title="L2 Regularization versus Batch and Weight Normalization",
    authors="van Laarhoven",
    year=2017,
    arxiv="1706.05350",
)


class EffectiveLearningRateState(NamedTuple):
    r"""State of :func:`monitor_effective_learning_rate`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      effective_learning_rate: scalar, :math:`\|u\| / \|g\|` over the whole tree.
      effective_learning_rates: ``[groups]``, the same of each leaf or label.
      scale_invariant_learning_rates: ``[groups]``, :math:`\|u\| / (\|g\| \, \|w\|^2)`.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    effective_learning_rate: jax.Array
    effective_learning_rates: jax.Array
    scale_invariant_learning_rates: jax.Array


@catalogue.register("diagnostic", PAPER, needs=("grad",))
def monitor_effective_learning_rate(
    every: int = 1, *, param_labels: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Records the learning rate of plain gradient descent whose step is as long.

    With the update :math:`u`, the raw gradient :math:`g` and params :math:`w`,

    .. math::
        \eta = \frac{\|u\|}{\|g\|}, \qquad \eta_w = \frac{\eta}{\|w\|^2} .

    :math:`\eta` is recorded over the whole tree and over each leaf or label. For SGD it is the
    learning rate; for momentum, Adam or sign descent it says what they make of theirs.
    :math:`\eta_w` is recorded over each leaf or label. It is the rate that counts for weights
    of which only the direction matters, such as those before a normalization layer: their
    gradient shrinks like :math:`1 / \|w\|`, so that the direction :math:`w / \|w\|` moves as
    under gradient descent on the unit sphere with the rate :math:`\eta_w`. For other weights it
    means nothing.

    Put it last in a chain, so that :math:`u` is what is added to params; weight decay in the
    chain counts as part of the step. No gradient is computed; a record reads three trees once.
    A zero gradient gives an infinite rate, or NaN if the update is zero too.

    Args:
      every: number of updates from one record to the next. Static.
      param_labels: labels of leaves as for :func:`optax.partition`: a tree like params or a
        prefix of it, or a function of params that returns one. Leaves with the same label are
        measured together, as if they were one weight. ``None`` measures each leaf. Static.

    Returns:
      A transformation that leaves updates as they are, and whose state is an
      :class:`EffectiveLearningRateState`, NaN before the first record. Arrays are in the order
      of ``jax.tree.leaves(params)``, or of the sorted labels. It needs params and the extra
      ``grad``.

    Raises:
      ValueError: if ``every`` is no positive integer; in ``update``, if labels do not fit
        params.
      MissingExtraError: in ``update``, without ``grad``.

    Examples:
      >>> import gradax, jax.numpy as jnp, optax
      >>> w, g = jnp.array([3.0, 4.0]), jnp.array([4.0, -3.0])
      >>> monitor = gradax.optimizers.monitor_effective_learning_rate()
      >>> tx = optax.chain(optax.sgd(0.5), monitor)
      >>> updates, state = tx.update(g, tx.init(w), w, grad=g)
      >>> print(optax.tree.get(state, "effective_learning_rate"))
      0.5
      >>> print(optax.tree.get(state, "scale_invariant_learning_rates"))
      [0.02]

    References:
      van Laarhoven, `L2 Regularization versus Batch and Weight Normalization
      <https://arxiv.org/abs/1706.05350>`_, 2017.

      Hoffer et al., `Norm matters: efficient and accurate normalization schemes in deep
      networks <https://arxiv.org/abs/1803.01814>`_, 2018.
    """
    who = "monitor_effective_learning_rate"
    groups = LeafGroups(who, param_labels)

    def blank(params):
        nan = lambda: groups.nan(params)
        return {"effective_learning_rates": nan(), "scale_invariant_learning_rates": nan()}

    def measure(updates, state, params, *, grad=None, **extra_args):
        del state, extra_args
        params = _extras.require_params(who, params)
        grad = _extras.require(who, "grad", grad)
        u, g, w = (groups.squared_norms(tree) for tree in (updates, grad, params))
        rates = jnp.sqrt(u) / jnp.sqrt(g)
        return {
            "effective_learning_rate": jnp.sqrt(jnp.sum(u)) / jnp.sqrt(jnp.sum(g)),
            "effective_learning_rates": rates,
            "scale_invariant_learning_rates": rates / w,
        }

    return make_monitor(who, EffectiveLearningRateState, measure, blank, every=every)
