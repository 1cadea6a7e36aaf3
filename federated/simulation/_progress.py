"""A progress bar for runs, drawn by rich."""

import contextlib
from collections.abc import Callable, Iterator

from gradax import _optional


@contextlib.contextmanager
def progress_bar(
    shown: bool, title: str, start: int, total: int
) -> Iterator[Callable[[int, str], None]]:
    """Shows how far a run is.

    Args:
      shown: whether to draw anything.
      title: stands before the bar.
      start: rounds made already.
      total: rounds in all.

    Yields:
      ``report(rounds_made, text)``.
    """
    if not shown:
        yield lambda rounds, text: None
        return
    rich = _optional.load("rich.progress", "progress", "progress=True")
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[metrics]}"),
    )
    with rich.Progress(*columns) as progress:
        task = progress.add_task(title, total=total, completed=start, metrics="")
        yield lambda rounds, text: progress.update(task, completed=rounds, metrics=text)
