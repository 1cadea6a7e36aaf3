"""Block coordinate descent: one block a step, chosen for the progress that it promises."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys, _validate, catalogue

from ._choose_block import DRAWS, Blocks, Method, Prox, Rule, Update, check_method
from ._coordinate_blocks import AnewBlocks, FixedBlocks
from ._leaf_blocks import LeafBlocks

PAPER = catalogue.Paper(
    title="Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, "
    "Message-Passing, Active-Set Complexity, and Superlinear Convergence",
    authors="Nutini et al.",
    year=2017,
    arxiv="1712.08859",
)


class BlockState(NamedTuple):
    """State of :func:`scale_by_block`.

    Attributes:
      count: ``int32[]``, number of updates made.
      key: of random numbers, ``None`` if the rule draws none.
      last_block: number of the block that was updated last, ``int32[]``, or its coordinates,
        ``int32[block_size]``, where blocks are made anew; -1 before the first.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: jax.Array | None
    last_block: jax.Array


@catalogue.register("direction", PAPER, example={"rule": "gs", "smoothness": 2.0})
def scale_by_block(
    rule: Rule,
    update: Update = "lipschitz",
    blocks: Sequence[Sequence[int]] | None = None,
    *,
    block_size: int | None = None,
    param_labels: Any = None,
    smoothness: Any = None,
    diagonal: Any = None,
    hessian: jax.typing.ArrayLike | None = None,
    prox: Prox | None = None,
    key: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the gradient of one block, divided by its curvature; the rest becomes zero.

    With the gradient :math:`g_b` of a block, bounds :math:`L_b \ge \lambda_{\max}(H_{bb})` and
    :math:`\operatorname{diag}(D_b) \succeq H_{bb}` and the matrix :math:`H_b`, the greedy rules
    choose the block with the largest

    .. math::
        \|g_b\|^2 \ (\text{gs}), \qquad \frac{\|g_b\|^2}{L_b} \ (\text{gsl}), \qquad
        \sum_{i \in b} \frac{g_i^2}{D_i} \ (\text{gsd}), \qquad
        g_b^\top H_b^{-1} g_b \ (\text{gsq}),

    the first of equals; ``random`` and ``cyclic`` look at no gradient, and ``lipschitz`` draws a
    block with probability proportional to :math:`L_b`. The direction on that block is

    .. math::
        \frac{g_b}{L_b} \ (\text{lipschitz}), \qquad \frac{g_b}{D_b} \ (\text{diagonal}), \qquad
        H_b^{-1} g_b \ (\text{matrix}), \qquad
        \alpha \, [\nabla^2 f(w)]_{bb}^{-1} g_b \ (\text{newton}),

    with :math:`\alpha \le 1` halved until the loss falls by a ten-thousandth of what the slope
    promises (Newton's direction is replaced by the gradient where it does not lead downhill). On
    a quadratic, ``gsq`` with ``matrix`` is the steepest of all single-block steps.

    Blocks come in three forms:

    - leaves, or groups of them by ``param_labels``: for networks. Rules that take matrices are
      left out. Nothing is joined; two passes over the gradient.
    - ``blocks``: a partition of the coordinates of the ravelled tree (the order of
      :func:`jax.flatten_util.ravel_pytree`). Short blocks are padded.
    - ``block_size``: the best coordinates of each step, whichever they are. The rules are
      ``random``, ``cyclic``, ``gs`` (the largest gradients) and ``gsd``.

    The last two copy the leaves into one vector, in the widest of their dtypes.

    The greedy rules need the whole gradient, so that a step costs as much as one of gradient
    descent; the gain is in progress per step.

    Args:
      rule: one of ``"random"``, ``"cyclic"``, ``"lipschitz"``, ``"gs"``, ``"gsl"``, ``"gsd"``,
        ``"gsq"``. Static.
      update: one of ``"lipschitz"``, ``"diagonal"``, ``"matrix"``, ``"newton"``. Static.
      blocks: indices of each block. Static.
      block_size: number of coordinates in blocks that are chosen anew. Static.
      param_labels: a label for each leaf, a prefix tree or a function of params; leaves with one
        label are one block. Static.
      smoothness: :math:`L_b`: one number, an array ``[blocks]``; for leaves a prefix tree, or a
        dictionary of labels. From ``hessian`` if left out. Static.
      diagonal: :math:`D`: one number, an array ``[coordinates]``; for leaves a prefix tree whose
        members broadcast to the leaves. Valid are the row sums of :math:`|H_{bb}|`, and the block
        size times the curvatures of the coordinates. Static.
      hessian: :math:`H`, ``[coordinates, coordinates]``, or its blocks,
        ``[blocks, size, size]``; where it changes, leave it out and pass the extra. Static.
      prox: elementwise proximal map ``prox(x, step)`` of a term that is added to the loss, for
        the updates ``lipschitz`` and ``diagonal``. The gradient mapping
        :math:`L (w - \operatorname{prox}(w - g / L, 1 / L))` then stands for the gradient, also
        in the rules. Static.
      key: a JAX key or an integer, for the rules that draw.

    Returns:
      A transformation whose state is a :class:`BlockState`. It emits a direction: the learning
      rate is 1. Without ``hessian``, ``gsq``, ``matrix`` and ``newton`` need params and the extra
      ``block_hessian_fn(params, indices) -> [size, size]``; if only ``grad_fn`` is there, it
      takes a Hessian-vector product for each coordinate of the block. Short blocks ask for the
      last coordinate too, and do not use it. ``newton`` needs
      ``value_fn`` (and uses ``value``), ``prox`` needs params.

    Raises:
      ValueError: if arguments are unknown, missing, not positive, or do not fit one another; in
        ``init``, if they do not fit params, or coordinates are complex.
      MissingExtraError: in ``update``, without an extra that is needed.

    Examples:
      >>> import gradax, jax.numpy as jnp, numpy as np
      >>> hessian = jnp.array([[4.0, 1, 0, 0], [1, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0.25]])
      >>> w, blocks = jnp.ones(4), [[0, 1], [2, 3]]
      >>> for update in ("lipschitz", "matrix"):
      ...     tx = gradax.optimizers.scale_by_block("gsq", update, blocks, hessian=hessian)
      ...     direction, state = tx.update(hessian @ w, tx.init(w), w)
      ...     print(np.asarray(direction, float).round(3), state.last_block)
      [1.083 0.866 0.    0.   ] 0
      [1. 1. 0. 0.] 0

    References:
      Nutini et al., `Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules,
      Message-Passing, Active-Set Complexity, and Superlinear Convergence
      <https://arxiv.org/abs/1712.08859>`_, 2017.
    """
    method = Method("scale_by_block", rule, update, smoothness, diagonal, hessian, prox)
    form = _form(method, blocks, block_size, param_labels)
    if rule in DRAWS:
        _keys.as_key(method.who, key)

    def init_fn(params):
        return BlockState(
            count=jnp.zeros([], jnp.int32),
            key=_keys.as_key(method.who, key) if rule in DRAWS else None,
            last_block=form.begin(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        rest, own = (None, None) if state.key is None else jax.random.split(state.key)
        direction, block = form.step(updates, params, state.last_block, own, extra_args)
        return direction, BlockState(optax.safe_increment(state.count), rest, block)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register("alias", PAPER, example={"rule": "gs", "smoothness": 1e3})
def block_coordinate_descent(
    rule: Rule,
    update: Update = "lipschitz",
    blocks: Sequence[Sequence[int]] | None = None,
    *,
    block_size: int | None = None,
    param_labels: Any = None,
    smoothness: Any = None,
    diagonal: Any = None,
    hessian: jax.typing.ArrayLike | None = None,
    prox: Prox | None = None,
    key: jax.typing.ArrayLike | None = None,
    learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Block coordinate descent, ready to use: the direction of :func:`scale_by_block`, reversed.

    With valid curvature bounds the learning rate is 1, and the loss never rises. It belongs at
    the head of a chain: rules, bounds and the line search are about the gradient of the loss.

    Args:
      rule: as in :func:`scale_by_block`. Static.
      update: as in :func:`scale_by_block`. Static.
      blocks: as in :func:`scale_by_block`. Static.
      block_size: as in :func:`scale_by_block`. Static.
      param_labels: as in :func:`scale_by_block`. Static.
      smoothness: as in :func:`scale_by_block`. Static.
      diagonal: as in :func:`scale_by_block`. Static.
      hessian: as in :func:`scale_by_block`. Static.
      prox: as in :func:`scale_by_block`; leave the learning rate at 1 then. Static.
      key: as in :func:`scale_by_block`.
      learning_rate: factor on the step, a number or a schedule of the count.

    Returns:
      The chained transformation.

    Raises:
      ValueError: as in :func:`scale_by_block`, or if ``learning_rate`` is negative.

    Examples:
      Newton's method on the two coordinates with the largest gradients; :func:`gradax.make_step`
      supplies what it needs.

      >>> import gradax, jax.numpy as jnp
      >>> loss_fn = lambda w, batch: jnp.sum(jnp.cosh(batch @ w - 1.0))
      >>> tx = gradax.optimizers.block_coordinate_descent("gs", "newton", block_size=2)
      >>> w, batch = jnp.zeros(3), jnp.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, 3.0]])
      >>> step, state = gradax.make_step(loss_fn, tx), tx.init(w)
      >>> for _ in range(20):
      ...     w, state, metrics = step(w, state, batch)
      >>> print(metrics["loss"].round(4))
      3.0

    References:
      Nutini et al., `Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules,
      Message-Passing, Active-Set Complexity, and Superlinear Convergence
      <https://arxiv.org/abs/1712.08859>`_, 2017.
    """
    _validate.learning_rate("block_coordinate_descent", learning_rate)
    return optax.chain(
        scale_by_block(
            rule,
            update,
            blocks,
            block_size=block_size,
            param_labels=param_labels,
            smoothness=smoothness,
            diagonal=diagonal,
            hessian=hessian,
            prox=prox,
            key=key,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _form(method: Method, blocks: Any, block_size: Any, param_labels: Any) -> Blocks:
    given = {"blocks": blocks, "block_size": block_size, "param_labels": param_labels}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{method.who}: {names[1]} must be None beside {names[0]}.")
    check_method(method)
    if blocks is not None:
        return FixedBlocks(method, blocks)
    if block_size is not None:
        return AnewBlocks(method, block_size)
    return LeafBlocks(method, param_labels)
