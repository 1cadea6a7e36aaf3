"""Momentum steepest descent in any norm; Muon-Signum and Muon-Adam."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from gradax import _validate, catalogue

from . import norms
from ._layout import DimensionNumbers
from ._muon_dimension_numbers import muon_dimension_numbers
from ._orthogonalize import Orthogonalizer

PAPER = catalogue.Paper(
    title="The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural Networks",
    authors="Gronich and Vardi",
    year=2026,
    arxiv="2602.16340",
)

#: Why constant steps do not converge on a curved valley.
_STUCK = {"converges_rosenbrock": "steps of constant length end on the walls of the valley"}


def _matrices(dimension_numbers: DimensionNumbers | None, params: optax.Params) -> Any:
    """A prefix of params: how a leaf is a matrix, or ``None`` that it is none."""
    if dimension_numbers is None:
        return muon_dimension_numbers(params)
    return dimension_numbers(params) if callable(dimension_numbers) else dimension_numbers


def _map_matrices(function, specs):
    """Applies a function to specifications of matrices and to ``None``."""
    is_spec = lambda node: node is None or isinstance(node, MuonDimensionNumbers)
    return jax.tree.map(function, specs, is_leaf=is_spec)


def _spectral_or(other, orthogonalizer="svd", ns_steps=5, ns_dtype=None, dimension_numbers=None):
    """The spectral norm for matrices and another one for all other leaves."""
    make = lambda spec: norms.spectral_with(
        orthogonalizer, ns_steps=ns_steps, ns_dtype=ns_dtype, dimension_numbers=spec
    )
    make(None)  # says now what cannot work
    choose = lambda spec: other if spec is None else make(spec)
    return lambda params: _map_matrices(choose, _matrices(dimension_numbers, params))


@catalogue.register(
    "direction", PAPER, example={"norm": _spectral_or("rms"), "combine": "l2", "normalized": False}
)
def scale_by_steepest_descent(
    norm: norms.NormLike,
    combine: str = "max",
    normalized: bool = True,
    *,
    param_labels: Any = None,
) -> optax.GradientTransformation:
    r"""Turns gradients, or their momentum, into directions of steepest descent in a norm.

    .. math::
        d_t = \arg\max_{\|d\| \le 1} \langle m_t, d \rangle, \qquad
        u_t = d_t \quad \text{or} \quad u_t = \|m_t\|_* \, d_t

    with the dual norm :math:`\|\cdot\|_*` if not ``normalized``. The norm decides what moves:
    ``"global_l2"`` normalizes the gradient, ``"linf"`` takes its sign, ``"spectral"`` its polar
    factor.

    Args:
      norm: names or objects of :mod:`gradax.optimizers.norms`, one for all leaves or a tree that
        is a prefix of params, or a function from params to such a tree.
      combine: how norms of leaves become one, ``"max"``, ``"l2"``, ``"sum"`` or
        ``"global_l2"``: see :func:`gradax.optimizers.norms.product`.
      normalized: leave the dual norm out, so that all steps have the length of the learning
        rate. Static.
      param_labels: labels of leaves, a prefix of params or a function of params; ``norm`` then
        maps labels to norms.

    Returns:
      A transformation without a state; params are not read. Directions have the dtype of the
      gradients.

    Raises:
      ValueError: if a name is unknown; in ``init``, if the norm does not fit params.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> norm = {"w": "spectral", "b": "linf"}
      >>> g = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
      >>> for combine in ("max", "l2", "sum"):
      ...     tx = gradax.optimizers.scale_by_steepest_descent(norm, combine)
      ...     direction, _ = tx.update(g, tx.init(g))
      ...     print(combine, direction["b"].round(3) + 0.0, direction["w"].diagonal().round(3))
      max [ 1. -1.] [1. 1.]
      l2 [ 0.6 -0.6] [0.8 0.8]
      sum [0. 0.] [1. 1.]

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    whole = norms.product(norm, combine, param_labels=param_labels)
    direction = whole.lmo if normalized else whole.sharp

    def init_fn(params):
        jax.eval_shape(whole.norm, params)  # says now what does not fit
        return optax.EmptyState()

    def update_fn(updates, state, params=None):
        del params
        return direction(updates), state

    return optax.GradientTransformation(init_fn, update_fn)


@catalogue.register(
    "alias",
    PAPER,
    example={"learning_rate": 5e-3, "norm": "l2", "combine": "sum"},
)
def steepest_descent(
    learning_rate: optax.ScalarOrSchedule,
    norm: norms.NormLike,
    beta: jax.typing.ArrayLike = 0.9,
    *,
    combine: str = "max",
    normalized: bool = True,
    param_labels: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum steepest descent in any norm, ready to use.

    .. math::
        m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad w_{t+1} = w_t - \eta_t \, u_t

    with :math:`m_0 = 0` and :math:`u_t` of :func:`scale_by_steepest_descent`. Normalized
    gradient descent, Signum and Muon are the norms ``"global_l2"``, ``"linf"`` and
    ``"spectral"``.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count; the length of a step if
        ``normalized``, and then it has to fall to zero for the iterates to converge.
      norm: as in :func:`scale_by_steepest_descent`.
      beta: decay :math:`\beta` of the momentum, in ``[0, 1)``.
      combine: as in :func:`scale_by_steepest_descent`.
      normalized: as in :func:`scale_by_steepest_descent`. Static.
      param_labels: as in :func:`scale_by_steepest_descent`.

    Returns:
      The chained transformation; params are not read.

    Raises:
      ValueError: if an argument cannot work; in ``init``, if the norm does not fit params.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda p: jnp.sum((p["w"] - jnp.eye(2)) ** 2) + jnp.sum((p["b"] - 1) ** 2)
      >>> p = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
      >>> rate = optax.linear_schedule(0.1, 0.0, 100)
      >>> tx = gradax.optimizers.steepest_descent(rate, norm={"w": "spectral", "b": "linf"})
      >>> state = tx.init(p)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(p), state)
      ...     p = optax.apply_updates(p, updates)
      >>> bool(loss(p) < 1e-2)
      True

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    _validate.learning_rate("steepest_descent", learning_rate)
    _validate.interval("steepest_descent", "beta", beta, "[0, 1)")
    return optax.chain(
        optax.ema(beta, debias=False),
        scale_by_steepest_descent(norm, combine, normalized, param_labels=param_labels),
        optax.scale_by_learning_rate(learning_rate),
    )


@catalogue.register("alias", PAPER, example={"learning_rate": 1e-2}, exceptions=_STUCK)
def muon_signum(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.95,
    *,
    orthogonalizer: Orthogonalizer = "polar_express",
    ns_steps: int = 8,
    ns_dtype: jax.typing.DTypeLike | None = None,
    dimension_numbers: DimensionNumbers | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for matrices and Signum for all other leaves, with one learning rate.

    It is :func:`steepest_descent` in the norm
    :math:`\max\{\|W_k\|_{\text{spectral}}, \|b_j\|_\infty\}` over matrices :math:`W_k` and other
    leaves :math:`b_j`. There is no factor for the shape of a matrix.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      beta: decay of the momentum, in ``[0, 1)``.
      orthogonalizer: as in :func:`gradax.optimizers.norms.spectral_with`; only ``"svd"`` is
        exact.
      ns_steps: number of iterations. Static.
      ns_dtype: dtype of the iterations; ``None`` means float32 at least.
      dimension_numbers: which leaves are matrices and how, as in
        :func:`scale_by_orthogonalized_momentum`, with ``None`` for all others. By default what
        :func:`muon_dimension_numbers` says.

    Returns:
      The chained transformation; params are not read.

    Raises:
      ValueError: if an argument cannot work; in ``init``, if ``dimension_numbers`` does not fit
        params.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx = gradax.optimizers.muon_signum(0.1, orthogonalizer="svd")
      >>> g = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates["b"], updates["w"].diagonal())
      [-0.1  0.1] [-0.1 -0.1]

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    _validate.learning_rate("muon_signum", learning_rate)
    _validate.interval("muon_signum", "beta", beta, "[0, 1)")
    norm = _spectral_or("linf", orthogonalizer, ns_steps, ns_dtype, dimension_numbers)
    return steepest_descent(learning_rate, norm, beta)


@catalogue.register("alias", PAPER, example={"learning_rate": 1e-2})
def muon_adam(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    beta: jax.typing.ArrayLike = 0.95,
    *,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps: jax.typing.ArrayLike = 1e-20,
    orthogonalizer: Orthogonalizer = "polar_express",
    ns_steps: int = 8,
    ns_dtype: jax.typing.DTypeLike | None = None,
    dimension_numbers: DimensionNumbers | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for matrices and Adam without a stability constant for all other leaves.

    Adam's step has nearly the length of its learning rate in the maximum norm, so that with
    rates :math:`\eta_M` and :math:`\eta_A` the pair goes down steepest in

    .. math::
        \max\Big\{ \frac{\eta_A}{\eta_M} \max_k \|W_k\|_{\text{spectral}}, \;
        \max_j \|b_j\|_\infty \Big\},

    exactly so while gradients keep their signs and sizes. For daily use :func:`muon` has Nesterov
    momentum, factors for shapes and weight decay; this is the plain form of the theory.

    Args:
      learning_rate: :math:`\eta_M`, of the matrices, a number or a schedule of the count.
      adam_learning_rate: :math:`\eta_A`, of the other leaves; ``None`` means the same.
      beta: decay of the matrices' momentum, in ``[0, 1)``.
      adam_b1: decay of Adam's first moment, in ``[0, 1)``.
      adam_b2: decay of Adam's second moment, in ``[0, 1)``.
      adam_eps: added to the root of the second moment, only against division by zero; positive.
        In float16 it has to be 1e-7 at least.
      orthogonalizer: as in :func:`muon_signum`.
      ns_steps: number of iterations. Static.
      ns_dtype: as in :func:`muon_signum`.
      dimension_numbers: as in :func:`muon_signum`.

    Returns:
      The transformation; params are not read.

    Raises:
      ValueError: if an argument cannot work; in ``init``, if ``dimension_numbers`` does not fit
        params.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> tx = gradax.optimizers.muon_adam(0.1, 0.02, orthogonalizer="svd")
      >>> g = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
      >>> updates, state = tx.update(g, tx.init(g), g)
      >>> print(updates["b"].round(4), updates["w"].diagonal())
      [-0.02  0.02] [-0.1 -0.1]

    References:
      Gronich and Vardi, `The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural
      Networks <https://arxiv.org/abs/2602.16340>`_, 2026.
    """
    who = "muon_adam"
    if adam_learning_rate is None:
        adam_learning_rate = learning_rate
    _validate.learning_rate(who, learning_rate)
    _validate.learning_rate(who, adam_learning_rate, "adam_learning_rate")
    for name, decay in (("beta", beta), ("adam_b1", adam_b1), ("adam_b2", adam_b2)):
        _validate.interval(who, name, decay, "[0, 1)")
    _validate.interval(who, "adam_eps", adam_eps, "(0, inf)")
    norm = _spectral_or("linf", orthogonalizer, ns_steps, ns_dtype, dimension_numbers)
    label = lambda spec: "adam" if spec is None else "muon"
    return optax.partition(
        {
            "muon": steepest_descent(learning_rate, norm, beta),
            "adam": optax.adam(adam_learning_rate, b1=adam_b1, b2=adam_b2, eps=adam_eps),
        },
        lambda params: _map_matrices(label, _matrices(dimension_numbers, params)),
    )
