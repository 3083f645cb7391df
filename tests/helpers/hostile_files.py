"""Objects and bytes that a file should not have."""

from pathlib import Path


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def flip(path: Path, position: int) -> None:
    """Changes all bits of a byte; a second call changes them back."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))
