"""Looks at manifests and shards before anything else happens, so that a typing error costs seconds and not a night."""

import json
import re
import tarfile
from io import BytesIO
from pathlib import Path

import soundfile
from nemo.utils import logging
from omegaconf import DictConfig

from nemo_birq.data.sources import Source, read_sources

MOST_FILES = 32  # manifests and shards that are read through, spread over the list; of the others the existence is checked
# Manifest keys become attributes of a Lhotse cut; these are the cut's own and would overwrite what it is.
RESERVED_KEYS = {"id", "start", "channel", "supervisions", "features", "recording", "custom"}


def check_data_config(config: DictConfig, sample_rate: int) -> None:
    """Checks what ``train_ds`` or ``validation_ds`` names.

    Raises:
        ValueError: a manifest that is empty, not JSON lines or lacks keys, shards and manifests that disagree, or a
            node that selects neither way of loading.
        FileNotFoundError: a manifest, shard or audio file that is not there.
    """
    if not config.get("use_lhotse", False) and not config.get("is_tarred", False):
        raise ValueError(
            f"cannot load {config.get('manifest_filepath')}: set use_lhotse=true (tar shards or single files), or "
            "is_tarred=true for NeMo's webdataset loader"
        )
    if config.get("is_tarred", False) and not config.get("tarred_audio_filepaths"):
        raise ValueError(f"is_tarred=true needs tarred_audio_filepaths beside {config.get('manifest_filepath')}")
    if not config.get("manifest_filepath"):
        return  # input_cfg: NeMo checks its own format
    for source in read_sources(config):
        _check_source(source, sample_rate)


def _check_source(source: Source, sample_rate: int) -> None:
    manifests, tars = source.manifest_paths, source.tar_paths
    for path in [*manifests, *tars]:
        if not _is_remote(path) and not Path(path).is_file():
            what = "shard" if path in tars else "manifest"
            raise FileNotFoundError(f"{what} {path} does not exist (named by {source.tars or source.manifest})")
    if not tars:
        for path in _sample(manifests):
            check_manifest_of_files(path, sample_rate)
        return
    if len(manifests) not in (1, len(tars)):
        raise ValueError(
            f"{source.manifest} names {len(manifests)} manifests, {source.tars} names {len(tars)} shards: there must be "
            "one manifest for each shard, or one for all"
        )
    by_shard = _group_by_shard(manifests, tars) if len(manifests) == 1 else dict(zip(tars, manifests, strict=True))
    if len(manifests) > 1:
        _check_numbers(manifests, tars)
    for tar in _sample(tars):
        lines = by_shard[tar]
        _check_members(tar, read_manifest(lines) if isinstance(lines, str) else lines, sample_rate)


def read_manifest(path: str) -> list[dict]:
    """Lines of a manifest.

    Raises:
        ValueError: naming file, line and remedy.
    """
    if _is_remote(path):
        return []
    lines = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"manifest {path} is not UTF-8 text ({error}); convert it with iconv -t UTF-8") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"manifest {path}, line {number} is not JSON ({error}); a manifest holds one JSON object a line"
            ) from error
        _check_line(entry, f"manifest {path}, line {number}")
        lines.append(entry)
    if not lines:
        raise ValueError(f"manifest {path} is empty")
    return lines


def _check_line(entry: object, where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not a JSON object but {type(entry).__name__}")
    missing = [key for key in ("audio_filepath", "duration") if key not in entry]
    if missing:
        raise ValueError(f"{where} lacks {missing}; it has the keys {sorted(entry)}")
    reserved = RESERVED_KEYS & entry.keys()
    if reserved:
        raise ValueError(f"{where} uses the reserved keys {sorted(reserved)}; rename them")
    if not isinstance(entry["duration"], int | float) or entry["duration"] <= 0:
        raise ValueError(f"{where}: duration={entry['duration']!r} must be a number of seconds above 0")


def check_manifest_of_files(manifest: str, sample_rate: int) -> list[dict]:
    """Lines of a manifest that names single files, relative to its own folder or absolute.

    Raises:
        ValueError, FileNotFoundError: see ``check_data_config``.
    """
    lines = read_manifest(manifest)
    paths = [Path(manifest).parent / entry["audio_filepath"] for entry in lines]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"manifest {manifest} names {path}, which does not exist")
    if paths:
        _say_sample_rate(str(paths[0]), str(paths[0]), sample_rate)
    return lines


def _group_by_shard(manifests: list[str], tars: list[str]) -> dict[str, list[dict]]:
    """One manifest for all shards: its lines say to which shard they belong."""
    lines = read_manifest(manifests[0])
    if _is_remote(manifests[0]):
        return {tar: [] for tar in tars}
    numbers = {_shard_number(tar, "shard"): tar for tar in tars}
    grouped: dict[str, list[dict]] = {tar: [] for tar in tars}
    for entry in lines:
        if entry.get("shard_id") not in numbers:
            raise ValueError(
                f"manifest {manifests[0]}: {entry['audio_filepath']} has shard_id={entry.get('shard_id')}, but the shards "
                f"are numbered {sorted(numbers)}"
            )
        grouped[numbers[entry["shard_id"]]].append(entry)
    return grouped


def _check_numbers(manifests: list[str], tars: list[str]) -> None:
    numbers = [_shard_number(path, "manifest") for path in manifests], [_shard_number(path, "shard") for path in tars]
    if numbers[0] != numbers[1]:
        raise ValueError(f"manifests are numbered {numbers[0]}, shards {numbers[1]}: they must agree, in the same order")
    if numbers[0] != list(range(len(tars))):
        raise ValueError(f"shards are numbered {numbers[0]}: NeMo's reader needs 0 to {len(tars) - 1}, in this order")


def _shard_number(path: str, what: str) -> int:
    prefix = {"manifest": r"manifest", "shard": r"audio"}[what]
    match = re.search(prefix + r"[^/]*_(\d+)[^/]*\.(json|tar)", path)
    if match is None:
        raise ValueError(f"{what} {path}: its name must look like {prefix}_0.{'tar' if what == 'shard' else 'json'}")
    return int(match.group(1))


def _check_members(tar: str, lines: list[dict], sample_rate: int) -> None:
    if _is_remote(tar) or not lines:
        return
    # Segments of one member are named member-sub1, member-sub2, ...
    wanted = {re.sub(r"-sub\d+(?=\.\w+$|$)", "", entry["audio_filepath"]) for entry in lines}
    try:
        with tarfile.open(tar) as archive:
            members = archive.getmembers()
            names = {member.name for member in members if member.isfile()}
            if wanted - names:
                raise ValueError(
                    f"shard {tar} lacks {len(wanted - names)} of the {len(wanted)} members that its manifest names, "
                    f"among them {min(wanted - names)}; build the shard again"
                )
            first = next(member for member in members if member.name in wanted)
            _say_sample_rate(f"{first.name} of {tar}", BytesIO(archive.extractfile(first).read()), sample_rate)
    except tarfile.TarError as error:
        raise ValueError(f"shard {tar} is not a readable tar file ({error}); build it again") from error


def _say_sample_rate(name: str, file: str | BytesIO, sample_rate: int) -> None:
    try:
        found = soundfile.info(file).samplerate
    except soundfile.SoundFileError:
        return  # one bad file is skipped in training, with a warning
    if found != sample_rate:
        logging.warning(f"{name} has {found} Hz; audio is resampled to the model's {sample_rate} Hz while it is read")


def _sample(paths: list[str]) -> list[str]:
    if len(paths) <= MOST_FILES:
        return paths
    return [paths[round(i * (len(paths) - 1) / (MOST_FILES - 1))] for i in range(MOST_FILES)]


def _is_remote(path: str) -> bool:
    return path.startswith("pipe:") or "://" in path
