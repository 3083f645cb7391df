"""The texts of the manifests, and checks that the vocabulary covers them.

NeMo drops characters without a label, and a tokenizer maps unknown characters to one unknown piece. Without a check, both
are only visible in a high error rate.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from nemo.utils import logging

from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import has_text, iterate_manifest
from nemo_birq.scoring.normalization import APOSTROPHE, APOSTROPHES
from nemo_birq.utils.terminal import printable

SHOWN = 3  # number of example lines
MAX_SAMPLE_RATE = 1_000_000  # Hz
SHOWN_CHARACTERS = 8


class Transcript(NamedTuple):
    """Text of one utterance."""

    name: str
    text: str
    duration: float
    """Duration in seconds."""


def read_transcripts(manifest: str) -> list[Transcript]:
    """Reads every line of a manifest of labelled speech.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line cannot be used, lines have no ``text``, or the manifest is empty.
    """
    if not Path(manifest).is_file():
        raise FileNotFoundError(f"manifest {manifest} does not exist: give the path of a manifest")
    found, silent = [], []
    for where, entry, problem in iterate_manifest(manifest):
        if problem:
            raise ValueError(problem)
        rate = entry.get("sampling_rate", entry.get("sample_rate"))  # NeMo's loader uses it
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (is_number and 0 < rate <= MAX_SAMPLE_RATE):
            raise ValueError(f"{where} has the sample rate {show(rate)}, which must be a number of Hz")
        if has_text(entry):
            found.append(Transcript(entry["audio_filepath"], entry["text"], entry["duration"]))
        else:
            silent.append(f"{entry['audio_filepath']} in line {where.rpartition(' ')[2]}")
    if silent:
        raise ValueError(
            f"manifest {manifest}: {len(silent)} of {len(silent) + len(found)} lines have no text, such as {silent[0]}: "
            "remove them, or add texts. Only pretraining needs no texts"
        )
    if not found:
        raise ValueError(f"manifest {manifest} is empty: give one with labelled speech")
    if not any(transcript.text.strip() for transcript in found):
        raise ValueError(f"manifest {manifest}: the text of all {len(found)} lines is empty: give one with texts")
    return found


def check_covered(
    transcripts: Iterable[Transcript], unknown: Callable[[str], str], manifest: str, vocabulary: str, allowed: bool = False
) -> None:
    """Checks that the vocabulary covers the characters of transcripts.

    Args:
        transcripts: transcripts of a manifest.
        unknown: function that returns the characters of a text outside of the vocabulary, with repetition.
        manifest, vocabulary: names for the message.
        allowed: log the characters instead of raising an error.

    Raises:
        ValueError: characters are not covered; the message has their counts and examples.
    """
    counts: Counter[str] = Counter()
    examples = []
    num_texts = num_outside = 0
    for transcript in transcripts:
        outside = unknown(transcript.text)
        counts.update(outside)
        num_texts, num_outside = num_texts + 1, num_outside + bool(outside)
        if outside and len(examples) < SHOWN:
            examples.append(f"{transcript.name}: {transcript.text}")
    if not counts:
        return
    listed = ", ".join(f"{character!r} {number} times" for character, number in counts.most_common(SHOWN_CHARACTERS))
    listed += f" and {len(counts) - SHOWN_CHARACTERS} others" if len(counts) > SHOWN_CHARACTERS else ""
    message = f"manifest {manifest} has characters that are not in {vocabulary}: {listed}"
    if allowed:
        logging.warning(
            printable(f"{message}; {num_outside} of {num_texts} texts hold one, which the recognizer cannot write")
        )
        return
    raise ValueError(f"{message}, for example\n  " + "\n  ".join(examples) + "\n" + _remedy(counts, unknown))


def _remedy(counts: Counter[str], unknown: Callable[[str], str]) -> str:
    remedies = []
    if any(character != character.lower() and not unknown(character.lower()) for character in counts):
        remedies.append("Put the texts in lower case (birq make-shards librispeech has --lower-case).")
    if any(character.isdigit() for character in counts):
        remedies.append("Write numbers as words.")
    if any(map(unicodedata.combining, counts)):
        remedies.append("Put the texts in Unicode form NFC, in which a letter and its accent are one character.")
    if counts.keys() & set(APOSTROPHES) and not unknown(APOSTROPHE):
        remedies.append("Write apostrophes as ' (U+0027).")
    remedies.append("Or change the vocabulary: model.labels of ctc_char, another or a new tokenizer of the others.")
    return " ".join(remedies)
