"""Compiled programs that are kept on disk, so that the next process need not compile them."""

import os
import pathlib
import warnings

import jax
from jax.experimental.compilation_cache import compilation_cache

_OFF = frozenset({"0", "no", "none", "off"})


def use_compilation_cache(directory: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Keeps compiled programs in a directory, for later processes.

    The command line calls it, and so may every script: the second run of a program starts its
    first step or round without compiling. It is JAX's persistent compilation cache with a default
    place and a low threshold; programs that other versions, flags or devices compiled are never
    mistaken for one's own. Nothing is ever deleted; delete the directory to start afresh.

    Args:
      directory: where to keep them. By default the environment variable
        ``GRADAX_COMPILATION_CACHE`` (a directory, or ``off``), else ``gradax/jax`` in the
        user's cache directory. A directory that JAX was given already
        (``JAX_COMPILATION_CACHE_DIR``) is kept if ``directory`` is ``None``.

    Returns:
      The directory in use, or ``None`` if the cache was switched off.

    Raises:
      ValueError: if ``directory`` is a file, or cannot be made. The default place only warns.

    Examples:
      >>> import tempfile
      >>> import gradax, jax
      >>> before = jax.config.jax_compilation_cache_dir
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     used = gradax.use_compilation_cache(folder)
      ...     str(used) == folder
      True
      >>> jax.config.update("jax_compilation_cache_dir", before)
    """
    if directory is None:
        given = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        if given:
            return pathlib.Path(given)
        directory = os.environ.get("GRADAX_COMPILATION_CACHE") or _default()
        if str(directory).lower() in _OFF:
            return None
        # Nobody asked for this place: a home that cannot be written to is no reason to stop.
        try:
            return _use(pathlib.Path(directory))
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            return None
    return _use(pathlib.Path(directory))


def _use(path: pathlib.Path) -> pathlib.Path:
    path = path.expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"use_compilation_cache: directory={str(path)!r} cannot be made: {error}"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    # What takes a tenth of a second to compile takes a hundredth to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # JAX looks at its settings once, when it first compiles.
    compilation_cache.reset_cache()
    return path


def _default() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "gradax" / "jax"
