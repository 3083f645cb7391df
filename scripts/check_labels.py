"""Looks at the labels of your data before you train on them: minutes, and an exit status other than 0 when they are sick.

    python scripts/check_labels.py --config-name=birq_conformer_large \
        model.train_ds.manifest_filepath=/data/sharded_manifests/manifest__OP_0..511_CL_.json \
        model.train_ds.tarred_audio_filepaths=/data/audio__OP_0..511_CL_.tar

Takes the overrides of speech_pre_training.py, and +minutes=5 (of audio to look at) and +picture=label_check.png. Prints how
the anchor labels use the codebook, with and without normalization of the features, how many frames are masked, and what
Gumbel-softmax picks at each logit_scale with the initial model.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from nemo.core.config import hydra_runner
from omegaconf import DictConfig, open_dict
from rich.console import Console

from nemo_birq import BiRQModel
from nemo_birq.evaluation.preflight import measure as preflight
from nemo_birq.evaluation.preflight import report as preflight_report


@hydra_runner(config_path="../conf", config_name="birq_conformer_large")
def main(cfg: DictConfig) -> None:
    pl.seed_everything(cfg.seed, workers=True)
    with open_dict(cfg):
        cfg.model.validation_ds = None
    model = BiRQModel(cfg.model).to("cuda" if torch.cuda.is_available() else "cpu")
    result = preflight.measure(model, model.train_dataloader(), cfg.get("minutes", 5))
    console = Console(width=max(100, Console().width))
    console.print(preflight_report.label_table(result), preflight_report.selection_table(result))
    console.print(preflight_report.suggestion_line(result))
    picture = Path(cfg.get("picture", "label_check.png")).resolve()
    preflight_report.draw(result, picture)
    console.print(f"curve    {picture}", soft_wrap=True)
    failures = result.failures(model)
    for failure in failures:
        console.print(f"[bold red]sick[/]     {failure}", soft_wrap=True)
    if failures:
        sys.exit(1)
    console.print("[bold green]healthy[/]  Training may begin.")


if __name__ == "__main__":
    main()
