"""Reading audio without dying of a bad clip: it is named, counted and left out.

NeMo's own readers skip a tar member whose header cannot be read, uncounted, and end the run at one that is empty or shorter
than its manifest line says, or at a single file that cannot be read.
"""

from collections.abc import Generator, Iterable, Iterator
from io import BytesIO

import soundfile
from lhotse import CutSet
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoIterator, LazyNeMoTarredIterator
from nemo.collections.common.parts.preprocessing.manifest import get_full_path
from nemo.utils import logging
from omegaconf import DictConfig

SOURCE_TYPE = "birq"
TOLERANCE = 0.2  # seconds by which codecs may disagree on a duration; NeMo's own

_skipped = 0  # in this process: a loader's worker, or the trainer itself


def skip(name: str, problem: str) -> None:
    """Names an utterance that is left out, and counts it."""
    global _skipped
    _skipped += 1
    logging.warning(f"Skipped '{name}': {problem}")


def skipped_since_last_time() -> int:
    """Utterances left out in this process since the last call."""
    global _skipped
    count, _skipped = _skipped, 0
    return count


class SkippingTarredIterator(LazyNeMoTarredIterator):
    """NeMo's reader of tar shards, which looks at each member before cutting it."""

    def _iter_sequential(self, tar_path, shard_manifest, manifest_path, rng) -> Generator:
        for lines, raw_audio, member in super()._iter_sequential(tar_path, shard_manifest, manifest_path, rng):
            problem = find_problem(BytesIO(raw_audio), lines)
            if problem:
                skip(f"{member.name}' of '{tar_path}", problem)
            else:
                yield lines, raw_audio, member


class SkippingIterator(LazyNeMoIterator):
    """NeMo's reader of single files, which looks at each before making a cut of it."""

    def __init__(self, manifest_path: str, **kwargs):
        super().__init__(manifest_path, **kwargs)
        self.source = _Readable(self.source, manifest_path)


class _Readable:
    """Lines of a manifest without those whose audio cannot be used."""

    def __init__(self, lines: Iterable[dict], manifest_path: str):
        self.lines = lines
        self.manifest_path = manifest_path

    def __iter__(self) -> Iterator[dict]:
        for line in self.lines:
            path = get_full_path(str(line["audio_filepath"]), self.manifest_path, force_cache=False)
            problem = find_problem(path, [line])
            if problem:
                skip(path, problem)
            else:
                yield line

    def __len__(self) -> int:
        return len(self.lines)


def find_problem(audio: str | BytesIO, manifest_lines: list[dict]) -> str | None:
    """What keeps an audio file from being used, or None."""
    try:
        info = soundfile.info(audio)
    except soundfile.SoundFileError as error:
        return f"it cannot be decoded ({error})"
    if info.frames == 0:
        return "it holds no audio"
    end = max((line.get("offset") or 0.0) + line["duration"] for line in manifest_lines)
    if end > info.duration + TOLERANCE:
        return f"it holds {info.duration:.2f} s, but the manifest wants {end:.2f} s of it"
    return None


@data_type_parser(SOURCE_TYPE)
def read_source(config: DictConfig) -> tuple[CutSet, bool]:
    """One dataset: tar shards as an endless stream of cuts (finite with ``force_finite``), or single files, once."""
    if config.get("tarred_audio_filepaths") is None:
        iterator = SkippingIterator(config.manifest_filepath, shuffle_shards=config.shuffle, shard_seed=config.shard_seed)
        return CutSet(iterator), False
    cuts = CutSet(
        SkippingTarredIterator(
            manifest_path=config.manifest_filepath,
            tar_paths=config.tarred_audio_filepaths,
            shuffle_shards=config.shuffle,
            shard_seed=config.shard_seed,
            skip_missing_manifest_entries=config.skip_missing_manifest_entries,
        )
    )
    return (cuts if config.force_finite else cuts.repeat(preserve_id=True)), True
