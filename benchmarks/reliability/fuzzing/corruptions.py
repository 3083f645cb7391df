"""Corruptions that are independent of a format: of the bytes of a file, or of the file as a whole."""

import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Apply = Callable[[Path, random.Random], None]
Change = Callable[[bytes, random.Random], bytes]
TRIES = 20


@dataclass(frozen=True)
class Corruption:
    """One way to damage a file in place."""

    name: str
    apply: Apply


def of_bytes(name: str, change: Change) -> Corruption:
    """Makes a corruption from a function of a file's content. It changes the content whenever possible."""

    def apply(path: Path, rng: random.Random) -> None:
        content = path.read_bytes()
        changed = next((new for _ in range(TRIES) if (new := change(content, rng)) != content), content)
        path.write_bytes(changed)

    return Corruption(name, apply)


def block(size: int, rng: random.Random) -> slice:
    """Draws a position and a length from one byte to all, uniformly over orders of magnitude."""
    length = min(size, int(math.exp(rng.uniform(0, math.log(max(size, 1) + 1)))))
    start = rng.randint(0, size - length)
    return slice(start, start + length)


def replaced(content: bytes, where: slice, new: bytes) -> bytes:
    """Returns the content with other bytes in the place of a block."""
    return content[: where.start] + new + content[where.stop :]


def _flipped(content: bytes, rng: random.Random, mask: int) -> bytes:
    if not content:
        return content
    at = rng.randrange(len(content))
    return replaced(content, slice(at, at + 1), bytes([content[at] ^ mask]))


def _zeroed(content: bytes, rng: random.Random) -> bytes:
    where = block(len(content), rng)
    return replaced(content, where, bytes(where.stop - where.start))


def _overwritten(content: bytes, rng: random.Random) -> bytes:
    where = block(len(content), rng)
    return replaced(content, where, rng.randbytes(where.stop - where.start))


def _inserted(content: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    return replaced(content, slice(at, at), rng.randbytes(rng.randint(1, 64)))


def _duplicated(content: bytes, rng: random.Random) -> bytes:
    where = block(len(content), rng)
    return replaced(content, where, 2 * content[where])


def _swapped(content: bytes, rng: random.Random) -> bytes:
    first, second, third = sorted(rng.randint(0, len(content)) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


BYTES = (
    of_bytes("truncated", lambda content, rng: content[: rng.randrange(len(content) or 1)]),
    of_bytes("last bytes lost", lambda content, rng: content[: -rng.randint(1, min(512, len(content) or 1))]),
    of_bytes("empty", lambda content, rng: b""),
    of_bytes("zeroed block", _zeroed),
    of_bytes("random block", _overwritten),
    of_bytes("flipped bit", lambda content, rng: _flipped(content, rng, 1 << rng.randrange(8))),
    of_bytes("flipped byte", lambda content, rng: _flipped(content, rng, 255)),
    of_bytes("inserted bytes", _inserted),
    of_bytes("deleted bytes", lambda content, rng: replaced(content, block(len(content), rng), b"")),
    of_bytes("duplicated block", _duplicated),
    of_bytes("swapped blocks", _swapped),
    of_bytes("garbage of the same length", lambda content, rng: rng.randbytes(len(content))),
    of_bytes("bytes appended", lambda content, rng: content + rng.randbytes(rng.randint(1, 4096))),
)

OTHER_KINDS = {
    "text": b"Lorem ipsum dolor sit amet.\n" * 20,
    "JSON": b'{"a": [1, 2, {"b": null}]}\n',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcbH\xcd\xc9\xc9W(\xcf/\xcaI\xe1\x02\x00-;\x08\xaf\x0c\x00\x00\x00",
    "zip": b"PK\x05\x06" + bytes(18),
    "PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89",
    "HTML": b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>\n",
    "pickle": b"\x80\x04K\x01.",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n",
}
"""Short files that may replace another file: a failed download leaves HTML, a clone without LFS a pointer."""


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _directory(path: Path, rng: random.Random) -> None:
    _removed(path)
    path.mkdir()


def _dangling(path: Path, rng: random.Random) -> None:
    _removed(path)
    path.symlink_to(path.with_name("moved_away"))


def _other_kind(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice(sorted(OTHER_KINDS.items()))[1])


PATHS = (
    Corruption("missing", lambda path, rng: _removed(path)),
    Corruption("a directory in its place", _directory),
    Corruption("a dangling link", _dangling),
    Corruption("another kind of file", _other_kind),
    # The superuser may read everything.
    *([Corruption("no permission", lambda path, rng: path.chmod(0))] if os.geteuid() else []),
)
ANY = BYTES + PATHS
