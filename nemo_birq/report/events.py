"""Reads the scalars that a run logged for TensorBoard, and joins the files of a resumed run."""

from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class Point(NamedTuple):
    """One logged number."""

    step: int
    value: float
    time: float
    """Seconds since 1970."""


def read_events(folder: Path) -> list[dict[str, list[Point]]]:
    """Reads the scalars of every event file under a folder, by tag; files are in the order of their first number.

    Raises:
        ValueError: there is no event file with a scalar.
    """
    files = []
    for path in folder.rglob("events.out*"):
        accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})  # 0: every point, not a random 10,000
        accumulator.Reload()
        tags = accumulator.Tags()["scalars"]
        if tags:
            files.append({t: [Point(e.step, e.value, e.wall_time) for e in accumulator.Scalars(t)] for t in tags})
    if not files:
        raise ValueError(
            f"{folder} holds no TensorBoard scalars (events.out*). Name the folder of a run, such as "
            "nemo_experiments/<name>, and train with exp_manager.create_tensorboard_logger=true."
        )
    return sorted(files, key=lambda file: min(points[0].time for points in file.values()))


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
