"""Transcription of the utterances of a manifest with NeMo's ``transcribe``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins.transcription import TranscribeConfig
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

from nemo_birq.modules.attention_memory import check_attention_fits
from nemo_birq.scoring.beam_search import BeamSearch
from nemo_birq.utils.progress import Advance

REMEDY = "Cut it into parts of at most {seconds} s, each a line of the manifest with offset and duration"


def transcribe(
    model: ASRModel, manifest: Path, lines: list[dict], batch_size: int, beam: BeamSearch | None, advance: Advance
) -> list[str]:
    """Returns the hypothesis of each line, by greedy decoding or by a beam search over the output of a CTC model.

    ``advance`` is called with the number of utterances finished since the last call.

    Raises:
        ValueError: an utterance is too long for the memory.
    """
    texts = [""] * len(lines)
    for rows, hypotheses in _batches(model, manifest, lines, batch_size, with_outputs=beam is not None):
        found = beam.decode([h.y_sequence for h in hypotheses]) if beam else [h.text for h in hypotheses]
        for row, text in zip(rows, found, strict=True):
            texts[row] = text
        advance(len(rows))
    return texts


def outputs(model: ASRModel, manifest: Path, lines: list[dict], batch_size: int, advance: Advance) -> list[torch.Tensor]:
    """Computes the log probabilities of a CTC model for each line, (T', V + 1), blank last."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(lines)
    for rows, hypotheses in _batches(model, manifest, lines, batch_size, with_outputs=True):
        for row, hypothesis in zip(rows, hypotheses, strict=True):
            found[row] = hypothesis.y_sequence
        advance(len(rows))
    return found


def _batches(
    model: ASRModel, manifest: Path, lines: list[dict], batch_size: int, with_outputs: bool
) -> Iterator[tuple[list[int], list[Hypothesis]]]:
    """Yields rows of ``lines`` and NeMo's hypotheses of them, the longest first to reduce padding."""
    order = sorted(range(len(lines)), key=lambda row: -lines[row]["duration"])
    longest = lines[order[0]]
    check_attention_fits(model, f"test manifest {manifest}: {longest['audio_filepath']}", longest["duration"], REMEDY)
    options = TranscribeConfig(batch_size=batch_size, return_hypotheses=with_outputs, num_workers=0, verbose=False)
    done = 0
    with _manifest_of([lines[row] for row in order], manifest.parent) as sorted_manifest:
        for hypotheses in model.transcribe_generator(str(sorted_manifest), options):
            yield order[done : done + len(hypotheses)], hypotheses
            done += len(hypotheses)
    if done != len(lines):
        raise RuntimeError(f"NeMo returned {done} transcripts for the {len(lines)} lines of {manifest}")


@contextmanager
def _manifest_of(lines: list[dict], folder: Path) -> Iterator[Path]:
    """Writes a manifest with absolute paths and without texts, because the tokenizer may refuse texts."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "manifest.json"
        with open(path, "w", encoding="utf-8") as file:
            for line in lines:
                audio = str((folder / line["audio_filepath"]).resolve())
                kept = {key: line[key] for key in ("duration", "offset") if line.get(key) is not None}
                file.write(json.dumps(kept | {"audio_filepath": audio, "text": ""}) + "\n")
        yield path
