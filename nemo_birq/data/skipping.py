"""Reading tar shards without dying of a bad member: it is named, counted and left out.

NeMo's own reader skips a member whose header cannot be read, uncounted, and ends the run at one that is empty or shorter
than its manifest line says.
"""

from collections.abc import Generator
from io import BytesIO

import soundfile
from lhotse import CutSet
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoTarredIterator
from nemo.utils import logging
from omegaconf import DictConfig

TARRED_TYPE = "birq_tarred"
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
            problem = find_problem(raw_audio, lines)
            if problem:
                skip(f"{member.name}' of '{tar_path}", problem)
            else:
                yield lines, raw_audio, member


def find_problem(raw_audio: bytes, manifest_lines: list[dict]) -> str | None:
    """What keeps a member from being used, or None."""
    try:
        info = soundfile.info(BytesIO(raw_audio))
    except soundfile.SoundFileError as error:
        return f"it cannot be decoded ({error})"
    if info.frames == 0:
        return "it holds no audio"
    end = max(line.get("offset", 0.0) + line["duration"] for line in manifest_lines)
    if end > info.duration + TOLERANCE:
        return f"it holds {info.duration:.2f} s, but the manifest wants {end:.2f} s of it"
    return None


@data_type_parser(TARRED_TYPE)
def read_tarred(config: DictConfig) -> tuple[CutSet, bool]:
    """One tarred dataset as an endless stream of cuts, or a finite one with ``force_finite``."""
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
