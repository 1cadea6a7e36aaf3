"""What all forms of block coordinate descent share: arguments, their checks, the choice."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate

#: How the next block is chosen.
Rule = Literal["random", "cyclic", "lipschitz", "gs", "gsl", "gsd", "gsq"]

#: What is done with the gradient of the chosen block.
Update = Literal["lipschitz", "diagonal", "matrix", "newton"]

#: Elementwise proximal map of an array, with steps that broadcast to it.
Prox = Callable[[jax.Array, jax.Array], jax.Array]

#: Rules that draw numbers.
DRAWS = ("random", "lipschitz")

#: Arguments of which one is needed.
NEEDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("rule", "lipschitz"): ("smoothness", "hessian"),
    ("rule", "gsl"): ("smoothness", "hessian"),
    ("rule", "gsd"): ("diagonal",),
    ("update", "lipschitz"): ("smoothness", "hessian"),
    ("update", "diagonal"): ("diagonal",),
}


class Method(NamedTuple):
    """A rule, an update and the curvature that they use.

    Attributes:
      who: public name, for messages.
      rule: how the next block is chosen.
      update: what is done with its gradient.
      smoothness: bounds on the blocks' largest eigenvalues.
      diagonal: bounds on the blocks' Hessians by diagonal matrices.
      hessian: the Hessian, or a bound on the blocks of it.
      prox: proximal map of a separable term.
    """

    who: str
    rule: Rule
    update: Update
    smoothness: Any
    diagonal: Any
    hessian: Any
    prox: Prox | None


class Blocks(Protocol):
    """A form of blocks: leaves, a partition of the coordinates, or coordinates chosen anew."""

    def begin(self, params: optax.Params) -> jax.Array:
        """Checks that blocks and params fit; makes the first ``last_block``."""
        ...

    def step(
        self,
        updates: optax.Updates,
        params: optax.Params | None,
        last_block: jax.Array,
        key: jax.Array | None,
        extras: dict[str, Any],
    ) -> tuple[optax.Updates, jax.Array]:
        """Makes the direction, and the block that it moves."""
        ...


def check_method(method: Method) -> None:
    """Raises unless rule and update are known and have their curvature.

    Args:
      method: what the user asks for.

    Raises:
      ValueError: if something is unknown, missing, or does not go with the rest.
    """
    who = method.who
    _validate.one_of(who, "rule", method.rule, get_args(Rule))
    _validate.one_of(who, "update", method.update, get_args(Update))
    for argument, value in (("rule", method.rule), ("update", method.update)):
        wanted = NEEDS.get((argument, value), ())
        if wanted and all(getattr(method, name) is None for name in wanted):
            raise ValueError(f"{who}: {argument}={value!r} needs {' or '.join(wanted)}, got None.")
    for name in ("smoothness", "diagonal"):
        for leaf in jax.tree.leaves(getattr(method, name)):
            check_positive(who, name, leaf)
    if method.prox is not None and method.update not in ("lipschitz", "diagonal"):
        raise ValueError(
            f"{who}: prox must be None with update={method.update!r}: no proximal map in the norm "
            "of a matrix is known."
        )


def check_positive(who: str, name: str, value: Any) -> None:
    """Raises unless all numbers of an array are positive and finite.

    Args:
      who: public name of the factory.
      name: name of the argument.
      value: array or number.

    Raises:
      ValueError: if one is not; the message shows it.
    """
    numbers = np.asarray(value, np.float64)
    wrong = numbers[~((numbers > 0) & np.isfinite(numbers))]
    if wrong.size:
        raise ValueError(f"{who}: {name} must be positive and finite, got {wrong.flat[0]}.")


def choose_block(
    rule: Rule,
    num_blocks: int,
    last_block: jax.Array,
    key: Any,
    smoothness: Any,
    scores: Callable[[], jax.Array],
) -> jax.Array:
    """Chooses among fixed blocks.

    Args:
      rule: how.
      num_blocks: among how many.
      last_block: ``int32[]``, the block of the step before.
      key: of random numbers, where the rule draws some.
      smoothness: ``[num_blocks]``, where the rule needs it.
      scores: makes an array ``[num_blocks]``; called by the greedy rules only.

    Returns:
      The number of a block, ``int32[]``; among equal scores the lowest.
    """
    if rule == "cyclic":
        return (last_block + 1) % num_blocks
    if rule == "random":
        return jax.random.randint(key, (), 0, num_blocks, jnp.int32)
    if rule == "lipschitz":
        return jax.random.categorical(key, jnp.log(smoothness)).astype(jnp.int32)
    return jnp.argmax(scores()).astype(jnp.int32)


def gradient_mapping(prox: Prox, g: jax.Array, x: jax.Array, bound: jax.Array) -> jax.Array:
    r"""What takes the gradient's place where the objective has a separable term.

    .. math:: G = s^{-1} \left(x - \operatorname{prox}_{s h}(x - s g)\right), \qquad s = 1 / L

    so that the proximal step is :math:`x - s G`; zero just at the minima.

    Args:
      prox: proximal map of :math:`h`.
      g: the gradient.
      x: the point.
      bound: curvature :math:`L` that sets the step, broadcasts to ``g``.

    Returns:
      An array like ``g``.
    """
    return (x - prox(x - g / bound, 1 / bound)) * bound
