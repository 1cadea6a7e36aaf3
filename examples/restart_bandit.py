"""A bandit chooses the learning rate of each restart from the losses of the restarts before.

    python examples/restart_bandit.py

A small network is trained on digits again and again from new random weights, for a few steps of
Adam each time. The bandit is the learning rate of an ordinary optimizer: all of it happens inside
one compiled loop.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated, schedules

HIDDEN, BATCH = 32, 32


def new_params(key):
    """Random weights of a perceptron 64-32-10."""
    first, second = jax.random.split(key)
    return {
        "first": jax.random.normal(first, (64, HIDDEN)) / 8.0,
        "bias": jnp.zeros(HIDDEN),
        "second": jax.random.normal(second, (HIDDEN, 10)) / HIDDEN**0.5,
    }


def loss_fn(params, batch):
    """Mean cross entropy of a batch."""
    hidden = jax.nn.relu(batch["x"].reshape(BATCH, -1) @ params["first"] + params["bias"])
    logits = hidden @ params["second"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def run(tx, examples, restarts, steps, key):
    """Trains from new weights so many times; returns loss and learning rate of each restart."""

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, [BATCH], 0, len(examples["y"]))
        batch = {name: leaf[rows] for name, leaf in examples.items()}
        value, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    def restart(state, key):
        fresh, batches = jax.random.split(key)
        params = new_params(fresh)
        # Adam forgets the last restart; the bandit, which is outside of it, does not.
        state = state._replace(inner_state=tx.init(params).inner_state)
        (_, state), values = jax.lax.scan(step, (params, state), jax.random.split(batches, steps))
        return state, (values.mean(), state.hyperparams["learning_rate"])

    first = tx.init(new_params(key))
    return jax.lax.scan(restart, first, jax.random.split(key, restarts))[1]


def main(argv=None):
    """Compares a bandit's restarts with those of every learning rate of its grid."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=300)
    parser.add_argument("--steps", type=int, default=40, help="of Adam in each restart")
    parser.add_argument("--rates", type=int, default=9, help="learning rates from 1e-4 to 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    examples = jax.tree.map(jnp.asarray, federated.data.load("digits").train)
    grid, adam = np.logspace(-4, 0, options.rates), optax.inject_hyperparams(optax.adam)
    few, late = max(options.restarts // 10, 1), options.restarts // 3

    @jax.jit
    def of_grid(rates, key):
        of_rate = lambda rate: run(adam(rate), examples, few, options.steps, key)[0]
        return jax.vmap(of_rate)(rates)

    bandit = schedules.tsallis_inf(grid, cost_offset=0.0)
    rate = schedules.bandit_hyperparam(bandit, every=options.steps, key=options.seed)
    of_bandit = jax.jit(lambda key: run(adam(rate), examples, options.restarts, options.steps, key))

    fixed = np.asarray(of_grid(jnp.asarray(grid, jnp.float32), jax.random.key(options.seed)))
    losses, rates = map(np.asarray, of_bandit(jax.random.key(options.seed + 1)))
    print("learning rate   mean loss   chosen in the last third")
    for value, loss in zip(grid, fixed.mean(axis=1), strict=True):
        share = np.mean(np.isclose(rates[-late:], value))
        print(f"{value:>13.4f}{loss:>12.3f}{share:>13.0%}")
    print(f"any, drawn evenly {fixed.mean():>7.3f}")
    print(f"bandit, all {losses.mean():>13.3f}")
    print(f"bandit, last third {losses[-late:].mean():>6.3f}")
    return fixed, losses, rates


if __name__ == "__main__":
    main()
