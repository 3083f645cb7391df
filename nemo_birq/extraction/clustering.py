"""k-means on the outputs of one layer of a trained model, and the teacher for the second stage.

Shapes: N frames of all utterances, D encoder width, V clusters.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.shards.workers import Workers
from nemo_birq.data.subset import draw_hours
from nemo_birq.extraction.data import SpeechData, batches_by_length, make_loader, open_data
from nemo_birq.extraction.features import compute_features, layer_name
from nemo_birq.extraction.memory import check_longest
from nemo_birq.extraction.on_cluster import Opened, compute_on, write_nothing
from nemo_birq.labels.kmeans import fit_kmeans
from nemo_birq.labels.statistics import CodeUse
from nemo_birq.labels.teacher import TeacherFile, TeacherLabeler
from nemo_birq.loading import LoadedEncoder, load_encoder
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.utils.memory import check_room
from nemo_birq.utils.progress import Advance, Progress

BATCHES_OF_A_TASK = 10
MIN_FRAMES = 39  # frames per cluster, below which faiss warns too


class Clustering(NamedTuple):
    """A teacher, and the distribution of the clustered frames over its clusters."""

    file: TeacherFile
    use: CodeUse
    frames: int
    """N, number of clustered frames."""
    utterances: int
    unreadable: int
    hours: float

    def notes(self) -> list[str]:
        """Returns remarks on unreadable utterances and on few frames or empty clusters."""
        clusters, found = len(self.file.centroids), []
        if self.unreadable:
            found.append(f"{self.unreadable} utterances could not be read and were skipped; the warnings say why.")
        if self.frames < MIN_FRAMES * clusters:
            found.append(f"Only {self.frames / clusters:.0f} frames per cluster: use more audio or fewer clusters.")
        if self.use.coverage < 1:
            empty = round((1 - self.use.coverage) * clusters)
            found.append(f"{empty} clusters are empty: their codes will never be a label. Use fewer clusters.")
        return found


def check_size(opened: LoadedEncoder, seconds: float, num_clusters: int) -> None:
    """Checks that there are not too few frames for the clusters, and not too many for the memory.

    Raises:
        ValueError: there are fewer frames than clusters, or more than fit into memory.
    """
    step = encoder_times(opened.model).step
    frames = int(seconds / step)
    if not 2 <= num_clusters <= frames:
        raise ValueError(
            f"--clusters {num_clusters}: from 2 to the number of frames, which is about {frames} in {seconds / 60:.1f} "
            "minutes of audio; give other data, more hours, or fewer clusters"
        )
    check_room(seconds, 4 * opened.encoder.d_model / step, "the frames to cluster")


class FrameExtraction(NamedTuple):
    """The frames of a layer, for tasks of a cluster; see ``on_cluster.Extraction``."""

    model: str
    data: str
    tars: str | None
    layer: int

    def open(self) -> Opened:
        """Opens model and data; errors as ``load_encoder`` and ``open_data``."""
        opened = load_encoder(self.model)
        data = open_data(self.data, self.tars, opened.sample_rate)
        return Opened(data, lambda speech: [compute_frames(opened, speech, self.layer)], write_nothing)


class Spread(NamedTuple):
    """Tasks of a cluster that compute frames."""

    cluster: Workers
    frames: FrameExtraction
    workers: int
    """Decoding processes of a task."""


def compute_frames(opened: LoadedEncoder, speech: SpeechBatch, layer: int) -> np.ndarray:
    """Computes the output of a layer for the frames of all utterances of a batch, one after the other, (N, D) float32.

    Raises:
        ValueError: a value is not finite.
    """
    results = compute_features(opened, speech, [layer], torch.float32)
    return np.concatenate([utterance[layer_name(layer)] for utterance in results])


def collect_frames(
    opened: LoadedEncoder, data: SpeechData, rows: list[int], layer: int, progress: Progress,
    batch_seconds: float, workers: int, spread: Spread | None = None,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Computes the output of a layer for unmasked utterances, in the same way as the extraction of features.

    Args:
        spread: computes the same batches on a cluster; the frames come back to this process, for k-means.

    Returns:
        The outputs (N, D) float32, and the number of utterances that were read.

    Raises:
        ValueError: no utterance could be read, an output is not finite, or an utterance is too long for the memory.
    """
    check_longest(opened.model, data, rows)
    durations = data.durations
    batches = batches_by_length(rows, durations, batch_seconds)
    longest = durations[rows] + 2 * TOLERANCE  # files may be this much longer than in the manifest, and a last partial frame
    room = int(longest.sum() / encoder_times(opened.model).step)
    frames = np.empty(
        (room, opened.encoder.d_model), dtype=np.float32
    )  # joining batches afterwards would need twice the memory
    count = read = 0
    advance = progress.start(f"layer {layer} of {len(rows):,} utterances", float(durations[rows].sum()))
    if spread is None:
        found = _frames_here(opened, data, batches, layer, advance, workers)
    else:
        found = _frames_of_cluster(spread, data, batches, advance)
    for output, utterances in found:
        frames[count : count + len(output)] = output
        count, read = count + len(output), read + utterances
    if not read:
        raise ValueError("no utterance could be read: see the warnings above, and correct the manifest or the audio")
    return frames[:count], read


def _frames_here(
    opened: LoadedEncoder, data: SpeechData, batches: list[list[int]], layer: int, advance: Advance, workers: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the frames of each batch, and the number of its utterances."""
    durations = data.durations
    for planned, (rows, speech) in zip(batches, make_loader(data, batches, workers), strict=True):
        if not speech.is_silent_stand_in:
            yield compute_frames(opened, speech, layer), len(rows)
        advance(float(durations[planned].sum()))


def _frames_of_cluster(
    spread: Spread, data: SpeechData, batches: list[list[int]], advance: Advance
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the same in the same order."""
    groups = [batches[first : first + BATCHES_OF_A_TASK] for first in range(0, len(batches), BATCHES_OF_A_TASK)]
    early: dict[int, tuple[int, list[np.ndarray]]] = {}
    following = 0
    for number, result in compute_on(spread.cluster, spread.frames, data, groups, advance, spread.workers):
        early[number] = result
        while following in early:
            read, outputs = early.pop(following)
            following += 1
            if outputs:
                yield np.concatenate(outputs), read


def make_teacher_file(opened: LoadedEncoder, layer: int, centroids: np.ndarray, seed: int, made_from: str) -> TeacherFile:
    """Builds a teacher from the first layers of an encoder and centroids (V, D) of the last of these layers."""
    cfg = opened.model.cfg
    settings = OmegaConf.to_container(cfg.encoder, resolve=True)
    settings |= {"n_layers": layer, "feat_out": -1, "stochastic_depth_drop_prob": 0.0, "stochastic_depth_start_layer": 1}
    above = tuple(f"layers.{number}." for number in range(layer, opened.depth))
    weights = {
        name: tensor.detach().cpu().clone()
        for name, tensor in opened.encoder.state_dict().items()
        if not name.startswith((*above, "out_proj."))
    }
    preprocessor = OmegaConf.to_container(cfg.preprocessor, resolve=True)
    file = TeacherFile(layer, torch.from_numpy(centroids).float(), preprocessor, settings, weights, seed, made_from)
    TeacherLabeler(file)  # checks that the weights fit the configuration before writing
    return file


def cluster(
    opened: LoadedEncoder, data: SpeechData, layer: int, num_clusters: int, progress: Progress, made_from: str,
    hours: float | None = None, seed: int = 0, batch_seconds: float = 120.0, workers: int = 0, spread: Spread | None = None,
) -> Clustering:  # fmt: skip
    """Clusters the outputs of a layer and builds a teacher.

    Args:
        opened: model of the first stage, in evaluation mode.
        data: utterances to cluster, usually the training data of the second stage.
        layer: K, in 1..L.
        num_clusters: V.
        progress: display of the progress.
        made_from: file name of the model, for the record.
        hours: hours of audio to use, see ``draw_hours``; None: all.
        seed: seed of that draw and of k-means.
        batch_seconds: seconds of audio in a batch, with padding.
        workers: number of decoding processes; 0 decodes in this process.
        spread: computes the frames on a cluster.

    Raises:
        ValueError: see ``check_size`` and ``collect_frames``.
    """
    rows = draw_hours(data.durations, hours, seed)
    seconds = float(data.durations[rows].sum())
    check_size(opened, seconds, num_clusters)
    frames, read = collect_frames(opened, data, rows, layer, progress, batch_seconds, workers, spread)
    if len(frames) < num_clusters:
        raise ValueError(f"only {len(frames)} frames could be read, fewer than {num_clusters} clusters: use more audio")
    progress.start(f"k-means, {num_clusters} clusters of {len(frames):,} frames")
    kmeans = fit_kmeans(frames, num_clusters, seed)
    counts = torch.from_numpy(np.bincount(kmeans.labels_, minlength=num_clusters)).float().unsqueeze(0)
    file = make_teacher_file(opened, layer, kmeans.cluster_centers_, seed, made_from)
    return Clustering(file, CodeUse.of(counts), len(frames), read, len(rows) - read, seconds / 3600)
