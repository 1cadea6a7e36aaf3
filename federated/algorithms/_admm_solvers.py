"""What a client of an ADMM algorithm solves in every round: exactly, or by descent."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _validate
from gradax._extras import require
from gradax.catalogue import Paper, register

RERCE = Paper(
    "Noise-Robust and Resource-Efficient ADMM-based Federated Learning",
    "Lari et al.",
    2024,
    "2409.13451",
)


class LocalSolver(NamedTuple):
    r"""What a client knows of its loss :math:`f_i`: the gradient, and a proximal problem.

    Attributes:
      gradient: ``gradient(x, **extras)`` returns :math:`\nabla f_i(x)`, like params.
      solve: ``solve(start, target, prox_weight, **extras)`` returns the root :math:`x` of
        :math:`\nabla f_i(x) + \rho x = \mathrm{target}`, like params; ``start`` is a guess.
    """

    gradient: Callable[..., Any]
    solve: Callable[..., Any]


@register("function", RERCE)
def gradient_solver(optimizer: optax.GradientTransformation, num_steps: int) -> LocalSolver:
    """Solves the proximal problem of any smooth loss by steps along its gradient.

    It uses the extra ``full_grad_fn``, the gradient on all of the client's examples. The
    problem is ``prox_weight``-strongly convex if the loss is convex; steps shorter than
    ``2 / (smoothness + prox_weight)`` bring plain descent nearer each time.

    Args:
      optimizer: what a step does, such as ``optax.sgd(0.1)``; started afresh each time.
      num_steps: steps of a round. Static.

    Returns:
      The solver.

    Raises:
      ValueError: if ``num_steps`` is smaller than 1.
      MissingExtraError: in a round of one's own, without ``full_grad_fn``.

    Examples:
      The root of ``x + 2 x = 6``:

      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> solver = federated.gradient_solver(optax.sgd(0.3), num_steps=50)
      >>> x = solver.solve(jnp.array(0.0), jnp.array(6.0), 2.0, full_grad_fn=lambda x: x)
      >>> round(float(x), 4)
      2.0

    References:
      Lari et al., `Noise-Robust and Resource-Efficient ADMM-based Federated Learning
      <https://arxiv.org/abs/2409.13451>`_, 2024.
    """
    _validate.integer("gradient_solver", "num_steps", num_steps, at_least=1)

    def gradient(x, *, full_grad_fn=None, **extras):
        del extras
        grads = require("gradient_solver", "full_grad_fn", full_grad_fn)(x)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, x)

    def solve(start, target, prox_weight, **extras):
        def step(carry, _):
            x, state = carry
            grads = jax.tree.map(
                lambda g, p, t: g + jnp.asarray(prox_weight, p.dtype) * p - t,
                gradient(x, **extras),
                x,
                target,
            )
            updates, state = optimizer.update(grads, state, x)
            return (optax.apply_updates(x, updates), state), None

        return lax.scan(step, (start, optimizer.init(start)), length=num_steps)[0][0]

    return LocalSolver(gradient, solve)


@register("function", RERCE)
def least_squares_solver(
    matrices: Sequence[np.ndarray],
    observations: Sequence[np.ndarray],
    weights: Sequence[Any] | float | None = None,
) -> LocalSolver:
    r"""Solves the proximal problem of weighted least squares exactly.

    Client :math:`i` has :math:`f_i(x) = \frac12 (y_i - H_i x)^\top W_i (y_i - H_i x)`. Its
    matrix :math:`H_i^\top W_i H_i` is diagonalized once, here and in float64; a solution then
    costs two products with a ``d x d`` matrix, for any ``prox_weight``.

    Args:
      matrices: :math:`H_i`, one ``[m_i, d]`` array per client.
      observations: :math:`y_i`, one ``[m_i]`` array per client.
      weights: :math:`W_i`, the inverse covariance of the noise: one number for all, or for
        each client a number, a diagonal ``[m_i]`` or a matrix ``[m_i, m_i]``; 1 if absent.

    Returns:
      The solver, for parameters of one leaf of shape ``[d]``. It uses the extra
      ``client_id`` and no data.

    Raises:
      ValueError: if lengths or shapes do not fit, or a weight is not positive.
      MissingExtraError: in a round of one's own, without ``client_id``.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> solver = federated.least_squares_solver([np.eye(2)], [np.array([3.0, 6.0])], 2.0)
      >>> zero = jnp.zeros(2)
      >>> solver.solve(zero, zero, 1.0, client_id=0).tolist()
      [2.0, 4.0]

    References:
      Lari et al., `Noise-Robust and Resource-Efficient ADMM-based Federated Learning
      <https://arxiv.org/abs/2409.13451>`_, 2024.
    """
    normal = _normal_equations(matrices, observations, weights)
    values, vectors = np.linalg.eigh(normal[0])
    tables = values, vectors, normal[1]

    def of_client(x, client_id):
        client_id = require("least_squares_solver", "client_id", client_id)
        leaves, treedef = jax.tree.flatten(x)
        if len(leaves) != 1 or leaves[0].shape != values.shape[1:]:
            raise ValueError(
                f"least_squares_solver: params must be one vector of {values.shape[1]}, got "
                f"{[leaf.shape for leaf in leaves]}."
            )
        pick = lambda table: jnp.asarray(table, leaves[0].dtype).at[client_id].get(mode="clip")
        return leaves[0], treedef, *map(pick, tables)

    times = lambda matrix, x: jnp.matmul(matrix, x, precision=lax.Precision.HIGHEST)

    def gradient(x, *, client_id=None, **extras):
        del extras
        leaf, treedef, values, vectors, linear = of_client(x, client_id)
        curved = times(vectors, values * times(vectors.T, leaf))
        return jax.tree.unflatten(treedef, [curved - linear])

    def solve(start, target, prox_weight, *, client_id=None, **extras):
        del start, extras
        leaf, treedef, values, vectors, linear = of_client(target, client_id)
        shifted = values + jnp.asarray(prox_weight, leaf.dtype)
        solution = times(vectors, times(vectors.T, linear + leaf) / shifted)
        return jax.tree.unflatten(treedef, [solution])

    return LocalSolver(gradient, solve)


def _normal_equations(matrices, observations, weights) -> tuple[np.ndarray, np.ndarray]:
    """``H' W H`` and ``H' W y`` of every client, ``[n, d, d]`` and ``[n, d]``, in float64."""
    who = "least_squares_solver"
    matrices = [np.asarray(matrix, np.float64) for matrix in matrices]
    observations = [np.asarray(row, np.float64) for row in observations]
    if weights is None or np.ndim(weights) == 0:
        weights = [1.0 if weights is None else weights] * len(matrices)
    if not matrices or {len(matrices)} != {len(observations), len(weights)}:
        raise ValueError(
            f"{who}: matrices, observations and weights must be given for the same clients, got "
            f"{len(matrices)}, {len(observations)} and {len(weights)}."
        )
    shapes = [matrix.shape for matrix in matrices]
    if any(len(shape) != 2 or shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError(f"{who}: matrices must have shapes [m_i, d], got {shapes}.")
    normal = []
    for number, (matrix, row) in enumerate(zip(matrices, observations, strict=True)):
        if row.shape != matrix.shape[:1]:
            raise ValueError(
                f"{who}: observations of client {number} must have shape {matrix.shape[:1]}, got "
                f"{row.shape}."
            )
        weighted = _weight_matrix(number, weights[number], len(row)) @ matrix
        normal.append((matrix.T @ weighted, weighted.T @ row))
    return tuple(map(np.stack, zip(*normal, strict=True)))  # type: ignore[return-value]


def _weight_matrix(number: int, weight: Any, size: int) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    matrix = np.diag(np.broadcast_to(weight, (size,))) if weight.ndim < 2 else weight
    fits = matrix.shape == (size, size) and np.allclose(matrix, matrix.T)
    if not fits or np.linalg.eigvalsh(matrix).min() <= 0:
        raise ValueError(
            f"least_squares_solver: weights of client {number} must be positive: a number, "
            f"[{size}] or a symmetric [{size}, {size}], got {weight}."
        )
    return matrix
