"""Replays of the golden file of Just One Byte: its codec, and its steps with given directions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

Case = dict[str, Any]


def replay_just_one_byte(case: Case) -> Case:
    """Codes and decoded numbers, or the parameters and messages of a few steps."""
    with jax.enable_x64(True):
        return _replay_codec(case) if "codes" in case else _replay_steps(case)


def _replay_codec(case):
    scale = case["hyperparams"]["log_scale"]
    codes = federated.encode_byte(np.array(case["inputs"]), scale)
    return {"codes": codes.tolist(), "decoded": federated.decode_byte(codes, scale).tolist()}


def _replay_steps(case):
    hp, directions = case["hyperparams"], jnp.asarray(case["directions"], jnp.float64)
    tx = federated.just_one_byte(
        hp["lr"],
        "nodes",
        eps=hp["eps"],
        num_samples=hp["samples"],
        reduce=hp["reduce"],
        quantize=hp["quantise"],
        log_scale=hp["log_scale"],
        direction_fn=_given(directions),
    )
    Q, b = (jnp.asarray(case["problem"][name], jnp.float64) for name in ("Q", "b"))

    def machine(x, b):
        loss = lambda x, s=0: x @ Q @ x / 2 - b[s] @ x

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(None, state, x, value_fn=loss)
            x = optax.apply_updates(x, updates)
            return (x, state), (x, state.last_codes)

        return jax.lax.scan(step, (x, tx.init(x)), length=len(directions))[1]

    start = jnp.tile(jnp.asarray(case["params0"]["x"], jnp.float64), (hp["machines"], 1))
    paths, sent = jax.jit(jax.vmap(machine, axis_name="nodes"))(start, b)
    assert (paths == paths[0]).all()  # all machines alike, bit by bit
    name = "codes" if hp["quantise"] else "projected"
    return {
        "params": [{"x": x.tolist()} for x in paths[0]],
        "log": [{name: row.tolist()} for row in jnp.swapaxes(sent, 0, 1)],
    }


def _given(directions):
    """Looks directions up by the key that belongs to step, machine and sample."""

    def fold(t, m, s):
        key = jax.random.key(0)
        for part in (t, m, s):
            key = jax.random.fold_in(key, part)
        return jax.random.key_data(key)

    steps, machines, samples, _ = directions.shape
    places = jnp.indices((steps, machines, samples)).reshape(3, -1)
    keys, rows = jax.vmap(fold)(*places), directions.reshape(places.shape[1], -1)
    return lambda key, params: rows[jnp.argmax((keys == jax.random.key_data(key)).all(axis=1))]


REPLAYS: dict[str, Callable[[Case], Case]] = {"just_one_byte": replay_just_one_byte}
TOLERANCES: dict[str, float] = {"just_one_byte": 1e-10}
