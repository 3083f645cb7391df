"""``is_tarred: true``: NeMo's webdataset reader, a stream of shards, which may lie in an object store (``pipe:``, URLs).

The stock one shuffles the order of shards only, seeded by process and time, ends the run at a bad member, leaves out the
shards that ranks cannot share evenly, and lets ranks with fewer utterances end earlier, which hangs the others. Here the
order follows from the seed and is shuffled inside shards, too; bad members are skipped; all shards are read; and all
workers of all ranks give equally many batches.
"""

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import webdataset as wds
from nemo.collections.asr.data.audio_to_text import VALID_FILE_FORMATS, TarredAudioToCharDataset
from nemo.utils import logging
from nemo.utils.distributed import webdataset_split_by_workers
from omegaconf import DictConfig
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.build_index import Problems, entries_by_shard
from nemo_birq.data.dataset import UnusableAudio, read_audio
from nemo_birq.data.length_limits import all_left_out, find_left_out, warn_of_left_out
from nemo_birq.data.skipped_share import MAX_SKIPPED_SHARE, check_skipped_share
from nemo_birq.data.sources import Source
from nemo_birq.utils.terminal import printable


class ShuffledTarredDataset(TarredAudioToCharDataset):
    """NeMo's dataset with another pipeline.

    Args:
        shards: of this rank.
        samples: utterances that each worker gives before its epoch is over; it begins again where its shards hold fewer.
    """

    def __init__(self, shards: list[str], shuffle_n: int, seed: int, samples: int, num_workers: int, **kwargs):
        super().__init__(
            audio_tar_filepaths=shards, labels=[" "], return_sample_id=True, shard_strategy="replicate", **kwargs
        )
        self.samples, self.num_workers = samples, num_workers
        self.skipped, self.skipped_in_a_row = 0, 0
        stages = [
            wds.SimpleShardList(shards),
            wds.shuffle(len(shards), rng=random.Random(seed)) if shuffle_n else None,
            webdataset_split_by_workers,
            wds.tarfile_to_samples(handler=self._skip_rest),
            wds.rename(audio=VALID_FILE_FORMATS, key="__key__", handler=self._skip_member),
            wds.to_tuple("audio", "key"),
            self._filter,
            self._loop_offsets,
            wds.map(self._build_sample),
            wds.select(_is_usable),
            wds.shuffle(shuffle_n, rng=random.Random(seed + 1)) if shuffle_n else None,
        ]
        pipeline = wds.DataPipeline(*[stage for stage in stages if stage is not None])
        self._dataset = pipeline.repeat().with_epoch(samples)

    def __len__(self) -> int:
        return self.samples * max(1, self.num_workers)

    def _skip_rest(self, error: Exception) -> bool:
        logging.warning(f"Skipped the rest of a shard that cannot be read to its end: {printable(error)}")
        self.skipped += 1
        return True

    def _skip_member(self, error: Exception) -> bool:
        logging.warning(f"Skipped a member that is not audio: {printable(error)}")
        return True

    def _build_sample(self, tup: tuple[bytes, str, int]) -> tuple | None:
        audio_bytes, name, segment = tup
        row = self.manifest_processor.collection.mapping[os.path.splitext(os.path.basename(name))[0]][segment]
        entry = self.manifest_processor.collection[row]
        try:
            signal = read_audio(audio_bytes, entry.offset or 0.0, entry.duration, self.featurizer.sample_rate)
        except UnusableAudio as error:
            logging.warning(printable(f"Skipped '{name}': {error}"))
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= self.samples:
                raise UnreadableShardsError(
                    f"none of {self.samples} members in a row could be read, '{name}' the last"
                ) from error
            return None
        self.skipped_in_a_row = 0
        no_text = torch.zeros(0, dtype=torch.int64)
        return torch.from_numpy(signal), torch.tensor(len(signal)), no_text, torch.tensor(0), row

    def _collate_fn(self, batch: list[tuple]) -> SpeechBatch:
        signal, signal_length, _, _, ids = super()._collate_fn(batch)
        names = [os.path.basename(self.get_manifest_sample(int(i)).audio_file) for i in ids]
        skipped, self.skipped = self.skipped, 0
        return SpeechBatch(signal, _as_int64(signal_length), names, skipped, signal_length.tolist())


class UnreadableShardsError(Exception):
    """A worker that would never give a batch."""


def _is_usable(sample: tuple | None) -> bool:
    return sample is not None


def _as_int64(lengths: Tensor) -> Tensor:
    return lengths.to(torch.int64)


def build_webdataset_loader(
    config: DictConfig, sources: list[Source], rank: int, world_size: int
) -> torch.utils.data.DataLoader:
    """Data loader of NeMo's ``batch_size``, ``shuffle_n``, ``tarred_shard_strategy``, ``min_`` and ``max_duration``.

    Raises:
        ValueError: several datasets (the Lhotse loader mixes them), no ``batch_size`` or shards, more workers than shards.
    """
    if len(sources) != 1:
        raise ValueError("is_tarred=true reads one dataset; use_lhotse=true mixes several")
    if sources[0].tars is None:
        raise ValueError(f"is_tarred=true needs tarred_audio_filepaths beside {sources[0].manifest}")
    if not config.get("batch_size"):
        raise ValueError("is_tarred=true needs batch_size, a number of utterances (batch_duration is Lhotse's)")
    shuffle, num_workers = config.get("shuffle", True), config.get("num_workers", 0)
    replicate = config.get("tarred_shard_strategy", "scatter") == "replicate"
    shards = [sources[0].tar_paths] if replicate else [sources[0].tar_paths[r::world_size] for r in range(world_size)]
    entries = _usable_entries(config, sources[0])
    durations = np.array([entry["duration"] for lines in entries.values() for entry in lines], float)
    left_out = find_left_out(durations, config.get("min_duration") or 0.0, config.get("max_duration") or float("inf"))
    warn_of_left_out(left_out)
    samples = _samples_per_worker(config, sources[0], entries, shards, max(1, num_workers))
    if samples == 0:
        raise ValueError(all_left_out([sources[0].manifest], left_out))
    with _manifest_for_nemo(entries) as manifest:
        dataset = ShuffledTarredDataset(
            shards[0 if replicate else rank],
            shuffle_n=config.get("shuffle_n", 4 * config.batch_size) if shuffle else 0,
            # With `replicate` every rank reads all shards, and should do so in its own order.
            seed=int(config.get("seed", 0)) + (rank if replicate else 0),
            samples=samples,
            num_workers=num_workers,
            manifest_filepath=manifest,
            sample_rate=config.sample_rate,
            max_duration=config.get("max_duration"),
            min_duration=config.get("min_duration"),
        )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=config.batch_size,
        collate_fn=dataset.collate_fn,
        num_workers=num_workers,
        pin_memory=config.get("pin_memory", False),
        persistent_workers=num_workers > 0,  # keeps the state of the shuffles over epochs
    )
    loader.left_out = left_out
    return loader


def _usable_entries(config: DictConfig, source: Source) -> dict[str, list[dict]]:
    """The manifest lines of each shard that can be used; see ``check_skipped_share``."""
    problems = Problems()
    entries = dict(entries_by_shard(source, problems))
    total = sum(map(len, entries.values())) + problems.num_lost
    if total == problems.num_lost:
        raise ValueError(
            "\n".join([f"{source.manifest} holds nothing that can be used:", *(problems.words[:10] or ["it is empty"])])
        )
    most = float(config.get("max_skipped_share", MAX_SKIPPED_SHARE))
    check_skipped_share(source.manifest, problems.words, problems.num_lost, total, most)
    return entries


@contextmanager
def _manifest_for_nemo(entries: dict[str, list[dict]]) -> Iterator[str]:
    """Writes the keys that the reader needs. NeMo reads many more, opens files that some of them name, and ends the run at a
    value that it does not expect, without naming its line.
    """
    with TemporaryDirectory() as folder:
        # NeMo looks for single files beside a manifest, unless its name is that of a manifest of shards.
        path = Path(folder) / "tarred_audio_manifest.json"
        with open(path, "w", encoding="utf-8") as file:
            for entry in chain.from_iterable(entries.values()):
                kept = {key: entry[key] for key in ("audio_filepath", "duration", "offset") if entry.get(key) is not None}
                file.write(json.dumps(kept | {"text": ""}) + "\n")
        yield str(path)


def _samples_per_worker(
    config: DictConfig, source: Source, entries: dict[str, list[dict]], shards_of_ranks: list[list[str]], workers: int
) -> int:
    """The most that any worker of any rank holds, in whole batches; the others repeat some of theirs. 0: nothing is left."""
    low, high = config.get("min_duration") or 0.0, config.get("max_duration") or float("inf")
    sizes = {tar: sum(low <= entry["duration"] <= high for entry in lines) for tar, lines in entries.items()}
    held = []
    for rank, shards in enumerate(shards_of_ranks):
        if len(shards) < workers:
            raise ValueError(
                f"rank {rank} has {len(shards)} shards for {workers} workers: make more shards or use fewer workers"
            )
        held += [sum(sizes[shard] for shard in shards[worker::workers]) for worker in range(workers)]
    samples = -(-max(held) // config.batch_size) * config.batch_size
    repeated = samples * len(held) - sum(held)
    if repeated:
        logging.info(
            f"An epoch of {source.manifest} repeats {repeated} utterances, so that all workers give equally many batches"
        )
    return samples
