"""DADAO, one event at a time: what an event costs, and on what it depends."""

import _measure
import _simulation
import jax.numpy as jnp
import numpy as np

from gradax import federated

EXAMPLES, MU, SMOOTHNESS = 10, 0.1, 10.0
SIZES = [(n, d) for d in (100, 10_000) for n in (16, 64, 256)]
GOAL = 15.0

METHOD = f"""\
Least squares on a ring, {EXAMPLES} examples of d features a node, float32. *Event by event* is
`simulate` with the cohort of `dadao_cohort`: a round is an event, which gathers the rows of its
one or two nodes, lets them flow to its time and writes them back. *Streamed* draws the events on
the way (`dadao_stream`). *All nodes* is the same transformation with the list of events and no
cohort: every node flows and computes a gradient at every event."""

READING = """\
CPU time of the process on one thread, rows of the history included. Apart from the caches an
event's cost must not grow with the number of nodes. The goal was set beside the simulator of the
method's authors, which took about 990 microseconds an event with 50 nodes; it is not run here."""


def main() -> None:
    """Measures all sizes, and 50 nodes for the goal."""
    arguments = _measure.arguments(__doc__, rounds=5)
    _measure.one_thread()
    report = _measure.Report(
        name="dadao_events",
        title="DADAO event by event",
        method=[METHOD, READING],
        command=f"python benchmarks/dadao_events.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "gradax"),
    )
    rows = []
    for n, d in [(50, 100), *SIZES]:
        microseconds = measure(n, d, arguments.rounds)
        rows.append([n, d, *map(_measure.spread, microseconds.values())])
        report.samples[f"{n} nodes, d = {d}"] = microseconds
        for name in ("streamed", "all nodes"):
            ratio = _measure.ratios(microseconds["event by event"], microseconds[name])
            report.ratio(f"{n} nodes, d = {d}: event by event over {name}", ratio)
        if n == 50:
            listed = microseconds["event by event"]
            goal = _measure.Goal.at_most(f"{n} nodes, d = {d}: microseconds an event", listed, GOAL)
            report.goals.append(goal)
    columns = ("nodes", "d", *(f"{name}, us" for name in microseconds))
    report.table("*CPU microseconds an event*", columns, rows)
    report.save()


def measure(n: int, d: int, turns: int) -> dict[str, list[float]]:
    """Microseconds an event of the three ways to run, per turn."""
    events = 3000 if d < 1000 else 300
    all_nodes = min(500, max(5, 1_000_000 // (n * d)))
    rounds = {"event by event": events, "streamed": events, "all nodes": all_nodes}
    runs = {name: contestant(name, n, d, count, turns + 1).turn for name, count in rounds.items()}
    times = _measure.take_turns(runs, turns)
    return {name: [1e6 * value / rounds[name] for value in times[name]] for name in rounds}


def contestant(name: str, n: int, d: int, rounds: int, turns: int) -> _simulation.Simulation:
    """One way to run."""
    rng = np.random.default_rng(0)
    clients = [
        {
            "x": rng.normal(size=(EXAMPLES, d)).astype(np.float32) / np.float32(np.sqrt(d)),
            "y": rng.normal(size=EXAMPLES).astype(np.float32),
        }
        for _ in range(n)
    ]
    topology = federated.topology
    pairs = topology.edges(topology.ring(n))
    rates = topology.uniform_edge_rates(pairs, n)
    chi1, chi2 = topology.graph_chi(pairs, rates, n)
    events = federated.dadao_events(0, pairs, rates, n, num_events=rounds * turns)
    cohorts = {
        "event by event": federated.dadao_cohort(events, n),
        "streamed": federated.dadao_stream(pairs, rates, n),
        "all nodes": None,
    }
    given = events if name == "all nodes" else None
    return _simulation.Simulation(
        federated.dadao(MU, SMOOTHNESS, given, chi1, "nodes", chi2=chi2),
        None,
        jnp.zeros(d),
        _simulation.client_data(clients),
        rounds=rounds,
        turns=turns,
        cohort=cohorts[name],
        batch_size=None,
        num_steps=1,
        grad_fn=gradient,
    )


def gradient(w, batch):
    """Of least squares with a penalty."""
    return batch["x"].T @ (batch["x"] @ w - batch["y"]) + MU * w


if __name__ == "__main__":
    main()
