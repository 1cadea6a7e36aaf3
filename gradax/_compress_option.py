"""The command line's ``--compress``: a compressor written as text."""

from collections.abc import Callable

import jax
import optax

from gradax import federated
from gradax.federated import Compressor

#: What may be written, as help and errors show it.
FORMS = (
    "topk:FRACTION, randk:FRACTION, sign, natural, qsgd:LEVELS, dithering:LEVELS, powersgd:RANK, "
    "none; two with a plus between them, such as topk:0.01+natural"
)

#: Name -> factory, and what makes its argument of text, if it has one.
_KINDS: dict[str, tuple[Callable[..., Compressor], type[int] | type[float] | None]] = {
    "topk": (federated.top_k, float),
    "randk": (federated.rand_k, float),
    "sign": (federated.sign_l1, None),
    "natural": (federated.natural_compression, None),
    "qsgd": (federated.qsgd, int),
    "dithering": (federated.natural_dithering, int),
    "powersgd": (federated.power_sgd, int),
    "none": (federated.no_compression, None),
}


def parse_compressor(text: str) -> Compressor:
    """Makes a contractive compressor, fit for error feedback, from its description.

    Args:
      text: such as ``"topk:0.01"``. Unbiased compressors are shrunk.

    Returns:
      The compressor.

    Raises:
      ValueError: if the text is not one of the forms, or its number is out of range.

    Examples:
      >>> parse_compressor("topk:0.01") == federated.top_k(0.01)
      True
      >>> parse_compressor("topk:0.1+qsgd:4").bits(1000)
      1432
    """
    first, *more = [_parse(part, text) for part in text.split("+")]
    for second in more:
        first = first.then(second)
    return first


def compress_messages(
    algorithm: federated.Algorithm, text: str, key: int = 0
) -> federated.Algorithm:
    """Lets the clients of an algorithm send compressed messages, with error feedback.

    Args:
      algorithm: its clients send updates like params.
      text: as in :func:`parse_compressor`.
      key: for compressors that draw.

    Returns:
      The algorithm with one member more in the client's chain.

    Raises:
      ValueError: as :func:`parse_compressor`, or if there is no server.
    """
    compressor = parse_compressor(text)
    if not isinstance(algorithm, federated.Algorithm) or algorithm.server is None:
        raise ValueError("compress: only messages to a server are compressed, such as fedavg's.")
    feedback = federated.error_feedback(compressor, key)
    client = optax.chain(algorithm.client, _in_one_part(), feedback)
    return algorithm._replace(client=client)


def _in_one_part() -> optax.GradientTransformationExtraArgs:
    """Refuses messages that are not like params."""

    def update(updates, state, params=None, **extra):
        del extra
        found, wanted = (
            [path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (updates, params)
        )
        if found != wanted:
            raise ValueError(
                "compress: messages with parts, such as scaffold's, are not compressed."
            )
        return updates, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _parse(part: str, text: str) -> Compressor:
    name, colon, written = part.strip().partition(":")
    factory, kind = _KINDS.get(name, (None, None))
    fits = bool(written) if kind else not colon
    if factory is None or not fits:
        raise ValueError(f"compress: expected one of {FORMS}; got {text!r}.")
    if kind is None:
        compressor = factory()
    else:
        try:
            number = kind(written)
        except ValueError as error:
            raise ValueError(f"compress: {written!r} in {text!r} is no {kind.__name__}.") from error
        compressor = factory(number)
    return compressor if compressor.is_contractive else compressor.shrunk()
