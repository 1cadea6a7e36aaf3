"""A number in one byte: a sign and a logarithm."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate, catalogue
from gradax._wide import widen

PAPER = catalogue.Paper(
    title="Just One Byte (per gradient): A Note on Low-Bandwidth Decentralized Language Model "
    "Finetuning Using Shared Randomness",
    authors="Zelikman et al.",
    year=2023,
    arxiv="2306.10015",
)

#: Minus zero, which no number is encoded as: its sender took no part.
ABSENT = 128

_SIGN, _CENTRE, _LARGEST = 128, 64, 127


@catalogue.register("function", PAPER, example={"number": -2.75})
def encode_byte(number: jax.typing.ArrayLike, log_scale: float = 8.0) -> jax.Array:
    r"""Writes numbers as bytes: bit 7 is the sign, the others are a logarithm.

    With :math:`\rho` for ``log_scale`` the lower seven bits are

    .. math::
        m = \operatorname{clip}(\operatorname{round}(\rho \ln |p|) + 64, 1, 127),

    rounding halves to even, and 0 stands for zero. Magnitudes from :math:`e^{-63/\rho}` to
    :math:`e^{63/\rho}` are kept to a relative error of :math:`e^{1/(2\rho)} - 1`: by default
    from 3.8e-4 to 2630, to 6.4 %. Others are moved to the ends of this range, and what is not
    finite becomes zero.

    Args:
      number: real numbers of any shape.
      log_scale: :math:`\rho > 0`, steps per factor of e. Static.

    Returns:
      ``uint8`` of the same shape; never 128.

    Raises:
      ValueError: if ``log_scale`` is not positive and finite.

    Examples:
      >>> from gradax import federated
      >>> federated.encode_byte([0.0, 1.0, -2.75, 1e-9]).tolist()
      [0, 64, 200, 1]

    References:
      Zelikman et al., `Just One Byte (per gradient) <https://arxiv.org/abs/2306.10015>`_, 2023.
    """
    check_log_scale("encode_byte", log_scale)
    number = widen(jnp.asarray(number))
    exact = jnp.isfinite(number) & (number != 0)
    logarithm = jnp.log(jnp.where(exact, jnp.abs(number), 1))
    magnitude = jnp.clip(jnp.round(log_scale * logarithm) + _CENTRE, 1, _LARGEST)
    code = magnitude.astype(jnp.uint8) + jnp.where(number < 0, _SIGN, 0).astype(jnp.uint8)
    return jnp.where(exact, code, 0).astype(jnp.uint8)


@catalogue.register("function", PAPER, example={"code": 200})
def decode_byte(
    code: jax.typing.ArrayLike, log_scale: float = 8.0, dtype: jax.typing.DTypeLike = float
) -> jax.Array:
    """Reads the numbers that :func:`encode_byte` wrote.

    They are looked up in a table of 256, so that everybody reads the same bits.

    Args:
      code: ``uint8`` of any shape.
      log_scale: as in :func:`encode_byte`. Static.
      dtype: of the result.

    Returns:
      Numbers of the same shape; 0 and 128 are both zero.

    Raises:
      ValueError: if ``log_scale`` is not positive and finite.

    Examples:
      >>> from gradax import federated
      >>> federated.decode_byte([0, 64, 192, 128]).tolist()
      [0.0, 1.0, -1.0, 0.0]

    References:
      Zelikman et al., `Just One Byte (per gradient) <https://arxiv.org/abs/2306.10015>`_, 2023.
    """
    check_log_scale("decode_byte", log_scale)
    table = jnp.asarray(_table(float(log_scale)), jax.dtypes.canonicalize_dtype(dtype))
    return table[jnp.asarray(code, jnp.uint8)]


def check_log_scale(who: str, log_scale: float) -> None:
    """Raises unless the scale is a positive finite number."""
    _validate.interval(who, "log_scale", log_scale, "(0, inf)")
    if not isinstance(log_scale, int | float) or math.isinf(log_scale):
        raise ValueError(f"{who}: log_scale must be a finite number, got {log_scale!r}.")


@functools.lru_cache(maxsize=8)
def _table(log_scale: float) -> np.ndarray:
    positive = np.exp((np.arange(_SIGN) - _CENTRE) / log_scale)
    positive[0] = 0.0
    return np.concatenate([positive, 0.0 - positive])
