"""The cache of remote audio: it gives the same batches with fewer requests, and respects its size limit."""

from collections.abc import Iterator

import pytest
import torch

from nemo_birq.data import audio_cache
from tests.helpers.remote_data import Place, assert_equal, loader, node
from tests.helpers.shards import make_shards, wav
from tests.helpers.stores import s3_for_tests

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple]:
    with s3_for_tests() as store:
        yield store, "s3://bucket"


@pytest.fixture
def place(s3, tmp_path, monkeypatch) -> Place:
    """An empty folder of a bucket, and an empty cache folder."""
    monkeypatch.setenv("NEMO_BIRQ_CACHE", str(tmp_path / "cache"))
    return Place(s3[0], f"s3://bucket/{tmp_path.name}")


def test_a_cache_gives_the_same_batches_without_requests(place, tmp_path):
    """This holds in worker processes, also after one of them was killed in the middle of a write."""
    place.put(make_shards(tmp_path / "shards"))
    expected = list(loader(tmp_path / "shards"))
    cached = loader(place.url, num_workers=2, remote_cache_gb=1)
    assert_equal(cached, expected)
    before = place.store.requests
    assert_equal(cached, expected)
    assert place.store.requests == before
    [first, _] = (tmp_path / "cache" / "audio").glob("*[0-9a-f]")
    with open(first, "r+b") as file:
        file.seek(1000)
        file.write(bytes(1000))
    assert_equal(cached, expected)
    assert place.store.requests == before + 1  # for the utterance whose bytes are gone


def test_a_replaced_object_is_not_taken_from_the_cache(place, tmp_path):
    place.put(make_shards(tmp_path / "old"))
    list(loader(place.url, remote_cache_gb=1))
    new = make_shards(tmp_path / "new", {"clip3.wav": wav(1.3, pitch=1000)})
    place.put(new)
    assert_equal(loader(place.url, remote_cache_gb=1), loader(new))


def test_a_cache_keeps_to_its_size_and_keeps_what_is_used(place, tmp_path):
    place.put(make_shards(tmp_path / "shards", shards=8))
    ways = [
        {name: value.replace("0..1", "0..7") for name, value in node(where).items() if isinstance(value, str)}
        for where in (place.url, tmp_path / "shards")
    ]
    dataset = loader(place.url, **ways[0], remote_cache_gb=150e-6).dataset  # of some 350 kB
    expected = loader(tmp_path / "shards", **ways[1]).dataset
    for row in (0, 1, 2, 0, 3, 4):
        assert torch.equal(dataset[[row]].signal, expected[[row]].signal)
        files = (path.stat() for path in (tmp_path / "cache" / "audio").iterdir())
        assert sum(file.st_blocks * 512 for file in files) <= 150_000
    before = place.store.requests
    dataset[[0]]
    assert place.store.requests == before
    dataset[[1]]
    assert place.store.requests == before + 1


def test_a_full_disk_ends_the_cache_and_not_the_training(place, tmp_path, monkeypatch):
    place.put(make_shards(tmp_path / "shards"))
    list(loader(place.url, remote_cache_gb=1))
    for path in (tmp_path / "cache" / "audio").glob("*[0-9a-f]"):
        path.unlink()
        path.symlink_to("/dev/full")
    said: list[str] = []
    monkeypatch.setattr(audio_cache.logging, "warning", said.append)
    assert_equal(loader(place.url, remote_cache_gb=1), loader(tmp_path / "shards"))
    [warning] = said
    assert "stops caching remote audio" in warning and "No space left on device" in warning
