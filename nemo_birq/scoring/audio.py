"""Check of test audio before it is transcribed, because every word of unreadable audio would count as an error."""

import os
from pathlib import Path

from nemo_birq.data.audio.channels import mix
from nemo_birq.data.audio.errors import INTEGERS, AudioError
from nemo_birq.data.audio.file import open_audio
from nemo_birq.data.manifests import read_lines


def check_audio(manifest: str | Path) -> None:
    """Decodes the utterances of a manifest of single files, as NeMo does.

    Args:
        manifest: manifest of single files.

    Raises:
        ValueError: an utterance cannot be decoded, its samples are not audio, or NeMo would read it wrongly without the
            reader of this package; the message names file and line.
    """
    for where, entry, _ in read_lines(str(manifest)):
        path = os.path.join(os.path.dirname(manifest), entry["audio_filepath"])
        problem = _find_problem(path, entry.get("offset") or 0.0, entry["duration"])
        if problem:
            raise ValueError(f"test {where}: {path} {problem}. Repair it, or remove the line from the test set")


def _find_problem(path: str, offset: float, duration: float) -> str | None:
    try:
        with open_audio(path) as audio:
            header = audio.header
            first = int(offset * header.sample_rate)
            if first >= header.frames:
                return f"has no audio at {offset} s: it is {header.seconds:.2f} s long"
            decoded = audio.decode(first, min(int(duration * header.sample_rate), header.frames - first))
            if not decoded.signal.size:
                return "holds no audio"
            _, cancelled = mix(decoded.signal)
            mended = [*decoded.remedies, *([cancelled] if cancelled else [])]
            if cancelled or not audio.is_plain or INTEGERS in {remedy.kind for remedy in mended}:
                return (
                    f"is read wrongly by NeMo ({'; '.join(remedy.reason for remedy in mended)}): convert it to another file"
                )
    except AudioError as error:
        return f"is not usable audio: {error}"
    return None
