"""Drop-Muon against Muon: the optimizer's step, and training steps with and without full backward.

Uniform cutoffs are not drawn but taken in turn, so that every turn has their average cost.
"""

import functools

import _measure
import _trees
import jax
import jax.numpy as jnp
import optax

from gradax import optimizers

GROUPS, BATCH = 4, 2048

METHOD = f"""\
Uniform cutoffs over {GROUPS} layers, each a quarter of a network: a turn of Drop-Muon makes
{GROUPS} steps, one with each cutoff, and counts their mean; {(GROUPS + 1) / 2 / GROUPS} of the
matrices are trained on average. *Optimizer* is the step alone, for twelve transformer blocks
{_trees.WIDTH} wide, with donated buffers. *Training* is forward, backward and step of a residual
perceptron of {_trees.LAYERS} matrices {_trees.WIDTH} wide on a batch of {BATCH}. *Cut backward* is
`value_and_grad_from_cutoff`.

One thread, CPU time of the process. Equal steps do not mean equal progress: what a step with fewer
layers is worth is measured in the reproductions."""


def in_turn(count: jax.Array) -> jax.Array:
    """A law of the cutoff that leaves no choice."""
    return jax.nn.one_hot(count % GROUPS, GROUPS)


def main() -> None:
    """Measures all contestants in turns."""
    arguments = _measure.arguments(__doc__, rounds=5)
    _measure.one_thread()
    muon = optimizers.muon(0.02, nesterov=False)
    drop = optimizers.drop_muon(0.02, _group_of_block, in_turn)
    runs = {
        "Muon, optimizer": (optimizer(muon), 1),
        "Drop-Muon, optimizer": (optimizer(drop), GROUPS),
        "Muon, training": (training(muon, jax.value_and_grad), 1),
        "Drop-Muon, training, full backward": (training(drop, jax.value_and_grad), GROUPS),
        "Drop-Muon, training, cut backward": (training(drop, None), GROUPS),
    }
    repeated = {name: functools.partial(_repeat, run, times) for name, (run, times) in runs.items()}
    times = _measure.take_turns(repeated, arguments.rounds)
    times = {name: [t / runs[name][1] for t in seconds] for name, seconds in times.items()}

    rows, ratio = [], {}
    for name, seconds in times.items():
        ratio[name] = _measure.ratios(seconds, times[f"Muon, {name.split(', ')[1]}"])
        milliseconds = [1e3 * t for t in seconds]
        rows.append([name, _measure.spread(milliseconds), _measure.spread(ratio[name])])
    report = _measure.Report(
        name="drop_muon",
        title="Drop-Muon",
        method=[METHOD],
        command=f"python benchmarks/drop_muon.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
        samples={"seconds": times},
    )
    report.table("A step on average", ("", "ms", "ratio to Muon"), rows)
    full = "training, full backward"
    report.ratio(f"{full}: ratio to Muon", ratio[f"Drop-Muon, {full}"])
    for name, limit in (("optimizer", 0.7), ("training, cut backward", 0.8)):
        report.goals.append(
            _measure.Goal.at_most(f"{name}: ratio to Muon", ratio[f"Drop-Muon, {name}"], limit)
        )
    report.save()


def _repeat(run, times: int) -> None:
    for _ in range(times):
        run()


def _group_of_block(params: _trees.Tree) -> dict[str, int]:
    """Labels `block7/...` with its quarter of the network."""
    number = lambda name: int("".join(filter(str.isdigit, name.partition("/")[0])))
    return {name: number(name) * GROUPS // _trees.LAYERS for name in params}


def optimizer(tx: optax.GradientTransformation):
    """Prepares the step alone."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    shapes = _trees.transformer_blocks()
    params = _trees.normal(shapes, seed=0, scale=0.02)
    grads = _trees.normal(shapes, seed=1, scale=1e-3)
    return _in_place(step, params, tx.init(params), grads)


def training(tx: optax.GradientTransformation, differentiate):
    """Prepares a training step; without `differentiate` the backward pass ends at the cutoff."""

    def loss(params, batch):
        for name in sorted(params, key=lambda name: int(name[5:])):
            batch = batch + jax.nn.relu(batch @ params[name])
        return jnp.mean(batch**2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        if differentiate is not None:
            _, grads = differentiate(loss)(params, batch)
        else:
            _, grads = optimizers.value_and_grad_from_cutoff(
                lambda p: loss(p, batch),
                params,
                optimizers.sample_cutoff(state),
                _group_of_block,
            )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    shapes = {f"block{layer}": (_trees.WIDTH, _trees.WIDTH) for layer in range(_trees.LAYERS)}
    params = _trees.normal(shapes, seed=0, scale=0.02)
    batch = jax.random.normal(jax.random.key(2), (BATCH, _trees.WIDTH))
    return _in_place(step, params, tx.init(params), batch)


def _in_place(step, params, state, data):
    place = [params, jax.tree.map(jnp.copy, state)]

    def run():
        place[:] = step(*place, data)
        jax.block_until_ready(place)

    return run


if __name__ == "__main__":
    main()
