"""The client's side of consensus ADMM, in three forms."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradax import _validate
from gradax._extras import require, require_params
from gradax.catalogue import register

from ._admm_solvers import RERCE, LocalSolver, gradient_solver

Rule = Literal["eliminated", "continual", "dual"]


class LastHeard(NamedTuple):
    """What a client of the continual form remembers of the link.

    Attributes:
      vector: like params, what the server sent last, as it arrived; zero before.
      round: ``int32[]``, when.
    """

    vector: optax.Params
    round: jax.Array


class AdmmState(NamedTuple):
    r"""State of :func:`admm_local`.

    Attributes:
      model: like params, this client's own model :math:`x_i`.
      started: ``bool[]``, whether :attr:`model` has been computed.
      memory: the dual variable :math:`\pi_i`, like params, with ``rule="dual"``; a
        :class:`LastHeard` with ``"continual"``; otherwise ``()``.
      link: state of the downlink.
    """

    model: optax.Params
    started: jax.Array
    memory: Any
    link: optax.OptState


@register(
    "final",
    RERCE,
    needs=("full_grad_fn", "round"),
    example={"prox_weight": 1e-3, "solver": gradient_solver(optax.sgd(0.1), 20)},
    exceptions={
        "converges_rosenbrock": "the solver of the example is plain descent with a large step, "
        "which diverges along a curved valley"
    },
)
def admm_local(
    prox_weight: jax.typing.ArrayLike,
    solver: LocalSolver,
    rule: Rule = "eliminated",
    *,
    downlink: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A client of consensus ADMM: keeps a model of its own and pulls it towards the server's.

    The first model is :math:`x_i = \arg\min f_i(x) + \frac\rho2 \lVert x \rVert^2`, sent as it
    is in round 0. Later a client that takes part hears :math:`s` and renews its model,

    .. math::
        \nabla f_i(x_i^+) + \rho x_i^+ = \nabla f_i(x_i) + \rho s
        \qquad \text{(``"eliminated"``: the dual variable has dropped out),}

    or with its dual variable (``"dual"``, :math:`\pi_i = 0` at first),

    .. math::
        \pi_i \leftarrow \pi_i + \rho (x_i - s), \qquad
        \nabla f_i(x_i^+) + \rho x_i^+ = \rho s - \pi_i.

    ``"continual"`` is ``"eliminated"`` for clients that go on while they are not scheduled:
    each round they repeat the step with what they heard last. Nobody hears of it before they
    take part again, so the steps are made up for then. They send :math:`2 x_i^+ - x_i`.

    It stands in the place of :func:`local_steps` and emits the displacement from what the
    server sent, as local steps do: the server adds that to what it sent, and has the model.
    On a real link the client would send the model itself.

    Args:
      prox_weight: :math:`\rho > 0`.
      solver: of the client's proximal problem, such as :func:`gradient_solver` or
        :func:`least_squares_solver`.
      rule: which form, as above.
      downlink: what happens to the server's vector on its way, for instance noise; a
        transformation that receives the vector as updates.

    Returns:
      A transformation with an :class:`AdmmState` that needs the extra ``round`` and those of
      the solver. The incoming updates are ignored.

    Raises:
      ValueError: if ``prox_weight`` is not positive or ``rule`` is unknown.
      TypeError: if ``solver`` is no :class:`LocalSolver`.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> solver = federated.least_squares_solver([np.eye(1)], [np.array([4.0])])
      >>> tx, s = federated.admm_local(1.0, solver), jnp.zeros(1)
      >>> delta, state = tx.update(s, tx.init(s), s, round=0, client_id=0)
      >>> delta.tolist()  # half of the way to 4
      [2.0]
      >>> s = jnp.array([3.0])
      >>> _, state = tx.update(s, state, s, round=1, client_id=0)
      >>> state.model.tolist()
      [2.5]

    References:
      Lari et al., `Noise-Robust and Resource-Efficient ADMM-based Federated Learning
      <https://arxiv.org/abs/2409.13451>`_, 2024.
    """
    _validate.interval("admm_local", "prox_weight", prox_weight, "(0, inf)")
    _validate.one_of("admm_local", "rule", rule, get_args(Rule))
    if not isinstance(solver, LocalSolver):
        raise TypeError(f"admm_local: solver must be a LocalSolver, got {solver!r}.")
    link = optax.with_extra_args_support(optax.identity() if downlink is None else downlink)
    renew = {"eliminated": _eliminated, "continual": _continual, "dual": _dual}[rule]

    def init_fn(params):
        zeros = optax.tree.zeros_like
        memory: Any = ()
        if rule == "dual":
            memory = zeros(params)
        elif rule == "continual":
            memory = LastHeard(zeros(params), jnp.zeros([], jnp.int32))
        return AdmmState(zeros(params), jnp.array(False), memory, link.init(params))

    def update_fn(updates, state, params=None, **extras):
        del updates
        params = require_params("admm_local", params)
        round = jnp.asarray(require("admm_local", "round", extras.get("round")), jnp.int32)
        problem = _Problem(solver, prox_weight, extras)
        model = lax.cond(state.started, lambda: state.model, lambda: problem.first(params))
        heard, link_state = link.update(params, state.link, params, **extras)
        later = lambda: renew(problem, model, state.memory, heard, round)
        message, model, memory = lax.cond(
            round > 0, later, lambda: (_first_message(rule, model), model, state.memory)
        )
        displacement = jax.tree.map(jnp.subtract, message, params)
        return displacement, AdmmState(model, jnp.array(True), memory, link_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Problem(NamedTuple):
    """One client's problem in one round."""

    solver: LocalSolver
    prox_weight: Any
    extras: dict[str, Any]

    def first(self, params):
        zeros = optax.tree.zeros_like(params)
        return self.solve(zeros, zeros)

    def solve(self, start, target):
        return self.solver.solve(start, target, self.prox_weight, **self.extras)

    def pulled(self, towards, tree):
        """The tree plus ``prox_weight`` times the vector."""
        add = lambda s, t: t + jnp.asarray(self.prox_weight, t.dtype) * s
        return jax.tree.map(add, towards, tree)

    def step(self, model, heard):
        gradient = self.solver.gradient(model, **self.extras)
        return self.solve(model, self.pulled(heard, gradient))


def _first_message(rule, model):
    return _extrapolated(model, optax.tree.zeros_like(model)) if rule == "continual" else model


def _extrapolated(new, old):
    return jax.tree.map(lambda n, o: 2 * n - o, new, old)


def _eliminated(problem, model, memory, heard, round):
    del round
    new = problem.step(model, heard)
    return new, new, memory


def _continual(problem, model, memory, heard, round):
    missed = round - 1 - memory.round
    again = lambda _, model: problem.step(model, memory.vector)
    model = lax.fori_loop(0, missed, again, model)
    new = problem.step(model, heard)
    return _extrapolated(new, model), new, LastHeard(heard, round)


def _dual(problem, model, memory, heard, round):
    del round
    dual = problem.pulled(jax.tree.map(jnp.subtract, model, heard), memory)
    new = problem.solve(model, problem.pulled(heard, jax.tree.map(jnp.negative, dual)))
    return new, new, dual
