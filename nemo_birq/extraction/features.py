"""Computation of the outputs of encoder layers, and writing as npz or Lhotse Shar.

Shapes: B utterances, T' encoder frames, D encoder width.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lhotse import MonoCut, SupervisionSegment
from lhotse.array import Array
from lhotse.features.io import MemoryRawWriter
from lhotse.shar import SharWriter

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.json_lines import without_nan
from nemo_birq.extraction.data import SpeechData, open_data
from nemo_birq.extraction.on_cluster import Opened
from nemo_birq.extraction.run import Write, stack_by_utterance
from nemo_birq.extraction.store import PartFolder
from nemo_birq.loading import LoadedEncoder, load_encoder
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.modules.layer_pass import check_finite, encode_to_layers

DTYPES = {"float16": torch.float16, "float32": torch.float32}


def layer_name(layer: int) -> str:
    """Returns the name of an array: ``layer_4``."""
    return f"layer_{layer}"


@torch.inference_mode()
def compute_features(
    opened: LoadedEncoder, batch: SpeechBatch, layers: Sequence[int], dtype: torch.dtype
) -> list[dict[str, np.ndarray]]:
    """Computes the outputs of the layers for each utterance: (T', D) by ``layer_name``.

    Raises:
        ValueError: a value is NaN, or too large for float16.
    """
    device = next(opened.encoder.parameters()).device
    signal = batch.signal.to(device, non_blocking=True)
    features, lengths = opened.preprocessor(input_signal=signal, length=batch.signal_length.to(device, non_blocking=True))
    outputs, encoded_len = encode_to_layers(opened.encoder, features, lengths, layers)
    arrays = {}
    for layer, output in outputs.items():
        converted = output.to(dtype)
        check_finite(converted, f"layer {layer}")
        arrays[layer_name(layer)] = converted.cpu().numpy()
    return stack_by_utterance(arrays, encoded_len.tolist())


class FeatureExtraction(NamedTuple):
    """Features by names and options, for tasks of a cluster; see ``on_cluster.Extraction``."""

    model: str
    data: str
    tars: str | None
    layers: tuple[int, ...]
    dtype: str
    format: str

    def open(self) -> Opened:
        """Opens model and data; errors as ``load_encoder`` and ``open_data``."""
        opened = load_encoder(self.model)
        data = open_data(self.data, self.tars, opened.sample_rate)
        compute = partial(compute_features, opened, layers=self.layers, dtype=DTYPES[self.dtype])
        return Opened(data, compute, FORMATS[self.format])


# --- formats ----------------------------------------------------------------------------------------------------------


def write_npz(
    store: PartFolder, number: int, lines: list[dict], results: list[dict[str, np.ndarray]], names: list[str]
) -> None:
    """Writes ``part-000000.npz`` with an array ``<name>/layer_4`` for each utterance and layer, which the lines name."""
    file = f"part-{number:06d}.npz"
    listed = [
        line | {"features_filepath": file, "features_key": name, "num_frames": _num_frames(result)}
        for line, name, result in zip(lines, names, results, strict=True)
    ]
    with store.writing(number, listed) as folder:
        arrays = zip(names, results, strict=True)
        np.savez(folder / file, **{f"{name}/{layer}": array for name, result in arrays for layer, array in result.items()})


def write_shar(
    store: PartFolder, number: int, lines: list[dict], results: list[dict[str, np.ndarray]], names: list[str]
) -> None:
    """Writes a shard of Lhotse's Shar format: ``shar/cuts.000000.jsonl.gz``, and ``shar/layer_4.000000.tar`` of each layer.

    The arrays are Lhotse's ``Array``. ``TemporalArray`` would round the number of frames and may lose the last one.
    """
    listed = [line | {"num_frames": _num_frames(result)} for line, result in zip(lines, results, strict=True)]
    with store.writing(number, listed) as folder:
        (folder / "shar").mkdir()  # a folder with only Lhotse's files, which Lhotse expects
        fields = {layer: "numpy" for result in results[:1] for layer in result}
        with SharWriter(
            folder / "shar", fields, shard_size=None, shard_suffix=f".{number:06d}", warn_unused_fields=False
        ) as shar:
            for line, name, result in zip(lines, names, results, strict=True):
                shar.write(_cut(line, name, result))


FORMATS: dict[str, Write] = {"npz": write_npz, "lhotse": write_shar}


def _num_frames(result: dict[str, np.ndarray]) -> int:
    return len(next(iter(result.values())))


def _cut(line: dict, name: str, arrays: dict[str, np.ndarray]) -> MonoCut:
    line = without_nan(line)
    spoken = SupervisionSegment(
        id=name, recording_id=name, start=0.0, duration=line["duration"], text=line.get("text"), speaker=line.get("speaker")
    )
    writer = MemoryRawWriter()
    held: dict[str, Array] = {layer: writer.store_array(name, array) for layer, array in arrays.items()}
    known = {"duration", "text", "speaker"}
    custom = {key: value for key, value in line.items() if key not in known}
    return MonoCut(
        id=name, start=0.0, duration=line["duration"], channel=0, supervisions=[spoken], custom=custom | held
    )  # fmt: skip


def check_space(folder: Path, opened: LoadedEncoder, data: SpeechData, layers: Sequence[int], dtype: str) -> int:
    """Estimates the bytes of the features, and checks the free space.

    Raises:
        ValueError: there is not enough space on the disk.
    """
    frames = data.durations.sum() / encoder_times(opened.model).step
    needed = int(frames * opened.encoder.d_model * len(layers) * DTYPES[dtype].itemsize)
    present = sum(path.stat().st_size for path in folder.rglob("*")) if folder.is_dir() else 0
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed - present > free:
        raise ValueError(
            f"the features need {needed / 2**30:.1f} GiB, but {folder} has only {free / 2**30:.1f} GiB: use fewer layers "
            "or --dtype float16"
        )
    return needed
