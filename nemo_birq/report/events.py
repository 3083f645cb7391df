"""Reads the scalars that a run logged for TensorBoard, and joins the files of a resumed run."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray

FRAME = 16
"""Bytes of a record besides its content: its length and two checksums."""


class Point(NamedTuple):
    """One logged number."""

    step: int
    value: float
    time: float
    """Seconds since 1970."""


def read_events(folder: Path, notes: list[str] | None = None) -> list[dict[str, list[Point]]]:
    """Reads the scalars of every event file under a folder, by tag; files are in the order of their first number.

    Args:
        folder: folder with event files at any depth.
        notes: receives a sentence for each file that cannot be read to its end.

    Raises:
        ValueError: there is no event file with a scalar.
    """
    files, found = [], [] if notes is None else notes
    for path in sorted(folder.rglob("events.out*")):
        if not path.is_file():
            found.append(f"Left out: {path.parent.name}/{path.name} is not a file, but a folder or a broken link.")
            continue
        curves, is_whole = _read_file(path)
        if not is_whole:
            last = max((points[-1].step for points in curves.values()), default=None)
            found.append(
                f"Left out: {path.parent.name}/{path.name} is damaged or cut off, "
                + ("and nothing of it can be read." if last is None else f"what it logged after step {last} cannot be read.")
            )
        if curves:
            files.append(curves)
    if not files:
        raise ValueError(
            "\n".join([
                f"{folder} holds no TensorBoard scalars (events.out*). Name the folder of a run, such as "
                "nemo_experiments/<name>, and train with exp_manager.create_tensorboard_logger=true.", *found,
            ])
        )  # fmt: skip
    return sorted(files, key=lambda file: min(points[0].time for points in file.values()))


def _read_file(path: Path) -> tuple[dict[str, list[Point]], bool]:
    """Returns the scalars up to the first record whose checksum is wrong, and False if there is such a record."""
    curves: dict[str, list[Point]] = defaultdict(list)
    size = 0
    try:
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            size += FRAME + len(record)
            for value in event.summary.value:
                number = _number(value)
                if number is not None:
                    curves[value.tag].append(Point(event.step, number, event.wall_time))
        return curves, 0 < size == path.stat().st_size
    except (OSError, DecodeError, OverflowError, MemoryError):
        return curves, False


def _number(value: Any) -> float | None:
    """Returns a logged scalar in either of TensorBoard's two forms; None for pictures and texts."""
    form = value.WhichOneof("value")
    if form == "simple_value":
        return value.simple_value
    if form == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
        return float(make_ndarray(value.tensor).item())
    return None


def first_step(file: dict[str, list[Point]]) -> int | None:
    """Returns the first step that training logged in a file, or None. Timings do not count: they are one step early."""
    return min(
        (points[0].step for tag, points in file.items() if tag.startswith("train_") and "timing" not in tag), default=None
    )


def join(files: list[dict[str, list[Point]]]) -> dict[str, list[Point]]:
    """Joins the files to one curve for each tag.

    An earlier file ends where a later one begins, because its further steps were trained again.
    """
    joined: dict[str, list[Point]] = {}
    for file in files:
        begin = first_step(file)
        if begin is not None:
            joined = {tag: [p for p in points if p.step < begin] for tag, points in joined.items()}
        for tag, points in file.items():
            own = points[0].step
            joined[tag] = [p for p in joined.get(tag, []) if p.step < own] + points
    return {tag: points for tag, points in joined.items() if points}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns every curve that was logged under a folder as (step, value), joined over resumptions.

    Raises:
        ValueError: there is no event file with a scalar.
    """
    return {tag: [(p.step, p.value) for p in points] for tag, points in join(read_events(folder)).items()}
