"""The contract of extra arguments: what a transformation may ask ``update`` for.

optax passes keyword arguments through ``chain`` to every member. A member that cannot work
without one calls :func:`require`, whose error names the argument and says how to pass it.
:func:`gradax.make_step` reads the same error to learn what a transformation wants.
"""

from typing import Any, TypeVar

T = TypeVar("T")

#: One line on each extra: what it is. Errors quote it.
MEANING: dict[str, str] = {
    "value": "the loss at params, a scalar",
    "grad": "the raw gradient at params, a tree like params",
    "value_fn": "a function of params that returns the loss on the same batch",
    "grad_fn": "a function of params that returns the gradient on the same batch",
    "per_example_values": "the losses of the single examples, shape [examples]",
    "per_example_grads": "gradients like params with a leading example axis",
    "per_example_value_fn": "a function of params that returns the losses of single examples",
    "per_example_grad_fn": "a function of params that returns the gradients of single examples",
    "full_per_example_grad_fn": "a function of params that returns the gradients of all of the "
    "participant's examples",
    "half_grads": "gradients of the two halves of the batch, a pair of trees like params, "
    "or a function of params that returns it",
    "task": "the number of the task that the gradient belongs to, an integer scalar",
    "margins": "the margins y f(x) of the examples, an array",
    "block_hessian_fn": "a function of params and indices of the ravelled tree that returns the "
    "Hessian's block",
    "anchor": "the parameters at the start of the round, a tree like params",
    "weight": "this participant's weight, a scalar such as its number of examples",
    "active": "whether this participant takes part in the round, a boolean scalar",
    "batches": "what grad_fn(params, batch=...) takes, with a leading axis of local steps",
    "correction": "a term in gradient units that local steps add, a tree like params",
    "full_grad_fn": "a function of params that returns the gradient on all of the participant's "
    "examples",
    "broadcast": "what the server publishes beside the parameters, a tree like params",
    "versions": "models of the past that the server publishes, like params with a leading axis",
    "version": "the number of the round whose model this participant worked from",
    "round": "the number of the round, the same for all, an integer scalar",
    "key": "this participant's random key of the round",
    "client_id": "this participant's number among all, an integer scalar",
    "num_clients": "how many participants there are, present or not",
    "num_active": "how many participants take part in the round",
    "time": "the time of the event, a scalar",
    "kind": "the kind of the event, an integer scalar that is the same for all",
}


class MissingExtraError(ValueError):
    """Raised when a transformation is updated without an extra argument that it needs.

    Attributes:
      extra: the name of the missing argument.
    """

    def __init__(self, who: str, extra: str):
        meaning = MEANING.get(extra, "see the documentation of the transformation")
        super().__init__(
            f"{who} needs {extra}= ({meaning}); call "
            f"tx.update(grads, state, params, {extra}=...), or let gradax.make_step or "
            "gradax.federated.simulate supply it."
        )
        self.extra = extra


def require(who: str, extra: str, value: T | None) -> T:
    """Returns ``value``, or raises :class:`MissingExtraError` if it is ``None``.

    Args:
      who: public name of the transformation that asks.
      extra: name of the keyword argument.
      value: what ``update`` received.

    Returns:
      ``value``, unchanged.

    Raises:
      MissingExtraError: if ``value`` is ``None``.
    """
    if value is None:
        raise MissingExtraError(who, extra)
    return value


def require_params(who: str, params: Any) -> Any:
    """Returns ``params``, or raises a ``ValueError`` that says who needs them.

    Args:
      who: public name of the transformation that asks.
      params: what ``update`` received.

    Returns:
      ``params``, unchanged.

    Raises:
      ValueError: if ``params`` is ``None``.
    """
    if params is None:
        raise ValueError(f"{who} needs params; call tx.update(grads, state, params).")
    return params
