"""The check of test audio before it is transcribed: what is no audio stops the work, since its words would all be errors."""

import os
from pathlib import Path

import soundfile

from nemo_birq.data.manifests import read_lines
from nemo_birq.data.samples import find_bad_samples


def check_audio(manifest: str | Path) -> None:
    """Decodes the utterances of a manifest of single files, as NeMo will do.

    Args:
        manifest: of single files.

    Raises:
        ValueError: an utterance that cannot be decoded, or whose samples are no audio; naming file and line.
    """
    for where, entry, _ in read_lines(str(manifest)):
        path = os.path.join(os.path.dirname(manifest), entry["audio_filepath"])
        problem = _find_problem(path, entry.get("offset") or 0.0, entry["duration"])
        if problem:
            raise ValueError(f"test {where}: {path} {problem}. Mend it, or take the line out of the test set")


def _find_problem(path: str, offset: float, duration: float) -> str | None:
    try:
        with soundfile.SoundFile(path) as file:
            first = int(offset * file.samplerate)
            if first >= file.frames:
                return f"has no audio at {offset} s, it is {file.frames / file.samplerate:.2f} s long"
            file.seek(first)
            signal = file.read(int(duration * file.samplerate), dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        return f"cannot be decoded ({error})"
    if not signal.size:
        return "holds no audio"
    bad = find_bad_samples(signal)
    return None if bad is None else f"is no audio: {bad[1]}"
