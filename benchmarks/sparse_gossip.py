"""Gossip on a large ring: a sparse mixing matrix beside a dense one."""

import _measure
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from gradax import federated

NODES, DIMENSIONS = 1000, (1_000, 10_000)
KINDS, GRAPHS = ("dense", "sparse"), ("ring", "star")
topology = federated.topology

METHOD = f"""\
{NODES} nodes under `jax.vmap`, each with d parameters in float32; one update of
`gradax.federated.gossip` with Metropolis weights, jitted, its buffers donated as in a training
loop. The matrix is a NumPy array or a `scipy.sparse` array; nothing else differs. Temporaries are
what XLA says the compiled update needs beside its arguments and results."""

HOST = f"""\
The last table is the work on the host before the first update: weighing the edges of a ring,
checking the matrix and making the transformation. A dense matrix of {10 * NODES:,} nodes would take
800 MB, and several copies of it."""


def main() -> None:
    """Measures updates, memory and construction."""
    arguments = _measure.arguments(__doc__, rounds=7)
    _measure.one_thread()
    report = _measure.Report(
        name="sparse_gossip",
        title="Gossip on sparse graphs",
        method=[METHOD, "One thread, CPU time of the process.", HOST],
        command=f"python benchmarks/sparse_gossip.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "scipy", "gradax"),
    )
    for graph in GRAPHS:
        for d in DIMENSIONS:
            updates(report, graph, d, arguments.rounds)
    construction(report, arguments.rounds)
    report.save()


def weights(graph: str, nodes: int, kind: str):
    """Metropolis weights of a graph, made of its edges: networkx is not needed here."""
    ends = np.arange(1, nodes) if graph == "star" else np.arange(nodes)
    others = np.zeros(nodes - 1, int) if graph == "star" else (ends + 1) % nodes
    entries = np.ones(len(ends)), (ends, others)
    half = sparse.coo_array(entries, shape=(nodes, nodes)).tocsr()
    adjacency = half + half.T
    return topology.metropolis_weights(adjacency if kind == "sparse" else adjacency.toarray())


def compiled(mixing, d: int):
    """A call that makes one update, and its temporaries in bytes."""
    tx = federated.gossip(mixing, "nodes")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(NODES, d)), jnp.float32)

    def update(updates, state, x):
        moved, state = jax.vmap(tx.update, axis_name="nodes")(updates, state, x)
        return updates, state, x + moved

    place = [jnp.zeros_like(x), jax.vmap(tx.init)(x), x]
    program = jax.jit(update, donate_argnums=(0, 1, 2)).lower(*place).compile()

    def call():
        place[:] = jax.block_until_ready(program(*place))

    return call, program.memory_analysis().temp_size_in_bytes


def updates(report: _measure.Report, graph: str, d: int, turns: int) -> None:
    """Adds a table of one update."""
    contestants = {kind: compiled(weights(graph, NODES, kind), d) for kind in KINDS}
    times = _measure.take_turns({kind: call for kind, (call, _) in contestants.items()}, turns)
    rows = []
    for kind, seconds in times.items():
        milliseconds = [1e3 * value for value in seconds]
        ratio = _measure.ratios(seconds, times["sparse"])
        megabytes = f"{contestants[kind][1] / 1e6:.1f}"
        rows.append([kind, _measure.spread(milliseconds), _measure.spread(ratio), megabytes])
    title = f"{graph}, d = {d:,}"
    columns = ("matrix", "CPU ms an update", "ratio to sparse", "temporaries, MB")
    report.table(f"*{title}*", columns, rows)
    report.samples[title] = {"seconds": times}
    gain = _measure.ratios(times["dense"], times["sparse"])
    report.goals.append(_measure.Goal.at_least(f"{title}: dense over sparse", gain, 2.0))
    model = 4 * NODES * d
    share = contestants["sparse"][1] / model
    report.goals.append(
        _measure.Goal.at_most(f"{title}: temporaries over the nodes' parameters", [share], 1.1)
    )


def construction(report: _measure.Report, turns: int) -> None:
    """Adds the table of the work on the host."""
    make = lambda nodes, kind: lambda: federated.gossip(weights("ring", nodes, kind), "nodes")
    contestants = {
        f"{NODES:,} nodes, dense": make(NODES, "dense"),
        f"{NODES:,} nodes, sparse": make(NODES, "sparse"),
        f"{10 * NODES:,} nodes, sparse": make(10 * NODES, "sparse"),
    }
    times = _measure.take_turns(contestants, turns)
    rows = [
        [name, _measure.spread([1e3 * value for value in seconds])]
        for name, seconds in times.items()
    ]
    pair = (times[f"{NODES:,} nodes, {kind}"] for kind in ("sparse", "dense"))
    report.ratio("construction on a ring: sparse over dense", _measure.ratios(*pair))
    report.table("*construction on a ring*", ("", "CPU ms"), rows)
    report.samples["construction"] = {"seconds": times}


if __name__ == "__main__":
    main()
