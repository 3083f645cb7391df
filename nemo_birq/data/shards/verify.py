"""Compares every shard with its manifest and the dataset card."""

import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import measure, open_audio
from nemo_birq.data.json_lines import BadLineError, parse_line, show
from nemo_birq.data.manifests import TOLERANCE, find_problem_of_entry, is_marked
from nemo_birq.data.member_names import find_members
from nemo_birq.data.shards.build import CARD
from nemo_birq.data.shards.recipes.inputs import SUFFIXES
from nemo_birq.data.shards.stored import opened
from nemo_birq.data.shards.workers import Workers, advance, run_jobs
from nemo_birq.utils.files import PART, file_sha256, read_json
from nemo_birq.utils.progress import Progress

_SHARD = re.compile(r"^audio_(\d+)\.tar$")
WHOLE = "tarred_audio_manifest.json"
_END_OF_TAR = 1024  # bytes of zeros, at least


class Problem(NamedTuple):
    """A problem and its place."""

    shard: str
    """Path relative to the checked folder."""
    member: str
    problem: str


class ShardCheck(NamedTuple):
    """One shard, for a worker."""

    folder: str
    tar: str
    """Path relative to the folder."""
    manifest: str
    """Path relative to the folder."""
    sha256: dict[str, str]
    """Checksums of the two files in the card, by path."""
    decode: bool


class CheckedShard(NamedTuple):
    """Result of the check of one shard."""

    problems: list[Problem]
    members: list[str]
    """Names of the audio files."""
    lines: list[bytes]
    """Lines of the manifest."""


def verify(folder: Path | str, decode: bool, workers: Workers, progress: Progress) -> tuple[list[Problem], int]:
    """Returns the problems of all shards under a folder, and the number of their members.

    Args:
        folder: folder of one or more shard sets, with or without a dataset card, or its URL.
        decode: decode every member.
        workers: number of processes, or a cluster.
        progress: shows the bytes that are checked.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the dataset card is damaged.
        RemoteError: a remote folder cannot be read.
    """
    with opened(folder) as stored:
        sizes = stored.sizes()
        tars = sorted(name for name in sizes if _SHARD.search(PurePosixPath(name).name))
        if not tars:
            raise FileNotFoundError(f"there is no audio_*.tar under {folder}")
        stored.fetch(name for name in sizes if name == CARD or PurePosixPath(name).name == WHOLE)
        sha256 = _read_checksums(stored.local / CARD)
        problems = [Problem(name, "", "left by an interrupted build: run its command again")
                    for name in sorted(sizes) if name.endswith(PART)]  # fmt: skip
        problems += _compare_with_card(stored.local, sizes, tars, sha256)
        jobs = []
        for tar in tars:
            known = {name: sha256[name] for name in (tar, _manifest_of(tar)) if name in sha256}
            jobs.append(ShardCheck(str(folder), tar, _manifest_of(tar), known, decode))
        total = sum(sizes[tar] for tar in tars)
        results: dict[int, CheckedShard] = dict(run_jobs(check_shard, jobs, workers, progress.start("shards", total)))
        checked = [results[number] for number in range(len(jobs))]
        problems += [problem for result in checked for problem in result.problems]
        problems += _same_name_in_two_shards(tars, checked)
        problems += _whole_manifests(stored.local, tars, checked)
    return problems, sum(len(result.members) for result in checked)


def _read_checksums(card: Path) -> dict[str, str]:
    found = read_json(card).get("sha256") if card.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{card} is damaged: it has no checksums under 'sha256'; move it away to check without it")
    return found


def _manifest_of(tar: str) -> str:
    path = PurePosixPath(tar)
    return (path.parent / "sharded_manifests" / f"manifest_{path.stem.removeprefix('audio_')}.json").as_posix()


def _whole_of(tar: str) -> str:
    return (PurePosixPath(tar).parent / WHOLE).as_posix()


def _compare_with_card(folder: Path, sizes: dict[str, int], tars: list[str], sha256: dict[str, str]) -> Iterator[Problem]:
    for name in sha256:
        if name not in sizes:
            yield Problem(name, "", f"{CARD} names it, but it does not exist")
    if sha256:
        for tar in set(tars) - sha256.keys():
            yield Problem(tar, "", f"{CARD} does not name this shard")
        for name in sha256:
            # The shards and their manifests are read by the workers.
            if name.endswith(WHOLE) and name in sizes:
                yield from _checksum(folder, name, sha256)


def _checksum(folder: Path, name: str, sha256: dict[str, str]) -> Iterator[Problem]:
    if name in sha256 and file_sha256(folder / name) != sha256[name]:
        yield Problem(name, "", f"its SHA-256 differs from the one in {CARD}")


def check_shard(job: ShardCheck) -> CheckedShard:
    """Checks one shard and its manifest, as a job for a worker."""
    with opened(job.folder) as folder:
        folder.fetch([job.tar, job.manifest])
        if not (folder.local / job.manifest).is_file():
            folder.fetch([_whole_of(job.tar)])
        return _check_local(job._replace(folder=str(folder.local)))


def _check_local(job: ShardCheck) -> CheckedShard:
    folder = Path(job.folder)
    problems = list(_checksum(folder, job.tar, job.sha256))
    if (folder / job.manifest).is_file():
        problems += _checksum(folder, job.manifest, job.sha256)
        lines = _read_lines(folder / job.manifest)
    else:
        # Older sets have only the manifest of all shards.
        lines = [
            line for line in _read_lines(folder / _whole_of(job.tar)) if _parsed(line).get("shard_id") == _shard_id(job.tar)
        ]
        if not lines or (folder / job.manifest).parent.is_dir():
            problems.append(Problem(job.tar, "", f"its {PurePosixPath(job.manifest).name} does not exist"))
    by_member = _group(lines, job, problems)
    members = _check_members(job, by_member, problems)
    for name in by_member.keys() - set(members):
        problems.append(Problem(job.tar, name, "the manifest has a line for it, but the shard lacks it"))
    return CheckedShard(problems, members, lines)


def _shard_id(tar: str) -> int:
    return int(_SHARD.search(PurePosixPath(tar).name)[1])


def _read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.is_file() else []


def _parsed(line: bytes) -> dict:
    """Returns the object of a line, or an empty one if the line is not valid."""
    try:
        return parse_line(line)
    except BadLineError:
        return {}


def _group(lines: list[bytes], job: ShardCheck, problems: list[Problem]) -> dict[str, list[dict]]:
    """Returns the lines of each member."""
    by_name: dict[str, list[dict]] = {}
    marked: set[str] = set()
    seen: set[tuple[str, float]] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_line(line)
            if is_marked(entry):  # a line that is left out needs no other checks
                marked.add(str(entry.get("audio_filepath")))
                continue
            problem = find_problem_of_entry(entry)
        except BadLineError as error:
            problem = str(error)
        if problem:
            reason = f"it cannot be used: it {problem}"
            problems.append(Problem(job.manifest, f"line {number}", reason))
            continue
        name = entry["audio_filepath"]
        if (name, entry.get("offset") or 0.0) in seen:
            problems.append(Problem(job.manifest, name, "two lines have this name"))
        seen.add((name, entry.get("offset") or 0.0))
        if entry.get("shard_id", _shard_id(job.tar)) != _shard_id(job.tar):
            problems.append(Problem(job.manifest, name, f"its shard_id is {show(entry['shard_id'])}"))
        by_name.setdefault(name, []).append(entry)
    meant = find_members({*by_name, *marked}, _member_names(Path(job.folder) / job.tar))
    by_member: dict[str, list[dict]] = {member: [] for member in meant.values()}
    for name, entries in by_name.items():
        by_member.setdefault(meant.get(name, name), []).extend(entries)
    return by_member


def _member_names(path: Path) -> list[str]:
    """Returns the names of the files in a tar, as far as it can be read."""
    names: list[str] = []
    with suppress(tarfile.TarError, EOFError, OSError), tarfile.open(path, "r:") as tar:
        for member in tar:
            names += [member.name] * member.isfile()
    return names


def _check_members(job: ShardCheck, by_member: dict[str, list[dict]], problems: list[Problem]) -> list[str]:
    """Checks the members of a tar one by one, and returns the names of its audio files."""
    path = Path(job.folder) / job.tar
    names: dict[str, None] = {}

    def report(name: str, problem: str) -> None:
        problems.append(Problem(job.tar, name, problem))

    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                data = tar.extractfile(member).read() if member.isfile() else b""
                advance(512 + len(data))
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    report(member.name, "its name leaves the folder")
                if not member.isfile() or PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                    report(member.name, "it is not an audio file")
                    continue
                if member.name in names:
                    report(member.name, "two members have this name")
                names[member.name] = None
                if member.name not in by_member:
                    report(member.name, "the manifest has no line for it")
                problem = find_problem(data, by_member.get(member.name, []), job.decode)
                if problem:
                    report(member.name, problem)
    except (tarfile.TarError, EOFError, OSError) as error:
        report("", f"the tar file is damaged: {error}")
        return list(names)
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _END_OF_TAR))
        if any(file.read()):
            report("", "the tar file is damaged: its end is missing")
    return list(names)


def find_problem(data: bytes, lines: list[dict], decode: bool) -> str | None:
    """Returns the problem of a member, or None."""
    try:
        header = measure(data)
        if decode:
            with open_audio(data) as audio:
                decoded = len(audio.decode(0, header.frames).signal)
            if decoded < header.frames - TOLERANCE * header.sample_rate:
                return f"only {decoded / header.sample_rate:.2f} s of {header.seconds:.2f} s can be decoded"
    except AudioError as error:
        return f"it cannot be decoded: {error}" if error.kind == "unreadable" else str(error)
    wanted = max(((line.get("offset") or 0.0) + line["duration"] for line in lines), default=0.0)
    if wanted > header.seconds + TOLERANCE:
        return f"it has {header.seconds:.2f} s of audio, but its manifest line ends at {wanted:.2f} s"
    return None


def _same_name_in_two_shards(tars: list[str], checked: list[CheckedShard]) -> Iterator[Problem]:
    where: dict[tuple[str, str], str] = {}
    for tar, result in zip(tars, checked, strict=True):
        shard_set = str(PurePosixPath(tar).parent)
        for name in result.members:
            other = where.setdefault((shard_set, name), tar)
            if other != tar:
                yield Problem(tar, name, f"{other} has a member of this name, too")


def _whole_manifests(folder: Path, tars: list[str], checked: list[CheckedShard]) -> Iterable[Problem]:
    """Compares each tarred_audio_manifest.json with those of the shards."""
    sets: dict[str, list[str]] = {}
    for tar, result in zip(tars, checked, strict=True):
        sets.setdefault(str(PurePosixPath(tar).parent), []).extend(result.lines)
    for shard_set, lines in sets.items():
        whole = folder / shard_set / WHOLE
        name = whole.relative_to(folder).as_posix()
        if not whole.is_file():
            yield Problem(name, "", "it does not exist")
        elif sorted(_read_lines(whole)) != sorted(lines):
            yield Problem(name, "", "its lines differ from those of the manifests of the shards")
