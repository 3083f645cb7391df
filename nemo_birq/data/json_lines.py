"""Reads lines of JSON from other programs. A line that cannot be used yields a problem and does not stop the reading."""

import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from nemo_birq.utils.text_files import MARK_BYTES

MAX_LINE_BYTES = 64 << 20
"""Longest line. An hour of labels in eight codebooks has 5 MB; a file of another kind may be one line of gigabytes."""
MAX_DEPTH = 100
"""Deepest nesting of lists and objects. Python reads deeper ones, but may fail to write or show them."""

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 120
_shown.maxlist = _shown.maxdict = 12
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_FILE_NAME = "audio_filepath"


class BadLineError(ValueError):
    """The reason why a line cannot be used, worded to follow the place of the line."""


class ParsedLine(NamedTuple):
    """A line that is not blank."""

    number: int
    """Number in the file, from 1."""
    entry: dict[str, Any]
    """Empty if there is a problem."""
    problem: str | None
    """Reason why the line cannot be used, worded to follow its place."""


def show(value: object) -> str:
    """Returns a value for a message, shortened, however large or deep it is."""
    return _shown.repr(value)


def to_line(entry: dict[str, Any], ensure_ascii: bool = True) -> str:
    """Returns the line of an object. NaN and infinities, which JSON does not have, become null."""
    try:
        return json.dumps(entry, ensure_ascii=ensure_ascii, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(without_nan(entry), ensure_ascii=ensure_ascii) + "\n"


def without_nan(value: Any) -> Any:
    """Returns a value of JSON with null in place of numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    return [without_nan(inner) for inner in value] if isinstance(value, list) else value


def parse_lines(file: BinaryIO) -> Iterator[ParsedLine]:
    """Yields the lines of a binary file that are not blank."""
    return parse_raw_lines(raw_lines(file))


def parse_raw_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[ParsedLine]:
    """Parses the lines of ``raw_lines``."""
    for number, raw in lines:
        try:
            yield ParsedLine(number, parse_line(raw), None)
        except BadLineError as problem:
            yield ParsedLine(number, {}, str(problem))


def parse_line(raw: bytes) -> dict[str, Any]:
    """Returns the object of a line.

    NaN and infinities are accepted, because other programs write them for missing values; users of a number check it.
    File names with bytes that are not UTF-8, which Python writes as lone surrogates, are accepted, too.

    Raises:
        BadLineError: the line is not one JSON object in UTF-8, is too long or nested too deep, or has a number of
            thousands of digits, a key twice, or half a character (a lone surrogate).
    """
    raw = raw.removeprefix(MARK_BYTES)  # at the head of a file, or in the middle of files that were joined
    if len(raw) > MAX_LINE_BYTES:
        raise BadLineError(f"is longer than {MAX_LINE_BYTES >> 20} MiB; a manifest holds one JSON object a line")
    try:
        entry = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = f"byte {raw[error.start]:#x} at {error.start}"
        raise BadLineError(f"is not UTF-8: {byte}; convert the file with iconv -t UTF-8") from error
    except BadLineError:
        raise
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
        raise BadLineError(f"is not JSON ({reason}); a manifest holds one JSON object a line") from error
    except RecursionError as error:
        raise BadLineError("is nested too deep") from error
    except ValueError as error:  # Python refuses integers of thousands of digits, which would take it hours
        raise BadLineError("has a number of thousands of digits") from error
    if not isinstance(entry, dict):
        raise BadLineError(f"is not a JSON object but {type(entry).__name__}")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(entry):
        raise BadLineError(f"is nested deeper than {MAX_DEPTH} lists and objects")
    if _SURROGATE.search(raw) and not _is_text(entry):
        raise BadLineError("has half a character (a lone surrogate, \\ud800 to \\udfff)")
    return entry


def raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields number and bytes of each line that is not blank; at most ``MAX_LINE_BYTES`` + 1 bytes of a line."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
        elif not raw.removeprefix(MARK_BYTES).strip():
            continue
        yield number, raw


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise BadLineError(f"has the key {show(twice)} twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_without_repetition)  # one for all: making it takes as long as a line


def _is_deep(entry: dict[str, Any]) -> bool:
    level: list[Any] = [entry]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _contents(outer)]
    return bool(level)


def _contents(outer: Any) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _is_text(entry: dict[str, Any]) -> bool:
    """Tests if all strings except file names can be written as UTF-8."""
    try:
        json.dumps({key: value for key, value in entry.items() if key != _FILE_NAME}, ensure_ascii=False).encode()
        str(entry.get(_FILE_NAME)).encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
