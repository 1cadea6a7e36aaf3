"""State of clients, updated one client at a time: in place, or with a copy of all of it."""

import functools

import _federated
import _measure
import _simulation
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

CLIENTS, EXAMPLES, STEPS = 500, 20, 20
SIZES, DIMENSION = (784, 200, _federated.CLASSES), 169_462

METHOD = f"""\
{CLIENTS} clients with a variable each that is as large as the parameters (784-200-62, d = 169,462:
339 MB in all), read and written whenever the client takes part, as SCAFFOLD's control variates
are. One local step on {EXAMPLES} examples, so that the state is most of the work."""

TRAP = f"""\
The trap: XLA on CPU copies the whole state at every step of a scan that reads and writes a single
row of it, so `gradax.federated.simulate` gives the index a second, empty lane. The last table makes
{STEPS} steps of either kind in plain JAX: once its ratio is 1, the lane is no longer needed."""


def main() -> None:
    """Measures rounds in chunks of one and of ten, and the trap alone."""
    arguments = _measure.arguments(__doc__, rounds=7)
    _measure.one_thread()
    report = _measure.Report(
        name="chunk_of_one",
        title="A chunk of one client",
        method=[METHOD, "One thread, CPU time of the process.", TRAP],
        command=f"python benchmarks/chunk_of_one.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "gradax"),
    )
    columns = ("", "CPU ms a round", "ratio to chunks of ten")
    for cohort, rounds in ((None, 1), (10, 20)):
        title = f"all {CLIENTS} clients a round" if cohort is None else f"{cohort} clients a round"
        times = _measure.take_turns(contestants(cohort, rounds, arguments.rounds), arguments.rounds)
        rows = []
        for name, seconds in times.items():
            ten = name.partition("chunks of")[0] + "chunks of 10"
            milliseconds = [1e3 * value / rounds for value in seconds]
            ratio = _measure.ratios(seconds, times[ten])
            rows.append([name, _measure.spread(milliseconds), _measure.spread(ratio)])
        report.table(f"*{title}*", columns, rows)
        report.samples[title] = {"rounds_per_turn": rounds, "seconds": times}
        ratio = _measure.ratios(times["with state, chunks of 1"], times["with state, chunks of 10"])
        report.goals.append(_measure.Goal.at_most(f"{title}: one over ten", ratio, 1.0))
        ratio = _measure.ratios(times["no state, chunks of 1"], times["no state, chunks of 10"])
        report.ratio(f"{title}, no state: one over ten", ratio)
    trap(report, arguments.rounds)
    report.save()


def contestants(cohort: int | None, rounds: int, turns: int) -> dict:
    """FedAvg without state and with state, each in two sizes of chunks."""
    rng = np.random.default_rng(0)
    clients = [
        {
            "x": rng.random((EXAMPLES, 784), np.float32),
            "y": rng.integers(_federated.CLASSES, size=EXAMPLES, dtype=np.int32),
        }
        for _ in range(CLIENTS)
    ]
    network, data = _federated.mlp(SIZES), _simulation.client_data(clients)
    with_state = federated.Algorithm(
        client=federated.dual_correction(
            federated.local_steps(optax.chain(federated.add_correction(), optax.sgd(0.05))), 0.1
        ),
        aggregate=federated.average("clients"),
        server=optax.sgd(1.0),
    )
    algorithms = {"no state": federated.fedavg(0.05), "with state": with_state}
    return {
        f"{name}, chunks of {chunk}": _simulation.Simulation(
            algorithm,
            network.loss,
            network.init(jax.random.key(0)),
            data,
            rounds=rounds,
            turns=turns + 1,
            cohort=cohort,
            num_steps=1,
            batch_size=EXAMPLES,
            chunk=chunk,
        ).turn
        for name, algorithm in algorithms.items()
        for chunk in (1, 10)
    }


def trap(report: _measure.Report, turns: int) -> None:
    """Adds the table of the trap alone."""

    def step(carry, index):
        store, total = carry
        rows = store.at[index].get(mode="clip")
        store = store.at[index].set(0.5 * rows + total, mode="drop")
        # The copy comes with a second use of the row.
        return (store, total + rows[0]), None

    @functools.partial(jax.jit, donate_argnums=0)
    def update(store, indices):
        start = store, jnp.zeros(store.shape[1])
        return jax.lax.scan(step, start, indices)[0]

    def contestant(indices):
        place = [jnp.zeros((CLIENTS, DIMENSION), jnp.float32)]

        def run():
            place[0] = jax.block_until_ready(update(place[0], indices))[0]

        return run

    single = jnp.arange(STEPS)[:, None]
    empty_lane = jnp.full_like(single, CLIENTS)
    runs = {
        "one row": contestant(single),
        "one row and an empty lane": contestant(jnp.concatenate([single, empty_lane], axis=1)),
    }
    times = _measure.take_turns(runs, turns)
    rows = []
    for name, seconds in times.items():
        ratio = _measure.ratios(seconds, times["one row and an empty lane"])
        milliseconds = [1e3 * value / STEPS for value in seconds]
        rows.append([name, _measure.spread(milliseconds), _measure.spread(ratio)])
    report.table("*the trap alone*", ("index", "CPU ms a step", "ratio"), rows)
    report.samples["trap"] = {"steps_per_turn": STEPS, "seconds": times}


if __name__ == "__main__":
    main()
