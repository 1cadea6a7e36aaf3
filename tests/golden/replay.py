"""Replays every golden file of this folder through the public interface.

``REPLAYS[method](case)`` takes one case of ``method.json`` and returns what the case records,
under the same keys. ``TOLERANCES[method]`` is the relative tolerance where it is not 1e-9.
"""

import importlib
import pathlib
import sys
from collections.abc import Callable

FOLDER = pathlib.Path(__file__).parent
if str(FOLDER) not in sys.path:  # the replays are modules beside this one, not a package
    sys.path.insert(0, str(FOLDER))

_PARTS = [importlib.import_module(path.stem) for path in sorted(FOLDER.glob("replays_*.py"))]

REPLAYS: dict[str, Callable[[dict], dict]] = {}
TOLERANCES: dict[str, float | Callable[[dict], float]] = {}
for _part in _PARTS:
    REPLAYS.update(_part.REPLAYS)
    TOLERANCES.update(getattr(_part, "TOLERANCES", {}))
