"""One point of `scaling.py`, in a process of its own: rounds timed, memory and compilation noted.

`python _scaling_point.py '{"cohort": 100}'` prints a line of JSON; the other fields of `Point` have
defaults.
"""

import functools
import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import _measure
import _simulation
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _scaling_plan import BATCH, CLASSES, EXAMPLES, FEATURES, STEPS, Point

from gradax import federated

LEARNING_RATE = 0.05

#: Plays a turn; ends the run.
Contestant = tuple[Callable[[], None], Callable[[], Any]]


def main() -> None:
    """Runs the point given on the command line."""
    point = Point(**json.loads(sys.argv[1]))
    prepare(point)
    print(json.dumps(measure(point)))


def prepare(point: Point) -> None:
    """Pins the process and makes its devices. Call it before JAX makes its first array."""
    if point.devices:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={point.devices}"
    _measure.one_thread()


def measure(point: Point) -> dict[str, float]:
    """Plays the turns.

    Args:
      point: what to run.

    Returns:
      `round`, CPU seconds of a round (median of the turns); `start`, CPU seconds from the call to
      the compiled program of the rounds; `temporaries`, bytes that this program needs on a device
      beside arguments and results; `program`, bytes of all three but for the data; `process`, by
      how much the greatest resident size of the process grew after data and start were made.
    """
    examples, params = _examples(point), _params(point)
    contestant = _by_hand if point.method == "by hand" else _simulated
    compiled = _Compilations()
    jax.block_until_ready(jax.jit(lambda x: x + 1)(0.0))  # the backend is up
    before, began = _peak(), time.process_time()
    turn, finish = contestant(point, examples, params)
    turn()
    start = compiled.longest_ended - began
    seconds = []
    for _ in range(point.turns):
        here = time.process_time()
        turn()
        seconds.append((time.process_time() - here) / point.rounds)
    memory = _program(jax.local_devices()[0])
    process = _peak() - before
    finish()
    return {
        "round": statistics.median(seconds),
        "start": start,
        "temporaries": memory.temp_size_in_bytes,
        "program": _in_all(memory) - _data_bytes(point, examples),
        "process": process,
    }


def _program(device: Any) -> Any:
    """Memory of the compiled program that needs most for temporaries: that of the rounds."""
    programs = device.client.live_executables()
    found = [program.get_compiled_memory_stats() for program in programs]
    return max(found, key=lambda memory: memory.temp_size_in_bytes)


def _in_all(memory: Any) -> int:
    """Bytes of arguments, results and temporaries; what is donated counts once."""
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def _data_bytes(point: Point, examples: Any) -> int:
    """What the data take on a device: examples, and how many each client has and from where."""
    numbers = 0 if point.method == "by hand" else 1 if point.devices else 2
    sizes = sum(leaf.nbytes for leaf in jax.tree.leaves(examples))
    return (sizes + 4 * numbers * point.population) // (point.devices or 1)


class _Compilations:
    """Remembers when the longest compilation ended, by the process's own clock."""

    def __init__(self) -> None:
        self._longest, self.longest_ended = 0.0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration") and seconds > self._longest:
            self._longest, self.longest_ended = seconds, time.process_time()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _examples(point: Point) -> dict[str, Any]:
    rng, count = np.random.default_rng(0), point.population * EXAMPLES
    return {
        "x": rng.standard_normal((count, FEATURES), np.float32),
        "y": rng.integers(CLASSES, size=count, dtype=np.int32),
    }


def _params(point: Point) -> Any:
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape, np.float32) * np.float32(2 / shape[-2]) ** 0.5
    zeros = lambda *shape: np.zeros(shape, np.float32)
    width, layers = point.width, range(point.depth)
    hidden: Any = [{"w": draw(width, width), "b": zeros(width)} for _ in layers]
    if point.scanned:
        hidden = {name: np.stack([layer[name] for layer in hidden]) for name in ("w", "b")}
    first = {"w": draw(FEATURES, width), "b": zeros(width)}
    return {
        "first": first,
        "hidden": hidden,
        "last": {"w": draw(width, CLASSES), "b": zeros(CLASSES)},
    }


def loss(params: Any, batch: Any) -> Any:
    """Mean cross entropy of the network; hidden layers that are stacked are scanned."""
    dense = lambda layer, x: x @ layer["w"] + layer["b"]
    apply = lambda x, layer: (jax.nn.relu(dense(layer, x)), None)
    x, hidden = apply(batch["x"], params["first"])[0], params["hidden"]
    if isinstance(hidden, dict):
        x = jax.lax.scan(apply, x, hidden)[0]
    else:
        x = functools.reduce(lambda x, layer: apply(x, layer)[0], hidden, x)
    logits = dense(params["last"], x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def _simulated(point: Point, examples: Any, params: Any) -> Contestant:
    """Turns of `simulate`."""
    counts = np.full(point.population, EXAMPLES, np.int32)
    offsets, mesh = np.arange(point.population, dtype=np.int32) * EXAMPLES, None
    if point.devices:
        # Rows of clients are what a mesh spreads; flat examples are replicated.
        rows = lambda leaf: leaf.reshape(point.population, EXAMPLES, *leaf.shape[1:])
        examples, offsets = jax.tree.map(rows, examples), None
        mesh = jax.make_mesh((point.devices,), ("clients",))
    simulation = _simulation.Simulation(
        getattr(federated, point.method)(LEARNING_RATE),
        loss,
        params,
        federated.data.ClientData(examples, counts, offsets),
        rounds=point.rounds,
        turns=point.turns + 1,
        cohort=point.cohort,
        batch_size=BATCH,
        num_steps=STEPS,
        chunk=point.chunk,
        mesh=mesh,
    )
    return simulation.turn, simulation.finish


def _by_hand(point: Point, examples: Any, params: Any) -> Contestant:
    """Turns of FedAvg written down: what a chunk of one is compared with."""

    def client(params, examples, client, key):
        mine = client * EXAMPLES + jax.random.permutation(key, EXAMPLES)
        batches = mine[: STEPS * BATCH].reshape(STEPS, BATCH)
        take = lambda rows: jax.tree.map(lambda x: x[rows], examples)

        def step(own, rows):
            gradient = jax.grad(loss)(own, take(rows))
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, own, gradient), None

        trained = jax.lax.scan(step, params, batches)[0]
        return jax.tree.map(jnp.subtract, trained, params), loss(params, take(batches[0]))

    def one_round(params, key, examples):
        draw, key = jax.random.split(key)
        ids = jax.random.choice(draw, point.population, (point.cohort,), replace=False)

        def add(total, one):
            moved, value = client(params, examples, *one)
            return jax.tree.map(jnp.add, total, moved), value

        keys = jax.random.split(key, point.cohort)
        total, values = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (ids, keys))
        return jax.tree.map(lambda p, t: p + t / point.cohort, params, total), values.mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def segment(params, keys, examples):
        return jax.lax.scan(lambda p, key: one_round(p, key, examples), params, keys)

    place, keys = [jax.device_put((params, examples))], itertools.count()

    def turn():
        (now, there), key = place[0], jax.random.key(next(keys))
        now, values = segment(now, jax.random.split(key, point.rounds), there)
        place[0] = now, there
        jax.device_get(values)

    return turn, lambda: None


if __name__ == "__main__":
    main()
