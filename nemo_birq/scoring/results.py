"""Error rates of a test set, in total, per speaker and per length, as the dictionary of the JSON file."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from nemo.collections.asr.models import ASRModel

from nemo_birq.scoring.audio import check_audio
from nemo_birq.scoring.beam_search import BeamSearch
from nemo_birq.scoring.confidence import ratio_interval, sum_by
from nemo_birq.scoring.errors import count_errors
from nemo_birq.scoring.eval_sets import check_test_manifest, speaker_of, unwritable
from nemo_birq.scoring.normalization import STEPS, normalize
from nemo_birq.scoring.transcription import transcribe
from nemo_birq.utils.progress import Advance

LENGTHS = 5  # number of groups by duration, with equal numbers of utterances
MIN_GROUP = 10  # utterances per group; with fewer utterances, there are fewer groups
Key = TypeVar("Key", str, tuple[float, float])


def score(
    model: ASRModel, manifest: str | Path, batch_size: int = 16, beam: BeamSearch | None = None,
    normalization: str = "default", advance: Advance = lambda amount, description=None: None,
) -> dict:  # fmt: skip
    """Transcribes a manifest of single files, greedily or with a beam search, and counts the errors.

    Returns:
        ``wer`` and ``cer`` as fractions with intervals, the groups, and ``utterances``; see ``summarize``.

    Raises:
        ValueError, FileNotFoundError: as ``check_test_manifest`` and ``check_audio``.
    """
    lines = check_test_manifest(manifest)
    check_audio(manifest)
    hypotheses = transcribe(model, Path(manifest), lines, batch_size, beam, advance)
    return {"manifest": str(manifest)} | summarize(lines, hypotheses, normalization, model)


def summarize(
    lines: list[dict], hypotheses: list[str], normalization: str = "default", model: ASRModel | None = None
) -> dict:
    """Counts errors after normalizing references and hypotheses in the same way.

    Args:
        lines: lines of a manifest with ``text``; ``speaker`` (or ``speaker_id``) and ``duration`` define groups.
        hypotheses: hypotheses of the model, in the same order.
        model: recognizer, to list characters of the references outside of its vocabulary; None: no list.

    Raises:
        ValueError: no word is left in the references.
    """
    reference = normalize([line["text"] for line in lines], normalization)
    hypothesis = normalize(hypotheses, normalization)
    utterances = [_utterance(*found) for found in zip(lines, reference.texts, hypothesis.texts, hypotheses, strict=True)]
    if not any(utterance["words"] for utterance in utterances):
        raise ValueError("the references have no words after normalization: give other transcripts, or --normalization none")
    return rates(utterances) | {
        "seconds": total_seconds(lines),
        "normalization": {
            "way": normalization,
            "steps": STEPS[normalization],
            "references_changed": reference.changed,
            "hypotheses_changed": hypothesis.changed,
        },
        "unwritable": dict(unwritable(model, reference.texts).most_common()) if model else {},
        **groups(utterances),
        "utterances": utterances,
    }


def total_seconds(lines: list[dict]) -> float:
    """Sums the durations of utterances or manifest lines."""
    return round(sum(line["duration"] for line in lines), 3)


def rates(utterances: list[dict]) -> dict:
    """Computes sums and ratios, with 95 % intervals over utterances and, if known, over speakers."""
    count = {key: np.array([utterance[key] for utterance in utterances]) for key in COUNTS}
    found: dict = {"num_utterances": len(utterances)} | {key: int(values.sum()) for key, values in count.items()}
    speakers = [utterance["speaker"] for utterance in utterances]
    for name, errors, units in (("wer", "errors", "words"), ("cer", "character_errors", "characters")):
        found[name] = found[errors] / found[units] if found[units] else None
        found[f"{name}_interval"] = ratio_interval(count[errors], count[units])
        if None not in speakers and len(set(speakers)) > 1:
            summed = sum_by(speakers, count[errors], count[units])
            found[f"{name}_interval_over_speakers"] = ratio_interval(*summed)
    return found


COUNTS = ("words", "errors", "substitutions", "insertions", "deletions", "characters", "character_errors")


def count_utterance(reference: str, hypothesis: str) -> dict[str, int]:
    """Counts the words, characters and errors of one utterance, with the keys ``COUNTS``."""
    words, characters = count_errors(reference, hypothesis), count_errors(reference, hypothesis, characters=True)
    return {
        "words": words.units,
        "errors": words.total,
        "substitutions": words.substitutions,
        "insertions": words.insertions,
        "deletions": words.deletions,
        "characters": characters.units,
        "character_errors": characters.total,
    }


def _utterance(line: dict, reference: str, hypothesis: str, transcript: str) -> dict:
    return {
        "audio_filepath": line["audio_filepath"],
        "offset": line.get("offset") or 0,
        "duration": line["duration"],
        "speaker": speaker_of(line),
        "text": line["text"],
        "hypothesis": transcript,
        "reference_scored": reference,
        "hypothesis_scored": hypothesis,
        **count_utterance(reference, hypothesis),
    }


def groups(utterances: list[dict]) -> dict[str, list[dict]]:
    """Computes the rates of each speaker and of each range of durations: ``speakers`` and ``lengths``."""
    return {
        "speakers": _groups(utterances, [utterance["speaker"] for utterance in utterances], str),
        "lengths": _groups(utterances, _length_ranges([utterance["duration"] for utterance in utterances]), _seconds),
    }


def _groups(utterances: list[dict], keys: list[Key | None], name: Callable[[Key], str]) -> list[dict]:
    """Computes the rates for each key, in the order of the keys; empty if utterances have no key, or all have the same."""
    if None in keys or len(set(keys)) < 2:
        return []
    found: dict[Key, list[dict]] = {key: [] for key in sorted(set(keys))}
    for utterance, key in zip(utterances, keys, strict=True):
        found[key].append(utterance)
    return [{"name": name(key)} | rates(members) for key, members in found.items()]


def _length_ranges(durations: list[float]) -> list[tuple[float, float] | None]:
    """Returns the shortest and longest duration in the group of each utterance, in seconds."""
    number = min(LENGTHS, len(durations) // MIN_GROUP)
    edges = np.unique(np.quantile(durations, np.linspace(0, 1, number + 1)).round(1)) if number > 1 else np.array([])
    if len(edges) < 3:
        return [None] * len(durations)
    rows = np.clip(np.searchsorted(edges, durations, side="right") - 1, 0, len(edges) - 2)
    return [(float(edges[row]), float(edges[row + 1])) for row in rows]


def _seconds(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1f}-{ends[1]:.1f} s"
