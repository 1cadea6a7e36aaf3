"""Running the checks: on one's own transformation, and over the catalogue."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import optax

from gradax import catalogue
from gradax.testing._extras import At
from gradax.testing._registry import CHECKS
from gradax.testing._subject import Subject


class ConformanceError(AssertionError):
    """Raised by :func:`check_transformation`; names every check that failed.

    Attributes:
      failures: name of the check -> what it raised.
    """

    def __init__(self, failures: Mapping[str, Exception], checks: Mapping[str, Any] = CHECKS):
        lines = [
            f"  {name} ({checks[name].summary}):\n    {_first_lines(error)}"
            for name, error in failures.items()
        ]
        super().__init__(f"{len(failures)} failed\n" + "\n".join(lines))
        self.failures = dict(failures)


def _first_lines(error: Exception, count: int = 3) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: " + "\n    ".join(lines[:count])


def check_transformation(
    factory: Callable[[], optax.GradientTransformation],
    *,
    needs: Iterable[str] = (),
    skip: Mapping[str, str] | None = None,
    checks: Iterable[str] | None = None,
    kind: str = "alias",
    axis_name: str = "clients",
    extras: Mapping[str, Callable[[At], Any]] | None = None,
) -> tuple[str, ...]:
    """Runs the conformance battery on a transformation.

    Args:
      factory: builds the transformation, without arguments.
      needs: extras that ``update`` cannot work without, such as ``"value"`` or ``"grad_fn"``;
        ``"axis"`` if it has to run under a named axis (there will be 4 participants).
      skip: check -> reason why it does not apply; nothing is skipped without a reason.
      checks: only these; default all of :data:`CHECKS` that make sense for the subject.
      kind: ``"alias"`` for an optimizer, whose updates are added to the parameters as they are;
        ``"direction"``, ``"diagnostic"``, ``"producer"`` or ``"aggregate"`` if they have to be
        multiplied by minus a learning rate first, ``"final"`` if the gradients have to be, and
        ``"wrapper"`` if that is left open. The battery tries several rates then.
      axis_name: name of the axis of participants.
      extras: extra -> function of :class:`At` that makes it, for extras that the battery does
        not know.

    Returns:
      Names of the checks that were run; all of them passed.

    Raises:
      ConformanceError: an ``AssertionError`` that names each failed check.
      ValueError: if ``skip``, ``checks`` or ``needs`` hold an unknown name, or a skip gives no
        reason.
      TypeError: if the factory does not return a gradient transformation.

    Examples:
      >>> import optax
      >>> from gradax import testing
      >>> testing.check_transformation(lambda: optax.sgd(1e-3), checks=["donation", "no_retrace"])
      ('donation', 'no_retrace')
    """
    skip = dict(skip or {})
    chosen = tuple(CHECKS) if checks is None else tuple(checks)
    _known("skip", skip)
    _known("checks", chosen)
    for name, reason in skip.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"check_transformation: skip[{name!r}] must be a reason in words.")
    subject = Subject(factory, tuple(needs), kind, axis_name, extras or {})
    subject.make()
    run = tuple(name for name in chosen if name not in skip and CHECKS[name].applies(subject))
    failures: dict[str, Exception] = {}
    for name in run:
        try:
            CHECKS[name](subject)
        except Exception as error:
            failures[name] = error
    if failures:
        raise ConformanceError(failures)
    return run


def _known(argument: str, names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(CHECKS))
    if unknown:
        raise ValueError(
            f"check_transformation: {argument} must name checks, got {unknown}; "
            f"there are {list(CHECKS)}."
        )


@functools.cache
def subject(name: str) -> Subject:
    """Returns the subject of a catalogue entry; the same object each time.

    Checks of one entry share what the subject has compiled.

    Args:
      name: public name, such as ``"diffgrad"``.

    Returns:
      The subject, built with the entry's example arguments.

    Raises:
      ValueError: if there is no such entry.
    """
    return Subject.of(catalogue.get(name))


class Cell(NamedTuple):
    """One question of the battery to one entry of the catalogue.

    Attributes:
      entry: name of the entry.
      check: name of the check.
      reason: why it is skipped, or ``None`` if it is asked.
    """

    entry: str
    check: str
    reason: str | None


def cells() -> list[Cell]:
    """Lists every check that makes sense for every transformation of the catalogue.

    Returns:
      One cell for each; ``reason`` comes from the entry's ``exceptions``.

    Raises:
      ValueError: if an entry's ``exceptions`` name an unknown check.
    """
    listed = []
    for entry in catalogue.entries(kinds=catalogue.TRANSFORMATION_KINDS):
        _known(f"exceptions of {entry.name}", entry.exceptions)
        asked = [name for name, check in CHECKS.items() if check.applies(subject(entry.name))]
        listed += [Cell(entry.name, name, entry.exceptions.get(name)) for name in asked]
    return listed


class PeerSpec(NamedTuple):
    """How another test suite builds and runs an optimizer of the catalogue.

    Attributes:
      name: public name.
      factory: the public callable.
      arguments: keyword arguments with which tests build it.
      needs: extras that ``update`` has to be given; ``"axis"`` for a named axis.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]
    needs: tuple[str, ...]

    def make(self) -> optax.GradientTransformation:
        """Builds the optimizer."""
        return self.factory(**self.arguments)


def _takes_rate(entry: catalogue.Entry) -> bool:
    return "learning_rate" in subject(entry.name).signature


def peer_specs() -> list[PeerSpec]:
    """Lists every optimizer of the catalogue: what minimises a function on its own.

    Returns:
      One spec per entry whose updates are added to the parameters as they are: kind
      ``"alias"``, and ``"final"`` unless it is the last stage of a federated chain.

    Examples:
      >>> from gradax import testing
      >>> specs = {spec.name: spec for spec in testing.peer_specs()}
      >>> specs["diffgrad"].needs
      ()
    """
    return [
        PeerSpec(entry.name, entry.factory, dict(entry.example), entry.needs)
        for entry in catalogue.entries(kinds=frozenset({"alias", "final"}))
        if entry.kind == "alias" or entry.package == "optimizers" or _takes_rate(entry)
    ]
