"""Copies of remote manifests and their audio files, for tools that read local files, such as NeMo's ``transcribe``.

The copies stay in the cache folder, so that a test set is copied once, and again after it has changed.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath

from nemo_birq.data.index_rows import leaves_folder
from nemo_birq.data.json_lines import to_line
from nemo_birq.data.manifests import read_manifest
from nemo_birq.data.members import find_versions
from nemo_birq.data.remote_files import all_at_once, copy_here
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.files import write_text
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.urls import folder_of, is_url, join


def local_manifest(manifest: str) -> Path:
    """Returns a manifest whose audio files are all on this machine: the given one, or a copy.

    Args:
        manifest: path or URL of a manifest of single files, whose lines may name URLs.

    Raises:
        ValueError: a line of the manifest cannot be used, or a URL contains a secret.
        RemoteError: the manifest or an audio file cannot be read.
        OSError: the copies cannot be written.
    """
    lines, folder = read_manifest(manifest), folder_of(manifest)
    places = {line["audio_filepath"]: join(folder, line["audio_filepath"]) for line in lines}
    remote = {name: place for name, place in places.items() if is_url(place)}
    if not remote:
        return Path(manifest)
    versions = find_versions([manifest, *remote.values()])
    digest = hashlib.sha256(json.dumps([manifest, sorted(versions.items())]).encode()).hexdigest()
    copies = cache_folder() / "copies" / digest[:24]
    names = {name: _local_name(name) for name in remote}
    missing = [(remote[name], copies / local, versions[remote[name]]) for name, local in names.items()]
    missing = [(url, path, version) for url, path, version in missing if not path.exists()]
    with ProgressBars(transient=True, disable=not missing) as progress:
        advance = progress.start("Copying audio to this machine", len(missing))

        def copy(*arguments) -> None:
            copy_here(*arguments)
            advance(1)

        all_at_once(copy, missing)
    copied = copies / PurePosixPath(manifest).name
    changed = [line | {"audio_filepath": names.get(name := line["audio_filepath"], places[name])} for line in lines]
    write_text(copied, "".join(map(to_line, changed)))
    return copied


def _local_name(name: str) -> str:
    """Returns the name of a copy: that in the manifest, or part of a hash for URLs and names outside of the folder."""
    if not is_url(name) and not leaves_folder(name):
        return name
    return f"elsewhere/{hashlib.sha256(name.encode()).hexdigest()[:16]}{PurePosixPath(name).suffix}"
