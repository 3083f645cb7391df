"""Compares the cost of decoding and scoring with stock ``model.transcribe``, in turn in one process, on the CPU or a GPU.

    python benchmarks/decoding.py model.nemo --manifest tarred_manifests/test/test.json \
        --lm words.arpa tokens.arpa            # minutes; writes docs/results/decoding.json

Each round runs stock NeMo (the same paths and batch size, in the order of the manifest), the transcription of this
package, all of ``score`` with counting and intervals, and with --lm the beam searches, in random order. The results are
medians of the processor time, of the wall time, and of the ratio to stock within a round. Run it on an idle machine, with
OMP_NUM_THREADS=1.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from nemo.utils import logging
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nemo_birq.scoring.beam_search import open_beam_search
from nemo_birq.scoring.eval_sets import check_test_manifest
from nemo_birq.scoring.recognizers import open_recognizer
from nemo_birq.scoring.results import score
from nemo_birq.scoring.transcription import transcribe

ROOT = Path(__file__).resolve().parents[1]
console = Console()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Returns processor time and wall time in seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - processor, time.perf_counter() - clock


def works(args: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], float, int]:
    """Returns the timed functions by name, the seconds of audio, and the number of utterances."""
    model = open_recognizer(args.model, "cuda" if torch.cuda.is_available() else "cpu")
    lines = check_test_manifest(args.manifest)
    paths = [str((args.manifest.parent / line["audio_filepath"]).resolve()) for line in lines]

    def ours(beam=None) -> object:
        return transcribe(model, args.manifest, lines, args.batch_size, beam, lambda done: None)

    found: dict[str, Callable[[], object]] = {
        "stock model.transcribe": lambda: model.transcribe(paths, batch_size=args.batch_size, verbose=False),
        "transcribe": ours,
        "score: and count, intervals": lambda: score(model, args.manifest, args.batch_size),
    }
    for lm in args.lm:
        beam = open_beam_search(lm, model)
        name = beam.about.split(" (")[0].split(",")[0]
        found[f"transcribe, {name}, {beam.about.rsplit(', ')[-1]}"] = lambda beam=beam: ours(beam)
    return found, sum(line["duration"] for line in lines), len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo of a CTC model")
    parser.add_argument("--manifest", type=Path, default=ROOT / "tarred_manifests" / "test" / "test.json")
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="ARPA files")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "decoding.json")
    args = parser.parse_args()
    logging.setLevel(logging.ERROR)
    kinds, audio, utterances = works(args)
    for work in kinds.values():
        work()  # fills caches
    order, times = list(kinds), {kind: [] for kind in kinds}
    shuffle = random.Random(0).shuffle
    for _ in track(range(args.rounds), "rounds", console=console, transient=True):
        shuffle(order)
        for kind in order:
            times[kind].append(timed(kinds[kind]))

    stock = times["stock model.transcribe"]
    rows = {
        kind: {
            "processor_s": round(statistics.median(found[0] for found in times[kind]), 3),
            "clock_s": round(statistics.median(found[1] for found in times[kind]), 3),
            "processor_ratio_to_stock": round(
                statistics.median(a[0] / b[0] for a, b in zip(times[kind], stock, strict=True)), 3
            ),
            "audio_hours_per_processor_hour": round(audio / statistics.median(found[0] for found in times[kind]), 1),
        }
        for kind in kinds
    }
    table = Table(title=f"{utterances} utterances, {audio:.0f} s of audio, {args.rounds} rounds", header_style="bold")
    table.add_column("")
    for column in ("processor s", "clock s", "ratio to stock", "h/h"):
        table.add_column(column, justify="right")
    for kind, row in rows.items():
        table.add_row(kind, *(f"{value:g}" for value in row.values()))
    console.print(table)
    about = {
        "model": args.model.name,
        "utterances": utterances,
        "audio_s": round(audio, 1),
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    args.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    console.print(str(args.out), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
