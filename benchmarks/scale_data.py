"""Time and memory of what must be done for all utterances of a data set at once, by their number.

    python benchmarks/scale_data.py [--utterances 1000000 3000000] [--what plan index epoch] [--workers 2]

plan    make_shards.py --plan of a manifest: segments of 2 to 20 s of long recordings, which are real files without content
files   the same with a manifest of single files, which all have the header of one clip
index   the index of shards of 10,000 utterances, whose members have no content
epoch   with that index: the plan of an epoch by one process, what a rank needs that maps it, and the change of the epoch,
        for which a process in the background has made the next plan
parts   for an index in memory: the work of an epoch's plan that one process does alone, and the batches of one part of it,
        of which large epochs have one for each million utterances

No audio is decoded in any of them. Each measurement is a process of its own. Adds to docs/results/scale.json, with a line
through the measurements of each kind and what 30 and 300 million utterances would take.
"""

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import soundfile
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
IN_A_SHARD = 10_000
IN_A_RECORDING = 3_000
RATE = 16_000
RANKS = 8
PREDICTED = (30_000_000, 300_000_000)


def durations(number: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(2, 20, number).round(3)


# --- the plan of a build ----------------------------------------------------------------------------------------------


def make_manifest(number: int, folder: Path, single_files: bool) -> Path:
    """Lines with the keys of a usual corpus, in random order, with audio that has a length and no content."""
    seconds = durations(number)
    (folder / "wav").mkdir()
    soundfile.write(folder / "clip.wav", np.zeros(30 * RATE, np.int16), RATE)
    clip = (folder / "clip.wav").read_bytes()[:44]
    if single_files:
        names = [f"wav/speaker{row % 5000:05d}_{row:09d}.wav" for row in range(number)]
        for name in names:
            os.link(folder / "clip.wav", folder / name)
    else:
        names = [f"wav/recording{recording:07d}.wav" for recording in range(-(-number // IN_A_RECORDING))]
        size = 20 * IN_A_RECORDING * RATE * 2
        header = clip[:4] + (36 + size).to_bytes(4, "little") + clip[8:40] + size.to_bytes(4, "little")
        for name in names:
            (folder / name).write_bytes(header)
            os.truncate(folder / name, 44 + size)
    with open(folder / "train.json", "w", encoding="utf-8") as file:
        for row in np.random.default_rng(1).permutation(number).tolist():
            line = {"audio_filepath": names[row if single_files else row // IN_A_RECORDING], "duration": seconds[row]}
            if not single_files:
                line["offset"] = 20.0 * (row % IN_A_RECORDING)
            line |= {"text": "as many words as people say in ten seconds or so of speech", "speaker": f"s{row % 5000}"}
            file.write(json.dumps(line) + "\n")
    return folder / "train.json"


def measure_plan(number: int, folder: Path, workers: int, single_files: bool = False) -> dict:
    manifest = make_manifest(number, folder, single_files)
    command = [sys.executable, str(ROOT / "scripts/make_shards.py"), "manifest", str(manifest), "--out", str(folder / "out")]
    began = time.perf_counter()
    subprocess.run([*command, "--plan", "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    pieces = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return {"seconds": seconds, "disk_mb": pieces / 1e6}


def measure_files(number: int, folder: Path, workers: int) -> dict:
    return measure_plan(number, folder, workers, single_files=True)


# --- index and epochs -------------------------------------------------------------------------------------------------


def make_shards(number: int, folder: Path) -> None:
    seconds = durations(number)
    for shard in range(number // IN_A_SHARD):
        with open(folder / f"audio_{shard}.tar", "wb") as tar, open(folder / f"manifest_{shard}.json", "w") as lines:
            for row in range(shard * IN_A_SHARD, (shard + 1) * IN_A_SHARD):
                name = f"speaker{row % 5000:05d}_{row:09d}.flac"
                tar.write(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
                line = {"audio_filepath": name, "duration": seconds[row], "text": "some words of a line", "shard_id": shard}
                lines.write(json.dumps(line) + "\n")
            tar.write(bytes(1024))


def index_of(number: int, folder: Path):
    from nemo_birq.data.index import open_index
    from nemo_birq.data.sources import Source

    pattern = f"__OP_0..{number // IN_A_SHARD - 1}_CL_"
    return open_index(Source(f"{folder}/manifest{pattern}.json", f"{folder}/audio{pattern}.tar", None))


def measure_index(number: int, folder: Path, workers: int) -> dict:
    began = time.perf_counter()
    index_of(number, folder)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "cache").glob("*.arrow"))
    return {"seconds": seconds, "disk_mb": size / 1e6}


def measure_epoch(number: int, folder: Path, workers: int) -> dict:
    """With the settings of conf/ for large corpora, buckets among them."""
    from nemo_birq.data import shared_plans
    from nemo_birq.data.dataloader import BatchOrder
    from nemo_birq.data.epoch_batches import BatchSettings

    settings = BatchSettings(batch_duration=480.0, use_bucketing=True, shuffle=True, max_duration=30.0)
    began = time.perf_counter()
    index = index_of(number, folder)
    opened = time.perf_counter() - began
    shared_plans.LEAST_UTTERANCES = min(shared_plans.LEAST_UTTERANCES, number)
    with ExtraMemory() as alone:
        began = time.perf_counter()
        order = BatchOrder([index], None, settings, 0, RANKS, endless=True)  # no plan is there: this process makes it
        seconds = time.perf_counter() - began
    request = shared_plans.PlanRequest(order.fingerprint, [index], None, settings, 0, RANKS)
    following = request._replace(epoch=1)
    began = time.perf_counter()
    while not (following.folder / "1.npy").is_file():
        time.sleep(0.1)
    background = time.perf_counter() - began
    with ExtraMemory() as mapped:
        began = time.perf_counter()
        plan = shared_plans.shared_plan(request)
        mapping = time.perf_counter() - began
    steps = 50
    order.batch = len(plan) // RANKS * RANKS - steps * RANKS
    waits, last = [], time.perf_counter()
    for _ in islice(order, 2 * steps):
        waits.append(time.perf_counter() - last)
        last = time.perf_counter()
    return {
        "seconds": seconds,
        "rank_mb": alone.megabytes,
        "open_s": opened,
        "background_s": background,
        "mapping_s": mapping,
        "mapped_rank_mb": mapped.megabytes,
        "longest_wait_at_new_epoch_s": max(waits),
        "batches": len(plan),
    }


class IndexInMemory:
    """Durations and shards of utterances that have no files."""

    def __init__(self, number: int):
        self.durations = durations(number)
        self.shards = (np.arange(number) // IN_A_SHARD).astype(np.int32)

    def __len__(self) -> int:
        return len(self.durations)


def measure_parts(number: int, folder: Path, workers: int) -> dict:
    """Measures processor seconds of a plan: alone, and for a part of a million utterances."""
    from nemo_birq.data import epoch_plan
    from nemo_birq.data.epoch_batches import BatchSettings

    settings = BatchSettings(batch_duration=480.0, use_bucketing=True, shuffle=True, max_duration=30.0)
    index, parts = IndexInMemory(number), []

    def one_part(function, jobs, processes, report):
        """Makes the batches of the first part, and takes them for all others."""
        for job_number, part in enumerate(jobs):
            pickle.dumps(part)  # a part is sent to its process
            if not parts:
                began = time.process_time()
                parts.append((function(part), time.process_time() - began))
            yield job_number, parts[0][0]

    with ExtraMemory() as alone, patch.object(epoch_plan, "run_jobs", one_part):
        began = time.process_time()
        epoch_plan.plan_epoch([index], None, settings, 0, RANKS)
        seconds = time.process_time() - began
    return {"seconds": seconds - parts[0][1], "part_s": parts[0][1], "rank_mb": alone.megabytes}


class ExtraMemory:
    """The most private memory of this process in a block, beyond that before it."""

    def __enter__(self) -> "ExtraMemory":
        self._before = self._most = psutil.Process().memory_full_info().uss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self._most = max(self._most, psutil.Process().memory_full_info().uss)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._most = max(self._most, psutil.Process().memory_full_info().uss)
        self.megabytes = (self._most - self._before) / 1e6


MEASURES = {
    "plan": measure_plan, "files": measure_files, "index": measure_index, "epoch": measure_epoch, "parts": measure_parts,
}  # fmt: skip


def measure(what: str, number: int, folder: Path, workers: int) -> dict:
    """Runs a measurement in processes of its own; see ``Watch`` for what is added."""
    command = [sys.executable, __file__, "--one", str(folder), "--what", what, "--utterances", str(number)]
    environment = os.environ | {"NEMO_BIRQ_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        watch = Watch(process.pid, spares_first=what in ("plan", "files"))  # the first process makes the input there
        while process.poll() is None:
            watch.look()
            time.sleep(0.25)
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{what} of {number} utterances failed")
    row = {"what": what, "utterances": number} | json.loads(printed.splitlines()[-1]) | watch.numbers()
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


class Watch:
    """Looks at a process and its children now and then: memory, in which shared pages count once, and processor time."""

    def __init__(self, pid: int, spares_first: bool):
        self._first, self._spares_first = psutil.Process(pid), spares_first
        self._peak = self._all_peak = 0
        self._cpu: dict[int, float] = {}

    def look(self) -> None:
        try:
            children = self._first.children(recursive=True)
        except psutil.Error:
            return
        found = []
        for process in children if self._spares_first else [self._first, *children]:
            try:
                found.append(process.memory_full_info().pss)
                self._cpu[process.pid] = sum(process.cpu_times()[:2])
            except psutil.Error:  # it has ended
                continue
        self._peak, self._all_peak = max(self._peak, *found, 0), max(self._all_peak, sum(found))

    def numbers(self) -> dict:
        """The largest process, all together; seconds of processor time of the first process, and of all."""
        seconds = list(self._cpu.values()) or [0.0]
        memory = {"peak_mb": self._peak / 1e6, "all_peak_mb": self._all_peak / 1e6}
        return memory | {"main_cpu_s": seconds[0], "all_cpu_s": sum(seconds)}


def predict(rows: list[dict]) -> list[dict]:
    """Fits a line to the growth of each number, and continues it; start-up makes small measurements grow more slowly."""
    found = []
    for what in dict.fromkeys(row["what"] for row in rows):
        some = [row for row in rows if row["what"] == what]
        for key in ("main_cpu_s", "all_cpu_s", "peak_mb", "rank_mb", "disk_mb"):
            if len(some) < 2 or not all(key in row for row in some):
                continue
            slope, start = np.polyfit([row["utterances"] for row in some], [row[key] for row in some], 1)
            line = {"start": round(float(start), 1), "a_million": round(float(1e6 * slope), 1)}
            predicted = {str(more): round(start + slope * more) for more in PREDICTED}
            found.append({"what": what, "number": key} | line | predicted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--what", nargs="+", choices=MEASURES, default=["plan", "index", "epoch"])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of make_shards.py")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # this process measures, in that folder
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "scale.json")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(MEASURES[args.what[0]](args.utterances[0], args.one, args.workers)))
        return
    before = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    rows = [row for row in before if row["what"] not in args.what or row["utterances"] not in args.utterances]
    for number in args.utterances:
        with tempfile.TemporaryDirectory() as data:
            for what in args.what:  # an epoch takes the index of the measurement before
                folder = Path(data) / ("shards" if what in ("index", "epoch") else what)
                folder.mkdir(exist_ok=True)
                if what == "index":
                    make_shards(number, folder)
                rows.append(
                    measure(what, number, folder, args.workers) | {"workers": args.workers, "load": os.getloadavg()[1]}
                )
                print(rows[-1], flush=True)
                rows.sort(key=lambda row: (list(MEASURES).index(row["what"]), row["utterances"]))
                command = "python benchmarks/scale_data.py --utterances N --what WHAT --workers W"
                machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores that other work shares"
                result = {"command": command, "machine": machine, "rows": rows, "predicted": predict(rows)}
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    table = Table("what", "utterances", "seconds", "MB at most", "us an utterance")
    for row in rows:
        each = 1e6 * row["seconds"] / row["utterances"]
        table.add_row(
            row["what"], f"{row['utterances']:,}", f"{row['seconds']:.1f}", f"{row['peak_mb']:,.0f}", f"{each:.1f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
