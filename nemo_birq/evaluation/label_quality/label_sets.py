"""All sets of labels of all frames: anchor, enhanced, nearest codes of every layer, k-means of every layer.

Shapes: B utterances, T' encoder frames, N frames of all utterances, D encoder width, L layers, V codes.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nemo.collections.asr.modules.conformer_encoder import ConformerMultiLayerFeatureExtractor
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.labels.kmeans import fit_kmeans
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.model import BiRQModel
from nemo_birq.modules.layer_pass import attending, label_context
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.utils.progress import Progress, track

CHUNK = 8192  # frames whose scores with all codes are in memory at a time


class Frames(NamedTuple):
    """Frames of whole utterances in sequence."""

    counts: dict[str, int]
    """Number of encoder frames by utterance, in order; the sum is N."""
    anchor: np.ndarray
    """(N,) int64, of the first codebook."""
    enhanced: np.ndarray | None
    """(N,) int64, of the first codebook, from ``BiRQModel.labels``; None if the model has no statistics of layer k yet."""
    layers: list[Tensor]
    """L outputs of shape (N, D), float32, on the CPU."""


@torch.no_grad()
def collect_frames(model: BiRQModel, batches: Iterable[SpeechBatch], advance: Callable[[SpeechBatch], None]) -> Frames:
    """Passes the unmasked utterances through all layers.

    Args:
        model: model in evaluation mode.
        batches: utterances; their ids are names of audio files or of members of shards.
        advance: function that is called after each batch.

    Raises:
        ValueError: none of the utterances can be read.
    """
    extractor = ConformerMultiLayerFeatureExtractor(model.encoder, include_final_output=False)
    enhanced_known = model.enhanced_labeler.normalization.has_statistics
    counts: dict[str, int] = {}
    anchor, enhanced = [], []
    layers: list[list[Tensor]] = [[] for _ in model.encoder.layers]
    for batch in batches:
        if batch.is_silent_stand_in:
            continue
        signal, length = batch.signal.to(model.device), batch.signal_length.to(model.device)
        features, feature_len = model.preprocessor(input_signal=signal, length=length)
        with attending(model.encoder, label_context(model.encoder, model.birq.labels.context)):
            outputs, (encoded_len, *_) = extractor(audio_signal=features, length=feature_len)
        hidden = [output.transpose(1, 2) for output in outputs]
        valid = valid_frames(encoded_len, hidden[0].shape[1])
        frames = positions(valid)
        anchor.append(model.anchor_labeler(features, feature_len, frames, valid.shape[1])[:, 0].cpu())
        if enhanced_known:
            enhanced.append(model.enhanced_labeler.nearest(hidden[model.layer - 1], valid, frames)[:, 0].cpu())
        for kept, output in zip(layers, hidden, strict=True):
            kept.append(output[valid].float().cpu())
        counts |= zip((Path(path).stem for path in batch.ids), encoded_len.tolist(), strict=True)
        advance(batch)
    if not counts:
        raise ValueError("none of the utterances can be read; see the reasons in the warnings above")
    joined = [torch.cat(kept) for kept in layers if kept]
    return Frames(counts, torch.cat(anchor).numpy(), torch.cat(enhanced).numpy() if enhanced_known else None, joined)


@torch.no_grad()
def nearest_codes(model: BiRQModel, hidden: Tensor) -> np.ndarray:
    """Computes the labels that the model's labeler would make from a layer if it were layer k: (N, D) -> (N,) int64.

    The labels are of the first codebook. The layer is normalized like layer k, but with the statistics of these N frames,
    because the model has none of other layers.
    """
    labeler = model.enhanced_labeler
    kind = labeler.normalization.kind
    normalization = LayerNormalization(hidden.shape[1], kind, 0.0).eval()
    everything = torch.ones(1, len(hidden), dtype=torch.bool)
    normalized = normalization(hidden.unsqueeze(0), everything, torch.arange(len(hidden)))
    codes = [labeler.quantizer.nearest(chunk.to(model.device))[:, 0].cpu() for chunk in normalized.split(CHUNK)]
    return torch.cat(codes).numpy()


def kmeans_codes(hidden: Tensor, num_codes: int, fit_frames: int, seed: int = 0) -> np.ndarray:
    """Computes labels by k-means of the unchanged output of a layer, as in HuBERT: (N, D) -> (N,) int64.

    Args:
        hidden: (N, D) output of a layer.
        num_codes: number of clusters, at most N.
        fit_frames: number of random frames to fit on; all frames get labels.
        seed: seed of the frames and of the initial centres.
    """
    frames = hidden.numpy()
    drawn = frames
    if len(frames) > fit_frames:
        drawn = frames[np.random.default_rng(seed).choice(len(frames), fit_frames, replace=False)]
    return fit_kmeans(drawn, num_codes, seed).predict(frames).astype(np.int64)


def label_sets(
    model: BiRQModel, frames: Frames, kmeans_frames: int, progress: Progress
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Yields all sets of labels: kind (as in ``evaluation.LabelSetScore``), layer, and (N,) int64 labels.

    Args:
        model: model with projection and codebook.
        frames: frames to label.
        kmeans_frames: number of frames to fit k-means on; 0: no k-means.
        progress: shows the progress of the work.
    """
    nearest = [nearest_codes(model, hidden) for hidden in track(frames.layers, progress, "nearest codes of each layer")]
    yield "anchor", None, frames.anchor
    yield "enhanced", model.layer, nearest[model.layer - 1] if frames.enhanced is None else frames.enhanced
    for layer, codes in enumerate(nearest, start=1):
        yield "layer", layer, codes
    if kmeans_frames:
        for layer, hidden in enumerate(track(frames.layers, progress, "k-means of each layer"), start=1):
            yield "kmeans", layer, kmeans_codes(hidden, model.birq.quantizer.num_codes, kmeans_frames)
