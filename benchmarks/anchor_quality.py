"""PNMI of anchor labels with random and with fitted projections and codes, without any training.

    python -m benchmarks.anchor_quality --out docs/results/anchor_quality.json

The benchmark compares the labels of the corpus of this repository, or of --corpus with the same folders, with its phones.
PNMI is that above labels assigned at random. The quantizer is fitted to the training set and measured on the training and
validation sets.
"""

import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from nemo_birq import BiRQModel
from nemo_birq.evaluation.label_quality.evaluation import phones_of_frames
from nemo_birq.evaluation.label_quality.pnmi import joint_counts, score_labels
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.labels.anchor import stack_frames
from nemo_birq.modules.frame_times import anchor_times
from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).parents[1]
KINDS = (("random", "random"), ("pca", "random"), ("random", "kmeans"), ("pca", "kmeans"))
FRAMES = 32000
console = Terminal()


class Frames(NamedTuple):
    """Stacked frames of a set with their phones."""

    inputs: Tensor
    """(N, S * F) float32."""
    phones: np.ndarray
    """(N,) int64; -1 outside of phones."""
    num_phones: int


def make(seed: int, num_codes: int, projection: str = "random", codes: str = "random") -> BiRQModel:
    """Builds the tiny model with anchors of a kind."""
    overrides = [
        f"model.birq.quantizer.seed={seed}", f"model.birq.quantizer.num_codes={num_codes}",
        f"model.birq.anchor.projection={projection}", f"model.birq.anchor.codes={codes}",
        f"model.birq.anchor.fit_frames={FRAMES}", "model.birq.anchor.fit_steps=1",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=overrides)
    cfg.model.train_ds = cfg.model.validation_ds = None
    return BiRQModel(cfg.model).eval()


@torch.no_grad()
def read(data: Path, alignments: Path, model: BiRQModel) -> Frames:
    """Reads the frames of a set."""
    utterances = read_utterances(str(data), str(alignments))
    inputs, counts = [], {}
    for batch in utterances.speech.load(model.sample_rate):
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        inside = valid_frames(lengths, features.shape[2]).unsqueeze(1)
        stacked = stack_frames(features.masked_fill(~inside, 0.0), model.subsampling)
        for rows, count, name in zip(stacked, (-(-lengths // model.subsampling)).tolist(), batch.ids, strict=True):
            inputs.append(rows[:count])
            counts[Path(name).stem] = count
    names = sorted({item.symbol for items in utterances.alignments.phones.values() for item in items})
    return Frames(torch.cat(inputs), phones_of_frames(utterances, counts, anchor_times(model), names), len(names))


def quality(model: BiRQModel, frames: Frames, num_codes: int) -> float:
    """Returns the PNMI above chance of the anchor labels."""
    labels = model.anchor_labeler.quantizer.nearest(frames.inputs)[:, 0].numpy()
    inside = frames.phones >= 0
    found = score_labels(joint_counts(frames.phones[inside], labels[inside], frames.num_phones, num_codes))
    return round(found.above_chance, 3)


@click.command(help=__doc__)
@click.option("--corpus", type=click.Path(path_type=Path), default=ROOT / "tarred_manifests", help="Folder of the corpus.")
@click.option("--codes", "sizes", type=int, multiple=True, default=(64, 256), help="Numbers of codes.")
@click.option("--seeds", type=int, default=2, help="Number of seeds.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(corpus: Path, sizes: tuple[int, ...], seeds: int, out: Path | None) -> None:
    torch.set_num_threads(1)
    model = make(0, 256)
    train = read(corpus / "train", corpus / "train" / "phones.ctm", model)
    validation = read(corpus / "validation" / "validation.json", corpus / "validation" / "phones.ctm", model)
    rows = []
    for num_codes in sizes:
        for projection, codes in KINDS:
            for seed in range(seeds):
                model, start = make(seed, num_codes, projection, codes), time.perf_counter()
                if (fitting := model.anchor_labeler.fitting) is not None:
                    fitting.begin_step(0)
                    fitting.gather(train.inputs)
                row = {"codes": num_codes, "projection": projection, "kind": codes, "seed": seed}
                row["fit_seconds"] = round(time.perf_counter() - start, 2)
                row |= {
                    name: quality(model, set_, num_codes) for name, set_ in (("train", train), ("validation", validation))
                }
                rows.append(row)
                console.print(row)
    if out is not None:
        sizes_of = {"train": len(train.inputs), "validation": len(validation.inputs)}
        command = "python -m benchmarks.anchor_quality --out docs/results/anchor_quality.json"
        write_json(out, {"command": command, "frames": sizes_of, "rows": rows})


if __name__ == "__main__":
    main()
