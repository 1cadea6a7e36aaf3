"""Local training as a gradient transformation, and the members that stand inside it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradax import _validate
from gradax._extras import require, require_params
from gradax.catalogue import Paper, register

from ._participants import fold_keys

_FEDAVG = Paper(
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "McMahan et al.",
    2016,
    "1602.05629",
)


class LocalStepsState(NamedTuple):
    """State of :func:`local_steps` with ``reset=False``.

    Attributes:
      inner: state of the inner transformation, kept from round to round.
    """

    inner: optax.OptState


class LocalResult(NamedTuple):
    """What :func:`local_steps` emits when it is asked for more than the displacement.

    Attributes:
      displacement: like params, :math:`y_K - x`.
      fields: name -> field of the inner state at the end of the round.
    """

    displacement: optax.Updates
    fields: dict[str, Any]


@register(
    "wrapper",
    _FEDAVG,
    needs=("batches", "grad_fn"),
    example={"tx": optax.sgd(1e-3)},
)
def local_steps(
    tx: optax.GradientTransformation | Callable[[jax.Array], optax.GradientTransformation],
    *,
    emit: tuple[str, ...] = (),
    reset: bool = True,
    unroll: int | bool = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains locally for a round: scans a transformation over batches, emits the displacement.

    From :math:`y_0 = x`, for the batches :math:`b_0, \dots, b_{K-1}`,

    .. math::
        y_{k+1} = y_k + \mathrm{tx}\bigl(\nabla f(y_k; b_k)\bigr), \qquad
        \Delta = y_K - x.

    The incoming updates are ignored. The inner transformation receives the extras of the round
    and ``anchor`` (:math:`x`), ``local_step`` (:math:`k`), ``grad``, ``value``, ``grad_fn``,
    ``value_fn`` and ``per_example_grad_fn`` on the batch of the step.

    Args:
      tx: what a local step does, or a function of the round that returns it (for a learning
        rate of the round: ``local_steps(lambda round: optax.sgd(schedule(round)))``).
      emit: names of fields of the inner state, as the round ends, to emit beside the
        displacement.
      reset: start the inner state afresh each round, with random keys of this round and
        client; otherwise it is kept, one for each client.
      unroll: of the scan over steps. (Convolutions are slow in loops on CPU, and rounds are
        a loop too: see :func:`gradax.conv_general_dilated`.)

    Returns:
      A transformation that needs the extras ``batches`` (leading axis: local steps) and
      ``grad_fn(params, batch=...)``, and takes ``num_steps`` (``int32[]``, steps this client
      really makes; the others change nothing), ``value_fn``, ``per_example_grad_fn``, ``key``
      and ``round``. It emits the displacement, or a :class:`LocalResult` if ``emit`` is not empty.

    Raises:
      ValueError: if ``batches`` holds no step, or ``emit`` names no field of the inner state.
      MissingExtraError: without ``batches`` or ``grad_fn``.

    Examples:
      Two steps of gradient descent on :math:`(x - b)^2 / 2`:

      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx, x = federated.local_steps(optax.sgd(0.5)), jnp.array(1.0)
      >>> grad_fn = lambda x, batch: x - batch
      >>> delta, _ = tx.update(x, tx.init(x), x, grad_fn=grad_fn, batches=jnp.zeros(2))
      >>> float(delta)
      -0.75

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized
      Data <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    of_round = (lambda round: tx) if isinstance(tx, optax.GradientTransformation) else tx

    def init_fn(params):
        return optax.EmptyState() if reset else LocalStepsState(_inner(0).init(params))

    def _inner(round):
        return optax.with_extra_args_support(of_round(round))

    def update_fn(
        updates, state, params=None, *, batches=None, grad_fn=None, value_fn=None, **extras
    ):
        del updates
        params = require_params("local_steps", params)
        batches = require("local_steps", "batches", batches)
        grad_fn = require("local_steps", "grad_fn", grad_fn)
        inner = _inner(extras.get("round", 0))
        inner_state = _fresh(inner, params, extras) if reset else state.inner
        step = _make_step(inner, params, grad_fn, value_fn, extras)
        steps = (jnp.arange(_num_steps(batches)), batches)
        (local, inner_state), _ = lax.scan(step, (params, inner_state), steps, unroll=unroll)
        displacement = jax.tree.map(jnp.subtract, local, params)
        state = state if reset else LocalStepsState(inner_state)
        if not emit:
            return displacement, state
        return LocalResult(displacement, _fields(inner_state, emit)), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _fields(inner_state, names) -> dict[str, Any]:
    fields = {name: optax.tree_utils.tree_get(inner_state, name) for name in names}
    missing = [name for name, value in fields.items() if value is None]
    if missing:
        raise ValueError(f"local_steps: emit names fields that no inner state has: {missing}.")
    return fields


def _num_steps(batches) -> int:
    leaves = jax.tree.leaves(batches)
    count = leaves[0].shape[0] if leaves and leaves[0].ndim else 0
    if count == 0:
        raise ValueError("local_steps: batches must hold at least one local step, got none.")
    return count


def _fresh(inner, params, extras):
    """Inner state for one round, with keys that differ between rounds and clients."""
    key, round = extras.get("key"), extras.get("round")
    own = None if key is None else jax.random.bits(key)
    return fold_keys(inner.init(params), own, common=round)


def _make_step(inner, anchor, grad_fn, value_fn, extras):
    num_steps = extras.pop("num_steps", None)

    def step(carry, numbered_batch):
        (params, state), (number, batch) = carry, numbered_batch
        here = {**extras, "anchor": anchor, "local_step": number}
        here["grad_fn"] = lambda params, *_: grad_fn(params, batch=batch)
        here["grad"] = here["grad_fn"](params)
        if value_fn is not None:
            here["value_fn"] = lambda params, *_: value_fn(params, batch=batch)
            here["value"] = here["value_fn"](params)
        if (examples := extras.get("per_example_grad_fn")) is not None:
            here["per_example_grad_fn"] = lambda params, *_: examples(params, batch=batch)
        updates, new_state = inner.update(here["grad"], state, params, **here)
        new = optax.apply_updates(params, updates), new_state
        if num_steps is not None:
            new = jax.tree.map(lambda a, b: jnp.where(number < num_steps, a, b), new, carry)
        return new, None

    return step


@register(
    "direction",
    Paper(
        "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
        "Karimireddy et al.",
        2019,
        "1910.06378",
    ),
    needs=("correction",),
)
def add_correction() -> optax.GradientTransformationExtraArgs:
    """Adds the extra ``correction`` (in gradient units) to the updates.

    A wrapper of :func:`local_steps` passes the correction in; this member says where in the
    local chain it acts.

    Returns:
      A stateless transformation.

    Raises:
      MissingExtraError: if ``update`` receives no ``correction``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.add_correction()
      >>> updates, _ = tx.update(jnp.array(1.0), tx.init(None), correction=jnp.array(2.0))
      >>> float(updates)
      3.0

    References:
      Karimireddy et al., `SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
      <https://arxiv.org/abs/1910.06378>`_, 2019.
    """

    def update_fn(updates, state, params=None, *, correction=None, **extras):
        del params, extras
        correction = require("add_correction", "correction", correction)
        return jax.tree.map(lambda u, c: u + c.astype(u.dtype), updates, correction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


@register(
    "direction",
    Paper("Federated Optimization in Heterogeneous Networks", "Li et al.", 2018, "1812.06127"),
    needs=("anchor",),
    example={"prox_weight": 0.1},
)
def add_proximal(prox_weight: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a proximal term, :math:`\mu (y - x)`, to the updates.

    Here :math:`y` are the parameters and :math:`x` the extra ``anchor``, which
    :func:`local_steps` supplies. Stand it behind a clipping of the data gradient, so that the
    pull towards the anchor is not clipped.

    Args:
      prox_weight: :math:`\mu \ge 0`.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: if ``prox_weight`` is a negative number, or without params.
      MissingExtraError: if ``update`` receives no ``anchor``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, y = federated.add_proximal(0.5), jnp.array(3.0)
      >>> updates, _ = tx.update(jnp.array(1.0), tx.init(y), y, anchor=jnp.array(1.0))
      >>> float(updates)
      2.0

    References:
      Li et al., `Federated Optimization in Heterogeneous Networks
      <https://arxiv.org/abs/1812.06127>`_, 2018.
    """
    _validate.interval("add_proximal", "prox_weight", prox_weight, "[0, inf)")

    def pull(update, param, start):
        return update + jnp.asarray(prox_weight, update.dtype) * (param - start)

    def update_fn(updates, state, params=None, *, anchor=None, **extras):
        del extras
        params = require_params("add_proximal", params)
        anchor = require("add_proximal", "anchor", anchor)
        return jax.tree.map(pull, updates, params, anchor), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
