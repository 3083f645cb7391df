"""YODAS (espnet/yodas, espnet/yodas2 on the hub): data/<subset>/{audio/*.tar.gz,text/*}, for subsets such as en000.

YODAS has one wav for each utterance and text/00000000.txt with "<utterance> <text>" lines; YODAS2 has one wav for each video
and text/00000000.json with [{"audio_id": <video>, "text": {<utterance>: <text>}}]. An utterance is called
<video>-<number>-<start>-<end>, in hundredths of a second; the name of a video may hold hyphens, too.
"""

import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nemo_birq.data.audio.errors import said_by
from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import find_seconds_problem
from nemo_birq.data.shards.recipes.inputs import SUFFIXES, fingerprint, is_companion, require_folder
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped, Spoken
from nemo_birq.data.shards.workers import Workers, advance, run_jobs
from nemo_birq.utils.files import write_json
from nemo_birq.utils.progress import Progress
from nemo_birq.utils.text_files import read_lines, read_text

_PROBLEMS = "problems.json"


class Archive(NamedTuple):
    """An archive of audio, with its file of texts."""

    tar: Path
    text: Path
    subset: str

    @property
    def name(self) -> str:
        return f"{self.subset}/{self.tar.name.split('.')[0]}"


@dataclass(frozen=True)
class YodasRecipe:
    """Utterances (YODAS), or videos (YODAS2), which are cut between their utterances if they are too long."""

    root: Path
    subsets: tuple[str, ...] = ()
    """Subsets such as en000; empty: all."""

    def describe(self) -> dict:
        archives = self._archives()
        files = [path for archive in archives for path in (archive.tar, archive.text) if path.is_file()]
        subsets = sorted({archive.subset for archive in archives})
        found = {"kind": "yodas", "input": [str(self.root.resolve())], "subsets": subsets}
        return found | fingerprint(self.root, files)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        archives = self._archives()
        jobs = [(str(archive.tar), str(scratch / archive.name)) for archive in archives]
        total = sum(archive.tar.stat().st_size for archive in archives) / 1e9
        advance_gb = progress.start("GB of archives", total)
        for _ in run_jobs(unpack, jobs, workers, lambda done: advance_gb(done / 1e9)):
            pass
        segments: list[Segment] = []
        skipped: list[Skipped] = []
        for archive in archives:
            unpacked = scratch / archive.name
            skipped += [Skipped(*entry) for entry in json.loads((unpacked / _PROBLEMS).read_text())["skipped"]]
            segments += _segments(archive, unpacked, skipped)
        return Listing.of(segments, skipped)

    def _archives(self) -> list[Archive]:
        data = self.root / "data"
        remedy = "run hf download --repo-type dataset espnet/yodas2 --include 'data/en000/*' --local-dir <folder>"
        require_folder(data, f"{remedy}, and name <folder>")
        there = sorted(path.name for path in data.iterdir() if path.is_dir() and not is_companion(path.name))
        absent = set(self.subsets) - set(there)
        if absent:
            raise BuildError(f"{data} has no subset {', '.join(sorted(absent))}; it has {', '.join(there) or 'none'}")
        archives = []
        for subset in self.subsets or there:
            tars = sorted((data / subset / "audio").glob("*.tar.gz"))
            for tar in (tar for tar in tars if not is_companion(tar.name)):
                long_form = data / subset / "text" / tar.name.replace(".tar.gz", ".json")
                archives.append(Archive(tar, long_form if long_form.is_file() else long_form.with_suffix(".txt"), subset))
        if not archives:
            raise BuildError(f"{data} has no */audio/*.tar.gz: {remedy}")
        return archives


def unpack(job: tuple[str, str]) -> None:
    """Unpacks an archive and records its problems, as a job for a worker; does nothing if it is already unpacked.

    Archives are unpacked because a gzip file can only be read from its beginning, and a shard needs utterances of many.
    """
    archive, target = Path(job[0]), Path(job[1])
    if (target / _PROBLEMS).is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    name = f"{target.parent.name}/{target.name}"
    skipped: list[Skipped] = []
    seen: set[str] = set()
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if any(map(is_companion, path.parts)):
                    continue
                if path.is_absolute() or ".." in path.parts:
                    skipped.append(Skipped(f"{name}/{path.name}", "outside", f"the archive calls it {member.name}"))
                elif path.name in seen:
                    skipped.append(Skipped(f"{name}/{path.name}", "duplicate", "the archive has two files of this name"))
                elif member.isfile() and path.suffix.lower() in SUFFIXES:
                    seen.add(path.name)
                    (target / path.name).write_bytes(tar.extractfile(member).read())
                    advance(member.size)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        skipped.append(Skipped(f"{name}.tar.gz", "truncated", f"only its beginning can be unpacked: {error}"))
    write_json(target / _PROBLEMS, {"skipped": skipped})


def _segments(archive: Archive, unpacked: Path, skipped: list[Skipped]) -> Iterator[Segment]:
    long_form = archive.text.suffix == ".json"
    try:
        read = _long_form_texts if long_form else _utterance_texts
        texts = read(archive.text, archive.name, skipped)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        skipped.append(Skipped(f"{archive.name}{archive.text.suffix}", "not text", f"no texts: {said_by(error)}"))
        texts = {}
    for path in sorted(unpacked.iterdir()):
        if path.name == _PROBLEMS:
            continue
        text = texts.pop(path.stem, None)
        line = {"lang": archive.subset[:2], "subset": archive.subset}
        if isinstance(text, str):
            line["text"] = text
        elif text:
            line["text"] = " ".join(utterance.text for utterance in text)
        line["video"] = path.stem if long_form else path.stem.rsplit("-", 3)[0]
        spoken = text if long_form and text else ()
        yield Segment(str(path.absolute()), path.stem, f"{archive.subset}/{path.stem}", line=line, spoken=spoken)
    for name in texts:
        reason = f"{archive.text.name} names it, but the archive lacks it"
        skipped.append(Skipped(f"{archive.subset}/{name}", "missing", reason))


def _utterance_texts(path: Path, name: str, skipped: list[Skipped]) -> dict[str, str]:
    texts = {}
    for raw in read_lines(path):
        utterance, _, text = raw.partition(b" ")
        try:
            texts[utterance.decode("utf-8")] = text.decode("utf-8").strip()
        except UnicodeDecodeError:
            skipped.append(Skipped(f"{name}/{utterance.decode('ascii', 'replace')}", "not text", f"{path.name}: not UTF-8"))
    return texts


def _long_form_texts(path: Path, name: str, skipped: list[Skipped]) -> dict[str, tuple[Spoken, ...]]:
    texts = {}
    for number, video in enumerate(json.loads(read_text(path)), start=1):
        try:
            texts[video["audio_id"]] = tuple(sorted(_spoken(*item) for item in video["text"].items()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append(Skipped(f"{name}{path.suffix}", "not text", f"no text of video {number}: {show(error)}"))
    return texts


def _spoken(utterance: str, text: str) -> Spoken:
    _, _, start, end = utterance.rsplit("-", 3)
    for key, hundredths in (("start", int(start)), ("end", int(end))):
        if problem := find_seconds_problem(key, hundredths // 100):
            raise ValueError(f"{show(utterance)} {problem}")
    text.encode()  # raises an error for half a character, which a manifest line cannot have
    return Spoken(int(start) / 100, int(end) / 100, text.strip())
