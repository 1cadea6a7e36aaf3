"""Data sets from files in a folder: IDX, the format of MNIST, and NumPy's NPZ."""

import gzip
import os
import pathlib

import numpy as np

from ._dataset import Dataset, Examples, make_dataset

#: Third byte of an IDX file -> type of its entries, big-endian.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one IDX file, gzipped if its name ends in ``.gz``.

    Args:
      path: the file.

    Returns:
      An array of the shape and type that the file declares.

    Raises:
      ValueError: if the file is not IDX, or shorter or longer than it declares.

    Examples:
      >>> import pathlib, tempfile
      >>> from gradax.federated import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "tiny-labels-idx1-ubyte"
      ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]))
      ...     data.read_idx(path).tolist()
      [7, 0, 9]
    """
    path = pathlib.Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"read_idx: {path} is not a whole gzip file.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(f"read_idx: {path} is not an IDX file.")
    dtype, start = np.dtype(_IDX_TYPES[content[2]]), 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(np.int64)
    if len(content) != start + dtype.itemsize * shape.prod(dtype=np.int64):
        raise ValueError(
            f"read_idx: {path} declares shape {shape.tolist()} of {dtype}, "
            f"but holds {len(content) - start} bytes."
        )
    entries = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return entries.astype(dtype.newbyteorder("="))


def load_folder(path: str | os.PathLike[str]) -> Dataset:
    """Reads a data set from a folder of IDX files or with one NPZ file.

    IDX files are told by their names: ``train`` or else ``test`` or ``t10k``, and ``images`` or
    ``labels``, gzipped or not, as in ``train-images-idx3-ubyte.gz``. An NPZ file holds
    ``x_train, y_train, x_test, y_test``, or ``x, y``. Where there is no test split, a fixed fifth
    of the examples is held out.

    Args:
      path: the folder, or the NPZ file itself.

    Returns:
      The :class:`Dataset`. Bytes are divided by 255; other numbers outside ``[0, 1]`` are mapped
      onto it from the smallest to the largest in training, columns of tables one by one.

    Raises:
      FileNotFoundError: if there is no such folder or nothing to read in it.
      ValueError: if files are ambiguous, damaged, or do not fit together.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     x, y = np.zeros((10, 4), np.uint8), np.arange(10) % 2
      ...     np.savez(pathlib.Path(folder) / "tiny.npz", x=x, y=y)
      ...     tiny = data.load_folder(folder)
      >>> tiny.train["x"].shape, tiny.test["x"].shape, tiny.num_classes
      ((8, 4), (2, 4), 2)
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".npz":
        return _read_npz(path)
    if not path.is_dir():
        raise FileNotFoundError(f"load_folder: there is no folder {path}.")
    archives = sorted(path.glob("*.npz"))
    if archives:
        return _read_npz(_only(path, archives, "NPZ files"))
    train, test = _read_idx_pair(path, ("train",)), _read_idx_pair(path, ("test", "t10k"))
    if train is None:
        raise FileNotFoundError(
            f"load_folder: {path} holds neither an NPZ file nor IDX files of training images "
            "and labels."
        )
    return make_dataset("load_folder", train, test)


def _read_idx_pair(folder: pathlib.Path, marks: tuple[str, ...]) -> Examples | None:
    images, labels = (_find_idx(folder, marks, kind) for kind in ("images", "labels"))
    if images is None or labels is None:
        return None
    return read_idx(images), read_idx(labels)


def _find_idx(folder: pathlib.Path, marks: tuple[str, ...], kind: str) -> pathlib.Path | None:
    found = [
        file
        for file in sorted(folder.iterdir())
        if "idx" in file.name and kind in file.name and any(mark in file.name for mark in marks)
    ]
    return _only(folder, found, f"files of {marks[0]} {kind}") if found else None


def _only(folder: pathlib.Path, found: list[pathlib.Path], what: str) -> pathlib.Path:
    if len(found) > 1:
        names = [file.name for file in found]
        raise ValueError(f"load_folder: {folder} must hold one data set, got {what} {names}.")
    return found[0]


def _read_npz(path: pathlib.Path) -> Dataset:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    pair = lambda suffix: _pair(arrays, suffix)
    train, test = pair("_train") or pair(""), pair("_test")
    if train is None:
        raise ValueError(
            f"load_folder: {path} must hold x_train and y_train, or x and y, got {sorted(arrays)}."
        )
    return make_dataset("load_folder", train, test)


def _pair(arrays: dict[str, np.ndarray], suffix: str) -> Examples | None:
    x, y = f"x{suffix}", f"y{suffix}"
    return (arrays[x], arrays[y]) if x in arrays and y in arrays else None
