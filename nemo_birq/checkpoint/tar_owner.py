"""Removes the account that wrote a tar file from its headers.

NeMo packs a ``.nemo`` with the names and the numbers of its user and group.
"""

import tarfile
from pathlib import Path

BLOCK = 512
NUMBERS, CHECKSUM, NAMES = slice(108, 124), slice(148, 156), slice(265, 329)
"""Fields of a header: uid and gid as 7 octal digits each, the sum of its bytes, uname and gname."""
NO_NUMBERS = 2 * b"0000000\0"


def forget_owner(path: Path) -> None:
    """Sets the owner of every member to the number 0 without a name, in place: a ``.nemo`` can have gigabytes.

    Args:
        path: tar file that is not compressed.
    """
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
    with open(path, "r+b") as file:
        for member in members:
            own = member.offset_data - BLOCK
            file.seek(member.offset)
            records = file.read(own - member.offset)  # of an extended header, which holds what is no ASCII or too long
            header = bytearray(file.read(BLOCK))
            for key in ("uname", "gname", "uid", "gid"):
                value = member.pax_headers.get(key, "").encode()
                records = records.replace(f"{key}=".encode() + value, f"{key}=".encode() + b"0" * len(value))
            header[NUMBERS], header[NAMES] = NO_NUMBERS, bytes(64)
            header[CHECKSUM] = b" " * 8
            header[CHECKSUM] = b"%06o\0 " % sum(header)
            file.seek(member.offset)
            file.write(records + header)
