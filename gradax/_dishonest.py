"""The command line's ``--attack``, ``--attackers`` and ``--aggregate``."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from gradax import federated

attacks, rules = federated.attacks, federated.rules

Rule = Callable[..., Any]


def _searched(attack: Callable[..., Any]) -> Callable[[Rule, int], Any]:
    """An attack whose factor is fitted to the rule, as MoNNA's authors do, every fifth step."""
    return lambda rule, f: attacks.optimized(
        attack, rule, f, every=5, evals=16, delta=1.0, both_ways=True
    )


#: Name -> ``make(rule, f)``, an attack on messages; ``None`` is one on the data.
ATTACKS: dict[str, Callable[[Rule, int], Any] | None] = {
    "alie": lambda rule, f: attacks.a_little_is_enough,
    "alie_search": _searched(attacks.a_little_is_enough),
    "foe": lambda rule, f: attacks.inner_product,
    "foe_search": _searched(attacks.inner_product),
    "gaussian": lambda rule, f: attacks.gaussian,
    "label_flip": None,
    "learned_mimic": lambda rule, f: attacks.learned_mimic(),
    "mimic": lambda rule, f: attacks.mimic,
    "sign_flip": lambda rule, f: attacks.sign_flip,
}
RULES: dict[str, Rule] = {
    "mean": rules.mean,
    "median": rules.median,
    "trimmed_mean": rules.trimmed_mean,
    "meamed": rules.meamed,
    "krum": rules.krum,
    "multi_krum": rules.multi_krum,
    "geometric_median": rules.geometric_median,
    "mda": rules.mda,
    "smea": rules.smea,
    "caf": rules.caf,
}
#: Name -> pre-aggregator, and its parameters.
PRE: dict[str, tuple[Rule, dict[str, Any]]] = {
    "nnm": (rules.nnm, {}),
    "arc": (rules.arc, {}),
    "bucketing": (rules.bucketing, {"s": 2}),
}


def add_arguments(group: Any) -> None:
    """Declares the options.

    Args:
      group: of the command's parser.
    """
    group.add_argument("--attack", choices=sorted(ATTACKS), help="what dishonest ones send")
    group.add_argument(
        "--attackers", type=int, default=0, help="how many are dishonest; then all take part"
    )
    group.add_argument(
        "--aggregate",
        help=f"with a server: {', '.join(RULES)}, such as trimmed_mean, which bear as many as "
        f"--attackers; with {', '.join(PRE)} in front, such as nnm+krum",
    )


def attack_of(arguments: argparse.Namespace, rule: Rule) -> Any:
    """Makes the attack on messages that was asked for.

    Args:
      arguments: parsed options.
      rule: ``rule(rows, f)``, what attackers search against.

    Returns:
      The attack; ``None`` if there is none, or the data are attacked.
    """
    make = ATTACKS.get(arguments.attack)
    return None if make is None else make(rule, arguments.attackers)


def flip_labels(data: Any, num_classes: int, arguments: argparse.Namespace) -> Any:
    """Flips the labels of the last clients, if that is the attack.

    Args:
      data: examples of all clients.
      num_classes: number of classes.
      arguments: parsed options.

    Returns:
      The data, with other labels or as they are.
    """
    if arguments.attack != "label_flip":
        return data
    liars = range(arguments.clients - arguments.attackers, arguments.clients)
    return attacks.flip_labels(data, liars, num_classes)


def check(arguments: argparse.Namespace) -> None:
    """Refuses numbers that cannot work.

    Args:
      arguments: parsed options.

    Raises:
      ValueError: if there are no attackers to attack, nobody is honest, or only some take part.
    """
    if not (arguments.attackers or arguments.attack):
        return
    if not 0 < arguments.attackers < arguments.clients:
        raise ValueError(
            f"simulate: --attackers must lie in [1, {arguments.clients}), "
            f"got {arguments.attackers}."
        )
    if arguments.cohort not in (None, arguments.clients):
        raise ValueError("simulate: with --attackers all take part; leave out --cohort.")


def with_server(
    algorithm: federated.Algorithm, arguments: argparse.Namespace
) -> federated.Algorithm:
    """Gives an algorithm the aggregate that was asked for, and puts the liars before it.

    Args:
      algorithm: with a server.
      arguments: parsed options.

    Returns:
      The algorithm with another aggregate.

    Raises:
      ValueError: if the aggregate is unknown.
    """
    f, axis_name, rule = arguments.attackers, algorithm.axis_name, rules.mean
    aggregate = algorithm.aggregate
    if arguments.aggregate is not None:
        rule, aggregate = _aggregate(arguments.aggregate, f, axis_name, arguments.seed)
    attack = attack_of(arguments, rule)
    if attack is not None:
        lie = federated.inject_attack(attack, f, axis_name, key=arguments.seed)
        aggregate = optax.chain(lie, aggregate)
    return algorithm._replace(aggregate=aggregate)


def _aggregate(
    text: str, f: int, axis_name: Any, seed: int
) -> tuple[Rule, optax.GradientTransformation]:
    """From text, a rule to search against and the transformation."""
    *before, last = text.split("+")
    if last not in RULES or not set(before) <= set(PRE):
        raise ValueError(
            f"simulate: --aggregate takes one of {', '.join(RULES)}, with any of "
            f"{', '.join(PRE)} and a plus in front; got {text!r}."
        )
    pre = [functools.partial(PRE[name][0], f=f, **PRE[name][1]) for name in before]
    rule = functools.partial(RULES[last], f=f)
    aggregate = federated.robust_aggregate(rule, axis_name, pre, key=seed)

    def in_force(rows: Any, f: int) -> Any:
        del f  # the same
        for name, member in zip(before, pre, strict=True):
            # Attackers do not know in which order clients fall into buckets.
            order = np.arange(len(jax.tree.leaves(rows)[0]))
            rows = member(rows, perm=order) if name == "bucketing" else member(rows)
        return rule(rows)

    return in_force, aggregate
