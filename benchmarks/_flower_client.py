"""The client of the Flower contestant; Ray's workers import it, so that each compiles once."""

import functools

import _federated
import jax
import jax.numpy as jnp
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains on the client's own examples and returns the parameters."""
    client = int(context.node_config["partition-id"])
    examples = _clients()[client]
    names = sorted(network().init(jax.random.key(0)))
    arrays = message.content["arrays"].to_numpy_ndarrays()
    params = dict(zip(names, arrays, strict=True))
    config = message.content["config"]
    rng = np.random.default_rng((client, config["server-round"]))
    order = np.concatenate([rng.permutation(_federated.EXAMPLES) for _ in range(_federated.EPOCHS)])
    local_training = {"scan": _scan, "steps": _steps}[config["form"]]
    trained = local_training(params, examples, order.reshape(-1, _federated.BATCH))
    content = {
        "arrays": ArrayRecord([np.asarray(trained[name]) for name in names]),
        "metrics": MetricRecord({"num-examples": _federated.EXAMPLES}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def network() -> _federated.Network:
    """The network that is trained."""
    return _federated.mlp()


@functools.cache
def _clients():
    return _federated.images()


def _step(params, batch):
    gradient = jax.grad(network().loss)(params, batch)
    return jax.tree.map(lambda p, g: p - _federated.LEARNING_RATE * g, params, gradient)


@jax.jit
def _scan(params, examples, batches):
    """All local steps in one call."""
    examples = jax.tree.map(jnp.asarray, examples)
    take = lambda index: jax.tree.map(lambda leaf: leaf[index], examples)
    one = lambda params, index: (_step(params, take(index)), None)
    return jax.lax.scan(one, params, batches)[0]


_jitted_step = jax.jit(_step)


def _steps(params, examples, batches):
    """A loop over batches, a call for each."""
    for index in batches:
        batch = {name: array[index] for name, array in examples.items()}
        params = _jitted_step(params, batch)
    return params
