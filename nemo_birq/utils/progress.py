"""Progress of long tasks: the code that does the work reports it through a protocol, and rich shows it."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import rich.progress
from rich.markup import escape

from nemo_birq.utils.terminal import Terminal

T = TypeVar("T")


class Advance(Protocol):
    """Callback that reports progress of a task."""

    def __call__(self, amount: float, description: str | None = None) -> None:
        """Adds ``amount`` to the finished units; ``description`` replaces the one that is shown."""


class Progress(Protocol):
    """Display of the progress of tasks."""

    def start(self, description: str, total: float | None = None) -> Advance:
        """Begins a task of ``total`` units; None: its size is not known."""


class ProgressBars:
    """A progress bar in the terminal for each task, shown while the context is open.

    Args:
        columns: columns of ``rich.progress.Progress``; without any, its default columns.
        options: options of ``rich.progress.Progress``, such as ``console``, ``transient`` and ``disable``.
    """

    def __init__(self, *columns: rich.progress.ProgressColumn, **options: Any):
        self._bars = rich.progress.Progress(*columns, **{"console": Terminal()} | options)

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, description: str, total: float | None = None) -> Advance:
        task = self._bars.add_task(escape(description), total=total)  # rich's columns interpret markup

        def advance(amount: float, description: str | None = None) -> None:
            shown = None if description is None else escape(description)
            self._bars.update(task, advance=amount, description=shown)

        return advance


def track(items: Sequence[T], progress: Progress, description: str) -> Iterator[T]:
    """Yields the items and reports each one as finished when the next one is requested."""
    advance = progress.start(description, len(items))
    for item in items:
        yield item
        advance(1)
