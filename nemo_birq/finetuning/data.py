"""Checks of the data before training, and the length of an epoch.

NeMo's Lhotse loader reads the data during training. It has no length, and for tar shards it is an endless stream. This
module therefore counts the batches of an epoch with the same Lhotse sampler.
"""

import math
from dataclasses import asdict, replace

import numpy as np
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig, determine_bucket_duration_bins
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf

from nemo_birq.config_checks.data_files import INPUT_CFG, MANIFESTS, SHARDS, given
from nemo_birq.data.epoch_batches import read_batch_settings
from nemo_birq.data.epoch_plan import plan_epoch
from nemo_birq.data.index import SpeechIndex, open_index
from nemo_birq.data.longest import LongUtterance, find_longest
from nemo_birq.data.sources import Source, read_sources
from nemo_birq.finetuning.transcripts import Transcript
from nemo_birq.finetuning.vocabulary import Vocabulary
from nemo_birq.utils.urls import is_url, without_secrets


def manifests(config: DictConfig, node: str) -> list[str]:
    """Lists all manifests that a ``train_ds`` or ``validation_ds`` node names.

    Raises:
        ValueError: the node names no manifest, or names URLs.
    """
    if not given(config, INPUT_CFG) and not given(config, MANIFESTS):
        raise ValueError(f"model.{node}.manifest_filepath is not set: give a manifest of labelled speech")
    sources = read_sources(config)
    remote = [path for source in sources for path in (*source.manifest_paths, *source.tar_paths) if is_url(path)]
    if remote:
        raise ValueError(
            f"model.{node} names {without_secrets(remote[0])}, but NeMo's loader for fine-tuning reads no URLs: "
            "copy the data to this machine"
        )
    return [path for source in sources for path in source.manifest_paths]


def open_whole(config: DictConfig) -> tuple[list[Source], list[SpeechIndex]]:
    """Opens the datasets of a ``train_ds`` or ``validation_ds`` node; every file, or member of a shard, must exist.

    Raises:
        FileNotFoundError, ValueError: manifests, shards or audio do not exist, or do not fit each other.
    """
    sources = read_sources(config)
    indexes = [open_index(source) for source in sources]
    for source, index in zip(sources, indexes, strict=True):
        if index.problems:
            raise ValueError(
                f"{index.num_lost} of {len(index) + index.num_lost} utterances of {source.manifest} cannot be used, for "
                f"example: {index.problems[0]}. NeMo's loader would stop there: repair or remove them "
                "(birq verify-shards lists all of them in a folder of shards)"
            )
        if index.num_left_out:
            logging.info(
                f"{source.manifest}: {index.num_left_out} utterances left out, marked with _skipme or validation_status"
            )
    return sources, indexes


def batches_per_epoch(train: DictConfig, world_size: int) -> int:
    """Counts the batches of each rank in an epoch; other orders of the data differ by a few batches.

    Raises:
        FileNotFoundError, ValueError: as ``open_whole``; also if no utterance is between ``min_duration`` and
            ``max_duration``.
    """
    sources, indexes = open_whole(train)
    settings = read_batch_settings(train)
    if settings.use_bucketing and not settings.bucket_duration_bins:
        nemo = OmegaConf.merge(OmegaConf.structured(LhotseDataLoadingConfig), asdict(settings))
        settings = replace(settings, bucket_duration_bins=determine_bucket_duration_bins(nemo))
    weights = None if sources[0].weight is None else [source.weight for source in sources]
    plan = plan_epoch(indexes, weights, settings, 0, world_size)
    if len(plan) == 0:
        raise ValueError(
            f"no training utterance is between model.train_ds.min_duration={settings.min_duration} and "
            f"max_duration={settings.max_duration} s: change these keys, or use other data"
        )
    hours = sum(index.durations.sum() for index in indexes) / 3600
    number = math.ceil(len(plan) / world_size)
    total = sum(map(len, indexes))
    logging.info(f"Epoch: {len(plan.rows)} of {total} utterances ({hours:.2f} h in total), {number} batches on each rank")
    return number


def longest_utterance(config: DictConfig) -> LongUtterance | None:
    """Finds the longest utterance that a ``train_ds`` or ``validation_ds`` node uses; None if it uses none.

    Raises:
        FileNotFoundError, ValueError: as ``open_whole``.
    """
    _, indexes = open_whole(config)
    durations = np.concatenate([index.durations for index in indexes])
    low, high = config.get("min_duration"), config.get("max_duration")
    taken = (durations >= (-1.0 if low is None else low)) & (durations <= (np.inf if high is None else high))
    return find_longest(indexes, np.flatnonzero(taken)) if taken.any() else None


def is_endless(train: DictConfig) -> bool:
    """Returns True if NeMo's loader is endless; it only ends for one manifest of single files."""
    return not isinstance(given(train, MANIFESTS), str) or bool(given(train, SHARDS) or given(train, INPUT_CFG))


def warn_of_long_texts(transcripts: list[Transcript], vocabulary: Vocabulary, frame_seconds: float) -> int:
    """Warns of texts with more labels than encoder frames, from which CTC learns nothing."""
    long = [t for t in transcripts if len(vocabulary.encode(t.text)) > t.duration / frame_seconds]
    if long:
        logging.warning(
            f"{len(long)} of {len(transcripts)} training texts have more labels than frames of "
            f"{1000 * frame_seconds:.0f} ms, such as {long[0].name}: CTC learns nothing from them. A tokenizer (ctc_bpe), "
            "or a larger build_tokenizer.vocab_size, gives fewer labels"
        )
    return len(long)
