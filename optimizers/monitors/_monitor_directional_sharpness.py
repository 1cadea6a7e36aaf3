"""monitor_directional_sharpness: curvature of the loss along the steps an optimizer takes."""

from typing import NamedTuple

import jax
import optax

from gradax import _extras, _validate, catalogue

from ._directional_sharpness import PAPER, directional_sharpness
from ._make_monitor import make_monitor, norm


class DirectionalSharpnessState(NamedTuple):
    r"""State of :func:`monitor_directional_sharpness`.

    Attributes:
      count: ``int32[]``, number of updates seen.
      directional_sharpness: scalar, :math:`u^\top H u / \|u\|^2`, or :math:`u^\top H u` if it is
        not normalized.
      slope: scalar, :math:`\langle g, u \rangle`.
      predicted_change: scalar, :math:`\langle g, u \rangle + \tfrac12 u^\top H u`.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    directional_sharpness: jax.Array
    slope: jax.Array
    predicted_change: jax.Array


@catalogue.register("diagnostic", PAPER, needs=("grad_fn",))
def monitor_directional_sharpness(
    normalized: bool = True, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    r"""Records the curvature of the loss along the update, and the change it predicts.

    For the update :math:`u` that arrives, with gradient :math:`g` and Hessian :math:`H` on the
    batch,

    .. math::
        f(w + u) - f(w) \approx \langle g, u \rangle + \tfrac12 u^\top H u .

    Put it last in a chain, so that :math:`u` is what is added to params. The normalized value
    :math:`u^\top H u / \|u\|^2` lies between the extreme eigenvalues of :math:`H`, and does not
    depend on the length of the step. A record calls ``grad_fn`` once, differentiated along
    :math:`u` (:func:`directional_sharpness`): the time of two to four gradients.

    Args:
      normalized: divide by :math:`\|u\|^2`. Static.
      every: number of updates from one record to the next. Static.

    Returns:
      A transformation that leaves updates as they are, and whose state is a
      :class:`DirectionalSharpnessState`, NaN before the first record. It needs params and the
      extra ``grad_fn``.

    Raises:
      ValueError: if ``normalized`` is no boolean or ``every`` no positive integer.
      MissingExtraError: in ``update``, without ``grad_fn``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * w**2)
      >>> grad_fn, w = jax.grad(loss), jnp.array([1.0, 1.0])
      >>> monitor = gradax.optimizers.monitor_directional_sharpness()
      >>> tx = optax.chain(optax.sign_sgd(0.5), monitor)
      >>> updates, state = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
      >>> print(optax.tree.get(state, "directional_sharpness"))
      5.5
      >>> print(optax.tree.get(state, "predicted_change"), loss(w + updates) - loss(w))
      -4.125 -4.125

    References:
      Pan and Li, `Toward Understanding Why Adam Converges Faster Than SGD for Transformers
      <https://arxiv.org/abs/2306.00204>`_, 2023.
    """
    who = "monitor_directional_sharpness"
    _validate.one_of(who, "normalized", normalized, (True, False))

    def measure(updates, state, params, *, grad_fn=None, **extra_args):
        del state, extra_args
        params = _extras.require_params(who, params)
        grad_fn = _extras.require(who, "grad_fn", grad_fn)
        sharpness, correlation = directional_sharpness(grad_fn, params, updates)
        length = norm(updates)
        slope, curvature = correlation * length, sharpness * length**2
        return {
            "directional_sharpness": sharpness if normalized else curvature,
            "slope": slope,
            "predicted_change": slope + curvature / 2,
        }

    return make_monitor(who, DirectionalSharpnessState, measure, every=every)
