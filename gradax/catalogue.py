"""The catalogue: every method once, registered beside its code.

The conformance battery, the table in the documentation and the command line read it.

>>> from gradax import catalogue
>>> catalogue.get("diffgrad").paper.arxiv
'1909.11015'
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

#: What a method is, and so how it is used and tested.
Kind = Literal[
    "direction",  # scale_by_*: multiply by minus the learning rate afterwards
    "alias",  # a chain ready to use
    "final",  # emits the update itself; must be last in a chain
    "wrapper",  # takes a transformation
    "producer",  # makes the gradient
    "aggregate",  # combines messages over a named axis
    "algorithm",  # an Algorithm of client, aggregate and server
    "schedule",  # a function of the count
    "sampler",  # decides what or who comes next
    "controller",  # a pure rule with a state of its own
    "diagnostic",  # passes updates through and records
    "solver",  # solves a whole problem
    "function",  # anything else that stands in the tables
]

#: Kinds whose factories return an ``optax.GradientTransformation``.
TRANSFORMATION_KINDS = frozenset(
    {"direction", "alias", "final", "wrapper", "producer", "aggregate", "diagnostic"}
)

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    Attributes:
      title: title of the paper or write-up.
      authors: surnames, as in ``"Dubey et al."`` or ``"Pan and Li"``.
      year: of the first public version.
      arxiv: arXiv identifier, if there is one.
      url: where to read it when there is no arXiv identifier.
    """

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    url: str | None = None

    @property
    def link(self) -> str | None:
        """Address of the paper, if it has one."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    def __str__(self) -> str:
        arxiv = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors}, {self.title}, {self.year}{arxiv}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method of the catalogue.

    Attributes:
      name: public name, exported by the package.
      package: ``"optimizers"``, ``"schedules"`` or ``"federated"``.
      room: the folder it lives in, such as ``"adaptive"``.
      kind: what it is; see :data:`Kind`.
      summary: first line of its docstring.
      paper: its source.
      factory: the public callable.
      needs: extras without which ``update`` cannot work (``"axis"`` for a named axis).
      given_example: constructor arguments with which tests build it, or a function that makes them.
      reexport_of: dotted name of the original when nothing was written again.
      exceptions: name of a conformance check -> the reason why it does not apply.
    """

    name: str
    package: str
    room: str
    kind: Kind
    summary: str
    paper: Paper
    factory: Callable[..., Any]
    needs: tuple[str, ...]
    given_example: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    reexport_of: str | None
    exceptions: Mapping[str, str]

    @functools.cached_property
    def example(self) -> Mapping[str, Any]:
        """Constructor arguments with which tests build it; cannot be changed."""
        given = self.given_example
        return MappingProxyType(dict(given() if callable(given) else given))

    @property
    def public_name(self) -> str:
        """Dotted name under which users find it."""
        return f"gradax.{self.package}.{self.name}"

    def make(self, **overrides: Any) -> Any:
        """Builds the method with its example arguments.

        Args:
          **overrides: constructor arguments that replace or extend the example's.

        Returns:
          What the factory returns.
        """
        return self.factory(**{**self.example, **overrides})


_ENTRIES: dict[str, Entry] = {}


def register(
    kind: Kind,
    paper: Paper,
    *,
    needs: tuple[str, ...] = (),
    example: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Callable[[Factory], Factory]:
    """Enters a factory into the catalogue; stands above its ``def``.

    Name, package, room and summary are read from the factory itself.

    Args:
      kind: what the method is.
      paper: its source.
      needs: extras without which ``update`` cannot work.
      example: constructor arguments for tests, or a function that makes them when they are
        asked for: importing the library should not.
      exceptions: conformance check -> reason why it does not apply.

    Returns:
      A decorator that returns the factory unchanged.

    Raises:
      ValueError: if the name is taken or the kind unknown.
    """

    def enter(factory: Factory) -> Factory:
        _, package, room = factory.__module__.split(".")[:3]
        _add(factory, factory.__name__, package, room, kind, paper, needs, example, exceptions)
        return factory

    return enter


def reexport(
    factory: Factory,
    original: str,
    module: str,
    kind: Kind,
    paper: Paper,
    *,
    needs: tuple[str, ...] = (),
    example: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    exceptions: Mapping[str, str] | None = None,
) -> Factory:
    """Enters a callable of another library, under its own name, into a room of ours.

    Args:
      factory: the callable.
      original: its dotted name, such as ``"optax.adabelief"``.
      module: ``__name__`` of the module that re-exports it; fixes the room.
      kind: what the method is.
      paper: its source.
      needs: as in :func:`register`.
      example: as in :func:`register`.
      exceptions: as in :func:`register`.

    Returns:
      The callable, unchanged.

    Raises:
      ValueError: if the name is taken or the kind unknown.
    """
    _, package, room = module.split(".")[:3]
    name = original.rpartition(".")[2]
    _add(factory, name, package, room, kind, paper, needs, example, exceptions, original)
    return factory


def _add(factory, name, package, room, kind, paper, needs, example, exceptions, original=None):
    if kind not in get_args(Kind):
        raise ValueError(f"catalogue: kind must be one of {get_args(Kind)}, got {kind!r}.")
    if name in _ENTRIES:
        raise ValueError(f"catalogue: {name!r} is registered already.")
    _ENTRIES[name] = Entry(
        name=name,
        package=package,
        room=room,
        kind=kind,
        summary=(inspect.getdoc(factory) or "").partition("\n")[0],
        paper=paper,
        factory=factory,
        needs=tuple(needs),
        given_example=example or {},
        reexport_of=original,
        exceptions=MappingProxyType(dict(exceptions or {})),
    )


def entries(package: str | None = None, kinds: frozenset[str] | None = None) -> list[Entry]:
    """Lists the catalogue, ordered by package, room and name.

    Args:
      package: only entries of this package.
      kinds: only entries of these kinds.

    Returns:
      The entries.

    Examples:
      >>> from gradax import catalogue
      >>> "diffgrad" in [entry.name for entry in catalogue.entries("optimizers")]
      True
    """
    import gradax  # noqa: F401  (registers everything)

    chosen = [
        entry
        for entry in _ENTRIES.values()
        if package in (None, entry.package) and (kinds is None or entry.kind in kinds)
    ]
    return sorted(chosen, key=lambda entry: (entry.package, entry.room, entry.name))


def get(name: str) -> Entry:
    """Finds one method by its public name.

    Args:
      name: such as ``"diffgrad"``.

    Returns:
      Its entry.

    Raises:
      ValueError: if there is none; names that look alike are suggested.

    Examples:
      >>> from gradax import catalogue
      >>> catalogue.get("adabelif")
      Traceback (most recent call last):
      ValueError: no method 'adabelif' in the catalogue; did you mean 'adabelief'?
    """
    import gradax  # noqa: F401  (registers everything)

    if name in _ENTRIES:
        return _ENTRIES[name]
    close = difflib.get_close_matches(name, _ENTRIES, n=3)
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    raise ValueError(f"no method {name!r} in the catalogue{hint}")
