"""Reads what a language model in ARPA format predicts: its vocabulary, which stands at the head of the file."""

import re
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.scoring.ngram_estimation import BEGIN, END, UNKNOWN

SPECIAL = {BEGIN, END, UNKNOWN, "<UNK>"}
REMEDY = "give the text form of an n-gram model, as KenLM's lmplz and SRILM's ngram-count write it"


@dataclass(frozen=True)
class Arpa:
    """The order of a model and the symbols it knows, without those for the beginning, the end and the unknown."""

    path: Path
    order: int
    symbols: list[str]


def read_arpa(path: Path) -> Arpa:
    """Reads the header and the 1-grams.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an ARPA file, or a truncated one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"language model {path} does not exist")
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        raise ValueError(f"language model {path} is compressed; unpack it first: gunzip {path}")
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            counts = _read_counts(file, path)
            symbols = _read_unigrams(file, path, counts[0])
    except UnicodeDecodeError as error:
        raise ValueError(f"language model {path} is not text in UTF-8 ({error}); {REMEDY}") from error
    _check_end(path)
    missing = {BEGIN, END} - set(symbols)
    if missing:
        raise ValueError(f"language model {path} has no 1-gram {' and no '.join(sorted(missing))}; {REMEDY}")
    return Arpa(path, len(counts), [symbol for symbol in symbols if symbol not in SPECIAL])


def _read_counts(file, path: Path) -> list[int]:
    counts: dict[int, int] = {}
    begun, line = False, ""
    for line in map(str.strip, file):  # SRILM writes an empty line first
        if line and not begun and line != "\\data\\":
            raise ValueError(f"language model {path} is no ARPA file: it begins with {line[:40]!r}, not \\data\\; {REMEDY}")
        begun = begun or bool(line)
        found = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
        if found:
            counts[int(found[1])] = int(found[2])
        elif counts and line:
            break
    if not counts or sorted(counts) != list(range(1, len(counts) + 1)) or line != "\\1-grams:":
        raise ValueError(f"language model {path} is no ARPA file: no counts of n-grams, or no 1-grams after them; {REMEDY}")
    return [counts[order] for order in sorted(counts)]


def _read_unigrams(file, path: Path, count: int) -> list[str]:
    symbols = []
    for line in file:
        fields = line.rstrip("\n").split("\t")
        if not line.strip() or line.startswith("\\"):
            break
        if len(fields) < 2 or not fields[1]:
            raise ValueError(
                f"language model {path}: the line {line.strip()[:60]!r} of its 1-grams is not 'log10 probability', tab, "
                f"'word'; {REMEDY}"
            )
        symbols.append(fields[1])
    if len(symbols) != count:
        raise ValueError(f"language model {path} announces {count} 1-grams and has {len(symbols)}: truncated? Get it again")
    return symbols


def _check_end(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        if b"\\end\\" not in file.read():
            raise ValueError(f"language model {path} does not end with \\end\\: it is truncated; get it again")
