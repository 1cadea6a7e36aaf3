"""Digits classified and reconstructed through one encoder: one task a step, or both at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradax
from gradax import schedules

from . import _digits
from ._record import Reproduction

HIDDEN, BATCH, RATE, STEPS, SEEDS = 32, 32, 2e-3, 2400, 5


def init(key):
    """An encoder, and a linear head for each task."""
    keys = jax.random.split(key, 3)
    layer = lambda key, rows, columns: {
        "w": jax.random.normal(key, (rows, columns)) * jnp.sqrt(2.0 / rows),
        "b": jnp.zeros(columns),
    }
    shapes = {"encoder": (64, HIDDEN), "classes": (HIDDEN, 10), "pixels": (HIDDEN, 64)}
    return {name: layer(key, *shapes[name]) for name, key in zip(shapes, keys, strict=True)}


def apply(params, head, x):
    """Output of a head on top of the encoder."""
    code = jax.nn.relu(x @ params["encoder"]["w"] + params["encoder"]["b"])
    return code @ params[head]["w"] + params[head]["b"]


def classify(params, batch):
    """Mean cross entropy."""
    logits = apply(params, "classes", batch["x"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def reconstruct(params, batch):
    """Mean squared error of pixels, times 10 to be of the other's size."""
    return 10 * jnp.mean((apply(params, "pixels", batch["x"]) - batch["x"]) ** 2)


def both(params, batch):
    """The mean of both losses."""
    return (classify(params, batch) + reconstruct(params, batch)) / 2


def told(loss, task):
    """Lets the loss say which task it is."""
    return lambda params, batch: (loss(params, batch), {"task": task})


ALTERNATING = (told(classify, 0), told(reconstruct, 1))
METHODS = {
    "both losses in each step": ((both,), optax.adam(RATE), STEPS // 2),
    "alternating, one Adam": (ALTERNATING, optax.adam(RATE), STEPS),
    "alternating, an Adam for each task": (
        ALTERNATING,
        schedules.alternate([optax.adam(RATE), optax.adam(RATE)]),
        STEPS,
    ),
}


def train(losses, tx, num_steps, examples, key):
    """One scan; the tasks come in shuffled cycles."""
    steps = [gradax.make_step(loss, tx) for loss in losses]
    sampler = schedules.alternating_tasks(len(steps), mode="shuffled_cycles")
    init_key, task_key, batch_key = jax.random.split(key, 3)
    params = init(init_key)

    def body(carry, key):
        params, state, tasks = carry
        task, tasks = sampler.sample(tasks)
        index = jax.random.randint(key, (BATCH,), 0, len(examples["y"]))
        batch = {name: jnp.asarray(leaf)[index] for name, leaf in examples.items()}
        branches = [lambda step=step: step(params, state, batch)[:2] for step in steps]
        return (*jax.lax.switch(task, branches), tasks), None

    carry = params, tx.init(params), sampler.init(task_key)
    return jax.lax.scan(body, carry, jax.random.split(batch_key, num_steps))[0][0]


def working_memory(losses, tx, batch) -> int:
    """Bytes of intermediate results of the largest compiled step."""
    params = init(jax.random.key(0))

    def size(loss):
        step = gradax.make_step(loss, tx, donate=True)
        return step.lower(params, tx.init(params), batch).compile().memory_analysis()

    return max(size(loss).temp_size_in_bytes for loss in losses)


def run() -> Reproduction:
    """Five seeds one after the other, compiled once."""
    examples, test = _digits.load()
    large = jax.tree.map(lambda x: jnp.asarray(x[:1024]), examples)
    rows, accuracies, errors, memory = [], {}, {}, {}
    for name, (losses, tx, num_steps) in METHODS.items():

        @jax.jit
        def one(key, losses=losses, tx=tx, num_steps=num_steps):
            params = train(losses, tx, num_steps, examples, key)
            right = jnp.argmax(apply(params, "classes", test["x"]), axis=1) == test["y"]
            return jnp.mean(right), reconstruct(params, test) / 10

        found = np.array([one(jax.random.key(seed)) for seed in range(SEEDS)])
        accuracies[name], errors[name] = found.T
        memory[name] = working_memory(losses, tx, large)
        rows.append(
            (
                name,
                num_steps,
                found[:, 0].mean(),
                found[:, 0].std(),
                found[:, 1].mean(),
                memory[name],
            )
        )
    together, single, own = METHODS
    params, batch = init(jax.random.key(0)), jax.tree.map(lambda x: x[:BATCH], large)
    gradients = [jax.grad(loss)(params, batch) for loss in (classify, reconstruct)]
    weights, probs = np.array([0.3, 0.7]), np.array([0.8, 0.2])
    scaled = optax.tree.add(
        *(
            optax.tree.scale(p * (a / p), g)
            for a, p, g in zip(weights, probs, gradients, strict=True)
        )
    )
    direct = optax.tree.add(
        *(optax.tree.scale(a, g) for a, g in zip(weights, gradients, strict=True))
    )
    gap = optax.tree.norm(optax.tree.sub(scaled, direct)) / optax.tree.norm(direct)
    return Reproduction(
        name="alternating",
        title="One task a step does what the sum of losses does",
        paper="one data set, modality and loss a step, in turn, trains a model for all of them "
        "without padding or summing ([2305.06324]"
        "(https://arxiv.org/abs/2305.06324)).",
        setup=f"digits, an encoder of {HIDDEN} units with one head for classes and one for pixels, "
        f"Adam at {RATE}, batches of {BATCH}; the same number of gradients of single losses. Test "
        f"accuracy, squared error of pixels, mean of {SEEDS} seeds, and bytes of intermediate "
        "results of a compiled step with 1,024 examples.",
        expected="No figures were expected.",
        columns=("steps", "number", "accuracy", "std", "pixel error", "bytes of a step"),
        rows=rows,
        claims={
            "accuracy of alternating steps is that of joint ones within 0.01": abs(
                accuracies[single].mean() - accuracies[together].mean()
            )
            < 0.01,
            "their pixel error is at most a tenth larger": errors[single].mean()
            < 1.1 * errors[together].mean(),
            "an Adam for each task does not change the accuracy by more than 0.01": abs(
                accuracies[own].mean() - accuracies[single].mean()
            )
            < 0.01,
            "a step for one task needs at most 0.7 of the memory": memory[single]
            <= 0.7 * memory[together],
            "gradients scaled by weight over probability have the weighted sum as mean": gap < 1e-6,
        },
        remark="Where two losses stand in one step, the compiler uses the memory of one again "
        "for the other: on this network little is saved.",
    )


if __name__ == "__main__":
    run().save()
