"""Memory of the process that lists the input of a build, by the number of files or cuts.

    python -m benchmarks.listing_memory [--files 100000 1000000] [--cuts 100000 1000000]

The folders hold empty files, 1,000 each. Lines of cuts have the keys of Lhotse's. The recipe of ``birq make-shards``
describes the input and lists it in batches, as a build does, in a process of its own. The memory is what the process needs
beyond that after its imports. Writes docs/results/listing_memory.json.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "listing_memory.json"
IN_A_FOLDER = 1000


def make_files(number: int, root: Path) -> Path:
    """Makes empty files; returns their folder."""
    for row in range(number):
        folder = root / f"speaker{row // IN_A_FOLDER:05d}"
        if row % IN_A_FOLDER == 0:
            folder.mkdir()
        (folder / f"utterance_{row:08d}.flac").touch()
    return root


def make_cuts(number: int, root: Path) -> Path:
    """Writes lines of cuts; returns their file."""
    with open(root / "cuts.jsonl", "w", encoding="utf-8") as file:
        for row in range(number):
            name, seconds = f"utterance_{row:08d}", 12.5
            spoken = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0,
                      "text": "as many words as people say in ten seconds or so", "speaker": f"s{row % 5000}"}  # fmt: skip
            recording = {"id": name, "sampling_rate": 16000, "num_samples": 200_000, "duration": seconds, "channel_ids": [0],
                         "sources": [{"type": "file", "channels": [0], "source": f"/data/{name}.flac"}]}  # fmt: skip
            cut = {"id": name, "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [spoken],
                   "recording": recording, "type": "MonoCut"}  # fmt: skip
            file.write(json.dumps(cut) + "\n")
    return root / "cuts.jsonl"


def list_all(kind: str, source: Path, results: multiprocessing.Queue) -> None:
    """Lists an input; puts seconds, added megabytes and the number of segments into the queue."""
    import lhotse.serialization  # noqa: F401

    from nemo_birq.data.shards.recipes.cuts import CutsRecipe
    from nemo_birq.data.shards.recipes.folder import FolderRecipe
    from nemo_birq.utils.progress import ProgressBars

    recipe = FolderRecipe(source) if kind == "files" else CutsRecipe(source)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    recipe.describe()
    count = sum(len(batch.read().segments) for batch in recipe.read(source.parent, 1, ProgressBars(disable=True)).batches)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((time.perf_counter() - began, added, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--cuts", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for kind, make, numbers in (("files", make_files, args.files), ("cuts", make_cuts, args.cuts)):
        for number in numbers:
            with tempfile.TemporaryDirectory() as folder:
                source, results = make(number, Path(folder)), context.Queue()
                process = context.Process(target=list_all, args=(kind, source, results))
                process.start()
                seconds, added, count = results.get()
                process.join()
                assert count == number
            rows.append({"input": kind, "number": number, "seconds": round(seconds, 1), "added_mb": round(added, 1)})
            print(rows[-1], flush=True)
    files, cuts = (" ".join(map(str, numbers)) for numbers in (args.files, args.cuts))
    command = f"python -m benchmarks.listing_memory --files {files} --cuts {cuts}"
    args.out.write_text(json.dumps({"command": command, "machine": platform.machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
