"""Inputs of probes, which are computed once and kept in memory: log-mel features, and the layers of encoders.

Shapes: K layers, N frames of all utterances, D width, S subsampling factor, F mel bins.
"""

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from nemo.collections.asr.modules import ConformerEncoder
from torch import Tensor

from nemo_birq.evaluation.probing.data import LabelledSet
from nemo_birq.evaluation.probing.linear import Split, as_tensors
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.extraction.data import batches_by_length, make_loader
from nemo_birq.labels.anchor import stack_frames
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.frame_times import encoder_times, leading_frames
from nemo_birq.modules.layer_pass import check_finite, encode_to_layers, encoder_lengths
from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.memory import check_room
from nemo_birq.utils.progress import Advance

LOG_MEL, UNTRAINED, PRETRAINED = "log-mel", "untrained", "pretrained"
BATCH_SECONDS = 120.0
MEMORY_SHARE = 0.5  # of the machine's memory, because a part is in memory twice while batches are joined
BYTES = 2  # per value, float16


def untrained_encoder(opened: LoadedEncoder, seed: int = 0) -> ConformerEncoder:
    """Makes an encoder of the same configuration with new random weights, in evaluation mode."""
    with isolate_rng():
        torch.manual_seed(seed)
        encoder = ConformerEncoder.from_config_dict(opened.model.cfg.encoder)
    return encoder.eval().to(next(opened.encoder.parameters()).device)


def check_memory(opened: LoadedEncoder, seconds: float, values_per_frame: int) -> None:
    """Refuses more audio than fits into memory.

    Raises:
        ValueError: the message names the number of hours that fit.
    """
    check_room(
        seconds, values_per_frame * BYTES / encoder_times(opened.model).step, "the inputs of the probes", MEMORY_SHARE,
        remedy="train on a part with --hours, or use fewer --layers",
    )  # fmt: skip


def values_per_frame(opened: LoadedEncoder, layers: list[int], baselines: bool) -> int:
    """Counts the values that are kept for each encoder frame."""
    of_layers = len(layers) * opened.encoder.d_model
    mel = opened.encoder.subsampling_factor * opened.model.cfg.preprocessor.features
    return 2 * of_layers + mel if baselines else of_layers


@torch.inference_mode()
def represent(
    labelled: LabelledSet,
    task: Task,
    opened: LoadedEncoder,
    untrained: ConformerEncoder | None,
    layers: list[int],
    workers: int,
    advance: Advance,
) -> tuple[dict[str, Split], int]:
    """Reads the audio once; returns each representation of it, and the number of utterances that could not be read.

    Args:
        labelled: utterances.
        task: task that determines the targets.
        opened: the pretrained encoder.
        untrained: the same encoder without training; None leaves it and the log-mel features out.
        layers: numbers of the layers of the encoders.
        workers: number of processes that decode.
        advance: function that is called with the seconds of audio that are done.

    Raises:
        ValueError: fewer than two utterances can be read, or a value exceeds the range of float16.
    """
    device = next(opened.encoder.parameters()).device
    times = encoder_times(opened.model)
    position = {row: i for i, row in enumerate(labelled.rows)}
    batches = batches_by_length(labelled.rows, labelled.data.durations, BATCH_SECONDS)
    collected: dict[str, list[Tensor]] = {}
    counts, targets = [], []
    for rows, batch in make_loader(labelled.data, batches, workers):
        if batch.is_silent_stand_in:
            continue
        features, lengths = opened.preprocessor(input_signal=batch.signal.to(device), length=batch.signal_length.to(device))
        encoded_len = encoder_lengths(opened.encoder, features, lengths)
        valid = valid_frames(encoded_len, int(encoded_len.max()))
        found = {PRETRAINED: _layers(opened.encoder, features, lengths, layers, valid)}
        if untrained is not None:
            found[UNTRAINED] = _layers(untrained, features, lengths, layers, valid)
            stacked = stack_frames(features, opened.encoder.subsampling_factor, leading_frames(opened.encoder))
            found[LOG_MEL] = _match_length(stacked, valid.shape[1])[valid].unsqueeze(0)
        for name, frames in found.items():
            collected.setdefault(name, []).append(frames.half().cpu())
            check_finite(collected[name][-1], name)
        counts += encoded_len.tolist()
        targets += [labelled.targets(task, position[r], n, times) for r, n in zip(rows, encoded_len.tolist(), strict=True)]
        advance(float(batch.signal_length.sum()) / labelled.data.sample_rate)
    if len(counts) < 2:
        raise ValueError(
            f"{labelled.data.sources[0].manifest}: only {len(counts)} of its utterances can be read, but two are needed"
        )
    made = as_tensors(targets)
    splits = {name: Split(torch.cat(collected.pop(name), dim=1), counts, made) for name in list(collected)}
    return splits, len(labelled.rows) - len(counts)


def _layers(encoder: ConformerEncoder, features: Tensor, lengths: Tensor, layers: list[int], valid: Tensor) -> Tensor:
    outputs, _ = encode_to_layers(encoder, features, lengths, layers)
    return torch.stack([_match_length(outputs[layer], valid.shape[1])[valid] for layer in layers])


def _match_length(frames: Tensor, count: int) -> Tensor:
    """Cuts or pads (B, T', D) to ``count`` frames, because the padding of batches differs."""
    return torch.nn.functional.pad(frames, (0, 0, 0, count - frames.shape[1]))
