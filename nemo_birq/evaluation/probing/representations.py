"""Inputs of probes, computed once and held in memory: the outputs of the layers of encoders.

Shapes: K layers, N frames of all utterances, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_birq.evaluation.encoders.protocol import LayeredEncoder
from nemo_birq.evaluation.probing.data import LabelledSet
from nemo_birq.evaluation.probing.linear import Split, as_tensors
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.extraction.data import SpeechData, batches_by_length, make_loader
from nemo_birq.modules.frame_times import FrameTimes
from nemo_birq.modules.layer_pass import check_finite
from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.memory import check_room
from nemo_birq.utils.progress import Advance

LOG_MEL, UNTRAINED, PRETRAINED = "log-mel", "untrained", "pretrained"
BATCH_SECONDS = 120.0
MEMORY_SHARE = 0.5  # of the machine's memory, because a part is in memory twice while batches are joined
BYTES = 2  # per value, float16


class Representation(NamedTuple):
    """Layers of an encoder that are read."""

    encoder: LayeredEncoder
    layers: list[int]
    """K numbers in 1..L, ascending."""

    @property
    def values_per_frame(self) -> int:
        return len(self.layers) * self.encoder.width


class Represented(NamedTuple):
    """Representations of the same utterances, which have equally many frames in each."""

    frames: dict[str, Tensor]
    """(K, N, D) float16 on the CPU by name of the representation, the utterances one after the other."""
    counts: list[int]
    """Frames of each utterance; they sum up to N."""
    rows: list[int]
    """Number of each utterance in its data."""
    times: FrameTimes

    def splits(self, labelled: LabelledSet, task: Task) -> dict[str, Split]:
        """Returns the utterances of a set, in the order of ``rows``, with their targets: a split for each representation."""
        position = {row: i for i, row in enumerate(labelled.rows)}
        kept = [row in position for row in self.rows]
        counts = [count for count, is_kept in zip(self.counts, kept, strict=True) if is_kept]
        rows = [row for row in self.rows if row in position]
        targets = as_tensors(
            [labelled.targets(task, position[row], n, self.times) for row, n in zip(rows, counts, strict=True)]
        )
        mask = torch.tensor(kept).repeat_interleave(torch.tensor(self.counts))
        return {
            name: Split(frames if all(kept) else frames[:, mask], counts, targets) for name, frames in self.frames.items()
        }


def check_memory(representations: Sequence[Representation], seconds: float) -> None:
    """Refuses more audio than there is memory for.

    Raises:
        ValueError: the message names the number of hours that fit.
    """
    values = sum(one.values_per_frame for one in representations)
    check_room(
        seconds, values * BYTES / representations[0].encoder.times.step, "the inputs of the probes", MEMORY_SHARE,
        remedy="train on a part with --hours, or take fewer --layers",
    )  # fmt: skip


@torch.inference_mode()
def represent(
    data: SpeechData, rows: list[int], representations: dict[str, Representation], workers: int, advance: Advance
) -> Represented:
    """Reads the audio once and returns each representation of the utterances that could be read.

    Args:
        data: utterances, at the sample rate of the encoders.
        rows: numbers of the utterances.
        representations: by name; their encoders have equally many frames and the same device.
        workers: processes that decode.
        advance: is called with the seconds of audio that are done.

    Raises:
        ValueError: fewer than two utterances can be read, or a value exceeds the range of float16.
    """
    first = next(iter(representations.values())).encoder
    batches = batches_by_length(rows, data.durations, BATCH_SECONDS)
    collected: dict[str, list[Tensor]] = {name: [] for name in representations}
    counts, read = [], []
    for batch_rows, batch in make_loader(data, batches, workers):
        if batch.is_silent_stand_in:
            continue
        signal, lengths = batch.signal.to(first.device), batch.signal_length.to(first.device)
        for name, one in representations.items():
            outputs, encoded_len = one.encoder.encode(signal, lengths, one.layers)
            longest = int(encoded_len.max())
            valid = valid_frames(encoded_len, longest).to(outputs[0].device)
            frames = torch.stack([output[:, :longest][valid] for output in outputs]).half().cpu()
            check_finite(frames, name)
            collected[name].append(frames)
        counts += encoded_len.tolist()
        read += batch_rows
        advance(float(batch.signal_length.sum()) / data.sample_rate)
    if len(counts) < 2:
        raise ValueError(f"{data.sources[0].manifest}: {len(counts)} of its utterances could be read, two are needed")
    frames = {name: torch.cat(collected.pop(name), dim=1) for name in representations}
    return Represented(frames, counts, read, first.times)
