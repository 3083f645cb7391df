"""Compares a set of single files with its manifest and the dataset card."""

from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.json_lines import BadLineError, parse_line
from nemo_birq.data.manifests import find_problem_of_entry
from nemo_birq.data.shards.build import CARD
from nemo_birq.data.shards.stored import opened
from nemo_birq.data.shards.verify import Problem, find_problem
from nemo_birq.data.shards.workers import Workers, advance, run_jobs
from nemo_birq.data.shards.writer import AUDIO, MANIFEST
from nemo_birq.utils.files import PART, file_sha256, read_json
from nemo_birq.utils.progress import Progress

_FILES_IN_A_JOB = 100


class FileCheck(NamedTuple):
    """Some of the files, for a worker."""

    folder: str
    lines: dict[str, list[dict]]
    """Lines of the manifest by the path of their file relative to the folder."""
    sha256: dict[str, str]
    """Checksums in the card by path."""
    decode: bool


def verify_files(folder: Path | str, decode: bool, workers: Workers, progress: Progress) -> tuple[list[Problem], int]:
    """Returns the problems of a set by ``birq make-shards --files``, and the number of its files; see ``verify``."""
    with opened(folder) as stored:
        sizes, here = stored.sizes(), stored.local
        stored.fetch(name for name in (CARD, MANIFEST) if name in sizes)
        sha256 = read_json(here / CARD).get("sha256", {}) if (here / CARD).is_file() else {}
        problems = [Problem("", name, f"{CARD} names it, but it does not exist") for name in sha256 if name not in sizes]
        if MANIFEST in sha256 and file_sha256(here / MANIFEST) != sha256[MANIFEST]:
            problems.append(Problem(MANIFEST, "", f"its SHA-256 differs from the one in {CARD}"))
        by_file = _read_manifest(here, problems)
    for name in sorted(name for name in sizes if name.startswith(f"{AUDIO}/")):
        if name.endswith(PART):
            problems.append(Problem("", name, "left by an interrupted build: run its command again"))
        elif name not in by_file:
            problems.append(Problem("", name, "the manifest has no line for it"))
    names = sorted(by_file)
    jobs = []
    for chunk in (names[i : i + _FILES_IN_A_JOB] for i in range(0, len(names), _FILES_IN_A_JOB)):
        known = {name: sha256[name] for name in chunk if name in sha256}
        jobs.append(FileCheck(str(folder), {name: by_file[name] for name in chunk}, known, decode))
    total = sum(sizes.get(name, 0) for name in names)
    found = dict(run_jobs(check_files, jobs, workers, progress.start("files", total)))
    return problems + [problem for number in range(len(jobs)) for problem in found[number]], len(names)


def _read_manifest(folder: Path, problems: list[Problem]) -> dict[str, list[dict]]:
    """Returns the lines of each file."""
    by_file: dict[str, list[dict]] = {}
    for number, line in enumerate((folder / MANIFEST).read_bytes().splitlines(), start=1):
        try:
            entry = parse_line(line)
            problem = find_problem_of_entry(entry)
        except BadLineError as error:
            problem = str(error)
        if problem:
            problems.append(Problem(MANIFEST, f"line {number}", f"it {problem}"))
        else:
            by_file.setdefault(entry["audio_filepath"], []).append(entry)
    return by_file


def check_files(job: FileCheck) -> list[Problem]:
    """Reads, compares and decodes some files, as a job for a worker."""
    with opened(job.folder) as folder:
        folder.fetch(job.lines)
        return _check_local(job, folder.local)


def _check_local(job: FileCheck, folder: Path) -> list[Problem]:
    problems = []
    for name, lines in job.lines.items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem(MANIFEST, name, "the manifest has a line for it, but it does not exist"))
            continue
        if name in job.sha256 and file_sha256(path) != job.sha256[name]:
            problems.append(Problem("", name, f"its SHA-256 differs from the one in {CARD}"))
        data = path.read_bytes()
        if problem := find_problem(data, lines, job.decode):
            problems.append(Problem("", name, problem))
        advance(len(data))
    return problems
