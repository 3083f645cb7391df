"""Checks of ``torch.save`` files, which refuse damaged files and files that could run code before they are used.

These files are zip archives. ``torch.save`` writes a CRC-32 of each record, but ``torch.load`` does not compare it: a
flipped bit can turn a weight into 1e36.
"""

import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

File = str | Path | IO[bytes]
FOLDER = 0x10  # attribute bit of a folder in a zip archive
SHOWN = 3  # number of foreign classes that a message names


def check_zip(file: File) -> None:
    """Compares the CRC-32 of every record with the directory of the archive.

    The function reads the file once, at 1 GB/s from a page cache.

    Args:
        file: a path, or an open file that can seek.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the reason why it is damaged, without the name of the file.
    """
    with _opened(file) as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                # PyTorch reads a part with the attribute of a folder as empty, and leaves its tensor uninitialized.
                folders = (part.filename for part in archive.infolist() if part.external_attr & FOLDER or part.is_dir())
                damaged = archive.testzip() or next(folders, None)
        except Exception as error:  # wrong offsets and sizes raise errors of nearly every type
            raise ValueError(
                f"it is not a file of torch.save, or it is damaged ({type(error).__name__}: {error})"
            ) from error
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum or type of its part {damaged} is wrong")


def check_torch_file(file: File) -> None:
    """Checks a file that a library will open: with ``check_zip``, and for classes other than tensors and registered ones.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the reason to refuse it, without the name of the file.
    """
    with _opened(file) as opened:
        check_zip(opened)
        if reason := _foreign_objects(opened):
            raise ValueError(reason)


def load_torch_file(file: File, map_location: Any = "cpu") -> Any:
    """Returns the content of a file after ``check_zip``. It reads the file twice and runs no code of it.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the reason to refuse it, without the name of the file.
    """
    with _opened(file) as opened:
        check_zip(opened)
        opened.seek(0)
        try:
            return torch.load(opened, map_location=map_location, weights_only=True)
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a malicious pickle raises errors of nearly every type
            reason = _foreign_objects(opened) or (str(error).splitlines() or ["no message"])[0]
            raise ValueError(f"{type(error).__name__}: {reason}") from error


def _foreign_objects(opened: IO[bytes]) -> str | None:
    """Returns a message with the classes and functions that ``torch.load(weights_only=True)`` refuses; reads no tensors."""
    opened.seek(0)
    try:
        found = sorted(get_unsafe_globals_in_checkpoint(opened))
    except Exception as error:
        return f"its pickle cannot be read ({type(error).__name__}: {error})"
    if not found:
        return None
    named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} others" if len(found) > SHOWN else "")
    return f"it holds {named}, which could run code, and not only tensors and configurations: do not use this file"


def _opened(file: File) -> AbstractContextManager[IO[bytes]]:
    return open(file, "rb") if isinstance(file, str | Path) else nullcontext(file)
