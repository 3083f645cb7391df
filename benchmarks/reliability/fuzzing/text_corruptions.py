"""Corruptions of text, of its lines, and of the fields of JSON and YAML."""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.reliability.fuzzing.corruptions import Corruption, of_bytes

NUMBER = re.compile(rb"-?\d+(\.\d+)?")
NUMBERS = (b"0", b"-1", b"1e308", b"-1e308", b"1e999", b"9" * 400, b"NaN", b"-Infinity", b"0x10", b"1,5", b"")
DEPTH = 100_000
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 10**12, 2**64, 10**400, 1e308, 5e-324, float("nan"), float("inf"), "", " ", "a", "\x00", "\ud800",
    "../../../etc/passwd", "/dev/null", "a" * 5000, "nan", "1", [], [1], [[]], {}, {"a": 1},
)  # fmt: skip
"""Replacement values, most of them of a wrong type or range."""

Lines = Callable[[list[bytes], int, random.Random], list[bytes]]


def _of_lines(name: str, change: Lines) -> Corruption:
    def changed(content: bytes, rng: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join(change(lines, rng.randrange(len(lines)), rng)) if lines else content

    return of_bytes(name, changed)


def _inside(name: str, new: Callable[[random.Random], bytes]) -> Corruption:
    """Makes a corruption that inserts something inside a line."""

    def change(lines: list[bytes], at: int, rng: random.Random) -> list[bytes]:
        position = rng.randrange(len(lines[at]))
        return [*lines[:at], lines[at][:position] + new(rng) + lines[at][position:], *lines[at + 1 :]]

    return _of_lines(name, change)


def _another_number(content: bytes, rng: random.Random) -> bytes:
    found = list(NUMBER.finditer(content))
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS) + content[match.end() :]


TEXT = (
    _of_lines("a line deleted", lambda lines, at, rng: lines[:at] + lines[at + 1 :]),
    _of_lines("a line doubled", lambda lines, at, rng: lines[: at + 1] + lines[at:]),
    _of_lines("a line moved", lambda lines, at, rng: lines[:at] + lines[at + 1 :] + [lines[at]]),
    _of_lines(
        "a line broken off",
        lambda lines, at, rng: [*lines[:at], lines[at][: rng.randrange(len(lines[at]))] + b"\n", *lines[at + 1 :]],
    ),
    of_bytes("an absurd number", _another_number),
    _inside("invalid UTF-8", lambda rng: rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xe2\x82"])),
    _inside("a NUL", lambda rng: b"\x00"),
    of_bytes("a byte order mark", lambda content, rng: b"\xef\xbb\xbf" + content),
    of_bytes("CRLF", lambda content, rng: content.replace(b"\n", b"\r\n")),
    of_bytes("UTF-16", lambda content, rng: content.decode("utf-8", "replace").encode("utf-16")),
    _inside("deep nesting", lambda rng: rng.choice([b"[", b'{"a":', b"(("]) * DEPTH),
)


# --- fields -----------------------------------------------------------------------------------------------------------


def places(value: Any, leaves_only: bool = False) -> list[tuple[Any, Any]]:
    """Lists (container, key) of everything inside nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in list(items):
        below = places(inner, leaves_only)
        found += below if below and leaves_only else [(value, key), *below]
    return found


def change_field(value: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Changes one field of nested dictionaries and lists in place: another value, key, or type; returns the whole."""
    found = places(value)
    if not found:
        return rng.choice(values)
    container, key = rng.choice(found)
    way = rng.choice(["value", "value", "value", "removed", "unknown key", "nudged"])
    if way == "removed":
        del container[key]
    elif way == "unknown key" and isinstance(container, dict):
        container["unknown_key"] = rng.choice(values)
    elif way == "nudged" and isinstance(container[key], int | float | str) and not isinstance(container[key], bool):
        container[key] = container[key] + "x" if isinstance(container[key], str) else container[key] + 1
    else:
        container[key] = rng.choice(values)
    return value


def json_line(content: bytes, rng: random.Random) -> bytes:
    """Changes a field of one line of JSON lines."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = _as_json(change_field(json.loads(lines[at]), rng))
    return b"".join(lines)


def json_file(content: bytes, rng: random.Random) -> bytes:
    """Changes a field of a JSON file."""
    return _as_json(change_field(json.loads(content), rng))


def yaml_file(content: bytes, rng: random.Random) -> bytes:
    """Changes a field of a YAML file; comments go, except Hydra's header."""
    header = b"".join(line for line in content.splitlines(keepends=True) if line.startswith(b"# @"))
    values = tuple(value for value in VALUES if value not in ("\x00", "\ud800"))  # YAML cannot write them
    return header + yaml.safe_dump(change_field(yaml.safe_load(content), rng, values), sort_keys=False).encode()


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _compressed(corruption: Corruption) -> Corruption:
    def apply(path: Path, rng: random.Random) -> None:
        path.write_bytes(gzip.decompress(path.read_bytes()))
        corruption.apply(path, rng)
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))

    return Corruption(f"inside gzip: {corruption.name}", apply)


FIELDS = 8
"""Weight of corruptions of fields, relative to other corruptions."""
JSON_LINES = TEXT + FIELDS * (of_bytes("a field of a line", json_line),)
JSON_FILE = TEXT + FIELDS * (of_bytes("a field", json_file),)
YAML_FILE = TEXT + FIELDS * (of_bytes("a field", yaml_file),)
COMPRESSED_JSON_LINES = tuple(_compressed(corruption) for corruption in JSON_LINES)
