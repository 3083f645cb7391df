"""Error rates of a test set, over all, per speaker and per length; as a dict that is the JSON file."""

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

LENGTHS = 5  # groups by duration, of equally many utterances
MIN_GROUP = 10  # utterances; with fewer, there are fewer groups
Key = TypeVar("Key", str, tuple[float, float])


def score(
    model: ASRModel, manifest: str | Path, batch_size: int = 16, beam: BeamSearch | None = None,
    normalization: str = "default", advance: Advance = lambda amount, description=None: None,
) -> dict:  # fmt: skip
    """Transcribes a manifest of single files, greedily or with a beam search, and counts the errors.

    Returns:
        ``wer`` and ``cer`` as fractions with intervals, the groups, and ``utterances``; as ``summarize``.

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
    """Counts errors after normalizing references and hypotheses alike.

    Args:
        lines: of a manifest, with ``text``; ``speaker`` (or ``speaker_id``) and ``duration`` make groups.
        hypotheses: of the model, in the same order.
        model: names characters of the references that it cannot write, where given.

    Raises:
        ValueError: no word is left in the references.
    """
    reference = normalize([line["text"] for line in lines], normalization)
    hypothesis = normalize(hypotheses, normalization)
    utterances = [_utterance(*found) for found in zip(lines, reference.texts, hypothesis.texts, hypotheses, strict=True)]
    if not any(utterance["words"] for utterance in utterances):
        raise ValueError("no word is left in the references after normalization; there is nothing to score")
    return rates(utterances) | {
        "seconds": round(sum(line["duration"] for line in lines), 3),
        "normalization": {
            "way": normalization,
            "steps": STEPS[normalization],
            "references_changed": reference.changed,
            "hypotheses_changed": hypothesis.changed,
        },
        "unwritable": dict(unwritable(model, reference.texts).most_common()) if model else {},
        "speakers": _groups(utterances, [utterance["speaker"] for utterance in utterances], str),
        "lengths": _groups(utterances, _length_ranges([utterance["duration"] for utterance in utterances]), _seconds),
        "utterances": utterances,
    }


def rates(utterances: list[dict]) -> dict:
    """Computes sums and ratios, with 95 % intervals over utterances and, where known, over speakers."""
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


def _utterance(line: dict, reference: str, hypothesis: str, transcript: str) -> dict:
    words, characters = count_errors(reference, hypothesis), count_errors(reference, hypothesis, characters=True)
    return {
        "audio_filepath": line["audio_filepath"],
        "offset": line.get("offset") or 0,
        "duration": line["duration"],
        "speaker": speaker_of(line),
        "text": line["text"],
        "hypothesis": transcript,
        "reference_scored": reference,
        "hypothesis_scored": hypothesis,
        "words": words.units,
        "errors": words.total,
        "substitutions": words.substitutions,
        "insertions": words.insertions,
        "deletions": words.deletions,
        "characters": characters.units,
        "character_errors": characters.total,
    }


def _groups(utterances: list[dict], keys: list[Key | None], name: Callable[[Key], str]) -> list[dict]:
    """Computes the rates for each key, in the order of the keys; empty if some utterances have none, or all have one."""
    if None in keys or len(set(keys)) < 2:
        return []
    found: dict[Key, list[dict]] = {key: [] for key in sorted(set(keys))}
    for utterance, key in zip(utterances, keys, strict=True):
        found[key].append(utterance)
    return [{"name": name(key)} | rates(members) for key, members in found.items()]


def _length_ranges(durations: list[float]) -> list[tuple[float, float] | None]:
    """Returns the shortest and longest duration of each utterance's group, in seconds."""
    number = min(LENGTHS, len(durations) // MIN_GROUP)
    edges = np.unique(np.quantile(durations, np.linspace(0, 1, number + 1)).round(1)) if number > 1 else np.array([])
    if len(edges) < 3:
        return [None] * len(durations)
    rows = np.clip(np.searchsorted(edges, durations, side="right") - 1, 0, len(edges) - 2)
    return [(float(edges[row]), float(edges[row + 1])) for row in rows]


def _seconds(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1f}-{ends[1]:.1f} s"
