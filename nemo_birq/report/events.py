"""Reads the scalars that a run logged for TensorBoard, and joins the files of a resumed run."""

from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event


class Point(NamedTuple):
    """One logged number."""

    step: int
    value: float
    time: float
    """Seconds since 1970."""


def read_events(folder: Path, notes: list[str] | None = None) -> list[dict[str, list[Point]]]:
    """Reads the scalars of every event file under a folder, by tag; files are in the order of their first number.

    Args:
        folder: of a run.
        notes: get a sentence for each file of which only the beginning can be read.

    Raises:
        ValueError: there is no event file with a scalar.
    """
    files = []
    notes = [] if notes is None else notes
    for path in sorted(path for path in folder.rglob("events.out*") if path.is_file()):
        accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})  # 0: every point, not a random 10,000
        accumulator.Reload()
        tags = accumulator.Tags()["scalars"]
        if tags:
            files.append({t: [Point(e.step, e.value, e.wall_time) for e in accumulator.Scalars(t)] for t in tags})
        if _is_cut_off(path, max((points[-1].time for points in files[-1].values()), default=0.0) if tags else 0.0):
            last = max(points[-1].step for points in files[-1].values()) if tags else None
            notes.append(
                f"Left out: {path.parent.name}/{path.name} is damaged or cut off, "
                + ("and nothing of it can be read." if last is None else f"what it logged after step {last} cannot be read.")
            )
    if not files:
        raise ValueError(
            f"{folder} holds no TensorBoard scalars (events.out*). Name the folder of a run, such as "
            f"nemo_experiments/<name>, and train with exp_manager.create_tensorboard_logger=true. {' '.join(notes)}".strip()
        )
    return sorted(files, key=lambda file: min(points[0].time for points in file.values()))


def _is_cut_off(path: Path, last_time: float) -> bool:
    """Tests if a file has events after the last scalar that was read: TensorBoard ends at a damaged one without a word.

    Args:
        path: an event file: records of a length in 8 bytes, its checksum in 4, the event, and its checksum in 4.
        last_time: of that scalar, in seconds since 1970.
    """
    size, position, last = path.stat().st_size, 0, (0, 0)
    with open(path, "rb") as file:
        while position < size:
            head = file.read(12)
            length = int.from_bytes(head[:8], "little")
            if len(head) < 12 or position + length + 16 > size:
                return True
            last = position + 12, length
            position += length + 16
            file.seek(position)
        file.seek(last[0])
        try:
            event = Event.FromString(file.read(last[1]))
        except DecodeError:
            return True
    return any(value.HasField("simple_value") for value in event.summary.value) and event.wall_time > last_time


def first_step(file: dict[str, list[Point]]) -> int | None:
    """Returns the first step that training logged in a file, or None. Timings do not count: they are one step early."""
    return min(
        (points[0].step for tag, points in file.items() if tag.startswith("train_") and "timing" not in tag), default=None
    )


def join(files: list[dict[str, list[Point]]]) -> dict[str, list[Point]]:
    """Joins the files to one curve for each tag. Where a later file begins, the earlier one ends: its further steps were
    trained again.
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
