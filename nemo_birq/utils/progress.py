"""Progress of long work: those who do the work report it through a protocol, and rich shows it."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import rich.progress
from rich.markup import escape

from nemo_birq.utils.terminal import Terminal

T = TypeVar("T")


class Advance(Protocol):
    """Reports that a part of a piece of work is done."""

    def __call__(self, amount: float, description: str | None = None) -> None:
        """Adds ``amount`` to what is done; ``description`` replaces the one that is shown."""


class Progress(Protocol):
    """Shows how far pieces of work are."""

    def start(self, description: str, total: float | None = None) -> Advance:
        """Begins a piece of work of ``total`` units; None: its size is not known."""


class ProgressBars:
    """A bar in the terminal for each piece of work, shown as long as the context is open.

    Args:
        columns: of ``rich.progress.Progress``; by default its own.
        options: of ``rich.progress.Progress``, such as ``console``, ``transient`` and ``disable``.
    """

    def __init__(self, *columns: rich.progress.ProgressColumn, **options: Any):
        self._bars = rich.progress.Progress(*columns, **{"console": Terminal()} | options)

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, description: str, total: float | None = None) -> Advance:
        task = self._bars.add_task(escape(description), total=total)  # rich's columns read markup

        def advance(amount: float, description: str | None = None) -> None:
            shown = None if description is None else escape(description)
            self._bars.update(task, advance=amount, description=shown)

        return advance


def track(items: Sequence[T], progress: Progress, description: str) -> Iterator[T]:
    """Yields the items and reports each as one unit of work when the next is asked for."""
    advance = progress.start(description, len(items))
    for item in items:
        yield item
        advance(1)
