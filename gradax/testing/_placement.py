"""The same numbers, however and wherever the transformation is run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from gradax.testing._compare import close, expect, same_structure
from gradax.testing._registry import check
from gradax.testing._subject import BOWL, PARTICIPANTS, Subject

_STEPS = 2  # as many as a walk has


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
    close("an eager run", (params, state), subject.compiled.trajectory[1])


@check()
def scan_equals_loop(subject: Subject) -> None:
    """A scan over steps gives what a Python loop gives."""
    run, (params, state) = subject.run(), subject.compiled.trajectory[0]
    scale = jnp.array(subject.scale)
    body = lambda carry, _: (run.step(*carry, BOWL, scale), None)
    end, _ = jax.jit(lambda carry: jax.lax.scan(body, carry, length=_STEPS))((params, state))
    step = jax.jit(run.step)
    for _ in range(_STEPS):
        params, state = step(params, state, BOWL, scale)
    close("a scan", end, (params, state))


@check()
def vmap_equals_loop(subject: Subject) -> None:
    """A batch of runs under vmap gives what the runs give one after another."""
    run = subject.run()
    several, expected = _several_runs(subject, 2)
    many = jax.jit(jax.vmap(lambda params: run.walk(params, run.init(params))))
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
    """On a mesh with explicit axes the state keeps its sharding, traced and run."""
    count = min(8, jax.device_count())
    run = subject.run()
    types = lambda tree: [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)]
    update = lambda params, state: run.update(params, state, params, BOWL)[1]
    mesh = jax.make_mesh((count,), ("x",), (AxisType.Explicit,), devices=jax.devices()[:count])
    with jax.set_mesh(mesh):
        sharding = jax.NamedSharding(mesh, jax.P(None, "x"))
        params = {"w": jnp.ones((2, count, 3), out_sharding=sharding)}
        # Not eagerly: two collectives in flight can block each other on a host with few cores.
        state = jax.block_until_ready(jax.jit(run.init)(params))
        traced = jax.eval_shape(update, params, jax.eval_shape(run.init, params))
        updated = jax.block_until_ready(jax.jit(update)(params, state))
        for what, tree in (("A traced update", traced), ("A jitted update", updated)):
            same_structure(what, tree, state)
            expect(types(tree) == types(state), f"{what}: {types(state)} to {types(tree)}.")


def _several_runs(subject: Subject, count: int) -> tuple[Any, Any]:
    """Stacked starting points, and where single runs from them lead."""
    shifted = lambda k: jax.tree.map(lambda leaf: leaf + 0.1 * k, subject.params())
    starts = [shifted(k) for k in range(count)]
    init = subject.run().init
    ends = [subject.compiled.walk(start, init(start)) for start in starts]
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
        (starts, states), expected = subject.compiled.trajectory[:2]
    lane_step, scale = subject.run().lane_step, jnp.array(subject.scale)

    def many(params, state, lane):
        body = lambda _, carry: lane_step(*carry, BOWL, scale, lane)
        return jax.lax.fori_loop(0, _STEPS, body, (params, state))

    lanes = jnp.arange(count)
    close(what, place(many, count)(starts, states, lanes), expected)


def _row(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)
