"""What a check is run on: a transformation, what it needs, and ready-made ways to run it."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue
from gradax.testing._extras import SUPPLIERS, At

#: Participants under a named axis.
PARTICIPANTS = 4

#: Loss weights (curvature, slope): see :func:`bowl`.
BOWL = (1.0, 0.0)

_RATES = (-1e-1, -1e-2, -1e-3, -5e-4)

Loss = Callable[[Any, Any, jax.Array], jax.Array]
Around = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def bowl(params: Any, weights: Any, offset: jax.Array) -> jax.Array:
    """Curvature times a paraboloid plus slope times a linear function, summed over leaves.

    It depends on the leaves' shapes only, so it is defined on masked trees too. Slope alone
    gives a gradient of a chosen size; a curvature of NaN gives one of NaN. The offset moves
    the minimum.
    """
    total = jnp.zeros([], jnp.float32)
    for leaf in jax.tree.leaves(params):
        curvature, slope = (jnp.asarray(weight, leaf.dtype) for weight in weights)
        ramp = jnp.linspace(-1.0, 1.0, leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
        away = leaf - ramp - jnp.asarray(offset, leaf.dtype)
        linear = jnp.real((2 + ramp) * leaf)
        total += jnp.sum(0.5 * jnp.real(curvature * away * jnp.conj(away) + slope * linear))
    return total


class Run(NamedTuple):
    """Functions that run a transformation on a loss, over all participants if there is an axis.

    Attributes:
      init: ``(params) -> state``.
      update: ``(grads, state, params, weights) -> (updates, state)``.
      step: ``(params, state, weights, scale) -> (params, state)``.
      walk: ``(params, state, weights=BOWL, times=2) -> (params, state)``, steps at the subject's
        scale. XLA compiles a small loop several times faster than straight code.
      lane_step: ``step`` of one participant, ``(params, state, weights, scale, lane)``.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    step: Callable[..., Any]
    walk: Callable[..., Any]
    lane_step: Callable[..., Any]


@dataclasses.dataclass(eq=False)
class Subject:
    """A transformation under test.

    Attributes:
      factory: builds it, without arguments.
      needs: extras it cannot work without; ``"axis"`` for a named axis.
      kind: what it is, as in the catalogue; says how an update becomes a step.
      axis_name: name of the axis of participants, used if it needs one.
      suppliers: extra -> function of :class:`At`, beyond :data:`SUPPLIERS`.
      entry: its entry in the catalogue, if it has one.
    """

    factory: Callable[[], optax.GradientTransformation]
    needs: tuple[str, ...] = ()
    kind: str = "alias"
    axis_name: str = "clients"
    suppliers: Mapping[str, Callable[[At], Any]] = dataclasses.field(default_factory=dict)
    entry: catalogue.Entry | None = None

    def __post_init__(self) -> None:
        if self.kind not in catalogue.TRANSFORMATION_KINDS:
            allowed = ", ".join(sorted(catalogue.TRANSFORMATION_KINDS))
            raise ValueError(f"testing: kind must be one of {allowed}, got {self.kind!r}.")
        if not isinstance(self.axis_name, str):
            raise ValueError(f"testing: axis_name must be one name, got {self.axis_name!r}.")
        self.suppliers = {**SUPPLIERS, **self.suppliers}
        unknown = set(self.needs) - {"axis", *self.suppliers}
        if unknown:
            raise ValueError(
                f"testing: nobody supplies {sorted(unknown)}; pass extras={{name: function of "
                f"gradax.testing.At}} or choose among {sorted(self.suppliers)}."
            )

    @classmethod
    def of(cls, entry: catalogue.Entry) -> "Subject":
        """Makes the subject of a catalogue entry, built with its example arguments."""
        axis_name = entry.example.get("axis_name") or _default(entry, "axis_name") or "clients"
        return cls(entry.make, entry.needs, entry.kind, axis_name, entry=entry)

    @property
    def has_axis(self) -> bool:
        """Whether it runs under a named axis."""
        return "axis" in self.needs or self.kind == "aggregate"

    @property
    def is_original(self) -> bool:
        """Whether it stands in the catalogue and is not another library's."""
        return self.entry is not None and self.entry.reexport_of is None

    @property
    def signature(self) -> Mapping[str, inspect.Parameter]:
        """The constructor's arguments; none if it does not stand in the catalogue."""
        return inspect.signature(self.entry.factory).parameters if self.entry else {}

    @property
    def example(self) -> Mapping[str, Any]:
        """Constructor arguments with which it is built."""
        return self.entry.example if self.entry else {}

    @property
    def room(self) -> str | None:
        """The room of the catalogue it lives in."""
        return self.entry.room if self.entry else None

    def remake(self, **changed: Any) -> optax.GradientTransformation:
        """Builds it with other constructor arguments."""
        if self.entry is None:
            raise ValueError("testing: only entries of the catalogue can be built differently.")
        return self.entry.make(**changed)

    @property
    def learning_rates(self) -> tuple[str, ...]:
        """Names of the factory's arguments that are learning rates."""
        return tuple(name for name in self.signature if name.endswith("learning_rate"))

    @property
    def scales_gradients(self) -> bool:
        """Whether it is the last stage of a chain whose earlier stages set the step size.

        Gossip takes the update of the stage before, a server the displacement of a round.
        """
        return self.kind == "final" and "learning_rate" not in self.signature

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors of gradients or updates that may make steps downhill; one has to work."""
        if self.scales_gradients:
            return (1.0, *_RATES, *(-rate for rate in _RATES))
        if self.kind in ("alias", "final"):
            return (1.0,)
        return (1.0, *_RATES) if self.kind == "wrapper" else _RATES

    @property
    def scale(self) -> float:
        """The factor that the short runs use."""
        return 1.0 if self.kind in ("alias", "final") else _RATES[1]

    def make(self) -> optax.GradientTransformation:
        """Builds the transformation."""
        tx = self.factory()
        if not isinstance(tx, optax.GradientTransformation):
            raise TypeError(f"testing: the factory must return a transformation, got {tx!r}.")
        return tx

    def lift(self, tree: Any, spread: float = 0.05) -> Any:
        """Gives each participant its own parameters, a spread apart, if there is an axis."""
        if not self.has_axis:
            return tree
        shift = lambda leaf: jnp.stack(
            [leaf + jnp.asarray(spread * lane, leaf.dtype) for lane in range(PARTICIPANTS)]
        )
        return jax.tree.map(shift, tree)

    def params(self) -> Any:
        """Fresh parameters of the short runs: a vector and a matrix, away from the minimum.

        They are this small because XLA compiles loops over less than a kilobyte much faster.
        """
        leaf = lambda *shape: jnp.linspace(0.3, 2.1, math.prod(shape)).reshape(shape)
        return self.lift({"b": leaf(2), "w": leaf(2, 3)})

    def extras(self, at: At, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Makes the extras it needs."""
        wanted = [name for name in self.needs if name not in ("axis", *without)]
        return {name: self.suppliers[name](at) for name in wanted}

    def run(
        self,
        loss: Loss = bowl,
        around: Around = lambda tx: tx,
        *,
        make: Callable[[], optax.GradientTransformation] | None = None,
        more: Callable[[At], dict[str, Any]] = lambda at: {},
        without: tuple[str, ...] = (),
    ) -> Run:
        """Prepares the functions of a run.

        Args:
          loss: ``(params of one participant, weights, offset) -> scalar``; offsets differ a
            little between participants and add up to zero.
          around: composition put around the transformation, such as ``optax.masked``.
          make: builds another transformation in place of the subject's.
          more: further extras to pass.
          without: extras to leave out; ``"params"`` leaves out the parameters.

        Returns:
          The functions, not jitted.
        """
        tx = optax.with_extra_args_support(around((make or self.make)()))

        def update(grads, state, params, weights, lane, descent=1.0):
            at = At(lambda p: loss(p, weights, self._offset(lane)), params, grads, lane)
            extras = self.extras(at, without) | more(at)
            given = None if "params" in without else params
            return tx.update(_scaled(grads, descent), state, given, **extras)

        def step(params, state, weights, scale, lane):
            grads = jax.grad(loss)(params, weights, self._offset(lane))
            before, after = (scale, 1.0) if self.scales_gradients else (1.0, scale)
            updates, state = update(grads, state, params, weights, lane, before)
            return optax.apply_updates(params, _scaled(updates, after)), state

        lifted = self._over_participants
        over_all = lifted(step, 2)

        def walk(params, state, weights=BOWL, times=2):
            body = lambda _, carry: over_all(*carry, weights, jnp.array(self.scale))
            return jax.lax.fori_loop(0, times, body, (params, state))

        return Run(
            init=lifted(lambda params, lane: tx.init(params), 1),
            update=lifted(update, 3),
            step=over_all,
            walk=walk,
            lane_step=step,
        )

    def _offset(self, lane):
        return 0.005 * (lane - (PARTICIPANTS - 1) / 2) if self.has_axis else jnp.zeros([])

    def _over_participants(self, function, mapped):
        """Maps the first arguments over the axis; the lane's number comes last."""

        def lifted(*args):
            if not self.has_axis:
                return function(*args, jnp.zeros([], jnp.int32))
            axes = tuple(0 if k < mapped else None for k in range(len(args)))
            lanes = jnp.arange(PARTICIPANTS)
            return jax.vmap(function, (*axes, 0), axis_name=self.axis_name)(*args, lanes)

        return lifted

    @functools.cached_property
    def compiled(self) -> "Compiled":
        """The jitted short run and where it leads; made once for all checks."""
        return Compiled(self)


class Compiled:
    """The jitted walk on :meth:`Subject.params`.

    Attributes:
      trajectory: params and state at the start, after two steps and after four.
    """

    def __init__(self, subject: Subject):
        run, params = subject.run(), subject.params()
        self._walk = jax.jit(run.walk)
        self.trajectory = [(params, run.init(params))]
        for _ in range(2):
            self.trajectory.append(self.walk(*self.trajectory[-1]))

    def walk(self, params: Any, state: Any, weights: Any = BOWL) -> Any:
        """Two steps; other weights or another state of the same types compile nothing."""
        return self._walk(params, state, jnp.array(weights))


def _scaled(tree, factor):
    if isinstance(factor, float) and factor == 1.0:
        return tree
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), tree)


def _default(entry, argument):
    parameter = inspect.signature(entry.factory).parameters.get(argument)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
