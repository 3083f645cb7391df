"""A model with labels, whole runs of extraction with it, and the arrays that a run has written."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nemo_birq import BiRQModel
from nemo_birq.extraction.features import DTYPES, FORMATS, compute_features
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.layer_pass import encode_to_layer
from tests.helpers.models import make_batch, make_model

COUNT = 24  # utterances, 64 s
PART, BATCH = 15.0, 6.0  # seconds; several parts, each of several batches


def make_model_with_statistics() -> BiRQModel:
    """Makes a small model with the statistics of a training."""
    made = make_model()
    made.train()
    batch = make_batch(seed=3)
    features, lengths = made.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    hidden, _ = encode_to_layer(made.encoder, features, lengths, made.layer)
    valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        made.enhanced_labeler(hidden, valid, torch.arange(valid.numel()))
    return made.eval()


def extract(model, data, folder, kind="npz", layers=(1, 3), compute=None, workers=0, dtype="float32"):
    compute = compute or partial(compute_features, LoadedEncoder(model), layers=layers, dtype=DTYPES[dtype])
    with PartStore(folder, {"format": kind}, {}) as parts, progress_bar(disable=True) as progress:
        return run_parts(data, parts, compute, FORMATS[kind], progress, PART, BATCH, workers)


def read_npz(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads the arrays of all utterances, which the lists name."""
    found = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            with np.load(folder / line["features_filepath"]) as arrays:
                names = [name for name in arrays if name.startswith(line["features_key"] + "/")]
                found[line["features_key"]] = {name.split("/")[1]: arrays[name] for name in names}
                assert {len(array) for array in found[line["features_key"]].values()} == {line["num_frames"]}
    return found
