"""NeMo's webdataset reader, ``is_tarred: true``: a stream of shards, also from an object store (``pipe:``, URLs).

NeMo's own version shuffles only the order of shards, seeded by process and time, ends the run at a bad member, omits the
shards that ranks cannot share evenly, and lets ranks with fewer utterances end earlier, which hangs the others. This version
determines the order from the seed, shuffles inside shards, too, skips bad members, reads all shards, and yields equally many
batches in all workers of all ranks. A shard that cannot be opened ends the run. Utterances of the manifest that are not in
the shard are counted as skipped.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import webdataset as wds
from nemo.collections.asr.data.audio_to_text import TarredAudioToCharDataset
from nemo.utils import logging
from nemo.utils.distributed import webdataset_split_by_workers
from omegaconf import DictConfig
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.build_index import entries_by_shard
from nemo_birq.data.dataset import UnusableAudio, read_audio
from nemo_birq.data.index_rows import Problems, leaves_folder
from nemo_birq.data.length_limits import all_left_out, find_left_out, warn_of_left_out
from nemo_birq.data.manifests import is_marked
from nemo_birq.data.skipped_share import MAX_SKIPPED_SHARE, check_skipped_share
from nemo_birq.data.sources import Source
from nemo_birq.data.tar_stream import Member, MemberLines, StreamLine, UnreadableShardsError, check_shards, read_members
from nemo_birq.utils.terminal import printable


class ShuffledTarredDataset(TarredAudioToCharDataset):
    """NeMo's dataset with another pipeline.

    Args:
        shards: shards of this rank.
        lines: manifest lines of each shard.
        shuffle_n: size of the shuffle buffer in utterances; 0: no shuffling.
        seed: seed of the shuffles.
        samples: utterances that each worker yields per epoch; if its shards have fewer, it repeats them.
        num_workers: number of workers of the loader.
    """

    def __init__(
        self, shards: list[str], lines: dict[str, list[StreamLine]], shuffle_n: int, seed: int, samples: int,
        num_workers: int, **kwargs,
    ):  # fmt: skip
        super().__init__(
            audio_tar_filepaths=shards, labels=[" "], return_sample_id=True, shard_strategy="replicate", **kwargs
        )
        self.samples, self.num_workers, self.lines = samples, num_workers, lines
        self.names = {line.key: line.name for line in chain.from_iterable(lines.values())}
        self.skipped, self.skipped_in_a_row = 0, 0
        stages = [
            wds.SimpleShardList(shards),
            wds.shuffle(len(shards), rng=random.Random(seed)) if shuffle_n else None,
            webdataset_split_by_workers,
            self._read_shards,
            wds.map(self._build_sample),
            wds.select(_is_usable),
            wds.shuffle(shuffle_n, rng=random.Random(seed + 1)) if shuffle_n else None,
        ]
        pipeline = wds.DataPipeline(*[stage for stage in stages if stage is not None])
        self._dataset = pipeline.repeat().with_epoch(samples)

    def __len__(self) -> int:
        return self.samples * max(1, self.num_workers)

    def _read_shards(self, shards: Iterable[dict[str, str]]) -> Iterator[tuple[bytes, str, int]]:
        """Yields audio and key of each utterance, in one pass through the shards of a worker."""
        given, tars = 0, [shard["url"] for shard in shards]
        for tar in tars:
            lines = MemberLines(tar, self.lines[tar])
            for member in read_members(tar, lines):
                if isinstance(member, Member):
                    for line in member.lines:
                        yield member.audio, line.key, 0
                    given += len(member.lines)
                else:
                    logging.warning(printable(f"Shard {tar} cannot be read to its end: {member or type(member).__name__}"))
            if lines.lost:
                self.skipped += len(lines.lost)
                name = next(iter(lines.lost.values())).name
                logging.warning(
                    printable(f"Skipped {len(lines.lost)} utterances that shard {tar} lacks, such as {name} of its manifest")
                )
        if not given:
            raise UnreadableShardsError(f"none of the utterances that the manifests name are in {', '.join(tars[:5])}")

    def _build_sample(self, tup: tuple[bytes, str, int]) -> tuple | None:
        audio_bytes, key, segment = tup
        row, name = self.manifest_processor.collection.mapping[key][segment], self.names[key]
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
        keys = [os.path.splitext(self.get_manifest_sample(int(i)).audio_file)[0] for i in ids]
        names = [os.path.basename(self.names[key]) for key in keys]
        skipped, self.skipped = self.skipped, 0
        return SpeechBatch(signal, _as_int64(signal_length), names, skipped, signal_length.tolist())


def _is_usable(sample: tuple | None) -> bool:
    return sample is not None


def _as_int64(lengths: Tensor) -> Tensor:
    return lengths.to(torch.int64)


def build_webdataset_loader(
    config: DictConfig, sources: list[Source], rank: int, world_size: int
) -> torch.utils.data.DataLoader:
    """Builds a loader with NeMo's ``batch_size``, ``shuffle_n``, ``tarred_shard_strategy``, ``min_`` and ``max_duration``.

    Several datasets, such as NeMo's buckets, are read as one.

    Raises:
        FileNotFoundError: a shard does not exist.
        ValueError: datasets have weights (the Lhotse loader mixes them), ``batch_size`` or shards are missing, a shard
            cannot be opened, or there are more workers than shards or a worker without an utterance.
    """
    if sources[0].weight is not None:
        raise ValueError("is_tarred=true reads datasets without weights; use_lhotse=true mixes them by weight")
    for source in sources:
        if source.tars is None:
            raise ValueError(f"is_tarred=true needs tarred_audio_filepaths beside {source.manifest}")
        check_shards(source.tar_paths)
    if not config.get("batch_size"):
        raise ValueError("is_tarred=true needs batch_size, a number of utterances (batch_duration is Lhotse's)")
    shuffle, num_workers = config.get("shuffle", True), config.get("num_workers", 0)
    replicate = config.get("tarred_shard_strategy", "scatter") == "replicate"
    lines = _lines_of_shards(config, sources)
    tars = list(lines)
    shards = [tars] if replicate else [tars[r::world_size] for r in range(world_size)]
    name = ", ".join(source.manifest for source in sources)
    entries = [line.entry for found in lines.values() for line in found if not is_marked(line.entry)]
    durations = np.array([entry["duration"] for entry in entries], float)
    left_out = find_left_out(durations, config.get("min_duration") or 0.0, config.get("max_duration") or float("inf"))
    warn_of_left_out(left_out)
    samples = _samples_per_worker(config.batch_size, name, lines, shards, max(1, num_workers))
    if samples == 0:
        raise ValueError(all_left_out([source.manifest for source in sources], left_out))
    with _manifest_for_nemo(lines) as manifest:
        dataset = ShuffledTarredDataset(
            shards[0 if replicate else rank],
            lines,
            shuffle_n=config.get("shuffle_n", 4 * config.batch_size) if shuffle else 0,
            # With `replicate`, every rank reads all shards and needs its own order.
            seed=int(config.get("seed", 0)) + (rank if replicate else 0),
            samples=samples,
            num_workers=num_workers,
            manifest_filepath=manifest,
            sample_rate=config.sample_rate,
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


def _lines_of_shards(config: DictConfig, sources: list[Source]) -> dict[str, list[StreamLine]]:
    """Returns the usable manifest lines of each shard; raises a ValueError as ``check_skipped_share``."""
    low, high = config.get("min_duration") or 0.0, config.get("max_duration") or float("inf")
    most = float(config.get("max_skipped_share", MAX_SKIPPED_SHARE))
    found: dict[str, list[StreamLine]] = {}
    keys: Counter[str] = Counter()
    for source in sources:
        problems, total = Problems(), 0
        for tar, entries, left_out in entries_by_shard(source, problems):
            lines = found.setdefault(tar, [])
            used = {(line.name, line.entry.get("offset") or 0.0) for line in lines}
            for entry in entries:
                name = entry["audio_filepath"]
                utterance = name, entry.get("offset") or 0.0
                if leaves_folder(name):
                    problems.add(f"shard {tar}: the name {name} leaves the folder")
                elif utterance in used:
                    problems.add(f"shard {tar}: {name} stands twice in its manifest; the first is used")
                else:
                    used.add(utterance)
                    lines.append(StreamLine(name, _key(name, keys), entry, low <= entry["duration"] <= high))
                    total += 1
            marked = [(str(entry.get("audio_filepath")), entry) for entry in left_out]
            lines += [StreamLine(name, _key(name, keys), entry, wanted=False) for name, entry in marked]
        if total == 0:
            raise ValueError(problems.of_empty(source.manifest))
        check_skipped_share(source.manifest, problems.words, problems.num_lost, total + problems.num_lost, most)
        if problems.num_left_out:
            logging.info(
                f"{source.manifest}: {problems.num_left_out} utterances left out, marked with _skipme or validation_status"
            )
    return found


def _key(name: str, keys: Counter[str]) -> str:
    """Returns a unique name of an utterance without folder and suffix, by which NeMo finds the entries of its manifest."""
    stem = os.path.splitext(os.path.basename(name))[0].replace(".", "_")
    keys[stem] += 1
    return stem if keys[stem] == 1 else _key(f"{stem}~{keys[stem]}", keys)


@contextmanager
def _manifest_for_nemo(lines: dict[str, list[StreamLine]]) -> Iterator[str]:
    """Writes a manifest with the keys that the reader needs and yields its path.

    NeMo would read many more keys, open files that some of them name, and end the run at an unexpected value without naming
    its line.
    """
    with TemporaryDirectory() as folder:
        # NeMo would look for single files beside a manifest with another name.
        path = Path(folder) / "tarred_audio_manifest.json"
        with open(path, "w", encoding="utf-8") as file:
            for line in chain.from_iterable(lines.values()):
                if line.wanted:
                    kept = {key: line.entry[key] for key in ("duration", "offset") if line.entry.get(key) is not None}
                    kept["audio_filepath"] = line.key + os.path.splitext(line.name)[1]
                    file.write(json.dumps(kept | {"text": ""}) + "\n")
        yield str(path)


def _samples_per_worker(
    batch_size: int, name: str, lines: dict[str, list[StreamLine]], shards_of_ranks: list[list[str]], workers: int
) -> int:
    """Returns the largest number of utterances of any worker, rounded up to whole batches; 0: no utterance is left.

    The other workers repeat utterances to reach it.

    Raises:
        ValueError: a rank has more workers than shards, or only some workers have utterances.
    """
    sizes = {tar: sum(line.wanted for line in found) for tar, found in lines.items()}
    held = []
    for rank, shards in enumerate(shards_of_ranks):
        if len(shards) < workers:
            raise ValueError(
                f"rank {rank} has {len(shards)} shards for {workers} workers: make more shards or use fewer workers"
            )
        held += [sum(sizes[shard] for shard in shards[worker::workers]) for worker in range(workers)]
    if max(held) > 0 == min(held):
        rank, worker = divmod(held.index(0), workers)
        empty = ", ".join(shards_of_ranks[rank][worker::workers][:5])
        raise ValueError(
            f"no utterance of {empty}, the shards of worker {worker} of rank {rank}, is between min_duration and "
            "max_duration: remove these shards, or use fewer workers"
        )
    samples = -(-max(held) // batch_size) * batch_size
    repeated = samples * len(held) - sum(held)
    if repeated:
        logging.info(f"An epoch of {name} repeats {repeated} utterances, so that all workers yield equally many batches")
    return samples
