"""What the two commands have in common."""

import argparse
import os

from rich.console import Console

from nemo_birq.extraction.run import ExtractionSummary


def positive(text: str) -> float:
    """An argument that must be a number above 0."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no number") from error
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments for ``open_data`` and ``run_parts``."""
    parser.add_argument("--tars", help="tar files, where data is a pattern of sharded manifests")
    parser.add_argument(
        "--batch-seconds", type=positive, default=120.0, help="audio of a batch with its padding (default 120)"
    )
    parser.add_argument(
        "--part-minutes", type=positive, default=20.0, help="audio of a part, what an interrupted run loses (default 20)"
    )
    parser.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes that decode (default: up to 4)"
    )


def say(done: ExtractionSummary, console: Console) -> None:
    """Prints what a run did."""
    if done.resumed == done.parts:
        console.print("All parts were there before; nothing was left to do.")
        return
    text = f"{done.utterances:,} utterances, {done.seconds / 3600:.2f} h of audio, in {done.parts - done.resumed} parts"
    if done.resumed:
        text += f"; {done.resumed} parts were there before"
    console.print(text, highlight=False)
    if done.unreadable:
        console.print(f"[yellow]{done.unreadable} utterances could not be read and are left out; the warnings say why.")
