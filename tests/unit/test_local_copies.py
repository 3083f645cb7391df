"""Remote test sets as local copies: the same bytes and lines, copied once, and again after a change."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_birq.data.local_copies import local_manifest
from nemo_birq.data.retries import RemoteError
from nemo_birq.data.tables import cache_folder
from nemo_birq.scoring.eval_sets import read_test_sets
from tests.helpers.shards import wav, write_lines
from tests.helpers.stores import Store, http_store

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator[tuple[Store, str, Path]]:
    """Serves a test set whose second line names a URL, and beside it one of files and URLs."""
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    (folder / "sets/audio").mkdir(parents=True)
    (folder / "sets/audio/a.wav").write_bytes(wav(1))
    (folder / "c.wav").write_bytes(wav(2))
    with http_store(folder) as (server, url):
        lines = [
            {"audio_filepath": name, "duration": 0.5, "text": f"words of {name[-5]}"}
            for name in ("audio/a.wav", f"{url}/c.wav", "c.wav")
        ]
        write_lines(folder / "sets/test.json", *lines[:2])
        write_lines(folder / "mixed.json", *lines[1:])
        yield server, url, folder


def test_a_remote_test_set_is_copied_once_and_again_after_a_change(store):
    server, url, folder = store
    [test] = read_test_sets([f"{url}/sets/test.json"])
    assert test.name == "test" and [line["text"] for line in test.lines] == ["words of a", "words of c"]
    copies = [test.manifest.parent / line["audio_filepath"] for line in test.lines]
    assert [path.read_bytes() for path in copies] == [(folder / n).read_bytes() for n in ("sets/audio/a.wav", "c.wav")]
    assert test.lines[0]["audio_filepath"] == "audio/a.wav"  # the identity of an utterance in a score
    before = server.gets
    [again] = read_test_sets([f"clean={url}/sets/test.json"])
    assert (again.name, again.manifest, again.lines) == ("clean", test.manifest, test.lines)
    assert server.gets - before == 1  # the manifest
    (folder / "sets/audio/a.wav").write_bytes(wav(9))
    [changed] = read_test_sets([f"{url}/sets/test.json"])
    assert (changed.manifest.parent / "audio/a.wav").read_bytes() == wav(9)


def test_a_local_manifest_may_name_urls_and_files(store):
    _, _, folder = store
    copied = local_manifest(str(folder / "mixed.json"))
    names = [json.loads(line)["audio_filepath"] for line in copied.read_text().splitlines()]
    assert all((copied.parent / name).read_bytes() == (folder / "c.wav").read_bytes() for name in names)
    assert names[1] == str(folder / "c.wav")


def test_a_local_test_set_is_read_where_it_is(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(1))
    write_lines(tmp_path / "test.json", {"audio_filepath": "a.wav", "duration": 0.5, "text": "words"})
    assert local_manifest(str(tmp_path / "test.json")) == tmp_path / "test.json"


def test_missing_files_and_secrets_are_named(store):
    _, url, folder = store
    with pytest.raises(ValueError, match="account or a query"):
        local_manifest(url.replace("://", "://user:password@") + "/sets/test.json")
    (folder / "sets/audio/a.wav").unlink()
    with pytest.raises(RemoteError, match=r"audio/a\.wav"):
        local_manifest(f"{url}/sets/test.json")
    assert not list(cache_folder().rglob("test.json"))
