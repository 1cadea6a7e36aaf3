"""A readable account of functions made of closures: what a run is, so that another is noticed.

A gradient transformation is a pair of functions; its hyper-parameters live in their closures.
Two algorithms are taken for the same when their functions have the same names and close over the
same values; of functions outside of the libraries, names and constants in the code count as well.
"""

import dataclasses
import functools
import hashlib
import types
from typing import Any

import jax
import numpy as np

#: Functions that are known by their name: a new version of these may go on with an old run.
_LIBRARIES = frozenset({"flax", "gradax", "jax", "numpy", "optax"})

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.number)


def describe(value: Any) -> str:
    """Writes down a value, and functions together with what they close over.

    Args:
      value: anything; arrays appear by shape, dtype and a hash of their contents.

    Returns:
      Text, equal for equal values in any process.

    Examples:
      >>> def scale(factor):
      ...     return lambda x: factor * x
      >>> describe(scale(2.0)) == describe(scale(2.0)), describe(scale(2.0)) == describe(scale(3.0))
      (True, False)
    """
    return _describe(value, ())


def _describe(value, above) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in above:
        return "..."
    within = functools.partial(_describe, above=(*above, id(value)))
    if isinstance(value, dict):
        return _call("", {str(name): within(item) for name, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = {name: within(getattr(value, name)) for name in value._fields}
        return _call(type(value).__name__, fields)
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(within, value)))}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(within, value))}]"
    if isinstance(value, jax.Array | np.ndarray):
        return _array(value)
    if isinstance(value, functools.partial):
        return f"{within(value.func)}({within(value.args)}, {within(value.keywords)})"
    return _function(value, within)


def _array(value) -> str:
    if isinstance(value, jax.core.Tracer):
        return f"{value.dtype}{value.shape}"
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]
    return f"{value.dtype}{list(value.shape)}#{digest}"


def _function(value, within) -> str:
    value = getattr(value, "__wrapped__", value)
    code = getattr(value, "__code__", None)
    if code is None:
        return _instance(value, within)
    inside = {}
    if (owner := getattr(value, "__self__", None)) is not None:
        inside["self"] = within(owner)
    if str(value.__module__).partition(".")[0] not in _LIBRARIES:
        inside["code"] = within(_names_and_constants(code, value.__doc__))
        inside["defaults"] = within([value.__defaults__, value.__kwdefaults__])
    for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
        try:
            inside[name] = within(cell.cell_contents)
        except ValueError:  # a cell that is not filled yet
            inside[name] = "?"
    return _call(f"{value.__module__}.{value.__qualname__}", inside)


def _names_and_constants(code, doc) -> list[Any]:
    """What a function calls, and the numbers and texts in it and in functions it defines."""
    nested = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    own = [part for part in code.co_consts if part not in nested and part not in (None, doc)]
    return [*code.co_names, *own, *(_names_and_constants(inner, None) for inner in nested)]


def _instance(value, within) -> str:
    """A class by its name, any other object by its class and attributes."""
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        attributes = {name: getattr(value, name) for name in names}
    else:
        attributes = getattr(value, "__dict__", {})
    return _call(type(value).__qualname__, {k: within(v) for k, v in attributes.items()})


def _call(name: str, fields: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={text}' for key, text in fields.items())})"
