"""A folder that is filled part by part. Its content is complete and of one kind, whenever a run is killed.

The files of a part are written to a folder beside them and moved into place when they are complete, their list last: a
part without its list ``part-000000.jsonl`` is not there. ``settings.json`` says what made them.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nemo_birq.utils.files import complete_file, flush, read_json, write_json, write_text

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

    def has(self, number: int) -> bool:
        """Tests if a part is complete."""
        return self.list_path(number).is_file()

    @contextmanager
    def writing(self, number: int, lines: Iterable[dict]) -> Iterator[Path]:
        """Yields a folder for the files of a part; moves them into place at the end, unless there was an error."""
        folder = self.folder / _WRITING
        folder.mkdir()
        yield folder
        for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
            target = self.folder / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            flush(path)
            os.replace(path, target)
        shutil.rmtree(folder)
        write_text(self.list_path(number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

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


def check_same(path: Path, settings: dict[str, Any], message: str, remedy: str) -> None:
    """Compares settings with those that a ``settings.json`` names.

    Raises:
        ValueError: saying what differs.
    """
    found = read_json(path).get("settings")
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no 'settings', it is damaged. {remedy}")
    different = [
        f"{key} was {found.get(key)}, now {settings.get(key)}"
        for key in settings | found
        if found.get(key) != settings.get(key)
    ]
    if different:
        raise ValueError(f"{message}: {'; '.join(different)}. {remedy}")
