"""Muon against optax.contrib.muon, and against the fastest matrix product at hand."""

import functools

import _measure
import _trees
import jax
import jax.numpy as jnp
import optax

import gradax

STEPS, ORDER = 5, 2048

METHOD = f"""\
Twelve transformer blocks, {_trees.WIDTH} wide: 48 matrices and 96 vectors, float32. *Direction* is
momentum and Newton-Schulz orthogonalization ({STEPS} iterations) of the matrices alone; *step* is
the whole optimizer, with Adam on the vectors and donated buffers. The matrix product is
{ORDER} x {ORDER} in float32, run in the same turns. *Share* is the rate of a contestant over the
product's rate, counting the multiplications of the iteration as published and nothing else: time
for momentum, norms and transposes lowers it, an iteration that needs fewer of them raises it.

One thread, CPU time of the process."""


def main() -> None:
    """Measures direction, step and matrix product in turns."""
    arguments = _measure.arguments(__doc__, rounds=7)
    _measure.one_thread()
    blocks = _trees.transformer_blocks()
    matrices = {name: shape for name, shape in blocks.items() if len(shape) == 2}
    muon, peer = gradax.optimizers.muon(0.02), optax.contrib.muon(0.02)
    runs = {
        "gradax direction": direction(
            gradax.optimizers.scale_by_orthogonalized_momentum(ns_steps=STEPS), matrices
        ),
        "optax direction": direction(
            optax.contrib.scale_by_muon(
                ns_steps=STEPS,
                weight_dimension_numbers=dict.fromkeys(
                    matrices, optax.contrib.MuonDimensionNumbers()
                ),
            ),
            matrices,
        ),
        "gradax step": step(muon, blocks),
        "optax step": step(peer, blocks),
        "matrix product": product(),
    }
    times = _measure.take_turns(runs, arguments.rounds)

    flops = sum(iteration_flops(*shape) for shape in matrices.values()) * STEPS
    peak = [2 * ORDER**3 / seconds for seconds in times["matrix product"]]
    rows, share = [], {}
    for name in tuple(runs)[:4]:
        share[name] = [
            flops / seconds / best for seconds, best in zip(times[name], peak, strict=True)
        ]
        kind = name.partition(" ")[2]
        ratio = _measure.ratios(times[name], times[f"optax {kind}"])
        milliseconds = [1e3 * seconds for seconds in times[name]]
        cells = [_measure.spread(values) for values in (milliseconds, ratio, share[name])]
        rows.append([name, *cells])
    product_ms = _measure.spread([1e3 * seconds for seconds in times["matrix product"]])
    rate = _measure.spread([value / 1e9 for value in peak])
    rows.append([f"matrix product, {rate} GFLOP/s", product_ms, "", "1"])

    report = _measure.Report(
        name="muon",
        title="Muon",
        method=[METHOD],
        command=f"python benchmarks/muon.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
        samples={"flops": flops, "seconds": times},
    )
    columns = ("", "ms", "ratio to optax.contrib", "share")
    report.table(f"{flops / 1e9:.1f} GFLOP in {len(matrices)} matrices", columns, rows)
    for kind in ("direction", "step"):
        ratio = _measure.ratios(times[f"gradax {kind}"], times[f"optax {kind}"])
        report.goals.append(_measure.Goal.at_most(f"{kind}: ratio", ratio, 0.5))
    report.goals.append(
        _measure.Goal.at_least(
            "direction: share, multiplications as published", share["gradax direction"], 0.75
        )
    )
    report.save()


def iteration_flops(rows: int, columns: int) -> int:
    """Counts one iteration: the Gram matrix, its square, and the product with the matrix."""
    small, large = sorted((rows, columns))
    return 2 * (small * small * large + small**3 + small * small * large)


def direction(tx: optax.GradientTransformation, shapes: dict):
    """Prepares `tx.update` with a donated state."""

    update = jax.jit(tx.update, donate_argnums=1)
    params = _trees.normal(shapes, seed=0, scale=0.02)
    grads = _trees.normal(shapes, seed=1, scale=1e-3)
    place = [jax.jit(tx.init)(params)]

    def run():
        updates, place[0] = update(grads, place[0], params)
        jax.block_until_ready(updates)

    return run


def step(tx: optax.GradientTransformation, shapes: dict):
    """Prepares a whole step with donated parameters and state."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _trees.normal(shapes, seed=0, scale=0.02)
    grads = _trees.normal(shapes, seed=1, scale=1e-3)
    place = [params, jax.jit(tx.init)(params)]

    def run():
        place[:] = update(*place, grads)
        jax.block_until_ready(place)

    return run


def product():
    """Prepares one product of two square matrices, written into the same memory every time."""
    left, right, result = jax.random.normal(jax.random.key(0), (3, ORDER, ORDER), jnp.float32)
    multiply = lambda result, left, right: left @ right
    into = jax.jit(multiply, donate_argnums=0, keep_unused=True)
    place = [result]

    def run():
        place[0] = into(place[0], left, right).block_until_ready()

    return run


if __name__ == "__main__":
    main()
