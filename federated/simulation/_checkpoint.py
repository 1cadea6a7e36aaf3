"""Checkpoints of a run through orbax: whole or absent, and refused if they are another run's."""

import hashlib
import itertools
import json
import os
import pathlib
from typing import Any

import jax

from gradax import _optional

from ._checksum import checksums
from ._engine import SimState


class Checkpoints:
    """Saves the state and history of a run after a segment, and finds them again.

    Saving waits until the files are complete and renamed into place: a process killed at any
    moment leaves the last complete checkpoint. Checksums of all that was saved are saved too, and
    compared when it is read: what has changed on the disk is not gone on from. Of several
    processes all make the same calls; each writes its part into the same directory.

    Args:
      directory: where the run lives; made if absent.
      description: what the run is, in JSON; a checkpoint with another one is refused.
      keep: how many checkpoints to keep.
    """

    def __init__(self, directory: str | os.PathLike, description: dict[str, Any], keep: int = 2):
        self._ocp = _optional.load("orbax.checkpoint", "checkpoint", "checkpoint=")
        self._path = pathlib.Path(directory).absolute()
        self._description = description
        there = next(path for path in (self._path, *self._path.parents) if path.exists())
        if not there.is_dir():
            raise ValueError(f"simulate: checkpoint={str(there)!r} is a file, not a directory.")
        options = self._ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False
        )
        self._manager = self._ocp.CheckpointManager(self._path, options=options)

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._manager.latest_step() is not None

    def restore(self, like: SimState) -> tuple[SimState, list[dict[str, Any]]] | None:
        """Reads the newest checkpoint.

        Args:
          like: a state of this run, for structure, dtypes and placement.

        Returns:
          The state and the rows of the history, or ``None`` if there is no checkpoint.

        Raises:
          ValueError: if the checkpoint belongs to another run, or is not what was saved.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        run = self._read(step, run=self._ocp.args.JsonRestore()).run
        self._check(step, run)
        shapes = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        state = self._read(step, state=self._ocp.args.StandardRestore(shapes)).state
        found, saved = checksums(state), run["checksums"]
        if found != saved:
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
            changed = [n for n, a, b in zip(names, found, saved, strict=True) if a != b]
            raise self._unreadable(step, f"{', '.join(changed)} changed since they were saved.")
        return state, run["history"]

    def save(self, state: SimState, rows: list[dict[str, Any]]) -> None:
        """Writes a checkpoint and waits until it is complete.

        Args:
          state: after the segment.
          rows: of the history so far.
        """
        run = {"description": self._description, "history": rows, "checksums": checksums(state)}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state),
            run=self._ocp.args.JsonSave(run | {"seal": _seal(run)}),
        )
        self._manager.save(int(state.round), args=args)
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Frees what the checkpoint manager holds."""
        self._manager.close()

    def _read(self, step: int, **args: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**args))
        except Exception as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, reason: Any) -> ValueError:
        return ValueError(
            f"simulate: the checkpoint of round {step} in {self._path} cannot be read; without "
            f"its folder the run goes on from an older one, if there is one: {reason}"
        )

    def _check(self, step: int, run: dict[str, Any]) -> None:
        """Raises unless it is this run, as it was saved."""
        if not isinstance(run, dict):
            raise self._unreadable(step, f"it holds {type(run).__name__}, no run.")
        seal = run.pop("seal", None)
        if seal is not None and seal != _seal(run):
            raise self._unreadable(step, "its history or description changed since it was saved.")
        found, ours = run.get("description", {}), self._description
        different = [name for name in ours if found.get(name) != ours[name]]
        if different:
            lines = (f"  {name}: {_contrast(found.get(name), ours[name])}" for name in different)
            raise ValueError(
                f"simulate: the checkpoint in {self._path} belongs to another run:\n"
                + "\n".join(lines)
            )
        if seal is None:
            raise self._unreadable(step, "it has no checksums.")


def _seal(run: dict[str, Any]) -> str:
    """A digest of what is saved as JSON."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _contrast(theirs: str | None, ours: str, width: int = 80) -> str:
    """Shows two texts where they begin to differ; descriptions of algorithms are long."""
    if theirs is None:
        return f"not recorded there, {ours[:width]} here"
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(theirs, ours, strict=False))
    start = max(sum(1 for _ in same) - width, 0)
    cut = lambda text: ("..." if start else "") + text[start : start + 2 * width]
    return f"{cut(theirs)} there, {cut(ours)} here"
