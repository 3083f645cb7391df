"""Tables in a cache folder, each complete or absent."""

import os
from pathlib import Path

import pyarrow as pa

from nemo_birq.utils.files import complete_file, file_sha256, write_text


def cache_folder() -> Path:
    """Returns the folder of the indexes: ``NEMO_BIRQ_CACHE``, by default ``~/.cache/nemo_birq``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nemo_birq"
    return Path(os.environ.get("NEMO_BIRQ_CACHE", default))


def write_table(table: pa.RecordBatch, path: Path) -> None:
    """Writes a table as an Arrow file, with its checksum beside it."""
    _checksum_path(path).unlink(missing_ok=True)
    with complete_file(path) as part, pa.ipc.new_file(str(part), table.schema) as writer:
        writer.write_batch(table)
    write_text(_checksum_path(path), file_sha256(path))


def map_table(path: Path) -> pa.RecordBatch:
    """Maps a table into memory, which all processes of a machine share."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def is_whole(path: Path) -> bool:
    """Tests if the checksum of a table is right."""
    try:
        return _checksum_path(path).read_text(encoding="utf-8") == file_sha256(path)
    except (OSError, UnicodeDecodeError):  # for example after a power failure
        return False


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")
