"""Models of the past: the server keeps the last ones, clients begin with the one they had."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require, require_params
from gradax.catalogue import register

from ._schedule import ASYNC


class KeepVersionsState(NamedTuple):
    """State of :func:`keep_versions`.

    Attributes:
      versions: like params with a leading axis of ``num_versions``; the parameters before round
        ``n`` stand at ``n % num_versions``.
      inner: state of the inner transformation.
    """

    versions: optax.Params
    inner: optax.OptState


@register(
    "wrapper", ASYNC, needs=("round",), example={"server": optax.adam(0.1), "num_versions": 3}
)
def keep_versions(
    server: optax.GradientTransformation, num_versions: int
) -> optax.GradientTransformationExtraArgs:
    """Keeps the last models, so that clients can begin with one that is not the newest.

    Its algorithm must list ``"versions"`` in ``publishes``; a client reads one of them, and
    only that one counts as sent. It must be the outermost member of the server: what changes
    the update after it would not be in the models that it keeps.

    Args:
      server: the server's chain.
      num_versions: how many models to keep, one more than the largest age of a contribution.

    Returns:
      A transformation with a :class:`KeepVersionsState`; reads the extra ``round``. Its memory
      is ``num_versions`` models, whatever the number of clients.

    Raises:
      ValueError: if ``num_versions`` is no positive integer, or without params.
      MissingExtraError: if ``update`` receives no ``round``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> server, x = federated.keep_versions(optax.sgd(1.0), num_versions=3), jnp.array(5.0)
      >>> state = server.init(x)
      >>> for round in range(4):
      ...     updates, state = server.update(jnp.array(1.0), state, x, round=round)
      ...     x = optax.apply_updates(x, updates)
      >>> state.versions.tolist()  # models 3, 4, 2
      [2.0, 1.0, 3.0]

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    _validate.integer("keep_versions", "num_versions", num_versions, at_least=1)
    server = optax.with_extra_args_support(server)

    def repeat(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            leaf = jnp.zeros_like(leaf)
        return jnp.repeat(jnp.asarray(leaf)[None], num_versions, axis=0)

    def init_fn(params):
        return KeepVersionsState(jax.tree.map(repeat, params), server.init(params))

    def update_fn(updates, state, params=None, *, round=None, **extras):
        params = require_params("keep_versions", params)
        round = require("keep_versions", "round", round)
        updates, inner = server.update(updates, state.inner, params, round=round, **extras)
        place = (round + 1) % num_versions
        put = lambda ring, x: ring.at[place].set(x.astype(ring.dtype))
        versions = jax.tree.map(put, state.versions, optax.apply_updates(params, updates))
        return updates, KeepVersionsState(versions, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@register("function", ASYNC, needs=("versions", "version", "round"))
def from_version(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Lets a client's chain begin with the model that the client had received.

    The displacement that ``inner`` emits is taken from that model, and is added to today's by
    the server: models are never mixed.

    Args:
      inner: the client's chain, such as :func:`local_steps`.

    Returns:
      A transformation with the state of ``inner``. It needs the extras ``versions`` (of
      :func:`keep_versions`), ``version`` (number of the model, from a cohort such as
      :func:`async_cohort`) and ``round``. A model that is no longer kept, or not there yet,
      makes everything NaN rather than pass for another.

    Raises:
      ValueError: without params.
      MissingExtraError: without ``versions``, ``version`` or ``round``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx, x = federated.from_version(federated.local_steps(optax.sgd(0.5))), jnp.array(0.0)
      >>> versions = jnp.array([4.0, 8.0])  # models 2 and 1
      >>> grad_fn = lambda x, batch=None: x
      >>> displacement, _ = tx.update(
      ...     x, tx.init(x), x, versions=versions, version=1, round=2, grad_fn=grad_fn,
      ...     batches=jnp.zeros(1),
      ... )
      >>> float(displacement)
      -4.0

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    inner = optax.with_extra_args_support(inner)

    def update_fn(
        updates, state, params=None, *, versions=None, version=None, round=None, **extras
    ):
        require_params("from_version", params)
        versions = require("from_version", "versions", versions)
        version = require("from_version", "version", version)
        round = require("from_version", "round", round)
        start = jax.tree.map(lambda ring: _read(ring, version, round), versions)
        return inner.update(updates, state, start, round=round, **extras)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _read(ring: jax.Array, version: Any, round: Any) -> jax.Array:
    num_versions, age = ring.shape[0], round - version
    kept = (version >= 0) & (age >= 0) & (age < num_versions)
    model = ring[version % num_versions]
    if not jnp.issubdtype(ring.dtype, jnp.inexact):
        return model
    return jnp.where(kept, model, jnp.nan)
