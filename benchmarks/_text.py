"""English text as numbers, without a download."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

#: Printable ASCII and the end of a line; other characters are left out.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))


class Text(NamedTuple):
    """A text, character by character.

    Attributes:
      source: where it comes from.
      codes: ``int32[n]``, places in :data:`ALPHABET`.
    """

    source: str
    codes: np.ndarray


def load() -> Text:
    """Reads Shakespeare where there is a copy, else what Python tells about itself.

    Shakespeare: all ``*.txt`` of the folder ``$GRADAX_DATA/shakespeare``. Otherwise the half
    million characters of the language reference that ``help()`` shows; every Python has them.
    """
    root = os.environ.get("GRADAX_DATA")
    files = sorted(pathlib.Path(root, "shakespeare").glob("*.txt")) if root else []
    if files:
        parts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
        return Text("Shakespeare", _encode("\n".join(parts)))
    from pydoc_data.topics import topics

    return Text("Python's language reference", _encode("\n".join(topics.values())))


def _encode(text: str) -> np.ndarray:
    # As bytes, since half a million look-ups in a loop would take longer than a task's training.
    places = np.full(128, -1, np.int32)
    places[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
    codes = places[np.frombuffer(text.encode("ascii", errors="ignore"), np.uint8)]
    return codes[codes >= 0]
