"""The main job in two minutes: one network, a hundred clients, twenty nodes of which four lie.

Run it with ``make demo``. It prints a table and saves a figure.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gradax
from gradax import federated, optimizers, schedules

CLIENTS, ALPHA, COHORT = 100, 0.3, 10
NODES, ATTACKERS, MOMENTUM = 20, 4, 0.95
ATTACKS = {
    "none": None,
    "sign flip": federated.attacks.sign_flip,
    "FOE": functools.partial(federated.attacks.inner_product, tau=0.1),
    "ALIE": federated.attacks.a_little_is_enough,
    "Gaussian": functools.partial(federated.attacks.gaussian, sigma=1.0),
}


class Perceptron(nnx.Module):
    """784-64-10, for images of digits."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(784, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Returns the logits of a batch of images."""
        return self.head(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


# A Flax model is a graph and a tree of parameters; transformations and clients see the tree.
GRAPH, PARAMS = nnx.split(Perceptron(nnx.Rngs(0)))


def loss_fn(params, batch):
    """Mean cross entropy of a batch."""
    logits = nnx.merge(GRAPH, params)(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def accuracy(params, test):
    """Share of test images that are classified correctly."""
    return jnp.mean(jnp.argmax(nnx.merge(GRAPH, params)(test["x"]), axis=-1) == test["y"])


def train_one_network(dataset, epochs, batch_size=64):
    """A chain of gradax transforms beside optax.adam; returns accuracy after every epoch."""
    size = len(dataset.train["y"])
    num_steps = schedules.epochs(epochs, size, batch_size)
    rivals = {
        "optax.adam": optax.adam(1e-3),
        "gradax chain": optax.chain(
            optax.clip_by_global_norm(5.0),
            optimizers.project_radial(optimizers.scale_by_diffgrad()),
            optax.scale_by_learning_rate(schedules.linear_decay_schedule(6e-3, num_steps)),
        ),
    }
    test = jax.tree.map(jnp.asarray, dataset.test)
    evaluate = jax.jit(lambda params: accuracy(params, test))
    curves = {}
    for name, tx in rivals.items():
        step, params, state = gradax.make_step(loss_fn, tx), PARAMS, tx.init(PARAMS)
        rng, curve = np.random.default_rng(0), []
        for _ in track(range(epochs), description=f"{name:<13}"):
            order = rng.permutation(size)[: size // batch_size * batch_size]
            for index in order.reshape(-1, batch_size):
                batch = {key: leaf[index] for key, leaf in dataset.train.items()}
                params, state, _ = step(params, state, batch)
            curve.append(float(evaluate(params)))
        curves[name] = curve
    return curves


def simulate_clients(dataset, rounds):
    """FedAvg, FedAdam and FedSpeed on the same clients; returns their histories."""
    parts = federated.partition_dirichlet(dataset.train["y"], CLIENTS, ALPHA, min_size=5, seed=0)
    clients = federated.data.padded(dataset.train, parts)
    test = jax.tree.map(jnp.asarray, dataset.test)
    algorithms = {
        "FedAvg": federated.fedavg(0.1),
        "FedAdam": federated.fedadam(0.1, server_learning_rate=0.03),
        "FedSpeed": federated.fedspeed(0.1, rho=0.1, prox_weight=0.1),
    }
    histories = {}
    for name, algorithm in algorithms.items():
        histories[name] = federated.simulate(
            algorithm,
            loss_fn,
            PARAMS,
            clients,
            rounds=rounds,
            cohort=COHORT,
            batch_size=20,
            num_steps=20,
            evaluate=lambda params: {"accuracy": accuracy(params, test)},
            segment=5,
            progress=True,
            title=f"{name:<13}",
        ).history
    return histories


def plain_averaging(attack, learning_rate):
    """The same momentum step as MoNNA's, but every node averages with all the others."""
    members = [optax.ema(MOMENTUM, debias=False), optax.scale_by_learning_rate(learning_rate)]
    if attack is not None:
        members.append(federated.inject_attack(attack, ATTACKERS, "nodes", on="models", key=0))
    everybody = np.full((NODES, NODES), 1 / NODES)
    return optax.chain(*members, federated.gossip(everybody, "nodes"))


def simulate_nodes(dataset, rounds):
    """MoNNA against plain averaging under each attack; returns the worst honest accuracy."""
    rate = schedules.linear_decay_schedule(0.5, rounds)
    parts = federated.partition_dirichlet(dataset.train["y"], NODES, 1.0, min_size=50, seed=0)
    nodes = federated.data.padded(dataset.train, parts)
    test = jax.tree.map(jnp.asarray, dataset.test)
    honest = NODES - ATTACKERS

    def evaluate(params):
        of_honest = jax.tree.map(lambda x: x[:honest], params)
        return {"accuracy": jax.lax.map(lambda node: accuracy(node, test), of_honest).min()}

    results = {}
    for name, attack in ATTACKS.items():
        rivals = {
            "plain averaging": plain_averaging(attack, rate),
            "MoNNA": federated.monna(rate, ATTACKERS, "nodes", MOMENTUM, attack=attack, key=0),
        }
        for rival, tx in rivals.items():
            history = federated.simulate(
                tx,
                loss_fn,
                PARAMS,
                nodes,
                rounds=rounds,
                batch_size=25,
                num_steps=1,
                evaluate=evaluate,
                segment=rounds // 2,
                progress=True,
                title=f"{rival}, {name}",
            ).history
            results[rival, name] = history.last("accuracy")
    return results


def report(console, curves, histories, nodes):
    """Prints all final figures in one table."""
    table = Table(title="Test accuracy", title_justify="left")
    for column in ("part", "method", "attack"):
        table.add_column(column)
    for column in ("accuracy", "megabytes sent"):
        table.add_column(column, justify="right")
    for name, curve in curves.items():
        table.add_row("one network", name, "", f"{curve[-1]:.3f}", "")
    for name, history in histories.items():
        sent, final = history.total("bytes_up") / 1e6, history.last("accuracy")
        table.add_row(f"{CLIENTS} clients", name, "", f"{final:.3f}", f"{sent:.0f}")
    for (rival, attack), value in nodes.items():
        table.add_row(f"{NODES} nodes", rival, attack, f"{value:.3f}", "")
    console.print(table)


def draw(path, curves, histories, nodes):
    """Saves the figure: all three parts, and clients also against megabytes."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    one, rounds, megabytes, bars = figure.subplots(2, 2).flat
    for name, curve in curves.items():
        one.plot(range(1, len(curve) + 1), curve, marker=".", label=name)
    one.set(title="One network", xlabel="epoch", ylabel="test accuracy", ylim=(0.8, 1.0))
    for name, history in histories.items():
        history.plot("accuracy", ax=rounds, label=name)
        history.plot("accuracy", "bytes_up", ax=megabytes, label=name)
    rounds.set(title=f"{CLIENTS} Dirichlet({ALPHA}) clients", ylabel="test accuracy")
    megabytes.set(title="The same against megabytes sent", ylabel="test accuracy")
    place = np.arange(len(ATTACKS))
    for shift, rival in ((-0.2, "plain averaging"), (0.2, "MoNNA")):
        heights = [nodes[rival, attack] for attack in ATTACKS]
        bars.bar(place + shift, heights, width=0.4, label=rival)
    bars.set_xticks(place, list(ATTACKS))
    title = f"{NODES} nodes, {ATTACKERS} attackers"
    bars.set(title=title, ylabel="worst honest test accuracy", ylim=(0, 1.15))
    for ax in (one, rounds, megabytes):
        ax.legend(loc="lower right")
        ax.grid(alpha=0.3)
    bars.legend(loc="upper center", ncols=2)
    bars.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=130)


def main(argv=None):
    """Runs the three parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist5k", help="mnist5k, digits or fashion_mnist")
    parser.add_argument("--epochs", type=int, default=15, help="of the single network")
    parser.add_argument("--rounds", type=int, default=100, help="of the federated algorithms")
    parser.add_argument("--node-rounds", type=int, default=300, help="of the decentralized ones")
    parser.add_argument("--figure", default="demo.png", help="where to save the picture")
    options = parser.parse_args(argv)
    gradax.use_compilation_cache()
    console, began = Console(), time.perf_counter()
    dataset = federated.data.load(options.data)
    curves = train_one_network(dataset, options.epochs)
    histories = simulate_clients(dataset, options.rounds)
    nodes = simulate_nodes(dataset, options.node_rounds)
    report(console, curves, histories, nodes)
    draw(options.figure, curves, histories, nodes)
    console.print(f"figure: {options.figure}   time: {time.perf_counter() - began:.0f} s")
    return curves, histories, nodes


if __name__ == "__main__":
    main()
