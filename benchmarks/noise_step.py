"""Measures what noise in the masked pass costs: steps with and without it in turn, and the mixing in the data loader.

    python benchmarks/noise_step.py --config middle          # the middle model, some minutes
    python benchmarks/noise_step.py                          # the tiny model, which has the shortest step

The audio is that of the embedded corpus, with artificial noise and the values of conf/noise/nest.yaml. The benchmark
measures processor time on one thread, which other programs hardly change. A training with workers waits for the step alone;
with ``num_workers=0`` it waits for the loader, too. The results are added to docs/results/noise_step.json.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import numpy as np
from hydra import compose, initialize_config_dir
from noisy_speech import write_noise
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from step_comparison import ratio, spread
from step_variants import RATE, ROOT, Setting, build

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.factory import build_dataloader
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

CORPUS = ROOT / "tarred_manifests" / "train"
WARM_UP = 2  # rounds that are not measured
console = Terminal()


def data_config(batch_seconds: float, noise: Path | None) -> DictConfig:
    """Returns ``train_ds`` of the tiny configuration with the embedded corpus, loaded in this process."""
    overrides = [
        f"model.train_ds.manifest_filepath={CORPUS}/sharded_manifests/manifest__OP_0..3_CL_.json",
        f"model.train_ds.tarred_audio_filepaths={CORPUS}/audio__OP_0..3_CL_.tar",
        f"model.train_ds.batch_duration={batch_seconds:g}", "model.train_ds.num_workers=0",
    ]  # fmt: skip
    if noise is not None:
        overrides += ["+noise=nest", f"model.train_ds.noise_manifest={noise}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("birq_conformer_tiny", overrides=overrides).model.train_ds
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True))


def batches(config: DictConfig) -> Iterator[SpeechBatch]:
    return iter(build_dataloader(config, RATE, 0, 1, training=True))


def paired(noisy: Iterable[float], clean: Iterable[float]) -> list[float]:
    """Returns the median of the ratios of the rounds, whose batches have different lengths, with a 95 % interval."""
    ratios = np.divide(noisy, clean)
    return [round(value, 3) for value in ratio(ratios, np.ones_like(ratios))]


@click.command(help=__doc__)
@click.option("--config", default="birq_conformer_tiny", show_default=True, help="A file of conf/, or middle: 8 x 256.")
@click.option("--batch-seconds", type=click.FloatRange(min=10), default=60.0, show_default=True)
@click.option("--rounds", type=click.IntRange(min=2), default=40, show_default=True, help="Steps of either kind.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "results" / "noise_step.json")
def main(config: str, batch_seconds: float, rounds: int, out: Path) -> None:
    setting = Setting(config, batch_seconds=batch_seconds, threads=1, clock="processor")
    setting.prepare()
    variant = build("BiRQ", setting)
    seconds: dict[str, list[float]] = {name: [] for name in ("clean loader", "clean", "noisy loader", "noisy")}
    with tempfile.TemporaryDirectory() as folder:
        noise = write_noise(Path(folder))
        loaders = {"clean": batches(data_config(batch_seconds, None)), "noisy": batches(data_config(batch_seconds, noise))}
        for number in track(range(WARM_UP + rounds), "steps with and without noise", console=console):
            for name, loader in loaders.items():
                began = time.process_time()
                batch = next(loader)
                loaded = time.process_time()
                variant.step(batch)
                if number >= WARM_UP:
                    seconds[f"{name} loader"].append(loaded - began)
                    seconds[name].append(time.process_time() - loaded)
    whole = (np.add(seconds[name], seconds[f"{name} loader"]) for name in ("noisy", "clean"))
    row = {
        "config": config, "batch_seconds": batch_seconds, "rounds": rounds,
        "seconds": {name: [round(value, 4) for value in spread(values)] for name, values in seconds.items()},
        "step_ratio": paired(seconds["noisy"], seconds["clean"]),
        "step_and_loader_ratio": paired(*whole),
    }  # fmt: skip
    console.print(row)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    rows = [other for other in rows if other["config"] != config] + [row]
    write_json(out, {"command": "python benchmarks/noise_step.py --config CONFIG", "rows": rows})


if __name__ == "__main__":
    main()
