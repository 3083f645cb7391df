"""A folder that is filled part by part, and stays consistent if a run is killed.

The files of a part are written to a temporary folder beside them and moved when they are complete, the list of the part
last: a part without its list ``part-000000.jsonl`` does not exist. ``part-000000.sha256`` has the checksums of its files in
the format of ``sha256sum``. A part whose files differ from them is written again. ``settings.json`` has the settings of all
parts.
"""

import hashlib
import os
import shutil
import tempfile
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


class PartFolder:
    """Parts in a folder, without its lock: a task on another machine writes parts for the process that holds the lock.

    Args:
        folder: folder of the parts.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def list_path(self, number: int) -> Path:
        """Returns the file with the lines of a part."""
        return self.folder / f"part-{number:06d}.jsonl"

    def checksums_path(self, number: int) -> Path:
        """Returns the file with the checksums of a part. Parts of earlier versions have none."""
        return self.list_path(number).with_suffix(".sha256")

    def has(self, number: int) -> bool:
        """Returns True if a part is complete and undamaged, after reading all of it; logs damaged files."""
        if not self.list_path(number).is_file():
            return False
        damaged = self._damaged(number)
        if damaged:
            logging.warning(f"{self.folder / damaged[0]} is damaged: part {number} is removed and written again")
        return not damaged

    def _damaged(self, number: int) -> list[str]:
        """Lists the files of a part that have changed since they were written."""
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
        except (OSError, ValueError):  # the file does not exist, or the name in a damaged list is invalid
            return None

    @contextmanager
    def writing(self, number: int, lines: Iterable[dict]) -> Iterator[Path]:
        """Yields a temporary folder for the files of a part, and moves them to the store unless there is an error."""
        folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self.folder))
        yield folder
        listed = encoded("".join(to_line(line, ensure_ascii=False) for line in lines))
        digests = {self.list_path(number).name: hashlib.sha256(listed).hexdigest()}
        self.list_path(number).unlink(missing_ok=True)  # left by a damaged part
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


class PartStore(PartFolder):
    """Parts in a folder that this process has locked.

    Args:
        folder: folder of the parts, which is created if it does not exist.
        settings: settings that define the content; a folder with other settings is refused.
        about: further information for ``settings.json``.

    Raises:
        ValueError: the folder holds parts with other settings or other files, or another run writes to it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], about: dict[str, Any]):
        super().__init__(folder)
        check_settings(folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing to {folder}: wait for it, or give another folder") from error
        for left in folder.glob(f"{_WRITING}*"):
            shutil.rmtree(left, ignore_errors=True)
        if not (folder / SETTINGS).is_file():
            write_json(folder / SETTINGS, {"settings": settings, "about": about})

    def close(self) -> None:
        """Releases the lock of the folder."""
        self._lock.release()
        (self.folder / ".lock").unlink(missing_ok=True)

    def __enter__(self) -> "PartStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder with other settings or other files.

    Raises:
        ValueError: the settings differ, or there are other files; the message says what differs.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(file.name != ".lock" for file in folder.iterdir())):
            raise ValueError(f"{folder} already holds other files: give a new folder")
        return
    check_same(path, settings, f"{folder} was made with other settings", "Give a new folder")


def check_same(path: Path, settings: dict[str, Any], message: str, remedy: str) -> dict[str, Any]:
    """Compares settings with those in a ``settings.json``, and returns its content.

    Raises:
        ValueError: the settings differ; the message says which.
    """
    content = read_json(path)
    found = content.get("settings")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it has no 'settings'. {remedy}")
    different = [
        f"{key} was {found.get(key)}, now {settings.get(key)}"
        for key in settings | found
        if found.get(key) != settings.get(key)
    ]
    if different:
        raise ValueError(f"{message}: {'; '.join(different)}. {remedy}")
    return content
