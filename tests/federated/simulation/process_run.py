"""One of several processes of a run: ``process_run PROCESS PROCESSES PORT DIRECTORY PLAN``.

What each process found out is left in ``DIRECTORY`` as JSON.
"""

import faulthandler
import json
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated
from gradax.__main__ import main as gradax
from gradax.federated.simulation import _simulate
from tests.federated.simulation import problems

ROUNDS, FATAL = 6, 4
MORE = ("dadao", "econtrol", "cbo")
N = problems.NUM_CLIENTS
MEASURED = {
    "evaluate": lambda params: {"size": jnp.sum(params["w"] ** 2)},
    "evaluate_clients": lambda params, batch: {"loss": problems.loss_fn(params, batch)},
}


def fedspeed(data=problems.PADDED, rounds=ROUNDS, **options):
    """Five of eight clients a round, each with a state of its own."""
    settings = {"cohort": 5, "segment": 1, **MEASURED, **options}
    return problems.simulate(federated.fedspeed(0.1), data, rounds, **settings)


def monna(**options):
    """Nodes that each keep parameters of their own."""
    options = {"evaluate_clients": MEASURED["evaluate_clients"], **options}
    return problems.simulate(federated.monna(0.1, 2, "nodes"), num_steps=1, **options)


def summary(result):
    """What a process can say about a result."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history.rows]
    params = {name: np.asarray(leaf).tolist() for name, leaf in result.params.items()}
    return {"params": params, "history": rows}


def refused(function, *arguments, **options):
    """The sentence with which something is refused."""
    try:
        function(*arguments, **options)
    except ValueError as error:
        return str(error)
    return "not refused"


def own_clients(missing=0):
    """All clients, of which this process holds its own; the layout is flat here."""
    ids = federated.data.process_clients(N)
    mine = federated.data.flat(
        problems.EXAMPLES, [problems.PARTS[i] for i in ids[: len(ids) - missing]]
    )
    return federated.data.from_processes(mine, N)


def results():
    """The same runs as in a single process."""
    data = own_clients()
    own_rows = [shard.data.shape[0] for shard in data.arrays["y"].addressable_shards]
    found = fedspeed(data)
    dual = found.state.clients.dual["w"]
    return {
        "own rows": own_rows,
        "own states": [shard.data.shape[0] for shard in dual.addressable_shards],
        "fedspeed": summary(found),
        "monna": summary(monna()),
    }


def more_results():
    """Parameters of three further algorithms, leaf by leaf."""
    from tests.federated import test_agreement  # makes arrays, for which it is too early above

    run = lambda name: test_agreement.simulate(test_agreement.CASES[name]).params
    leaves = lambda name: [np.asarray(x).tolist() for x in jax.tree.leaves(run(name))]
    return {name: leaves(name) for name in MORE}


def refusals(process):
    """What must not be played, found out by all."""
    x, y = problems.PARAMS["w"] + process, problems.PARAMS["b"]
    here = jax.make_mesh((1,), ("clients",), devices=jax.local_devices())
    return {
        "other params": refused(fedspeed, params={"w": x, "b": y}),
        "other seed": refused(fedspeed, key=process),
        "missing client": refused(own_clients, missing=process),
        "saved by one": refused(fedspeed, mesh=here, checkpoint="nowhere"),
        "alone": summary(fedspeed(mesh=here)),
    }


def saved(name, directory):
    """A run that saves itself after each of its rounds."""
    options = {"rounds": ROUNDS, "segment": 1, "checkpoint": directory / name}
    return {"fedspeed": fedspeed, "monna": monna}[name](**options)


def die(name, directory, process):
    """Plays a run until process 1 is killed while it saves round ``FATAL``."""

    class Deadly(_simulate.Checkpoints):
        def save(self, state, rows):
            if process == 1 and int(state.round) == FATAL:
                os.kill(os.getpid(), signal.SIGKILL)
            super().save(state, rows)

    _simulate.Checkpoints = Deadly
    saved(name, directory)


def bits(result):
    """All of a state that this process holds."""
    leaves = [x for x in jax.tree.leaves(result.state) if x.dtype != result.state.key.dtype]
    return [np.asarray(shard.data).tobytes() for x in leaves for shard in x.addressable_shards]


def resumed(directory):
    """Goes on from what was saved, and compares with a run that nothing has stopped."""
    found, whole = saved("fedspeed", directory), fedspeed()
    return {
        "fedspeed": summary(found),
        "same bits": bits(found) == bits(whole),
        "monna": summary(saved("monna", directory)),  # four processes have begun it
    }


def main(process, processes, port, directory, plan):
    start = ["--coordinator", f"127.0.0.1:{port}", "--timeout", "150"]
    start += ["--processes", str(processes), "--process-id", str(process)]
    history = directory / f"command-{plan}-{process}.jsonl"
    small = ["--hidden", "4", "--rounds", "2", "--segment", "2", "--steps", "1", "--quiet"]
    command = ["simulate", "fedavg", "--clients", "4", *small, "--history", str(history)]
    found = {"exit code": gradax([*command, *start])}
    if plan == "resume":
        found |= resumed(directory)
    else:
        found |= results()
    if plan == "die":
        found |= more_results() | refusals(process)
    (directory / f"{plan}-{process}.json").write_text(json.dumps(found))
    if plan != "resume":
        die({"die": "fedspeed", "run": "monna"}[plan], directory, process)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(300, exit=True)  # no orphans, whatever happens to others
    process, processes, port = map(int, sys.argv[1:4])
    main(process, processes, port, pathlib.Path(sys.argv[4]), sys.argv[5])
