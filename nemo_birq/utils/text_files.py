"""Reading of UTF-8 text files from other programs, with or without the byte order mark that Windows tools write."""

from pathlib import Path

MARK = "\ufeff"
MARK_BYTES = MARK.encode()


def read_text(path: Path) -> str:
    """Reads a text file and removes byte order marks at its start and, if files were joined, at the start of lines.

    Raises:
        UnicodeDecodeError: the file is not UTF-8.
    """
    return path.read_text(encoding="utf-8").removeprefix(MARK).replace(f"\n{MARK}", "\n")


def read_lines(path: Path) -> list[bytes]:
    """Reads the lines of a file that may hold bytes that are not UTF-8; see ``read_text``."""
    return [line.removeprefix(MARK_BYTES) for line in path.read_bytes().splitlines()]


def refuse_mark(path: Path) -> None:
    """Refuses a byte order mark in a file that NeMo reads, because NeMo would read it as text.

    Raises:
        ValueError: the file begins with a byte order mark; the message has the command that removes it.
    """
    with open(path, "rb") as file:
        if file.read(len(MARK_BYTES)) == MARK_BYTES:
            raise ValueError(
                f"{path} begins with a byte order mark, which NeMo's loader cannot read. Remove it: "
                f"sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
            )
