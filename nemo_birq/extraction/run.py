"""Processing of unfinished parts: decoding in worker processes, the model in this process, and writing in a thread."""

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
from nemo_birq.extraction.store import PartFolder, PartStore
from nemo_birq.utils.progress import Advance, Progress, ProgressBars

Compute = Callable[[SpeechBatch], list[Any]]
"""Function from a batch to one result for each utterance."""
Write = Callable[[PartFolder, int, list[dict], list[Any], list[str]], None]
"""Function that writes a part: store, number, manifest lines, results, and names of the utterances, unique in the data."""
Entry = tuple[int, dict, str]
"""Number, manifest line and unique name of an utterance."""


class ExtractionSummary(NamedTuple):
    """Counts of a run."""

    parts: int
    """Number of all parts, including those of earlier runs."""
    resumed: int
    """Number of parts of earlier runs."""
    utterances: int
    """Number of utterances that this run wrote."""
    unreadable: int
    """Number of unreadable utterances in this run."""
    seconds: float
    """Seconds of audio that this run wrote."""


class _RealTime(ProgressColumn):
    """Progress column with the speed in seconds of audio per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} x real time")


def progress_bar(**options: Any) -> ProgressBars:
    """Returns progress bars for tasks measured in seconds of audio; ``options`` are those of ``ProgressBars``."""
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
    """Computes and writes the parts that are missing in the store.

    Args:
        data: utterances.
        store: store of the parts.
        compute, write: functions as in the types above.
        progress: display of the progress.
        part_seconds: seconds of audio in a part, which is in memory and is lost if the run is killed.
        batch_seconds: seconds of audio in a batch, with padding.
        workers: number of decoding processes; 0 decodes in this process.

    Raises:
        ValueError: no utterance of a part could be read; the parts that were written before are kept.
    """

    def write_all(todo: list[Part], entries: Iterable[list[Entry]], advance: Advance) -> int:
        return write_parts(data, store, todo, entries, compute, write, advance, batch_seconds, workers)

    return run_missing(data, store, progress, part_seconds, write_all)


def run_missing(
    data: SpeechData,
    store: PartStore,
    progress: Progress,
    part_seconds: float,
    write_all: Callable[[list[Part], Iterable[list[Entry]], Advance], int],
) -> ExtractionSummary:
    """Writes the parts that are missing in the store.

    Args:
        data: utterances.
        store: store of the parts.
        progress: display of the progress.
        part_seconds: seconds of audio in a part.
        write_all: writes parts with the utterances of each, reports seconds of audio, and returns the number of utterances.
    """
    parts = divide(data.durations, part_seconds)
    todo = [part for part in parts if not store.has(part.number)]
    if not todo:
        return ExtractionSummary(len(parts), len(parts), 0, 0, 0.0)
    seconds = seconds_of(todo, data.durations)
    advance = progress.start("extracting" if len(todo) == len(parts) else "going on", seconds)
    written = write_all(todo, entries_of(todo, data.lines()), advance)
    utterances = sum(part.last - part.first for part in todo)
    return ExtractionSummary(len(parts), len(parts) - len(todo), written, utterances - written, seconds)


def write_parts(
    data: SpeechData,
    store: PartFolder,
    parts: list[Part],
    entries: Iterable[list[Entry]],
    compute: Compute,
    write: Write,
    advance: Advance,
    batch_seconds: float,
    workers: int,
) -> int:
    """Computes and writes parts.

    Args:
        entries: utterances of each part.
        advance: is called with the seconds of audio of each batch.

    Returns:
        Number of utterances that could be read.

    Raises:
        ValueError: no utterance of a part could be read.
    """
    durations = data.durations
    batches = {part.number: batches_by_length(range(part.first, part.last), durations, batch_seconds) for part in parts}
    loader = iter(make_loader(data, [rows for part in parts for rows in batches[part.number]], workers))
    written = 0
    with ThreadPoolExecutor(max_workers=1) as writer:
        pending: Future | None = None
        for part, listed in zip(parts, entries, strict=True):
            results: dict[int, Any] = {}
            for planned, (rows, speech) in zip(batches[part.number], loader, strict=False):
                if not speech.is_silent_stand_in:
                    results |= zip(rows, compute(speech), strict=True)
                advance(float(durations[planned].sum()))
            if pending is not None:
                pending.result()  # at most two parts are in memory
            found = [(line, results[row], name) for row, line, name in listed if row in results]
            if not found and part.last - part.first > 1:
                raise ValueError(
                    f"none of {part.last - part.first} consecutive utterances could be read; the warnings say why. "
                    "If the disk was not available, run the same command again. If the audio is broken, remove it from the "
                    "manifest"
                )
            pending = writer.submit(write, store, part.number, *([entry[i] for entry in found] for i in range(3)))
            written += len(found)
        if pending is not None:
            pending.result()
    return written


def seconds_of(parts: Iterable[Part], durations: np.ndarray) -> float:
    """Returns the seconds of audio in parts."""
    return sum(float(durations[part.first : part.last].sum()) for part in parts)


def entries_of(parts: Iterable[Part], lines: Iterable[dict]) -> Iterator[list[Entry]]:
    """Yields the utterances of each part, for parts in ascending order and the lines of all utterances."""
    named, position = with_names(lines), 0
    for part in parts:
        found = list(islice(named, part.first - position, part.last - position))
        position = part.last
        yield [(row, *entry) for row, entry in zip(range(part.first, part.last), found, strict=True)]


def with_names(lines: Iterable[dict]) -> Iterator[tuple[dict, str]]:
    """Yields manifest lines with unique names: file names without suffix, with a number from the second occurrence on."""
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
    """Splits batches (B, T', ...) by name into a dictionary of (T'_i, ...) for each utterance, without padding."""
    return [{name: array[i, :length] for name, array in arrays.items()} for i, length in enumerate(lengths)]
