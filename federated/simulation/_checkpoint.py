"""Checkpoints of a run through orbax: whole or absent, and refused if they are another run's."""

import itertools
import os
import pathlib
from typing import Any

import jax

from gradax import _optional

from ._engine import SimState


class Checkpoints:
    """Saves the state and history of a run after a segment, and finds them again.

    Saving waits until the files are complete and renamed into place: a process killed at any
    moment leaves the last complete checkpoint.

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
          ValueError: if the checkpoint belongs to another run.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        self._check(self._read(step, run=self._ocp.args.JsonRestore()).run.get("description", {}))
        shapes = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        args = {
            "state": self._ocp.args.StandardRestore(shapes),
            "run": self._ocp.args.JsonRestore(),
        }
        found = self._read(step, **args)
        return found.state, found.run["history"]

    def save(self, state: SimState, rows: list[dict[str, Any]]) -> None:
        """Writes a checkpoint and waits until it is complete.

        Args:
          state: after the segment.
          rows: of the history so far.
        """
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state),
            run=self._ocp.args.JsonSave({"description": self._description, "history": rows}),
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
            raise ValueError(
                f"simulate: the checkpoint of round {step} in {self._path} cannot be read; without "
                f"its folder the run goes on from an older one, if there is one: {error}"
            ) from error

    def _check(self, found: dict[str, Any]) -> None:
        ours = self._description
        different = [name for name in ours if found.get(name) != ours[name]]
        if different:
            lines = (f"  {name}: {_contrast(found.get(name), ours[name])}" for name in different)
            raise ValueError(
                f"simulate: the checkpoint in {self._path} belongs to another run:\n"
                + "\n".join(lines)
            )


def _contrast(theirs: str | None, ours: str, width: int = 80) -> str:
    """Shows two texts where they begin to differ; descriptions of algorithms are long."""
    if theirs is None:
        return f"not recorded there, {ours[:width]} here"
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(theirs, ours, strict=False))
    start = max(sum(1 for _ in same) - width, 0)
    cut = lambda text: ("..." if start else "") + text[start : start + 2 * width]
    return f"{cut(theirs)} there, {cut(ours)} here"
