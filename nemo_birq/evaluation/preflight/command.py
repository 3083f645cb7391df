"""``birq check-labels``, which checks labels before training and prints tables."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_birq.command_line.command import errors_in_one_line
from nemo_birq.command_line.configurations import birq_keys
from nemo_birq.command_line.hydra_command import hydra_command
from nemo_birq.command_line.options import TRAIN_DATA_KEYS

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = {
    **TRAIN_DATA_KEYS,
    "+minutes": "minutes of audio to measure on (5)",
    "+picture": "PNG to write (label_check.png)",
}


@hydra_command("check-labels", config_name="birq_conformer_large", keys=KEYS, more_keys=birq_keys)
def check_labels(cfg: "DictConfig") -> None:
    """Checks the labels of your data before you train on them.

        birq check-labels --config-name=birq_conformer_large \\
            model.train_ds.manifest_filepath=/data/sharded_manifests/manifest__OP_0..511_CL_.json \\
            model.train_ds.tarred_audio_filepaths=/data/audio__OP_0..511_CL_.tar

    The command accepts all arguments of birq pretrain and takes some minutes. It prints the codebook statistics of the
    anchor labels, with and without normalization of the features, the share of masked frames, and the share of frames for
    which Gumbel-softmax picks the nearest code at each logit_scale with the initial model. It suggests a logit_scale if the
    configured one is not healthy. The exit code is 1 if training should not begin.
    """
    import lightning.pytorch as pl
    import torch
    from omegaconf import open_dict
    from rich.text import Text

    from nemo_birq.config_checks import check_data_named, check_run_keys
    from nemo_birq.data.longest import find_longest_of_loader
    from nemo_birq.evaluation.preflight import measure as preflight
    from nemo_birq.evaluation.preflight import report
    from nemo_birq.model import BiRQModel
    from nemo_birq.modules.attention_memory import check_attention_fits
    from nemo_birq.pretrained.initialization import check_initial_file
    from nemo_birq.pretrained.like import take_configuration
    from nemo_birq.utils.terminal import Terminal

    with errors_in_one_line():
        take_configuration(cfg)
        check_run_keys(cfg, "minutes", "picture")
        check_data_named(cfg.model, "train_ds")
        check_initial_file(cfg)
        pl.seed_everything(cfg.seed, workers=True)
        with open_dict(cfg):
            cfg.model.validation_ds = None
        model = BiRQModel(cfg.model)
        model.maybe_init_from_pretrained_checkpoint(cfg)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        if longest := find_longest_of_loader(model.train_dataloader()):
            remedy = "Leave out what is longer with model.train_ds.max_duration={seconds}"
            check_attention_fits(model, longest.name, longest.seconds, remedy)
        result = preflight.measure(model, model.train_dataloader(), cfg.get("minutes", 5))
        console = Terminal(width=max(100, Terminal().width))
        console.print(report.label_table(result), report.selection_table(result))
        lines = [report.suggestion_line(result), report.stability_line(result), *report.length_lines(result)]
        for line in [*lines, *filter(None, [result.narrow_band(model)])]:
            console.print(line, soft_wrap=True)
        picture = Path(cfg.get("picture", "label_check.png")).resolve()
        report.draw(result, picture)
        console.print(f"curve    {picture}", soft_wrap=True)
        failures = result.failures(model)
    for failure in failures:
        console.print(Text.assemble(("unhealthy  ", "bold red"), failure), soft_wrap=True)
    if failures:
        sys.exit(1)
    console.print(Text.assemble(("healthy    ", "bold green"), "Training may begin."))
