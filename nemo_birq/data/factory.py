"""Builds the data loaders from ``train_ds`` and ``validation_ds``.

``use_lhotse: true`` is for all data: shards or single files, on the local disk or in an object store. It reads at random
positions through an index, and Lhotse forms the batches. ``is_tarred: true`` is NeMo's webdataset reader, which streams
shards; it is needed for shards that a command writes (``pipe:``).
"""

from dataclasses import fields, replace

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf

from nemo_birq.config_checks.data_files import INPUT_CFG, MANIFESTS, SHARDS, find_unset, without_unset
from nemo_birq.config_checks.mixing import KEY, NOISE, NOISE_SHARDS, read_mixing
from nemo_birq.config_checks.nemo_keys import REFUSED, explain_keys
from nemo_birq.data.audio_cache import KEY as CACHE
from nemo_birq.data.audio_cache import AudioCache
from nemo_birq.data.dataloader import BatchOrder, SpeechLoader
from nemo_birq.data.dataset import SpeechDataset
from nemo_birq.data.epoch_batches import BatchSettings, read_batch_settings
from nemo_birq.data.index import SpeechIndex, open_index
from nemo_birq.data.length_limits import all_left_out, find_left_out_of_order, warn_of_left_out
from nemo_birq.data.longest import find_longest
from nemo_birq.data.manifests import COMMAND
from nemo_birq.data.mixing import SpeechMixing
from nemo_birq.data.skipped_share import MAX_SKIPPED_SHARE, check_skipped_share
from nemo_birq.data.sources import Source, read_sources
from nemo_birq.data.webdataset import build_webdataset_loader

SETTINGS = {field.name for field in fields(BatchSettings)}
OTHER_KEYS = {
    "use_lhotse", "is_tarred", "manifest_filepath", "tarred_audio_filepaths", "input_cfg", "sample_rate", "num_workers",
    "pin_memory", "max_skipped_share", "shuffle_n", "tarred_shard_strategy", "name", "ds_item", "val_dl_idx",
    KEY, NOISE, NOISE_SHARDS, CACHE,
}  # fmt: skip


def build_dataloader(
    config: DictConfig, sample_rate: int, rank: int, world_size: int, training: bool
) -> torch.utils.data.DataLoader | None:
    """Builds the data loader of a ``train_ds`` (``training``) or ``validation_ds`` node; returns None if it names no data.

    Every manifest line and every member of every shard is checked first, unless this was done when the index was made.
    Audio of another sample rate is resampled, and several channels are mixed.

    Raises:
        FileNotFoundError, RemoteError: a manifest or shard does not exist or cannot be read.
        ValueError: a key is missing or not supported, shards and manifests do not belong together, or more than
            ``max_skipped_share`` of the utterances cannot be used.
    """
    config = OmegaConf.create(config)
    for key in find_unset(config):
        raise ValueError(f"{key} is not set: name the data on the command line, e.g. model.train_ds.{key}=...")
    config = OmegaConf.create(dict.fromkeys((MANIFESTS, SHARDS, INPUT_CFG)) | without_unset(config))  # open to new keys
    if not config.manifest_filepath and not config.input_cfg:
        logging.warning(f"No manifest_filepath is given, so there is no data loader for {config}")
        return None
    _check_keys(config)
    if config.manifest_filepath and config.input_cfg:
        logging.warning(f"input_cfg names the data; manifest_filepath={config.manifest_filepath} is not read")
    config.sample_rate = sample_rate
    sources = read_sources(config)
    with isolate_rng():
        if not config.get("use_lhotse", False):
            return build_webdataset_loader(config, sources, rank, world_size)
        settings = _batch_settings(config)
        most = float(config.get("max_skipped_share", MAX_SKIPPED_SHARE))
        indexes = [_open_checked(source, most) for source in sources]
        weights = None if sources[0].weight is None else [source.weight for source in sources]
        workers = config.get("num_workers", 0)
        order = BatchOrder(indexes, weights, settings, rank, world_size, endless=training, stride=max(1, workers))
        _log_sizes(sources, indexes, settings, order)
        dataset = SpeechDataset(indexes, sample_rate, _mixing(config), settings.seed, _cache(config))
        return SpeechLoader(dataset, order, workers, config.get("pin_memory", False))


def _cache(config: DictConfig) -> AudioCache | None:
    return AudioCache(config[CACHE]) if config.get(CACHE) else None


def _mixing(config: DictConfig) -> SpeechMixing | None:
    """Returns the mixing of noise into the input of the masked pass; None without ``batch_augmentor``.

    Raises:
        FileNotFoundError, ValueError: as ``build_dataloader``, for the noise.
    """
    settings = read_mixing(OmegaConf.to_container(config, resolve=True), "model.train_ds")
    if settings is None:
        return None
    indexes = []
    if config.get(NOISE):
        named = {MANIFESTS: config[NOISE], SHARDS: config.get(NOISE_SHARDS), INPUT_CFG: None}
        indexes = [
            _open_checked(source, config.get("max_skipped_share", MAX_SKIPPED_SHARE))
            for source in read_sources(OmegaConf.create(named))
        ]
        for index in indexes:
            logging.info(f"noise: {len(index)} clips, {index.durations.sum() / 3600:.2f} h")
    return SpeechMixing(settings, SpeechDataset(indexes, config.sample_rate, cache=_cache(config)) if indexes else None)


def _check_keys(config: DictConfig) -> None:
    if not config.get("use_lhotse", False) and not config.get("is_tarred", False):
        raise ValueError(
            f"cannot load {config.get('manifest_filepath')}: set use_lhotse=true (tar shards or single files), or "
            "is_tarred=true for NeMo's webdataset loader"
        )
    no_effect = explain_keys(config)
    for meaning, keys in no_effect.items():
        logging.info(f"{', '.join(keys)}: no effect, {meaning}")
    known = SETTINGS | OTHER_KEYS | REFUSED.keys() | {key for keys in no_effect.values() for key in keys}
    for key in sorted(set(config) - known):
        logging.warning(f"{key} is not a key of a data loader and is ignored")


def _batch_settings(config: DictConfig) -> BatchSettings:
    settings = read_batch_settings(config)
    by_bucket = settings.bucket_batch_size and settings.bucket_duration_bins
    if not (settings.batch_size or settings.batch_duration or by_bucket):
        raise ValueError(
            "the size of a batch is not set: give batch_duration, batch_size, or bucket_duration_bins with bucket_batch_size"
        )
    if settings.bucket_batch_size and len(settings.bucket_batch_size) != len(settings.bucket_duration_bins or ()):
        raise ValueError(
            "bucket_batch_size needs bucket_duration_bins of the same length: the longest duration in each bucket, seconds"
        )
    bins = settings.bucket_duration_bins
    if bins is not None and not (all(isinstance(b, int | float) for b in bins) and list(bins) == sorted(bins)):
        raise ValueError(f"bucket_duration_bins={bins} must be seconds in ascending order")
    if by_bucket:
        # Longer utterances have no bucket.
        return replace(settings, use_bucketing=True, max_duration=min(settings.max_duration, bins[-1]))
    return settings


def _open_checked(source: Source, max_skipped_share: float) -> SpeechIndex:
    commands = [path for path in (*source.manifest_paths, *source.tar_paths) if path.startswith(COMMAND)]
    if commands:
        raise ValueError(
            f"{commands[0]} is a command, whose output cannot be read at random positions: name the file itself, by a path "
            "or a URL (s3://, gs://, https://), or stream it with use_lhotse=false is_tarred=true and a batch_size"
        )
    index = open_index(source)
    check_skipped_share(source.manifest, index.problems, index.num_lost, len(index) + index.num_lost, max_skipped_share)
    return index


def _log_sizes(sources: list[Source], indexes: list[SpeechIndex], settings: BatchSettings, order: BatchOrder) -> None:
    """Logs the size of each dataset, the utterances that are left out, and the size of an epoch.

    Raises:
        ValueError: all utterances are left out.
    """
    for source, index in zip(sources, indexes, strict=True):
        short, long = index.durations < settings.min_duration, index.durations > settings.max_duration
        text = f"{source.manifest}: {len(index)} utterances, {index.durations.sum() / 3600:.2f} h"
        for left_out, why in (
            (short, f"under min_duration={settings.min_duration} s"),
            (long, f"over {settings.max_duration} s"),
        ):
            if left_out.any():
                text += f"; {left_out.sum()} left out, {index.durations[left_out].sum() / 3600:.2f} h, {why}"
        if index.num_left_out:
            text += f"; {index.num_left_out} more left out, marked with _skipme or validation_status"
        logging.info(text)
    plan = order.plan(0, order.world_size)
    left_out = find_left_out_of_order(order)
    if len(plan) == 0:
        raise ValueError(all_left_out([source.manifest for source in sources], left_out))
    warn_of_left_out(left_out)
    planned = np.concatenate([index.durations for index in indexes])[plan.rows]
    if order.endless and settings.batch_duration and planned.max() > settings.batch_duration:
        longest = find_longest(indexes, plan.rows)
        logging.warning(
            f"{(planned > settings.batch_duration).sum()} utterances are longer than batch_duration="
            f"{settings.batch_duration}, up to {longest.seconds:.2f} s ({longest.name}). Each is a batch by itself, which "
            f"may not fit into memory: max_duration={settings.batch_duration} leaves them out"
        )
    logging.info(
        f"An epoch: {len(plan.rows)} utterances in {len(plan)} batches, {len(order)} steps on {order.world_size} rank(s)"
        + (f", mixed {order.weights}" if order.weights else "")
    )
