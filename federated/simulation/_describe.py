"""A readable account of functions made of closures: what a run is, so that another is noticed.

A gradient transformation is a pair of functions; its hyper-parameters live in their closures.
Two algorithms are taken for the same when the code and all numbers they close over agree.
"""

import functools
import hashlib
from typing import Any

import jax
import numpy as np

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
    if isinstance(value, tuple | list | set | frozenset):
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
        return getattr(value, "__qualname__", type(value).__qualname__)
    cells = value.__closure__ or ()
    inside = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            inside[name] = within(cell.cell_contents)
        except ValueError:  # a cell that is not filled yet
            inside[name] = "?"
    return _call(f"{value.__module__}.{value.__qualname__}", inside)


def _call(name: str, fields: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={text}' for key, text in fields.items())})"
