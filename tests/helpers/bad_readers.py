"""Commands that read ``input.txt``, one for each class of endings in fuzzing."""

import os
import sys
import time
from pathlib import Path

GOOD = "one\ntwo\nthree\n"
FILE = Path("input.txt")


def _is_good() -> bool:
    return FILE.read_text(encoding="utf-8", errors="replace") == GOOD


def _write(result: str) -> None:
    Path("out.txt").write_text(result)


def harmless() -> None:
    _write("always the same")


def named_error() -> None:
    if not _is_good():
        sys.exit(f"birq read: {FILE} is damaged; get it again")
    _write("read")


def counted() -> None:
    lines = FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    known = [line for line in lines if line in GOOD.split()]
    _write("\n".join(known))
    if not _is_good():
        print(f"{len(lines) - len(known)} lines of {FILE} are left out")


def silent() -> None:
    _write(FILE.read_text(encoding="utf-8", errors="replace"))


def traceback() -> None:
    if not _is_good():
        raise KeyError("three")
    _write("read")


def unnamed_error() -> None:
    if not _is_good():
        sys.exit("birq read: invalid literal for int() with base 10: 'tow'")
    _write("read")


def abort() -> None:
    if not _is_good():
        os.abort()
    _write("read")


def hang() -> None:
    while not _is_good():
        time.sleep(0.01)
    _write("read")


def memory() -> None:
    if not _is_good():
        bytearray(1 << 45)
    _write("read")
