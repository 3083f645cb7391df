"""Rules for damage that cannot be detected, because the file is a valid file of its format with other values.

Each rule compares the good and the damaged file. It returns its reason, or None if a checksum, a count or the structure of
the format reveals the damage.
"""

import gzip
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import soundfile
import yaml

Rule = Callable[[Path, Path], str | None]
CONFIGURATIONS = ("config", "finetune_config")
"""Keys of a record of an experiment."""


def never(good: Path, bad: Path) -> str | None:
    """Accepts nothing, for formats with a checksum of everything."""
    return None


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError):
        return None


# --- JSON -------------------------------------------------------------------------------------------------------------


def same_form(one: Any, other: Any) -> bool:
    """Tests that two JSON values have equal keys and types everywhere. Lists may have other lengths."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same_form(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and all(any(same_form(mine, its) for mine in one) for its in other)
    if isinstance(one, bool) or one is None or isinstance(other, bool) or other is None:
        return type(one) is type(other)
    if isinstance(one, int | float):
        return isinstance(other, int | float) and math.isfinite(other) and (one < 0 or other >= 0)
    return isinstance(other, type(one))


def json_values(good: Path, bad: Path) -> str | None:
    """Accepts JSON with the same keys and types, and other numbers or texts."""
    text = _text(bad)
    try:
        is_same = text is not None and same_form(json.loads(_text(good)), json.loads(text))
    except (ValueError, RecursionError):
        return None
    return "JSON with the same keys and types has no redundancy" if is_same else None


def experiment_record(good: Path, bad: Path) -> str | None:
    """Accepts a record of an experiment as ``json_values`` does, with any keys in its two configurations."""
    try:
        records = [json.loads(_text(path)) for path in (good, bad)]
    except (TypeError, ValueError, RecursionError):
        return None
    if any(not isinstance(record, dict) or not isinstance(record.get(CONFIGURATIONS[0]), dict) for record in records):
        return None
    forms = [{key: value for key, value in record.items() if key not in CONFIGURATIONS} for record in records]
    return "a configuration in a record of an experiment has no redundancy" if same_form(*forms) else None


def json_lines(good: Path, bad: Path) -> str | None:
    """Accepts JSON lines with the keys and types of a good line each; their number may differ, because it is not stored."""
    known, found = _json_objects(good), _json_objects(bad)
    is_same = bool(found) and all(any(same_form(mine, its) for mine in known) for its in found)
    return "all lines have the keys and types of good ones, and the file has no checksum" if is_same else None


def sharded_manifest(good: Path, bad: Path) -> str | None:
    """Accepts a manifest that names the same members and durations, up to NeMo's tolerance of 0.2 s."""
    known, found = ({line.get("audio_filepath"): line for line in _json_objects(path) or []} for path in (good, bad))
    if known.keys() != found.keys() or len(known) != len(_json_objects(bad) or []):
        return None
    durations = [(found[name].get("duration"), known[name]["duration"]) for name in known]
    if not all(_is_number(its) and 0 < its <= known + 0.2 for its, known in durations):
        return None
    return "the lines of the manifest name the members of the shard, and it has no checksum"


def manifest(good: Path, bad: Path) -> str | None:
    """Accepts a manifest whose lines are all usable, with additional or missing lines, other texts or other keys.

    The duration must be that of the audio up to NeMo's tolerance of 0.2 s, because the audio is compared with it.
    """
    lines = _json_objects(bad)
    if lines is None:
        return None
    for line in lines:
        path, duration, offset = line.get("audio_filepath"), line.get("duration"), line.get("offset") or 0
        if not isinstance(path, str) or not _is_number(duration) or not _is_number(offset):
            return None
        audio = bad.parent / path
        if not audio.is_file() or not 0 < duration <= soundfile.info(audio).duration - offset + 0.2 or offset < 0:
            return None
    return "all lines of the manifest are usable, and it has no checksum"


def manifest_with_texts(good: Path, bad: Path) -> str | None:
    """Accepts a manifest as ``manifest`` does if all lines have a text, for commands that read texts."""
    if not all(isinstance(line.get("text"), str) for line in _json_objects(bad) or []):
        return None
    return manifest(good, bad)


def _json_objects(path: Path) -> list[dict] | None:
    text = _text(path)
    if text is None or "\x00" in text:
        return None
    try:
        lines = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return None
    return lines if lines and all(isinstance(line, dict) for line in lines) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# --- audio ------------------------------------------------------------------------------------------------------------


def _wav_form(content: bytes) -> tuple[bytes, int] | None:
    """Returns the header and the number of bytes beyond the announced length; a negative number of bytes is missing."""
    at = content.find(b"data")
    if at < 0 or len(content) < at + 8:
        return None
    return content[: at + 8], len(content) - at - 8 - int.from_bytes(content[at + 4 : at + 8], "little")


def wav(good: Path, bad: Path) -> str | None:
    """Accepts PCM with other samples, if the header is that of the good file and the number of samples is right.

    Up to 0.2 s may be missing, NeMo's tolerance between the durations of a manifest and of a file.
    """
    return _other_samples(good.read_bytes(), bad.read_bytes())


def _other_samples(good: bytes, bad: bytes) -> str | None:
    known, found = _wav_form(good), _wav_form(bad)
    if known is None or found is None or known[0] != found[0]:
        return None
    if found[1] >= 0:
        return "samples of PCM have no checksum"
    seconds = -found[1] / int.from_bytes(good[28:32], "little")  # bytes a second
    return "samples of PCM have no checksum, and less than 0.2 s of them is missing" if seconds <= 0.2 else None


def shortened(good: Path | BinaryIO, bad: Path | BinaryIO) -> str | None:
    """Accepts audio that ends up to 0.2 s early, NeMo's tolerance between the durations of a manifest and of a file."""
    try:
        (known, rate), (found, its_rate) = (soundfile.read(audio) for audio in (good, bad))
    except (soundfile.SoundFileError, RuntimeError):
        return None
    is_beginning = rate == its_rate and len(found) and (known[: len(found)] == found).all()
    return "the audio ends less than 0.2 s early" if is_beginning and len(known) - len(found) <= 0.2 * rate else None


def wav_shard(good: Path, bad: Path) -> str | None:
    """Accepts a tar shard with the same members, each of them PCM with other samples, or a little shorter."""
    try:
        known, found = ({member.name: content for member, content in _members(path)} for path in (good, bad))
    except (tarfile.TarError, OSError):
        return None
    if list(known) != list(found):
        return None
    changed = [(known[name], found[name]) for name in known if known[name] != found[name]]
    reasons = [_other_samples(*pair) for pair in changed]
    return f"in a member of a tar, {reasons[0]}" if reasons and all(reasons) else None


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            yield member, b"" if file is None else file.read()


# --- alignments and language models -----------------------------------------------------------------------------------


def ctm(good: Path, bad: Path) -> str | None:
    """Accepts CTM whose lines all have a name, a channel, two times and a symbol."""
    text = _text(bad)
    if not text or "\x00" in text:
        return None
    names = {line.split()[0] for line in good.read_text().splitlines()}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) not in (5, 6) or fields[0] not in names or not all(_is_time(field) for field in fields[2:4]):
            return None
    return "all lines of the CTM are complete, and it has no checksum"


def _is_time(text: str) -> bool:
    return bool(re.fullmatch(r"\d+(\.\d+)?", text)) and float(text) < 1e4


def text_grid(good: Path, bad: Path) -> str | None:
    """Accepts a TextGrid with the same number of lines, which differ only in their number or text."""
    text = _text(bad)
    if text is None or "\x00" in text:
        return None
    value = re.compile(r'(= )(-?\d+(\.\d+)?|".*")\s*$', re.MULTILINE)
    forms = [value.sub("=", one.replace("\r\n", "\n")).split() for one in (good.read_text(), text)]
    return "another time or symbol in a TextGrid, which has no checksum" if forms[0] == forms[1] else None


def arpa(good: Path, bad: Path) -> str | None:
    """Accepts an ARPA file with the announced number of n-grams of each order, and with valid numbers."""
    text = _text(bad)
    if not text or "\x00" in text:
        return None
    announced = dict(re.findall(r"^ngram (\d+)=(\d+)\s*$", text, re.MULTILINE))
    sections = re.split(r"^\\(\d+)-grams:\s*$", text.partition("\\end\\")[0], flags=re.MULTILINE)
    found = {}
    for order, section in zip(sections[1::2], sections[2::2], strict=True):
        rows = [row.split("\t") for row in section.splitlines() if row.strip()]
        words = [row[1].split(" ") for row in rows if len(row) in (2, 3)]
        if len(words) != len(rows) or any(len(one) != int(order) for one in words):
            return None
        if not all(_is_logarithm(row[0]) and (len(row) == 2 or _is_float(row[2])) for row in rows):
            return None
        found[order] = str(len({row[1] for row in rows}))
    return "the counts of an ARPA file fit, and it has no checksum" if found == announced and "\\end\\" in text else None


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_logarithm(text: str) -> bool:
    return _is_float(text) and float(text) <= 0


# --- configurations and others ----------------------------------------------------------------------------------------


def yaml_values(good: Path, bad: Path) -> str | None:
    """Accepts YAML with keys of the good file only, and with values of the same types."""
    text = _text(bad)
    if text is None:
        return None
    try:
        found, known = yaml.safe_load(text), yaml.safe_load(good.read_text())
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    is_valid = isinstance(found, dict) and _keys_within(found, known)
    return "a key fewer, or another value of the same type: a configuration has no redundancy" if is_valid else None


def _keys_within(found: Any, known: Any) -> bool:
    if isinstance(found, dict):
        return isinstance(known, dict) and all(key in known and _keys_within(found[key], known[key]) for key in found)
    if isinstance(found, bool) or isinstance(known, bool) or found is None or known is None:
        return True
    if isinstance(found, int | float):
        return isinstance(known, int | float)
    return isinstance(found, type(known))


def any_text(good: Path, bad: Path) -> str | None:
    """Accepts any text, because the format has no structure."""
    text = _text(bad)
    return None if text is None or "\x00" in text else "plain text has no structure and no checksum"


def sentencepiece(good: Path, bad: Path) -> str | None:
    """Accepts a tokenizer that is a complete message of its format with as many pieces."""
    from sentencepiece import sentencepiece_model_pb2

    if not bad.is_file():
        return None
    models = [sentencepiece_model_pb2.ModelProto() for _ in range(2)]
    try:
        for model, path in zip(models, (good, bad), strict=True):
            model.MergeFromString(path.read_bytes())
    except Exception:
        return None
    is_same = len(models[0].pieces) == len(models[1].pieces)
    return "a tokenizer with as many pieces is valid, and it has no checksum" if is_same else None


def by_suffix(rules: dict[str, Rule]) -> Rule:
    """Returns a rule for each suffix of the damaged file."""
    return lambda good, bad: rules.get(good.suffix, never)(good, bad)
