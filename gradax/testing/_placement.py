"""The same numbers, however and wherever the transformation is run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from gradax.testing._compare import close, expect, same_structure
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, PARTICIPANTS, Subject

_STEPS = 2


@check()
def init_jit_equals_eager(subject: Subject) -> None:
    """Init gives the same state inside and outside of jit."""
    params, state = subject.compiled.trajectory[0]
    close("the state of a jitted init", jax.jit(subject.run().init)(params), state)


@check()
def update_jit_equals_eager(subject: Subject) -> None:
    """Update gives the same parameters and state inside and outside of jit."""
    run, (params, state) = subject.run(), subject.compiled.trajectory[0]
    for _ in range(_STEPS):
        params, state = run.step(params, state, BOWL, jnp.array(subject.scale))
    close("an eager run", (params, state), subject.compiled.trajectory[_STEPS])


@check()
def scan_equals_loop(subject: Subject) -> None:
    """A scan over steps gives what a Python loop gives."""
    run, trajectory = subject.run(), subject.compiled.trajectory

    def body(carry, _):
        return run.step(*carry, BOWL, jnp.array(subject.scale)), None

    scan = jax.jit(lambda carry: jax.lax.scan(body, carry, length=len(trajectory) - 1)[0])
    close("a scan", scan(trajectory[0]), trajectory[-1])


@check()
def vmap_equals_loop(subject: Subject) -> None:
    """A batch of runs under vmap gives what the runs give one after another."""
    run = subject.run()
    several, expected = _several_runs(subject, 2)
    step = lambda params, state: run.step(params, state, BOWL, jnp.array(subject.scale))
    many = jax.jit(jax.vmap(lambda params: _repeat(step, params, run.init(params))))
    close("vmap", many(several), expected)


@check()
def pmap_equals_single(subject: Subject) -> None:
    """Pmap over devices gives the same, a participant per device if there is an axis."""

    def place(many, count):
        name = subject.axis_name if subject.has_axis else None
        return jax.pmap(many, name, devices=jax.devices()[:count])

    _compare_on_devices("pmap", subject, place)


@check()
def shard_map_equals_single(subject: Subject) -> None:
    """shard_map over devices gives the same, a participant per device if there is an axis."""

    def place(many, count):
        mesh = jax.make_mesh(
            (count,), (subject.axis_name,), (AxisType.Auto,), devices=jax.devices()[:count]
        )
        spec = jax.P(subject.axis_name)

        def block(*args):
            outcome = many(*jax.tree.map(lambda leaf: leaf[0], args))
            return jax.tree.map(lambda leaf: leaf[None], outcome)

        return jax.jit(
            jax.shard_map(block, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )

    _compare_on_devices("shard_map", subject, place)


@check(applies=lambda subject: not subject.has_axis)
def sharding_types(subject: Subject) -> None:
    """On a mesh with explicit axes the state keeps its sharding, eager and jitted."""
    count = min(8, jax.device_count())
    devices = jax.devices()[:count]
    run = subject.run()
    types = lambda tree: [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)]
    update = lambda params, state: run.update(params, state, params, BOWL)[1]
    mesh = jax.make_mesh((count,), ("x",), (AxisType.Explicit,), devices=devices)
    with jax.set_mesh(mesh):
        sharding = jax.NamedSharding(mesh, jax.P(None, "x"))
        params = {"w": jnp.ones((2, count, 3), out_sharding=sharding)}
        state = run.init(params)
        updated = update(params, state)
        same_structure("the state", updated, state)
        expect(types(updated) == types(state), f"{types(state)} becomes {types(updated)}.")
        for name, eager, jitted in (
            ("init", state, jax.jit(run.init)(params)),
            ("update", updated, jax.jit(update)(params, state)),
        ):
            expect(
                types(eager) == types(jitted),
                f"{name} gives {types(eager)} eagerly and {types(jitted)} jitted.",
            )


def _repeat(step, params, state):
    for _ in range(_STEPS):
        params, state = step(params, state)
    return params, state


def _several_runs(subject: Subject, count: int) -> tuple[Any, Any]:
    """Stacked starting points, and where single runs from them lead."""
    shifted = lambda k: jax.tree.map(lambda leaf: leaf + 0.1 * k, subject.params())
    starts = [shifted(k) for k in range(count)]
    init = subject.run().init
    ends = [_repeat(subject.compiled.step, start, init(start)) for start in starts]
    return stack(starts), stack(ends)


def stack(trees: list[Any]) -> Any:
    """Stacks the leaves of several trees."""
    return jax.tree.map(lambda *rows: jnp.stack(rows), *trees)


def _compare_on_devices(what: str, subject: Subject, place: Callable[..., Any]) -> None:
    count = min(PARTICIPANTS, jax.device_count())
    if not subject.has_axis:
        starts, expected = _several_runs(subject, count)
        states = stack([subject.run().init(_row(starts, k)) for k in range(count)])
    elif count < PARTICIPANTS:
        # Participants cannot be spread; vmap, which every other check uses, is all there is.
        return
    else:
        (starts, states), expected = (subject.compiled.trajectory[k] for k in (0, _STEPS))
    lane_step, scale = subject.run().lane_step, jnp.array(subject.scale)

    def many(params, state, lane):
        return _repeat(lambda p, s: lane_step(p, s, BOWL, scale, lane), params, state)

    lanes = jnp.arange(count)
    close(what, place(many, count)(starts, states, lanes), expected)


def _row(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)
