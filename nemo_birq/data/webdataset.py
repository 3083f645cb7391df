"""``is_tarred: true``: the same shards through NeMo's webdataset reader, which here also shuffles inside shards."""

import os
import random
from io import BytesIO

import soundfile
import torch
import webdataset as wds
from nemo.collections.asr.data.audio_to_text import (
    VALID_FILE_FORMATS,
    TarredAudioToCharDataset,
    expand_sharded_filepaths,
)
from nemo.utils.distributed import webdataset_split_by_workers
from omegaconf import DictConfig
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.skipping import skip, skipped_since_last_time
from nemo_birq.data.sources import read_sources


class ShuffledTarredDataset(TarredAudioToCharDataset):
    """NeMo's dataset with another pipeline: shards and samples are shuffled from a seed, bad members are skipped.

    The stock one shuffles the order of shards only, seeded by process and time, and ends the run at a bad member.
    """

    def __init__(self, tar_paths: str | list[str], shuffle_n: int, seed: int, **kwargs):
        super().__init__(audio_tar_filepaths=tar_paths, labels=[" "], return_sample_id=True, **kwargs)
        shards = expand_sharded_filepaths(tar_paths, kwargs["shard_strategy"], kwargs["world_size"], kwargs["global_rank"])
        stages = [
            wds.SimpleShardList(shards),
            wds.shuffle(len(shards), rng=random.Random(seed)) if shuffle_n else None,
            webdataset_split_by_workers,
            wds.tarfile_to_samples(),
            wds.rename(audio=VALID_FILE_FORMATS, key="__key__"),
            wds.to_tuple("audio", "key"),
            self._filter,
            self._loop_offsets,
            wds.map(self._build_sample),
            wds.select(_is_usable),
            wds.shuffle(shuffle_n, rng=random.Random(seed + 1)) if shuffle_n else None,
        ]
        self._dataset = wds.DataPipeline(*[stage for stage in stages if stage is not None])

    def _build_sample(self, tup: tuple[bytes, str, int]) -> tuple | None:
        audio_bytes, name, _ = tup
        try:
            if soundfile.info(BytesIO(audio_bytes)).frames == 0:
                raise ValueError("it holds no audio")
            return super()._build_sample(tup)
        except (soundfile.SoundFileError, ValueError, RuntimeError) as error:
            skip(name, str(error))
            return None

    def _collate_fn(self, batch: list[tuple]) -> SpeechBatch:
        signal, signal_length, _, _, ids = super()._collate_fn(batch)
        names = [os.path.basename(self.get_manifest_sample(int(i)).audio_file) for i in ids]
        return SpeechBatch(signal, _as_int64(signal_length), names, skipped_since_last_time())


def _is_usable(sample: tuple | None) -> bool:
    return sample is not None


def _as_int64(lengths: Tensor) -> Tensor:
    return lengths.to(torch.int64)


def build_webdataset_loader(config: DictConfig, rank: int, world_size: int) -> torch.utils.data.DataLoader:
    """Data loader of NeMo's ``batch_size``, ``shuffle_n``, ``tarred_shard_strategy``, ``min_`` and ``max_duration``.

    Raises:
        ValueError: several datasets (the Lhotse loader mixes them), or no ``batch_size``.
    """
    sources = read_sources(config)
    if len(sources) != 1:
        raise ValueError("is_tarred=true reads one dataset; use_lhotse=true mixes several")
    if not config.get("batch_size"):
        raise ValueError("is_tarred=true needs batch_size, a number of utterances (batch_duration is Lhotse's)")
    shuffle = config.get("shuffle", True)
    dataset = ShuffledTarredDataset(
        sources[0].tars,
        shuffle_n=config.get("shuffle_n", 4 * config.batch_size) if shuffle else 0,
        # With `replicate` every rank reads all shards, and should do so in its own order.
        seed=int(config.get("seed", 0)) + (rank if config.get("tarred_shard_strategy") == "replicate" else 0),
        manifest_filepath=sources[0].manifest_paths,
        sample_rate=config.sample_rate,
        max_duration=config.get("max_duration"),
        min_duration=config.get("min_duration"),
        shard_strategy=config.get("tarred_shard_strategy", "scatter"),
        global_rank=rank,
        world_size=world_size,
    )
    num_workers = config.get("num_workers", 0)
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=config.batch_size,
        collate_fn=dataset.collate_fn,
        num_workers=num_workers,
        pin_memory=config.get("pin_memory", False),
        persistent_workers=num_workers > 0,  # keeps the state of the shuffles over epochs
    )
