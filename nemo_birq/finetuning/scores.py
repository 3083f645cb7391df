"""Error rates of a recognizer on a test set."""

import json
from pathlib import Path

from nemo.collections.asr.metrics.wer import word_error_rate
from nemo.collections.asr.models import ASRModel
from rich.console import Console
from rich.table import Table

from nemo_birq.data.manifests import check_manifest_of_files


def check_test_manifest(manifest: str) -> list[dict]:
    """Lines of a test manifest, with transcripts.

    Raises:
        ValueError: a line without ``text``; else as ``manifests.check_manifest_of_files``.
    """
    lines = check_manifest_of_files(manifest)
    silent = [line["audio_filepath"] for line in lines if "text" not in line]
    if silent:
        raise ValueError(f"test manifest {manifest}: {silent[0]} has no text to compare with ({len(silent)} such lines)")
    return lines


def score(model: ASRModel, manifest: str, batch_size: int = 16) -> dict:
    """Greedy transcription of a manifest of single files, and its error rates.

    Returns:
        ``wer`` and ``cer`` as fractions, and ``utterances``: name, text and hypothesis of each.
    """
    lines = check_test_manifest(manifest)
    paths = [str(Path(manifest).parent / line["audio_filepath"]) for line in lines]
    hypotheses = [result.text for result in model.transcribe(paths, batch_size=batch_size, verbose=False)]
    references = [line["text"] for line in lines]
    return {
        "manifest": manifest,
        "wer": word_error_rate(hypotheses, references),
        "cer": word_error_rate(hypotheses, references, use_cer=True),
        "utterances": [
            {"audio_filepath": line["audio_filepath"], "text": reference, "hypothesis": hypothesis}
            for line, reference, hypothesis in zip(lines, references, hypotheses, strict=True)
        ],
    }


def write_score(result: dict, path: Path) -> None:
    """Writes what ``score`` found as json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")


def print_table(results: dict[str, dict], folder: Path, nemo: Path) -> None:
    """Error rates of all test sets, some of what was heard, and where everything lies."""
    console = Console()
    table = Table(title="greedy decoding", header_style="bold")
    for column in ("test set", "utterances", "WER", "CER"):
        table.add_column(column, justify="left" if column == "test set" else "right")
    for name, result in results.items():
        table.add_row(name, str(len(result["utterances"])), f"{result['wer']:.2%}", f"{result['cer']:.2%}")
    if results:
        console.print(table)
        for utterance in next(iter(results.values()))["utterances"][:3]:
            console.print(f"said  {utterance['text']}\nheard {utterance['hypothesis']}", markup=False, style="dim")
        console.print(f"scores      {folder / 'scores'}", soft_wrap=True)
    console.print(f"recognizer  {nemo}", soft_wrap=True)
