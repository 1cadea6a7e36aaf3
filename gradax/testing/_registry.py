"""The list of checks: each is entered where it is written, with the subjects it applies to."""

import dataclasses
from collections.abc import Callable

from gradax.testing._subject import Subject


@dataclasses.dataclass(frozen=True)
class Check:
    """One requirement on a transformation; call it with a :class:`Subject`.

    Attributes:
      name: how ``skip``, ``checks`` and the catalogue's ``exceptions`` call it.
      summary: what it asks, in one line.
      function: raises if the subject does not meet it.
      applies: whether the question makes sense for a subject at all, for instance one about a
        learning rate for a factory that takes none.
    """

    name: str
    summary: str
    function: Callable[[Subject], None]
    applies: Callable[[Subject], bool]

    def __call__(self, subject: Subject) -> None:
        """Runs the check; returns nothing, raises if it fails."""
        self.function(subject)


#: Every check by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def check(
    applies: Callable[[Subject], bool] = lambda subject: True,
) -> Callable[[Callable[[Subject], None]], Check]:
    """Enters a function into :data:`CHECKS` under its own name; stands above its ``def``."""

    def enter(function: Callable[[Subject], None]) -> Check:
        summary = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        entered = Check(function.__name__, summary, function, applies)
        CHECKS[entered.name] = entered
        return entered

    return enter
