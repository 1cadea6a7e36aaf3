"""Replays of the golden files of compressors and error feedback, in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

Case = dict[str, Any]


# --- compressors.json -----------------------------------------------------------------------


def replay_compressors(case: Case) -> Case:
    """What is received of a vector and a matrix."""
    hp = case["hyperparams"]
    k, s = hp["k"], hp["s"]

    def receive(x, uniforms, matrix, start, key):
        sent = lambda compressor, key=None: compressor.compress(key, x)[0]
        rounded = lambda compressor: compressor.round([x], [uniforms])[0]
        low_rank, factors = federated.power_sgd(2).compress(None, matrix, (start,))
        return {
            "topk": sent(federated.top_k(k=k)),
            "randk_biased": sent(federated.rand_k(k=k), key),
            "randk_unbiased": sent(federated.rand_k(k=k, scaled=True), key),
            "sign_l1": sent(federated.sign_l1()),
            "natural": rounded(federated.natural_compression()),
            f"qsgd_s{s}": rounded(federated.qsgd(s)),
            f"natural_dithering_s{s}_p2": rounded(federated.natural_dithering(s)),
            "powersgd_rank2_approx": low_rank,
            "powersgd_rank2_Q": factors[0],
        }

    with jax.enable_x64(True):
        names = ("vector", "uniforms", "matrix", "powersgd_Q0")
        recorded = [jnp.asarray(case[name], jnp.float64) for name in names]
        found = jax.jit(receive)(*recorded, _key_that_draws(hp["indices"], len(case["vector"])))
    return {"expected": {name: np.asarray(value).tolist() for name, value in found.items()}}


def _key_that_draws(indices, d):
    """A key with which rand_k keeps the coordinates that the case recorded."""
    keep = federated.rand_k(k=len(indices)).compress
    draw = lambda seed: keep(jax.random.key(seed), jnp.ones(d))[0]
    kept = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(600)))
    wanted = np.isin(np.arange(d), indices)
    return jax.random.key(np.flatnonzero((kept == wanted).all(axis=1))[0])


# --- error_feedback.json --------------------------------------------------------------------


def make_direction(case: Case) -> optax.GradientTransformation:
    """The direction of a case, under the axis ``"nodes"``."""
    hp = case["hyperparams"]
    compressor = {
        "topk": lambda: federated.top_k(k=hp["k"]),
        "sign_l1": federated.sign_l1,
    }[hp["compressor"]]()
    return {
        "ef14": lambda: federated.ef14(compressor, "nodes"),
        "ef21": lambda: federated.ef21(compressor, "nodes", hp["h_init"]),
        "econtrol": lambda: federated.scale_by_econtrol(
            compressor, "nodes", hp["eta"], hp["h_init"]
        ),
    }[hp["algorithm"]]()


def replay_error_feedback(case: Case) -> Case:
    """The common iterate of all nodes after every step, and what they keep at the end."""
    with jax.enable_x64(True):
        Q, b = (jnp.asarray(case["problem"][name], jnp.float64) for name in ("Q", "b"))
        x = jnp.asarray(case["params0"]["x"], jnp.float64)
        tx = optax.chain(make_direction(case), optax.scale(-case["hyperparams"]["lr"]))

        def step(carry, _):
            x, state = carry

            def node(state, Q, b):
                return tx.update(Q @ x - b, state, x)

            updates, state = jax.vmap(node, axis_name="nodes")(state, Q, b)
            x = x + updates[0]
            return (x, state), x

        start = x, jax.vmap(lambda _: tx.init(x))(b)
        length = len(case["params"])
        (_, state), path = jax.jit(lambda start: jax.lax.scan(step, start, length=length))(start)
    return {
        "params": [{"x": x.tolist()} for x in np.asarray(path)],
        "final_state": _kept(state[0]),
    }


def _kept(state):
    """The memories under their names in the file; of EF21 there is none."""
    if isinstance(state, federated.ErrorFeedbackState):
        return {"e": np.asarray(state.error).tolist()}
    kept = {"h": np.asarray(state.uplink.estimate).tolist()}
    if state.uplink.error is not None:
        kept["e"] = np.asarray(state.uplink.error).tolist()
    return kept


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "compressors": replay_compressors,
    "error_feedback": replay_error_feedback,
}

#: In float64.
TOLERANCES: dict[str, float] = dict.fromkeys(REPLAYS, 1e-10)
