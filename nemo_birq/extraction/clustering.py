"""k-means on the outputs of one layer of a trained model, and the teacher for the second stage.

Shapes: N frames of all utterances, D encoder width, V clusters.
"""

from typing import NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.subset import draw_hours
from nemo_birq.extraction.data import SpeechData, batches_by_length, make_loader
from nemo_birq.extraction.features import compute_features, layer_name
from nemo_birq.extraction.memory import check_longest
from nemo_birq.labels.kmeans import fit_kmeans
from nemo_birq.labels.statistics import CodeUse
from nemo_birq.labels.teacher import TeacherFile, TeacherLabeler
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.utils.memory import check_room
from nemo_birq.utils.progress import Progress

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


def collect_frames(
    opened: LoadedEncoder, data: SpeechData, rows: list[int], layer: int, progress: Progress,
    batch_seconds: float, workers: int,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Computes the output of a layer for unmasked utterances, in the same way as the extraction of features.

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
    for planned, (found, speech) in zip(batches, make_loader(data, batches, workers), strict=True):
        if not speech.is_silent_stand_in:
            for utterance in compute_features(opened, speech, [layer], torch.float32):
                output = utterance[layer_name(layer)]
                frames[count : count + len(output)] = output
                count += len(output)
            read += len(found)
        advance(float(durations[planned].sum()))
    if not read:
        raise ValueError("no utterance could be read: see the warnings above, and correct the manifest or the audio")
    return frames[:count], read


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
    hours: float | None = None, seed: int = 0, batch_seconds: float = 120.0, workers: int = 0,
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

    Raises:
        ValueError: see ``check_size`` and ``collect_frames``.
    """
    rows = draw_hours(data.durations, hours, seed)
    seconds = float(data.durations[rows].sum())
    check_size(opened, seconds, num_clusters)
    frames, read = collect_frames(opened, data, rows, layer, progress, batch_seconds, workers)
    if len(frames) < num_clusters:
        raise ValueError(f"only {len(frames)} frames could be read, fewer than {num_clusters} clusters: use more audio")
    progress.start(f"k-means, {num_clusters} clusters of {len(frames):,} frames")
    kmeans = fit_kmeans(frames, num_clusters, seed)
    counts = torch.from_numpy(np.bincount(kmeans.labels_, minlength=num_clusters)).float().unsqueeze(0)
    file = make_teacher_file(opened, layer, kmeans.cluster_centers_, seed, made_from)
    return Clustering(file, CodeUse.of(counts), len(frames), read, len(rows) - read, seconds / 3600)
