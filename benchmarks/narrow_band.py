"""Measures the share of anchor labels of telephone speech that is noise, and the settings that make them stable.

python benchmarks/narrow_band.py                              the embedded corpus
python benchmarks/narrow_band.py --data /data/dev.json        another manifest of wide-band speech

Telephone speech is the same audio at 8 kHz with mu-law coding, once with the band of 300 to 3400 Hz, resampled to the rate
of the model as make_shards does. The result for each setting is the share of anchor labels that are equal between two
draws of the dither, and the bandwidths that make_shards reports. It is written to docs/results/narrow_band.json.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from build_shards import ROOT, decode_embedded_corpus
from hydra import compose, initialize_config_dir
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from scipy.signal import butter, sosfiltfilt

from nemo_birq.config import parse
from nemo_birq.data.bandwidth import find_bandwidth
from nemo_birq.labels import tensors
from nemo_birq.labels.anchor import RandomProjectionLabeler
from nemo_birq.labels.quantizer import RandomProjectionQuantizer

SETTINGS = {
    "as configured": (),
    "model.preprocessor.highfreq=4000": ("+model.preprocessor.highfreq=4000",),
    "model.preprocessor.highfreq=3800": ("+model.preprocessor.highfreq=3800",),
    "model.preprocessor.highfreq=3400": ("+model.preprocessor.highfreq=3400",),
    "model.sample_rate=8000": ("model.sample_rate=8000",),
}
KINDS = ("wide-band", "telephone, 8 kHz mu-law", "telephone, 300 to 3400 Hz")


def round_16_bits(signal: np.ndarray) -> np.ndarray:
    return (np.clip(np.rint(signal * 32768), -32768, 32767) / 32768).astype(np.float32)


def through_telephone(signal: np.ndarray, rate: int, band: bool) -> np.ndarray:
    """Returns a signal at 8 kHz as mu-law coding with 8 bits leaves it, after a filter of 300 to 3400 Hz if ``band``."""
    narrow = soxr.resample(signal, rate, 8000)
    if band:
        narrow = sosfiltfilt(butter(4, [300, 3400], "band", fs=8000, output="sos"), narrow)
    coded = np.rint(127 * np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log1p(255)) / 127
    return round_16_bits(np.sign(coded) * (256 ** np.abs(coded) - 1) / 255)


def signals_of(kind: str, clips: list[tuple[np.ndarray, int]], rate: int) -> list[np.ndarray]:
    """Returns clips of one of ``KINDS`` at the model's rate, with the 16 bits of shards."""
    if kind == KINDS[0]:
        return [round_16_bits(soxr.resample(signal, old, rate)) for signal, old in clips]
    narrow = [through_telephone(signal, old, kind == KINDS[2]) for signal, old in clips]
    return [round_16_bits(soxr.resample(signal, 8000, rate)) for signal in narrow]


class Labels:
    """Anchor labels of a configuration, without its encoder."""

    def __init__(self, model: DictConfig):
        front_end = OmegaConf.to_container(model.preprocessor, resolve=True)
        del front_end["_target_"]
        self.preprocessor = AudioToMelSpectrogramPreprocessor(**front_end).train()
        birq, encoder = parse(model.birq), model.encoder
        width = encoder.subsampling_factor * encoder.feat_in
        drawn = tensors.draw(birq.quantizer, birq.anchor, birq.labels, width, encoder.d_model)
        quantizer = RandomProjectionQuantizer(drawn["anchor_projection"], drawn["codebook"])
        self.labeler = RandomProjectionLabeler(quantizer, encoder.subsampling_factor)

    @torch.no_grad()
    def of(self, signal: np.ndarray, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)  # of the dither
        features, lengths = self.preprocessor(
            input_signal=torch.from_numpy(signal)[None], length=torch.tensor([len(signal)])
        )
        number = -(-int(lengths) // self.labeler.subsampling)
        return self.labeler(features, lengths, torch.arange(number), number)


def measure(labels: Labels, signals: list[np.ndarray], rate: int) -> dict:
    """Returns the share of equal labels, and hours by bandwidth."""
    equal = torch.cat([(labels.of(signal, 0) == labels.of(signal, 1)).all(dim=-1) for signal in signals])
    found = Counter(f"{find_bandwidth(signal, rate) or 0:.0f}" for signal in signals)
    share = {hz: round(number / len(signals), 3) for hz, number in sorted(found.items(), key=lambda item: float(item[0]))}
    return {"equal_labels": round(float(equal.double().mean()), 4), "frames": len(equal), "bandwidth_hz": share}


def read_clips(manifest: Path, number: int) -> list[tuple[np.ndarray, int]]:
    """Returns evenly spaced clips of a manifest, as mono signals with their sample rates."""
    lines = manifest.read_text(encoding="utf-8").splitlines()
    clips = []
    for line in lines[:: max(1, len(lines) // number)][:number]:
        signal, rate = soundfile.read(manifest.parent / json.loads(line)["audio_filepath"], dtype="float32", always_2d=True)
        clips.append((signal.mean(axis=1), rate))
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a NeMo manifest (default: the embedded corpus)")
    parser.add_argument("--name", default="the embedded corpus", help="name of the data in the result")
    parser.add_argument("--clips", type=int, default=60, help="number of clips (default 60)")
    parser.add_argument("--config-name", default="birq_conformer_large")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "narrow_band.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = read_clips(args.data or decode_embedded_corpus(Path(folder)), args.clips)
    results = {}
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        for setting, overrides in SETTINGS.items():
            model = compose(args.config_name, overrides=list(overrides)).model
            labels = Labels(model)
            results[setting] = {
                kind: measure(labels, signals_of(kind, clips, model.sample_rate), model.sample_rate) for kind in KINDS
            }
    table = Table("setting", *KINDS, title="anchor labels that are equal between two draws of the dither")
    for setting, row in results.items():
        table.add_row(setting, *(f"{row[kind]['equal_labels']:.1%}" for kind in KINDS))
    Console().print(table)
    result = {
        "what": "share of anchor labels that are equal between two draws of the dither, and clips by bandwidth in Hz",
        "command": f"python benchmarks/narrow_band.py{' --data <manifest>' if args.data else ''} --clips {args.clips}",
        "data": args.name,
        "config": args.config_name,
        "clips": len(clips),
        "minutes": round(sum(len(signal) / rate for signal, rate in clips) / 60, 1),
        "results": results,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
