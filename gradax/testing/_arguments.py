"""Arguments of ``update`` and of the constructor: accepted, missing and wrong."""

import inspect
import re
from typing import Any

import jax
import optax

from gradax.testing._compare import close, mentions
from gradax.testing._dtypes import keeps_types, trace_update
from gradax.testing._registry import check
from gradax.testing._subject import Subject


@check()
def unknown_extra_args(subject: Subject) -> None:
    """An extra argument that nobody knows is ignored."""
    keeps_types(subject, subject.params(), more=lambda at: {"known_to_nobody": 0})


@check()
def params_none(subject: Subject) -> None:
    """Without params it works, or raises a ValueError that names params."""
    try:
        trace_update(subject, subject.params(), without=("params",))
    except ValueError as error:
        mentions(error, "params")


def _extras(subject: Subject) -> list[str]:
    return sorted(set(subject.needs) - {"axis"})


@check(applies=lambda subject: subject.is_original and bool(_extras(subject)))
def missing_extra(subject: Subject) -> None:
    """Without an extra that it needs it raises a ValueError that names the extra."""
    for extra in _extras(subject):
        _expect_value_error(
            lambda extra=extra: trace_update(subject, subject.params(), without=(extra,)), extra
        )


@check(applies=lambda subject: subject.is_original and subject.has_axis)
def unbound_axis(subject: Subject) -> None:
    """Outside of its axis it raises a ValueError that names the axis."""
    alone = Subject(
        subject.factory,
        tuple(need for need in subject.needs if need != "axis"),
        "alias",
        suppliers=subject.suppliers,
    )
    _expect_value_error(lambda: trace_update(alone, alone.params()), subject.axis_name)


@check(applies=lambda subject: "learning_rate" in subject.learning_rates)
def schedule_equals_float(subject: Subject) -> None:
    """A constant schedule does what the number does."""
    rate = subject.example.get("learning_rate", 1e-2)
    build = lambda value: subject.run(make=lambda: subject.remake(learning_rate=value))

    walk = lambda run: run.walk(subject.params(), run.init(subject.params()), times=10)[0]
    runs = [build(rate), build(optax.constant_schedule(rate))]
    number, schedule = jax.jit(lambda: [walk(run) for run in runs])()
    close("params", schedule, number)


@check(applies=lambda subject: subject.is_original and bool(subject.learning_rates))
def bad_learning_rate(subject: Subject) -> None:
    """A negative or NaN learning rate raises a ValueError that names it."""
    for name in subject.learning_rates:
        for wrong in (-1.0, float("nan")):
            _expect_value_error(lambda n=name, v=wrong: subject.remake(**{n: v}), name)


@check(applies=lambda subject: subject.is_original and bool(_numbers(subject)))
def nan_argument(subject: Subject) -> None:
    """NaN for any number of the constructor raises a ValueError that names the argument."""
    for name in _numbers(subject):
        _expect_value_error(lambda n=name: subject.remake(**{n: float("nan")}), name)


def injectable(subject: Subject) -> tuple[list[str], list[str]]:
    """Splits a factory's arguments into numbers that may be traced, and all others.

    An argument is static if its value in the example is no Python float, or if the factory's
    docstring calls it static.
    """
    traced = [name for name in _numbers(subject) if not _called_static(subject, name)]
    return traced, [name for name in subject.signature if name not in traced]


def _numbers(subject: Subject) -> list[str]:
    """Arguments whose value in the example, or else by default, is a Python float."""
    value = lambda name: subject.example.get(name, subject.signature[name].default)
    return [name for name in subject.signature if isinstance(value(name), float)]


def _called_static(subject: Subject, name: str) -> bool:
    doc = inspect.getdoc(subject.entry.factory) if subject.entry else ""
    described = re.search(rf"^ +{name}: (.*?)(?=^ +\w+: |^\S|^$|\Z)", doc or "", re.M | re.S)
    return described is not None and re.search(r"\bstatic\b", described[1], re.I) is not None


def _expect_value_error(call: Any, name: str) -> None:
    try:
        call()
    except ValueError as error:
        mentions(error, name)
    else:
        raise AssertionError(f"No ValueError about {name}.")
