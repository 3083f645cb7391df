"""Builds the data loaders: Lhotse for everything (``use_lhotse: true``), NeMo's webdataset for ``is_tarred: true``."""

import torch
from lhotse import CutSet
from lhotse.dataset import AudioSamples
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.checks import check_data_config
from nemo_birq.data.skipping import SOURCE_TYPE, skipped_since_last_time
from nemo_birq.data.sources import read_sources
from nemo_birq.data.webdataset import build_webdataset_loader


class UnlabelledSpeech(torch.utils.data.Dataset):
    """Lhotse dataset: cuts to ``SpeechBatch``. Transcripts are not looked at."""

    def __init__(self, sample_rate: int):
        self.load_audio = AudioSamples(fault_tolerant=True, mono_downmix=True)
        self.sample_rate = sample_rate

    def __getitem__(self, cuts: CutSet) -> SpeechBatch:
        wanted = [cut.id for cut in cuts]
        try:
            signal, lengths, cuts = self.load_audio(cuts)
            read = [cut.id for cut in cuts]
        except (AssertionError, IndexError, ValueError) as error:  # what collating no audio at all raises
            logging.warning(f"None of the {len(wanted)} utterances of a batch could be read: {error}")
            signal, lengths, read = torch.zeros(1, self.sample_rate), torch.tensor([self.sample_rate]), []
        lost = sorted(set(wanted) - set(read))
        if lost:
            logging.warning(f"Skipped utterances whose audio cannot be decoded: {', '.join(lost)}")
        return SpeechBatch(signal, lengths.to(torch.int64), read, len(lost) + skipped_since_last_time())


def build_dataloader(config: DictConfig, sample_rate: int, rank: int, world_size: int) -> torch.utils.data.DataLoader | None:
    """Data loader of a ``train_ds`` or ``validation_ds`` node; None where it names no manifest.

    Manifests and shards are checked first. Audio of another sample rate is resampled to the model's. Building leaves the
    random state as it was (NeMo's Lhotse loader would reset it, so that weights ignored the seed of the run).

    Raises:
        FileNotFoundError, ValueError: see ``checks.check_data_config``.
    """
    for key in config:
        if OmegaConf.is_missing(config, key):
            raise ValueError(f"{key} is not set: name the data on the command line, e.g. model.train_ds.{key}=...")
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))  # a copy, open to new keys
    if not config.get("manifest_filepath") and not config.get("input_cfg"):
        logging.warning(f"No manifest_filepath is given, so there is no data loader for {config}")
        return None
    check_data_config(config, sample_rate)
    config.sample_rate = sample_rate
    with isolate_rng():
        if not config.get("use_lhotse", False):
            return build_webdataset_loader(config, rank, world_size)
        return get_lhotse_dataloader_from_config(
            _with_own_order(_with_skipping_reader(config), rank, world_size),
            global_rank=rank,
            world_size=world_size,
            dataset=UnlabelledSpeech(sample_rate),
        )


def _with_skipping_reader(config: DictConfig) -> DictConfig:
    """Names the datasets in NeMo's ``input_cfg`` form, where the reader can be chosen."""
    config.pop("is_tarred", None)  # not a key of the Lhotse loader
    if config.get("input_cfg"):  # the user has chosen
        return config
    sources = read_sources(config)
    by_size = len(sources) > 1 and any(source.weight is None for source in sources)
    config.input_cfg = [
        {"type": SOURCE_TYPE, "manifest_filepath": source.manifest, "tarred_audio_filepaths": source.tars}
        | ({"weight": source.num_utterances() if by_size else source.weight} if len(sources) > 1 else {})
        for source in sources
    ]
    return config


def _with_own_order(config: DictConfig, rank: int, world_size: int) -> DictConfig:
    """Lets every rank and worker read tar shards in an order of its own.

    Raises:
        ValueError: ``shard_seed`` is a number, which gives several workers the same data.
    """
    if not config.get("tarred_audio_filepaths"):
        return config
    seed, workers = config.get("shard_seed", "randomized"), config.get("num_workers", 0)
    if workers == 0:  # Lhotse's "randomized" tells ranks apart in workers only
        config.shard_seed = (seed if isinstance(seed, int) else int(config.get("seed", 0))) + rank
        config.concurrent_bucketing = False  # its thread would keep the process from ending
    elif isinstance(seed, int) and workers * world_size > 1:
        raise ValueError(
            f"shard_seed={seed} gives all {workers * world_size} loader processes the same data: use shard_seed=randomized, "
            "which derives each one's order from seed"
        )
    return config


def check_training_length(config: DictConfig, trainer: Trainer | None) -> None:
    """A tarred Lhotse stream has no end: someone must say when training is over.

    Raises:
        ValueError: the trainer would never end.
    """
    endless = config.get("tarred_audio_filepaths") is not None or config.get("input_cfg") is not None
    if trainer is None or not endless or trainer.max_steps > 0:
        return
    if trainer.max_epochs not in (None, -1) and isinstance(trainer.limit_train_batches, int):
        return
    raise ValueError(
        "tar shards are read as an endless stream: set trainer.max_steps (and trainer.limit_train_batches to a whole "
        "number, the batches that make an epoch)"
    )
