"""Reading of the vocabulary of a language model in ARPA format."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nemo_birq.scoring.ngram_estimation import BEGIN, END, UNKNOWN
from nemo_birq.utils.text_files import MARK_BYTES

SPECIAL = {BEGIN, END, UNKNOWN, "<UNK>"}
REMEDY = "give the text form of an n-gram model, as KenLM's lmplz and SRILM's ngram-count write it"


@dataclass(frozen=True)
class Arpa:
    """Order and symbols of a model, without those for the beginning, the end and unknown words."""

    path: Path
    order: int
    symbols: list[str]


def read_arpa(path: Path) -> Arpa:
    """Reads the header and the 1-grams.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an ARPA file, is truncated, or has a 1-gram twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"language model {path} does not exist: give an ARPA file")
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        raise ValueError(f"language model {path} is compressed: unpack it with gunzip {path}")
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            counts = _read_counts(file, path)
            symbols = _read_unigrams(file, path, counts[0])
    except UnicodeDecodeError as error:
        raise ValueError(f"language model {path} is not text in UTF-8 ({error}); {REMEDY}") from error
    _check_end(path)
    missing = {BEGIN, END} - set(symbols)
    if missing:
        raise ValueError(f"language model {path} has no 1-gram {' and no '.join(sorted(missing))}; {REMEDY}")
    symbol, count = Counter(symbols).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"language model {path} has the 1-gram {symbol!r} {count} times, and decoders disagree on which of its "
            "probabilities they use: estimate the model again, or keep one of them"
        )
    return Arpa(path, len(counts), [symbol for symbol in symbols if symbol not in SPECIAL])


@contextmanager
def decodable(arpa: Arpa) -> Iterator[Arpa]:
    """Yields the model in a file that KenLM and NeMo can read: the original, or a temporary copy within the block.

    They read no byte order mark, and no model without 2-grams. The copy of such a model has one additional 2-gram with its
    back-off probability, so that the predictions do not change.
    """
    with open(arpa.path, "rb") as file, TemporaryDirectory() as folder:
        marked = file.read(len(MARK_BYTES)) == MARK_BYTES
        if not marked and arpa.order > 1:
            yield arpa
            return
        file.seek(len(MARK_BYTES) if marked else 0)
        copy = Path(folder) / arpa.path.name
        with open(copy, "wb") as target:
            if arpa.order > 1:
                shutil.copyfileobj(file, target)
            else:
                target.write(_with_one_bigram(file.read().decode("utf-8")).encode("utf-8"))
        yield replace(arpa, path=copy)


def _with_one_bigram(text: str) -> str:
    probability = re.search(rf"^(\S+)\t{END}\s", text, re.MULTILINE)[1]
    text = re.sub(r"^(ngram\s+1\s*=.*)$", r"\1\nngram 2=1", text.replace("\r\n", "\n"), count=1, flags=re.MULTILINE)
    return text.replace("\n\\end\\", f"\n\\2-grams:\n{probability}\t{BEGIN} {END}\n\n\\end\\", 1)


def _read_counts(file, path: Path) -> list[int]:
    counts: dict[int, int] = {}
    begun, line = False, ""
    for line in map(str.strip, file):  # SRILM writes an empty line first
        if line and not begun and line != "\\data\\":
            raise ValueError(
                f"language model {path} is not an ARPA file: it begins with {line[:40]!r}, not \\data\\; {REMEDY}"
            )
        begun = begun or bool(line)
        found = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
        if found:
            counts[int(found[1])] = int(found[2])
        elif counts and line:
            break
    if not counts or sorted(counts) != list(range(1, len(counts) + 1)) or line != "\\1-grams:":
        raise ValueError(
            f"language model {path} is not an ARPA file: it has no counts of n-grams, or no 1-grams after them; {REMEDY}"
        )
    return [counts[order] for order in sorted(counts)]


def _read_unigrams(file, path: Path, count: int) -> list[str]:
    symbols = []
    for line in file:
        fields = line.rstrip("\r\n").split("\t")
        if not line.strip() or line.startswith("\\"):
            break
        if len(fields) < 2 or not fields[1]:
            raise ValueError(
                f"language model {path}: the line {line.strip()[:60]!r} of its 1-grams is not 'log10 probability', tab, "
                f"'word'; {REMEDY}"
            )
        symbols.append(fields[1])
    if len(symbols) != count:
        raise ValueError(
            f"language model {path} announces {count} 1-grams but has {len(symbols)}: it may be truncated. Get it again"
        )
    return symbols


def _check_end(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        if b"\\end\\" not in file.read():
            raise ValueError(f"language model {path} does not end with \\end\\: it is truncated. Get it again")
