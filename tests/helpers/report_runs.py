"""Folders of runs like those of trainings, with curves of a closed form, for the tests of the report."""

import json
import math
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

LONG_NAME = "a_very_long_name_of_a_run_as_people_like_to_give_them_without_a_blank"
LOGGED = list(range(9, 100, 10))
START = 1_700_000_000


def loss(step: int) -> float:
    return 2 + 3 * math.exp(-step / 40)


def write_events(folder: Path, steps: list[int], offset: float = 0.0, start: float = START, **more: float) -> None:
    """Writes a file like Lightning: 2 s per step, 0.01 h of audio per step, losses of a closed form."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder), filename_suffix=f".{start}")
    for step in steps:
        values = {
            "train_anchor_loss": loss(step) + offset,
            "train_anchor_unigram_entropy": 4.5,
            "train_anchor_accuracy": step / 200,
            "train_anchor_top1": 0.0625,
            "train_anchor_normalized_entropy": 0.8,
            "train_enhanced_loss": loss(step) + 1,
            "train_enhanced_unigram_entropy": 4.0,
            "train_enhanced_normalized_entropy": 0.75 - offset,
            "train_audio_hours_per_hour": 18.0,  # 0.01 h every 2 s
            "learning_rate": 1e-4,
            **more,
        }
        if step % 20 == 19:
            values |= {"val_anchor_loss": loss(step) + 0.5 + offset, "val_anchor_unigram_entropy": 4.5}
        for tag, value in values.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=start + 2 * step, step=step, summary=summary))
    writer.close()


def make_run(folder: Path, config: str = "cfg: {optim: {lr: 0.1}}", command: str = "train.py name=x", **events) -> Path:
    write_events(folder / "version_0", LOGGED, **events)
    (folder / "version_0" / "hparams.yaml").write_text(config)
    (folder / "cmd-args.log").write_text(command)
    return folder


def quality(step: int | None, shift: float) -> str:
    rows = [{"labels": "anchor", "layer": None, "codes": 8, "pnmi": 0.1}]
    rows += [{"labels": "enhanced", "layer": 2, "pnmi": 0.2 + shift}]
    rows += [{"labels": "layer", "layer": layer, "pnmi": 0.1 * layer + shift} for layer in (1, 2, 3)]
    return json.dumps({"model": "x.nemo", "step": step, "num_codes": 8, "rows": [*rows, {"labels": "from the future"}]})
