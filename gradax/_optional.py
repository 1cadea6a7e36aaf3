"""Optional dependencies: imported where they are used, with an error that says what to install."""

import importlib
from types import ModuleType


def load(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional module, or says which extra brings it.

    Args:
      module: dotted name of the module, such as ``"matplotlib.pyplot"``.
      extra: the extra of this package that installs it.
      purpose: what needs it, for the message.

    Returns:
      The imported module.

    Raises:
      ImportError: if the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {root}, which is not installed: pip install 'gradax[{extra}]'."
        ) from error
