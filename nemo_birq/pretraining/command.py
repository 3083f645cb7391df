"""Commands ``birq pretrain`` and ``birq untrained-model``, which build the model of a configuration and train or save it."""

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_birq.command_line.command import errors_in_one_line
from nemo_birq.command_line.configurations import birq_keys
from nemo_birq.command_line.hydra_command import hydra_command
from nemo_birq.command_line.options import TRAIN_DATA_KEYS
from nemo_birq.utils.terminal import printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIGURATION = "birq_conformer_large"
KEYS = {
    "name": "name of the run",
    "seed": "seed of initial weights, dropout, order of the data and masks",
    "exp_manager.exp_dir": "folder in which each run creates its folder (nemo_experiments)",
    **TRAIN_DATA_KEYS,
    "model.train_ds.batch_duration": "seconds of audio in a batch of one GPU; as many as fit into its memory",
    "model.validation_ds.manifest_filepath": "manifest of the validation set",
    "init_from_nemo_model": "pretrained .nemo to start from, of BiRQ, NEST or a recognizer (docs/continue.md)",
    "like": "true to copy the settings of preprocessor, encoder and labels from that file, or the name of another .nemo",
    "trainer.max_steps": "optimizer steps of the whole training",
    "trainer.devices": "number of GPUs, or auto",
    "trainer.precision": "bf16-mixed; on a CPU 32, with trainer.sync_batchnorm=false",
}


@hydra_command("pretrain", config_name=CONFIGURATION, keys=KEYS, more_keys=birq_keys)
def pretrain(cfg: "DictConfig") -> None:
    """Pretrains a speech encoder on audio without transcripts.

        birq pretrain --config-name=birq_conformer_large \\
            model.train_ds.manifest_filepath=/data/sharded_manifests/manifest__OP_0..511_CL_.json \\
            model.train_ds.tarred_audio_filepaths=/data/audio__OP_0..511_CL_.tar \\
            model.validation_ds.manifest_filepath=/data/dev.json \\
            trainer.devices=8 trainer.precision=bf16-mixed

    Every key of the configuration can be set in this way. Run the same command again to resume the training. The last line
    of the log names the final .nemo.
    """
    import lightning.pytorch as pl
    from nemo.utils import logging
    from nemo.utils.trainer_utils import resolve_trainer_cfg
    from omegaconf import OmegaConf

    from nemo_birq.config_checks import check_data_named, check_run_keys
    from nemo_birq.data.tar_stream import UnreadableShardsError
    from nemo_birq.model import BiRQModel
    from nemo_birq.monitoring.alarms import UnreadableDataError
    from nemo_birq.monitoring.finite_check import NonFiniteError
    from nemo_birq.pretrained.initialization import check_initial_file
    from nemo_birq.pretrained.like import take_configuration
    from nemo_birq.pretraining.introduction import introduce
    from nemo_birq.pretraining.memory import check_longest_batches
    from nemo_birq.pretraining.result import complete_result
    from nemo_birq.runs.experiment import experiment
    from nemo_birq.runs.progress_bar import show_whole_run
    from nemo_birq.runs.resuming import prepare_resuming

    with errors_in_one_line(UnreadableDataError, UnreadableShardsError, NonFiniteError):
        take_configuration(cfg)
        check_run_keys(cfg)
        check_data_named(cfg.model, "train_ds", "validation_ds")
        check_initial_file(cfg)
        pl.seed_everything(cfg.seed, workers=True)
        trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer))
        logging.info(f"Hydra config: {OmegaConf.to_yaml(cfg)}")
        show_whole_run(trainer)
        with experiment(trainer, cfg.get("exp_manager"), cfg.get("checkpoint_minutes")) as run:
            model = BiRQModel(cfg=cfg.model, trainer=trainer)
            model.maybe_init_from_pretrained_checkpoint(cfg)
            check_longest_batches(model, trainer.strategy.root_device)
            prepare_resuming(model, trainer, cfg.get("resume_with_changed"))
            introduce(model, trainer, run.folder)
            trainer.fit(model)
            complete_result(model, trainer)


@hydra_command("untrained-model", config_name=CONFIGURATION, keys=KEYS, more_keys=birq_keys)
def untrained_model(cfg: "DictConfig") -> None:
    """Writes the untrained model of a configuration, as a baseline with the same initial weights.

        birq untrained-model --config-name=birq_conformer_tiny name=untrained seed=0 \\
            model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json

    Give all arguments of birq pretrain, including the data: the random numbers of the weights depend on everything that is
    built before them. With init_from_nemo_model, the weights are those of that file. The output is
    <exp_manager.exp_dir>/<name>/<name>.nemo.
    """
    import lightning.pytorch as pl
    from nemo.utils.trainer_utils import resolve_trainer_cfg

    from nemo_birq.config_checks import check_data_named, check_run_keys
    from nemo_birq.model import BiRQModel
    from nemo_birq.pretrained.initialization import check_initial_file
    from nemo_birq.pretrained.like import take_configuration

    with errors_in_one_line():
        take_configuration(cfg)
        check_run_keys(cfg)
        check_data_named(cfg.model, "train_ds", "validation_ds")
        check_initial_file(cfg)
        path = Path(cfg.exp_manager.exp_dir or "nemo_experiments") / str(cfg.name) / f"{cfg.name}.nemo"
        if path.exists():
            raise ValueError(f"{path} exists: give another name=")
        pl.seed_everything(cfg.seed, workers=True)
        model = BiRQModel(cfg=cfg.model, trainer=pl.Trainer(**resolve_trainer_cfg(cfg.trainer)))
        model.maybe_init_from_pretrained_checkpoint(cfg)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save_to(str(path))
    print(printable(path))
