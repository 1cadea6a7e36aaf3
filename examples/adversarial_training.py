"""Adversarial training as a game: a Flax network against patterns that spoil its images.

    python examples/adversarial_training.py

The network minimizes the loss on digits to which an opponent has added one pattern for each
class, within `RADIUS` in every pixel; the opponent maximizes the same loss. Eight nodes hold the
images and share both players' parameters. Four ways to play:

* descent: both players step at once, the opponent uphill;
* extragradient: both look one step ahead first (twice the work and twice the bytes);
* optimistic: the last gradient stands for the one ahead;
* MASHA: extragradient with a snapshot, whose nodes send compressed differences.

The network that has never met an opponent is the fifth. At the end every network faces an attack
made for it: many small steps uphill with its weights fixed.
"""

import argparse
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gradax import federated, optimizers

NODES, CLASSES, RADIUS = 8, 10, 0.1
#: The opponent's coordinates count this much in pixels, which makes its steps longer.
REACH = 4.0


class Classifier(nn.Module):
    """Two layers for small images."""

    hidden: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[batch, classes]`` of images ``[batch, ...]``."""
        x = nn.tanh(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


MODEL = Classifier()
METHODS = ("no opponent", "descent", "extragradient", "optimistic", "MASHA")


class Outcome(NamedTuple):
    """What a way to play leads to.

    Attributes:
      clean: accuracy on the test images.
      attacked: accuracy on test images with the worst patterns for this network.
      megabytes: sent by all nodes.
    """

    clean: float
    attacked: float
    megabytes: float


def logits(z: optimizers.MinMax, batch: dict[str, jax.Array]) -> jax.Array:
    """The network's answers to spoiled images."""
    return MODEL.apply(z.min, batch["x"] + REACH * z.max[batch["y"]])


def loss_fn(z: optimizers.MinMax, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross entropy; the network pays for large weights, so that the game has an end."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(z, batch), batch["y"])
    return losses.mean() + 5e-4 * optax.tree.norm(z.min, squared=True)


def within_reach(z: optimizers.MinMax) -> optimizers.MinMax:
    """Cuts patterns to what the opponent may do."""
    return z._replace(max=jnp.clip(z.max, -RADIUS / REACH, RADIUS / REACH))


def without_opponent(updates: optimizers.MinMax) -> optimizers.MinMax:
    return updates._replace(max=jnp.zeros_like(updates.max))


def methods(rate: float) -> dict[str, optax.GradientTransformation]:
    """What a node does; the opponent's constraint is part of it."""
    step = optax.chain(federated.average("nodes"), optax.sgd(rate))
    guess = optax.chain(federated.average("nodes"), optax.optimistic_gradient_descent(rate))
    code = federated.natural_compression()
    ways = (
        optax.chain(optax.stateless(lambda updates, _: without_opponent(updates)), step),
        optax.chain(step, stay_within()),
        optimizers.extragradient(step, projection=within_reach),
        optax.chain(guess, stay_within()),
        federated.masha1(rate, code, "nodes", tau=0.9, projection=within_reach),
    )
    return dict(zip(METHODS, ways, strict=True))


def stay_within() -> optax.GradientTransformation:
    """Cuts a step to one that leads to what the opponent may do."""

    def cut(updates, params):
        end = within_reach(optax.apply_updates(params, updates))
        return jax.tree.map(lambda new, old: new - old, end, params)

    return optax.stateless(cut)


def attack(z: optimizers.MinMax, batch: dict[str, jax.Array], steps: int = 40) -> optimizers.MinMax:
    """The worst patterns for fixed weights: steps of the sign of the gradient, from none."""

    def climb(patterns, _):
        slope = jax.grad(lambda p: loss_fn(z._replace(max=p), batch))(patterns)
        moved = z._replace(max=patterns + 0.1 * RADIUS / REACH * jnp.sign(slope))
        return within_reach(moved).max, None

    return z._replace(max=jax.lax.scan(climb, jnp.zeros_like(z.max), length=steps)[0])


@jax.jit
def accuracies(z: optimizers.MinMax, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """On clean images and on attacked ones."""
    correct = lambda z: jnp.mean(logits(z, batch).argmax(-1) == batch["y"])
    return correct(z._replace(max=jnp.zeros_like(z.max))), correct(attack(z, batch))


def train(name: str, rounds: int, rate: float = 0.3, seed: int = 0) -> Outcome:
    """Plays one game on scikit-learn's digits, and attacks the network that comes out."""
    digits = federated.data.load("digits")
    parts = federated.partition_iid(len(digits.train["y"]), NODES, seed=seed)
    weights = MODEL.init(jax.random.key(seed), digits.train["x"][:1])
    patterns = jnp.zeros((CLASSES, *digits.train["x"].shape[1:]))
    result = federated.simulate(
        optimizers.minmax(methods(rate)[name]),
        loss_fn,
        optimizers.MinMax(weights, patterns),
        federated.data.padded(digits.train, parts),
        rounds=rounds,
        batch_size=None,
        segment=rounds,
        key=seed,
    )
    z = jax.tree.map(lambda leaf: leaf[0], result.params)  # all nodes have the same
    calls = 2 if name == "extragradient" else 1  # it averages twice in a round
    megabytes = calls * result.history.total("bytes_up") / 1e6
    return Outcome(*map(float, accuracies(z, digits.test)), float(megabytes))


def main(arguments: list[str] | None = None) -> dict[str, Outcome]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args(arguments)
    print(f"{'':15s}{'clean':>8s}{'attacked':>10s}{'megabytes':>11s}")
    outcomes = {}
    for name in options.methods:
        outcomes[name] = outcome = train(name, options.rounds)
        print(f"{name:15s}{outcome.clean:8.3f}{outcome.attacked:10.3f}{outcome.megabytes:11.1f}")
    return outcomes


if __name__ == "__main__":
    main()
