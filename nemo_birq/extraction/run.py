"""Processes the parts that are not done yet: decoding in worker processes, the model here, writing in a thread."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.extraction.data import Part, SpeechData, batches_by_length, divide, make_loader
from nemo_birq.extraction.store import PartStore
from nemo_birq.utils.progress import Progress, ProgressBars

Compute = Callable[[SpeechBatch], list[Any]]
"""From a batch to one result for each of its utterances."""
Write = Callable[[PartStore, int, list[dict], list[Any], list[str]], None]
"""Writes a part: store, number, manifest lines, results, and names of the utterances, which differ in all of the data."""


class ExtractionSummary(NamedTuple):
    """Counts of a run."""

    parts: int
    """All parts, also those of earlier runs."""
    resumed: int
    """Parts of earlier runs."""
    utterances: int
    """Utterances that this run wrote."""
    unreadable: int
    """Utterances that this run left out."""
    seconds: float
    """Seconds of audio that this run wrote."""


class _RealTime(ProgressColumn):
    """Seconds of audio per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} x real time")


def progress_bar(**options: Any) -> ProgressBars:
    """Makes bars for work that is measured in seconds of audio; ``options`` are those of ``ProgressBars``."""
    return ProgressBars(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn(),
        TimeRemainingColumn(), _RealTime(), **options,
    )  # fmt: skip


def run_parts(
    data: SpeechData,
    store: PartStore,
    compute: Compute,
    write: Write,
    progress: Progress,
    part_seconds: float,
    batch_seconds: float,
    workers: int,
) -> ExtractionSummary:
    """Computes and writes what the store does not have yet.

    Args:
        data: utterances.
        store: where the parts go.
        compute, write: see their types.
        progress: shows how far the work is.
        part_seconds: audio of a part: what is lost when a run is killed, and what is held in memory.
        batch_seconds: audio of a batch, with padding.
        workers: processes that decode; 0 decodes here.

    Raises:
        ValueError: none of the utterances of a part could be read; what was written before stays.
    """
    durations = data.durations
    parts = divide(durations, part_seconds)
    todo = [part for part in parts if not store.has(part.number)]
    if not todo:
        return ExtractionSummary(len(parts), len(parts), 0, 0, 0.0)
    seconds = sum(float(durations[part.first : part.last].sum()) for part in todo)
    advance = progress.start("extracting" if len(todo) == len(parts) else "going on", seconds)
    batches = {part.number: batches_by_length(range(part.first, part.last), durations, batch_seconds) for part in todo}
    loader = iter(make_loader(data, [rows for part in todo for rows in batches[part.number]], workers))
    lines = _Lines(data.lines())
    written = unreadable = 0
    with ThreadPoolExecutor(max_workers=1) as writer:
        pending: Future | None = None
        for part in todo:
            results: dict[int, Any] = {}
            for planned, (rows, speech) in zip(batches[part.number], loader, strict=False):
                if not speech.is_silent_stand_in:
                    results |= zip(rows, compute(speech), strict=True)
                advance(float(durations[planned].sum()))
            if pending is not None:
                pending.result()  # at most two parts are in memory
            found = [(line, results[row], name) for row, line, name in lines.of(part) if row in results]
            if not found and part.last - part.first > 1:
                raise ValueError(
                    f"none of {part.last - part.first} utterances one after the other could be read; the warnings say why. "
                    "If the disk was away, the same command goes on; if the audio is broken, take it out of the manifest"
                )
            pending = writer.submit(write, store, part.number, *([entry[i] for entry in found] for i in range(3)))
            written += len(found)
            unreadable += part.last - part.first - len(found)
        if pending is not None:
            pending.result()
    return ExtractionSummary(len(parts), len(parts) - len(todo), written, unreadable, seconds)


class _Lines:
    """Rows, manifest lines and names of utterances, part by part in rising order; those between are passed over."""

    def __init__(self, lines: Iterator[dict]):
        self.lines, self.position = with_names(lines), 0

    def of(self, part: Part) -> list[tuple[int, dict, str]]:
        found = list(islice(self.lines, part.first - self.position, part.last - self.position))
        self.position = part.last
        return [(row, *entry) for row, entry in zip(range(part.first, part.last), found, strict=True)]


def with_names(lines: Iterable[dict]) -> Iterator[tuple[dict, str]]:
    """Yields manifest lines with names that differ: of their files without suffix, numbered from the second of a name on."""
    seen: Counter[str] = Counter()
    taken: set[str] = set()
    for line in lines:
        stem = name = Path(line["audio_filepath"]).stem
        while name in taken:
            seen[stem] += 1
            name = f"{stem}-{seen[stem] + 1}"
        taken.add(name)
        yield line, name


def stack_by_utterance(arrays: dict[str, np.ndarray], lengths: list[int]) -> list[dict[str, np.ndarray]]:
    """Divides batches (B, T', ...) by name into a dictionary of (T'_i, ...) for each utterance, without its padding."""
    return [{name: array[i, :length] for name, array in arrays.items()} for i, length in enumerate(lengths)]
