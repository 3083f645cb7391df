"""Text files of other programs: UTF-8, perhaps with the byte order mark that Windows tools write at the head."""

from pathlib import Path

MARK = "\ufeff"
MARK_BYTES = MARK.encode()


def read_text(path: Path) -> str:
    """Reads a text file without byte order marks: at its head, or at the head of a line, where files were joined.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return path.read_text(encoding="utf-8").removeprefix(MARK).replace(f"\n{MARK}", "\n")


def read_lines(path: Path) -> list[bytes]:
    """Reads the lines of a file that may hold bytes that are not UTF-8; see ``read_text``."""
    return [line.removeprefix(MARK_BYTES) for line in path.read_bytes().splitlines()]


def refuse_mark(path: Path) -> None:
    """Refuses a byte order mark in a file that NeMo reads, which would take it for text.

    Raises:
        ValueError: the file begins with one; the message has the command that removes it.
    """
    with open(path, "rb") as file:
        if file.read(len(MARK_BYTES)) == MARK_BYTES:
            raise ValueError(
                f"{path} begins with a byte order mark, which NeMo's loader cannot read. Remove it: "
                f"sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
            )
