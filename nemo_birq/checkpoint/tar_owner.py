"""Removal of the user account from the headers of a tar file.

NeMo packs a ``.nemo`` with the names and numbers of its user and group.
"""

import tarfile
from pathlib import Path

BLOCK = 512
NUMBERS, CHECKSUM, NAMES = slice(108, 124), slice(148, 156), slice(265, 329)
"""Fields of a header: uid and gid as 7 octal digits each, the checksum of the header, uname and gname."""
NO_NUMBERS = 2 * b"0000000\0"


def forget_owner(path: Path) -> None:
    """Sets the owner of every member to 0 without a name, in place because a ``.nemo`` can be large.

    Args:
        path: uncompressed tar file.
    """
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
    with open(path, "r+b") as file:
        for member in members:
            own = member.offset_data - BLOCK
            file.seek(member.offset)
            records = file.read(own - member.offset)  # records of an extended header, for long and non-ASCII values
            header = bytearray(file.read(BLOCK))
            for key in ("uname", "gname", "uid", "gid"):
                value = member.pax_headers.get(key, "").encode()
                records = records.replace(f"{key}=".encode() + value, f"{key}=".encode() + b"0" * len(value))
            header[NUMBERS], header[NAMES] = NO_NUMBERS, bytes(64)
            header[CHECKSUM] = b" " * 8
            header[CHECKSUM] = b"%06o\0 " % sum(header)
            file.seek(member.offset)
            file.write(records + header)
