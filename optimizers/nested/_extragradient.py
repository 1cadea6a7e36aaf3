"""Extragradient: look one step ahead, then step from where one stood."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from gradax import _extras, catalogue

#: Maps parameters to the nearest ones that are allowed.
Projection = Callable[[optax.Params], optax.Params]


class ExtragradientState(NamedTuple):
    """State of :func:`extragradient`.

    Attributes:
      extrapolation: state of the transformation that looks ahead.
      update: state of the one that steps.
    """

    extrapolation: optax.OptState
    update: optax.OptState


@catalogue.register(
    "wrapper",
    catalogue.Paper(
        title="A Variational Inequality Perspective on Generative Adversarial Networks",
        authors="Gidel et al.",
        year=2018,
        arxiv="1802.10551",
    ),
    needs=("grad_fn",),
    example={"extrapolation": optax.sgd(5e-4)},
)
def extragradient(
    extrapolation: optax.GradientTransformation,
    update: optax.GradientTransformation | None = None,
    projection: Projection | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps with the operator's value at a point one step ahead.

    .. math::
        z_{t+1/2} = P(z_t - \gamma F(z_t)), \qquad z_{t+1} = P(z_t - \gamma F(z_{t+1/2})),

    with plain descent for both steps. For a monotone :math:`F` with Lipschitz constant :math:`L`
    it converges if :math:`\gamma < 1/L`, also on bilinear games, where simultaneous descent and
    ascent spirals outwards. The operator is the incoming gradient (and ``grad_fn``): for a min-max
    problem put :func:`minmax` around it, or supply :func:`minmax_operator`. Two gradients a step.

    Both steps are transformations, so participants that share :math:`z` average what they know in
    them: ``extragradient(optax.chain(federated.average("nodes"), optax.sgd(lr)))``. Members that
    draw need other keys in the two, and so both arguments.

    Args:
      extrapolation: makes the step ahead of :math:`F(z_t)`.
      update: makes the step of :math:`F(z_{t+1/2})`; by default ``extrapolation`` again, with a
        state of its own.
      projection: :math:`P`, a function of parameters, such as
        ``lambda z: optax.projections.projection_box(z, -1.0, 1.0)``.

    Returns:
      A transformation with the state :class:`ExtragradientState`; it needs params and the extra
      ``grad_fn``, on the batch that ``updates`` come from. Last in a chain if there is a
      ``projection``.

    Raises:
      MissingExtraError: in ``update``, without ``grad_fn``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import optimizers
      >>> field = lambda z: jnp.array([z[1], -z[0]])  # min x, max y of x * y
      >>> tx, z = optimizers.extragradient(optax.sgd(0.5)), jnp.array([1.0, 1.0])
      >>> state = tx.init(z)
      >>> for _ in range(100):
      ...     step, state = tx.update(field(z), state, z, grad_fn=field)
      ...     z = optax.apply_updates(z, step)
      >>> bool(jnp.linalg.norm(z) < 1e-3)
      True

    References:
      Korpelevich, The extragradient method for finding saddle points and other problems, 1976.

      Gidel et al., `A Variational Inequality Perspective on Generative Adversarial Networks
      <https://arxiv.org/abs/1802.10551>`_, 2018.
    """
    ahead = optax.with_extra_args_support(extrapolation)
    onward = ahead if update is None else optax.with_extra_args_support(update)

    def projected(params, step):
        """The step that leads to the projection of where ``step`` leads."""
        if projection is None:
            return step
        end = projection(optax.apply_updates(params, step))
        return jax.tree.map(lambda new, old: new - old, end, params)

    def init_fn(params):
        return ExtragradientState(ahead.init(params), onward.init(params))

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra):
        params = _extras.require_params("extragradient", params)
        grad_fn = _extras.require("extragradient", "grad_fn", grad_fn)
        extra = {**extra, "grad_fn": grad_fn}
        step, first = ahead.update(updates, state.extrapolation, params, **extra)
        there = grad_fn(optax.apply_updates(params, projected(params, step)))
        if "grad" in extra:
            extra["grad"] = there
        step, second = onward.update(there, state.update, params, **extra)
        return projected(params, step), ExtragradientState(first, second)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
