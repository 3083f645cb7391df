"""Measures without alignments that might choose layer k, beside the PNMI of each layer's labels that they should predict.

    python -m benchmarks.layer_choice MODEL.nemo ... --corpus CORPUS --out docs/results/layer_choice.json

Every layer's output is clustered by k-means into as many labels as the model has codes. The measures of these labels are:

* ``agreement``: information of the labels of the noisy signal (white noise, 10 dB) about those of the clean one, I / H
* ``masked``: the same for the labels of the masked pass, at masked frames
* ``stability``: information of the label of a frame about that of the next frame, I / H
* ``learnability``: the nats below the unigram entropy by which a linear softmax layer predicts them from the last layer's
  output at masked frames of other utterances, over H

The layer that a measure ranks first is compared with the layer of the highest PNMI above chance.
"""

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from nemo.collections.asr.modules.conformer_encoder import ConformerMultiLayerFeatureExtractor
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor

from nemo_birq import BiRQModel, load_model
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.evaluation.label_quality.evaluation import phones_of_frames
from nemo_birq.evaluation.label_quality.label_sets import nearest_codes
from nemo_birq.evaluation.label_quality.pnmi import joint_counts, score_labels
from nemo_birq.evaluation.label_quality.utterances import Utterances, read_utterances
from nemo_birq.labels.kmeans import fit_kmeans
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

SIGNAL_TO_NOISE = 10.0  # dB
TRAIN_SHARE = 0.8  # of the masked frames, for the linear layer
PROBE_STEPS, PROBE_RATE = 300, 0.01
MEASURES = ("agreement", "masked", "stability", "learnability")
console = Terminal()


class Views(NamedTuple):
    """Outputs of all layers for the same N frames, with the utterances in sequence."""

    clean: list[Tensor]
    """L outputs of (N, D)."""
    noisy: list[Tensor]
    masked: list[Tensor]
    predicted: np.ndarray
    """(N,) bool, frames that are masked."""
    utterance: np.ndarray
    """(N,) int64."""
    phones: np.ndarray
    """(N,) int64; -1 outside of phones."""


@torch.no_grad()
def read_views(model: BiRQModel, utterances: Utterances) -> Views:
    """Passes the clean, the noisy and the masked signals through all layers."""
    extractor = ConformerMultiLayerFeatureExtractor(model.encoder, include_final_output=False)
    generator = torch.Generator().manual_seed(0)
    kept: dict[str, list[list[Tensor]]] = {kind: [] for kind in ("clean", "noisy", "masked")}
    counts, predicted = {}, []
    for batch in utterances.speech.load(model.sample_rate):
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        noisy, _ = model.preprocessor(input_signal=with_noise(batch, generator), length=batch.signal_length)
        mask = model.masking.draw(lengths, features.shape[2], generator)
        filled = model.masking.fill(features, mask, seed=0)
        for kind, given in (("clean", features), ("noisy", noisy), ("masked", filled)):
            outputs, (encoded, *_) = extractor(audio_signal=given, length=lengths)
            valid = valid_frames(encoded, outputs[0].shape[2])
            kept[kind].append([output.transpose(1, 2)[valid] for output in outputs])
        inside = torch.zeros(valid.numel(), dtype=torch.bool)
        inside[model.masked_frames(mask, valid.shape[1])] = True
        predicted.append(inside[positions(valid)])
        counts |= zip((Path(name).stem for name in batch.ids), encoded.tolist(), strict=True)
    names = sorted({item.symbol for items in utterances.alignments.phones.values() for item in items})
    return Views(
        *([torch.cat(layers) for layers in zip(*kept[kind], strict=True)] for kind in ("clean", "noisy", "masked")),
        predicted=torch.cat(predicted).numpy(),
        utterance=np.repeat(np.arange(len(counts)), list(counts.values())),
        phones=phones_of_frames(utterances, counts, encoder_times(model), names),
    )


def with_noise(batch: SpeechBatch, generator: torch.Generator) -> Tensor:
    """Adds white noise at ``SIGNAL_TO_NOISE`` to each signal of a batch: (B, samples) float32."""
    power = batch.signal.square().sum(dim=1) / batch.signal_length
    noise = torch.randn(batch.signal.shape, generator=generator)
    return batch.signal + noise * (power / 10 ** (SIGNAL_TO_NOISE / 10)).sqrt().unsqueeze(1)


def share_known(labels: np.ndarray, others: np.ndarray) -> float:
    """Returns I(labels; others) / H(labels)."""
    return mutual_info_score(labels, others) / entropy(np.bincount(labels))


def learnability(hidden: Tensor, labels: np.ndarray, utterance: np.ndarray) -> float:
    """Returns (H - cross-entropy) / H of a linear prediction on utterances that it was not fitted to.

    Args:
        hidden: (n, D) output of the last layer at masked frames.
        labels: (n,) int64 to predict.
        utterance: (n,) int64.
    """
    train = torch.from_numpy(utterance < np.quantile(utterance, TRAIN_SHARE))
    targets, inputs = torch.from_numpy(labels), (hidden - hidden.mean(dim=0)) / hidden.std(dim=0).clamp_min(1e-6)
    torch.manual_seed(0)
    linear = torch.nn.Linear(hidden.shape[1], int(targets.max()) + 1)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=PROBE_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROBE_STEPS)
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(linear(inputs[train]), targets[train]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        loss = float(F.cross_entropy(linear(inputs[~train]), targets[~train]))
    known = entropy(np.bincount(labels))
    return (known - loss) / known


def measure(model: BiRQModel, views: Views, layer: int) -> dict[str, float]:
    """Measures the k-means labels of a layer (1..L), and the PNMI above chance of its nearest codes and of k-means."""
    num_codes = model.birq.quantizer.num_codes
    clean, noisy, masked = (view[layer - 1].numpy() for view in (views.clean, views.noisy, views.masked))
    clusters = fit_kmeans(clean, num_codes)
    labels = clusters.predict(clean).astype(np.int64)
    inside, hidden = views.predicted, views.masked[-1][torch.from_numpy(views.predicted)]
    same = views.utterance[1:] == views.utterance[:-1]
    row = {
        "pnmi": above_chance(labels, views.phones, num_codes),
        "pnmi_nearest": above_chance(nearest_codes(model, views.clean[layer - 1]), views.phones, num_codes),
        "agreement": share_known(labels, clusters.predict(noisy)),
        "masked": share_known(labels[inside], clusters.predict(masked[inside])),
        "stability": share_known(labels[1:][same], labels[:-1][same]),
        "learnability": learnability(hidden, labels[inside], views.utterance[inside]),
    }
    return {name: round(float(value), 4) for name, value in row.items()}


def above_chance(labels: np.ndarray, phones: np.ndarray, num_codes: int) -> float:
    """Returns the PNMI of labels above that of the same labels assigned at random."""
    inside = phones >= 0
    found = score_labels(joint_counts(phones[inside], labels[inside], phones.max() + 1, num_codes))
    return found.above_chance


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--corpus", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of a corpus with phones."
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(models: tuple[Path, ...], corpus: Path, out: Path | None) -> None:
    torch.set_num_threads(1)
    folder = corpus / "validation"
    utterances = read_utterances(folder / "validation.json", folder / "phones.ctm")
    rows = []
    for path in models:
        model = load_model(path).eval()
        views = read_views(model, utterances)
        layers = [{"layer": k} | measure(model, views, k) for k in range(1, len(model.encoder.layers) + 1)]
        best = max(layers, key=lambda row: row["pnmi"])
        lost = {name: round(best["pnmi"] - max(layers, key=lambda row: row[name])["pnmi"], 4) for name in MEASURES}
        rows.append(
            {"model": "/".join(path.parts[-4:-3]) or path.name, "layers": layers, "best": best["layer"], "lost": lost}
        )
        console.print(rows[-1])
    if out is not None:
        command = "python -m benchmarks.layer_choice MODEL.nemo ... --corpus CORPUS --out docs/results/layer_choice.json"
        write_json(out, {"command": command, "frames": len(views.phones), "models": rows})


if __name__ == "__main__":
    main()
