"""A folder that is filled part by part. Its content is complete and of one kind, whenever a run is killed.

The files of a part are written to a folder beside them and moved into place when they are complete, their list last: a
part without its list ``part-000000.jsonl`` is not there. ``part-000000.sha256`` has the checksums of its files, as
``sha256sum`` writes them, and a part that differs from them is made again. ``settings.json`` says what made them.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from nemo.utils import logging

from nemo_birq.data.json_lines import to_line
from nemo_birq.utils.files import complete_file, encoded, file_sha256, flush, read_json, write_json, write_text

SETTINGS = "settings.json"
_WRITING = ".writing"


class PartStore:
    """Parts in a folder.

    Args:
        folder: made if it is not there.
        settings: what decides the content; a folder with others is refused.
        about: what else a reader of ``settings.json`` may want to know.

    Raises:
        ValueError: the folder holds parts made with other settings, something else, or another run writes to it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], about: dict[str, Any]):
        self.folder = folder
        check_settings(folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing to {folder}; wait for it, or give another folder") from error
        shutil.rmtree(folder / _WRITING, ignore_errors=True)
        if not (folder / SETTINGS).is_file():
            write_json(folder / SETTINGS, {"settings": settings, "about": about})

    def close(self) -> None:
        """Lets others write."""
        self._lock.release()
        (self.folder / ".lock").unlink(missing_ok=True)

    def __enter__(self) -> "PartStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_path(self, number: int) -> Path:
        """Returns the file with the lines of a part."""
        return self.folder / f"part-{number:06d}.jsonl"

    def checksums_path(self, number: int) -> Path:
        """Returns the file with the checksums of a part. Parts of earlier versions have none."""
        return self.list_path(number).with_suffix(".sha256")

    def has(self, number: int) -> bool:
        """Tests if a part is complete and as it was written; reads all of it, and names what is damaged."""
        if not self.list_path(number).is_file():
            return False
        damaged = self._damaged(number)
        if damaged:
            logging.warning(f"{self.folder / damaged[0]} is damaged: part {number} is left out and made again")
        return not damaged

    def _damaged(self, number: int) -> list[str]:
        """Lists the files of a part that are not as they were written."""
        path = self.checksums_path(number)
        if not path.is_file():
            return []
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        expected = {line[1]: line[0] for line in lines if len(line) == 2}
        if self.list_path(number).name not in expected:
            return [path.name]
        return [name for name, digest in expected.items() if self._digest(name) != digest]

    def _digest(self, name: str) -> str | None:
        try:
            return file_sha256(self.folder / name)
        except (OSError, ValueError):  # it is not there, or the name in a damaged list is no name
            return None

    @contextmanager
    def writing(self, number: int, lines: Iterable[dict]) -> Iterator[Path]:
        """Yields a folder for the files of a part; moves them into place at the end, unless there was an error."""
        folder = self.folder / _WRITING
        folder.mkdir()
        yield folder
        listed = encoded("".join(to_line(line, ensure_ascii=False) for line in lines))
        digests = {self.list_path(number).name: hashlib.sha256(listed).hexdigest()}
        self.list_path(number).unlink(missing_ok=True)  # of a damaged part
        for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
            target = self.folder / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            digests[path.relative_to(folder).as_posix()] = file_sha256(path)
            flush(path)
            os.replace(path, target)
        shutil.rmtree(folder)
        write_text(self.checksums_path(number), "".join(f"{digest}  {name}\n" for name, digest in digests.items()))
        with complete_file(self.list_path(number)) as part:
            part.write_bytes(listed)

    def merge(self, count: int, target: Path) -> None:
        """Writes the lines of all parts to one file."""
        with complete_file(target) as part, open(part, "wb") as merged:
            for number in range(count):
                with open(self.list_path(number), "rb") as lines:
                    shutil.copyfileobj(lines, merged)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds something else.

    Raises:
        ValueError: saying what differs.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(file.name != ".lock" for file in folder.iterdir())):
            raise ValueError(f"{folder} holds something else already: give a new folder")
        return
    check_same(path, settings, f"{folder} was made with other settings", "Give a new folder")


def check_same(path: Path, settings: dict[str, Any], message: str, remedy: str) -> dict[str, Any]:
    """Compares settings with those that a ``settings.json`` names, and returns its content.

    Raises:
        ValueError: saying what differs.
    """
    content = read_json(path)
    found = content.get("settings")
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no 'settings', it is damaged. {remedy}")
    different = [
        f"{key} was {found.get(key)}, now {settings.get(key)}"
        for key in settings | found
        if found.get(key) != settings.get(key)
    ]
    if different:
        raise ValueError(f"{message}: {'; '.join(different)}. {remedy}")
    return content
