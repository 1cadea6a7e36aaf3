"""Compressors on a million parameters, against one pass over them."""

import _measure
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gradax import federated

SHAPES = {"w1": (784, 1000), "b1": (1000,), "w2": (1000, 205), "w3": (205, 50)}
CALLS = 5  # a turn

COMPRESSORS = {
    "top_k(0.001)": federated.top_k(0.001),
    "top_k(0.01)": federated.top_k(0.01),
    "top_k(0.1)": federated.top_k(0.1),
    "top_k(0.01, per_leaf=True)": federated.top_k(0.01, per_leaf=True),
    "rand_k(0.01)": federated.rand_k(0.01),
    "sign_l1()": federated.sign_l1(),
    "natural_compression()": federated.natural_compression(),
    "qsgd(127)": federated.qsgd(127),
    "natural_dithering(8)": federated.natural_dithering(8),
    "power_sgd(2)": federated.power_sgd(2),
    "top_k(0.01).then(sign_l1())": federated.top_k(0.01).then(federated.sign_l1()),
}
#: The usual way: one long vector, ``lax.top_k`` and a scatter.
SORTED = {f"lax.top_k, {fraction}": fraction for fraction in (0.001, 0.01, 0.1)}
PASS = "one pass"

METHOD = f"""\
A tree of {len(SHAPES)} leaves, a million float32 parameters; a turn is {CALLS} calls of a compiled
function. *One pass* reads every parameter and writes it scaled, leaf by leaf: nothing that returns
a tree can be faster. *Ratio* is the time over that of the same turn. *lax.top_k* ravels the tree,
calls `jax.lax.top_k` and scatters the values; `top_k` finds its threshold by counting, in a time
that does not depend on how many are kept: slower for one in a thousand, much faster for one in ten.
The random ones draw a number for every parameter, and that is most of their time.

One thread, CPU time of the process."""


def scale(key, tree, state):
    """One pass."""
    del key
    return jax.tree.map(lambda x: 0.5 * x, tree), state


def largest(fraction: float):
    """Keeps the largest by ``lax.top_k``."""

    def function(key, tree, state):
        del key
        flat, unravel = ravel_pytree(tree)
        _, places = jax.lax.top_k(jnp.abs(flat), round(fraction * flat.size))
        return unravel(jnp.zeros_like(flat).at[places].set(flat[places])), state

    return function


def main() -> None:
    """Measures all of them."""
    arguments = _measure.arguments(__doc__, rounds=7)
    _measure.one_thread()
    keys = iter(jax.random.split(jax.random.key(0), len(SHAPES)))
    tree = {name: jax.random.normal(next(keys), shape) for name, shape in SHAPES.items()}
    functions = {PASS: (scale, ())}
    functions |= {name: (c.compress, c.init(tree)) for name, c in COMPRESSORS.items()}
    functions |= {name: (largest(fraction), ()) for name, fraction in SORTED.items()}
    times = _measure.take_turns(
        {name: contestant(*pair, tree) for name, pair in functions.items()}, arguments.rounds
    )
    report = _measure.Report(
        name="compressors",
        title="Compressors",
        method=[METHOD],
        command=f"python benchmarks/compressors.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "gradax"),
    )
    rows = []
    for name, seconds in times.items():
        milliseconds = [1e3 * value / CALLS for value in seconds]
        bits = COMPRESSORS[name].bits(tree) if name in COMPRESSORS else None
        size = "" if bits is None else f"{-(-bits // 8):,}"
        ratio = _measure.ratios(seconds, times[PASS])
        rows.append([name, _measure.spread(milliseconds), _measure.spread(ratio), size])
        if name != PASS:
            report.ratio(f"`{name}` over one pass", ratio)
    report.table("", ("compressor", "CPU ms a call", "ratio", "bytes"), rows)
    tenth = _measure.ratios(times["top_k(0.1)"], times["lax.top_k, 0.1"])
    one = _measure.ratios(times["top_k(0.01)"], times["lax.top_k, 0.01"])
    report.goals = [
        _measure.Goal.at_most("`top_k(0.01)` over `lax.top_k`", one, 1.0),
        _measure.Goal.at_most("`top_k(0.1)` over `lax.top_k`", tenth, 0.5),
    ]
    report.samples = {"calls_per_turn": CALLS, "seconds": times}
    report.save()


def contestant(function, state, tree):
    """A turn of one compressor."""
    compiled = jax.jit(function)
    key = jax.random.key(1)

    def run():
        for _ in range(CALLS):
            jax.block_until_ready(compiled(key, tree, state))

    return run


if __name__ == "__main__":
    main()
