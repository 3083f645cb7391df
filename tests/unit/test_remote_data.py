"""Shards and single files behind URLs, against an S3 server and an HTTP server on this machine, with faults in between."""

import io
import shutil
import tarfile
import time
from collections.abc import Iterator

import fsspec
import pytest
import torch

from nemo_birq.config_checks.datasets import PretrainingDataset, check_dataset
from nemo_birq.data import file_systems, remote
from nemo_birq.data.dataset import PlannedRows
from nemo_birq.data.index import open_index
from nemo_birq.data.retries import RemoteError, is_missing, repeat
from nemo_birq.data.sources import Source
from nemo_birq.data.tables import cache_folder
from nemo_birq.extraction.data import open_data
from nemo_birq.utils.urls import without_secrets
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.remote_data import Place, assert_equal, loader, node
from tests.helpers.shards import make_shards, wav, write_lines
from tests.helpers.stores import KEY_ID, Store, http_store, s3_for_tests

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def http(tmp_path_factory) -> Iterator[tuple[Store, str]]:
    with http_store(tmp_path_factory.mktemp("http")) as found:
        yield found


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Store, str]]:
    with s3_for_tests() as store:
        yield store, "s3://bucket"


@pytest.fixture(params=["http", "s3"])
def place(request, tmp_path) -> Iterator[Place]:
    store, url = request.getfixturevalue(request.param)
    yield Place(store, f"{url}/{tmp_path.name}")
    store.latency, store.failing, store.cut, store.status, store.stopped_until = 0.0, 0, 0, None, 0.0


def source(folder) -> Source:
    named = node(folder)
    return Source(named["manifest_filepath"], named["tarred_audio_filepaths"], None)


def test_an_epoch_is_that_of_local_files(place, tmp_path):
    place.put(make_shards(tmp_path))
    expected = list(loader(tmp_path))
    assert_equal(loader(place.url), expected)
    before = place.store.requests
    again = loader(place.url)
    assert place.store.requests - before == 4  # the versions of the manifests and shards: the index is kept
    assert_equal(again, expected)
    assert not any(KEY_ID.encode() in path.read_bytes() for path in cache_folder().rglob("*") if path.is_file())


def test_neighbours_of_a_shard_are_read_by_one_request(place, tmp_path):
    place.put(make_shards(tmp_path))
    dataset = loader(place.url).dataset
    before = place.store.requests
    dataset[list(range(8))]  # of two shards
    assert place.store.requests - before == 2


def test_objects_of_s3_are_read_by_signed_urls(s3, tmp_path):
    """A store that refuses them is read through its library, and asked by no more of them after a few."""
    store, place = s3[0], Place(s3[0], f"s3://bucket/{tmp_path.name}")
    place.put(make_shards(tmp_path))
    dataset, expected = loader(place.url).dataset, loader(tmp_path).dataset[[0, 1]].signal
    before, signed = store.requests, store.signed
    assert torch.equal(dataset[[0, 1]].signal, expected)
    assert store.requests - before == store.signed - signed == 1
    store.refuse_signed = True
    for _ in range(file_systems.REFUSALS + 2):
        assert torch.equal(dataset[[0, 1]].signal, expected)
    assert store.signed - signed == 1 + file_systems.REFUSALS
    store.refuse_signed = False
    file_systems.count_signed(place.url, refused=False)
    before = store.requests
    store.failing = 2  # the signed request, and the first of the library
    assert torch.equal(dataset[[0, 1]].signal, expected)
    assert store.requests - before == 3


def test_a_process_reads_its_next_batch_ahead(place, tmp_path):
    place.put(make_shards(tmp_path))
    began = loader(place.url, num_workers=2)
    rows = [*began.sampler]
    assert [list(one.following) for one in rows] == [[*rows[2]], [], []]  # of two workers, the first takes the third batch
    dataset, before = began.dataset, place.store.requests
    dataset[PlannedRows([0, 1], (0, 0), following=[4, 5])]
    while place.store.requests < before + 2:
        time.sleep(0.01)
    found, expected = dataset[[4, 5]], loader(tmp_path).dataset[[4, 5]]
    assert place.store.requests == before + 2 and torch.equal(found.signal, expected.signal)


def test_resuming_moves_between_a_store_and_this_machine(place, tmp_path):
    """Batches after the checkpoint, also those of the next epoch, in worker processes."""
    place.put(make_shards(tmp_path))
    whole, began = loader(tmp_path, training=True), loader(place.url, training=True)
    expected = [batch for batch, _ in zip(whole, range(6), strict=False)]
    first = [batch for batch, _ in zip(began, range(2), strict=False)]
    resumed = loader(place.url, training=True, num_workers=2)
    resumed.load_state_dict(began.state_dict() | {"batch": 2})
    rest = [batch for batch, _ in zip(resumed, range(4), strict=False)]
    assert_equal(first + rest, expected)


@pytest.mark.parametrize("fault", [{"latency": 0.05}, {"failing": 2}, {"cut": 2}, {"stopped": 1.0}], ids=str)
def test_passing_faults_lose_and_repeat_nothing(place, tmp_path, fault):
    place.put(make_shards(tmp_path))
    for name, value in fault.items():
        if name == "stopped":
            place.store.stopped_until = time.monotonic() + value
        else:
            setattr(place.store, name, value)
    assert_equal(loader(place.url), loader(tmp_path))


def test_a_replaced_shard_ends_the_epoch_and_gives_a_new_index(place, tmp_path):
    """The new shard has members of the same names, sizes and places."""
    old, new = make_shards(tmp_path / "old"), tmp_path / "new"
    place.put(old)
    under_way = loader(place.url, num_workers=1)
    index = open_index(source(place.url))
    shutil.copytree(old, new)
    content = bytearray((new / "audio_0.tar").read_bytes())
    content[index.place(0).position + 1000] ^= 1
    (new / "audio_0.tar").write_bytes(content)
    place.put(new)
    with pytest.raises(
        RemoteError, match=r"^clip\d.wav of \S+audio_0\.tar has changed since .* replaced: run the command again"
    ):
        list(under_way)
    assert open_index(source(place.url)).path != index.path
    assert_equal(loader(place.url), loader(new))


def test_only_a_changed_shard_is_read_again(place, tmp_path):
    place.put(make_shards(tmp_path / "old"))
    open_index(source(place.url))
    changed = tmp_path / "changed" / "audio_1.tar"
    changed.parent.mkdir()
    shutil.copy(tmp_path / "old" / "audio_1.tar", changed)
    with tarfile.open(changed, "a") as tar:
        member = tarfile.TarInfo("more.wav")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"more"))
    place.put(changed.parent)
    tables = {path: path.stat().st_mtime_ns for path in (cache_folder() / "shards").glob("*.arrow")}
    assert open_index(source(place.url)).problems == [
        f"shard {place.url}/audio_1.tar holds 1 members that no line of its manifest names, such as more.wav"
    ]
    now = {path: path.stat().st_mtime_ns for path in (cache_folder() / "shards").glob("*.arrow")}
    assert tables.items() < now.items() and len(now) == len(tables) + 1


def test_a_shard_that_is_deleted_or_shortened_in_an_epoch_is_named(place, tmp_path):
    place.put(make_shards(tmp_path))
    dataset = loader(place.url).dataset
    (tmp_path / "audio_0.tar").write_bytes(b"short")
    place.put(tmp_path)
    with pytest.raises(RemoteError, match=r"audio_0\.tar cannot be read .*(shorter than when its index was built)"):
        dataset[list(range(4))]


def test_refusals_are_named_before_any_work(place, tmp_path, monkeypatch):
    place.put(make_shards(tmp_path))
    with pytest.raises(RemoteError, match=r"nothing/sharded_manifests/manifest_0\.json cannot .*the object does not exist"):
        loader(f"{place.url}/nothing")
    place.store.status = 403
    with pytest.raises(
        RemoteError, match=r"manifest_0\.json cannot be read .*refuses access: check that its tools find credentials"
    ):
        loader(place.url)
    place.store.status = 500
    monkeypatch.setattr(remote, "FIRST_LOOK", 1.0)
    with pytest.raises(RemoteError, match=r"the request was repeated for 1 s: check address, network and server"):
        remote.look(f"{place.url}/audio_0.tar", 1.0)


def test_wrong_bucket_and_missing_credentials_are_named(s3, tmp_path, monkeypatch):
    with pytest.raises(RemoteError, match=r"s3://no-bucket/a/\S+ cannot be read .*compare the names of bucket"):
        loader("s3://no-bucket/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(RemoteError, match=r"Unable to locate credentials\); the store refuses access"):
        loader("s3://bucket/a")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_what_is_no_tar_is_named(place, tmp_path):
    make_shards(tmp_path)
    (tmp_path / "audio_0.tar").write_bytes(b"<html>Sign in</html>" * 100)
    place.put(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)4 of 8 utterances.*{place.url}/audio_0\.tar cannot be read to its end"):
        loader(place.url)


def test_a_server_without_ranges_is_named(tmp_path, monkeypatch):
    make_shards(tmp_path)
    monkeypatch.setattr(remote, "BLOCK", 10_000)
    with (
        http_store(tmp_path, ranges=False) as (_, url),
        pytest.raises(RemoteError, match=r"does not answer .* ranges"),
    ):
        loader(url)


def test_a_url_that_nothing_reads_is_named():
    with pytest.raises(ValueError, match=r"no installed package reads nonsense://a/\S+ .*pip install 'nemo_birq\[s3\]'"):
        loader("nonsense://a")


def test_the_status_of_an_error_is_found_where_azure_has_it():
    """adlfs passes on the errors of azure-core for some requests."""

    class HttpResponseError(Exception):
        status_code = 404

    def request() -> None:
        raise HttpResponseError("The specified blob does not exist.")

    with pytest.raises(RemoteError, match="does not exist") as failed:
        repeat("abfs://bucket/a.json", 60.0, request)  # not repeated: the test would last for a minute
    assert is_missing(failed.value)


def test_single_files_by_remote_and_local_manifests(place, tmp_path):
    lines = [{"audio_filepath": f"audio/{number}.wav", "duration": 1.0} for number in range(3)]
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / lines[number]["audio_filepath"]).write_bytes(wav(1.0, pitch=200 + 50 * number))
    lines.append({"audio_filepath": "audio/1.wav", "duration": 0.4, "offset": 0.5})
    write_lines(tmp_path / "all.json", *lines)
    place.put(tmp_path)
    more = [line | {"audio_filepath": f"{place.url}/{line['audio_filepath']}"} for line in lines]
    write_lines(tmp_path / "urls.json", *more, {"audio_filepath": f"{place.url}/lost.wav", "duration": 1.0})
    settings = {"tarred_audio_filepaths": None, "shuffle": False, "max_skipped_share": 0.3}
    expected = list(loader(tmp_path, manifest_filepath=str(tmp_path / "all.json"), **settings))
    for manifest in (f"{place.url}/all.json", str(tmp_path / "urls.json")):
        found = list(loader(tmp_path, manifest_filepath=manifest, **settings))
        assert [len(batch.ids) for batch in found] == [3, 1]
        assert all(torch.equal(one.signal, other.signal) for one, other in zip(found, expected, strict=True))
    [problem] = open_index(Source(str(tmp_path / "urls.json"), None, None)).problems
    assert "urls.json, line 5" in problem and "lost.wav" in problem and "the object does not exist" in problem


def test_extraction_reads_a_remote_folder_of_shards(s3, tmp_path):
    place = Place(s3[0], f"s3://bucket/{tmp_path.name}")
    place.put(make_shards(tmp_path))
    found, expected = (open_data(str(where), None, SAMPLE_RATE) for where in (place.url, tmp_path))
    assert list(found.lines()) == list(expected.lines()) and found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("tars", ["{url}/audio__OP_0..1_CL_.tar", "pipe:curl -sf {url}/audio__OP_0..1_CL_.tar"])
def test_a_stream_takes_remote_manifests_and_shards(tmp_path, tars):
    settings = {"use_lhotse": False, "is_tarred": True, "shuffle_n": 8}
    expected = list(loader(make_shards(tmp_path), **settings))
    with http_store(tmp_path, ranges=False) as (_, url):
        assert_equal(loader(url, tarred_audio_filepaths=tars.format(url=url), **settings), expected)


SECRETS = ("https://me:hidden@host/a.json", "https://host/a.json?X-Amz-Signature=hidden", "s3://me:hidden@bucket/a.json")


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_in_urls_are_refused_and_not_repeated(url, tmp_path):
    for value in (url, f"[a.json,{url}]", [["a.json"], [url]]):
        with pytest.raises(
            ValueError, match=r"^model\.train_ds\.manifest_filepath: \S+ is a URL with an account"
        ) as refused:
            check_dataset(PretrainingDataset, node(tmp_path, manifest_filepath=value), "model.train_ds")
        assert "hidden" not in str(refused.value)
    write_lines(tmp_path / "a.json", {"audio_filepath": url, "duration": 1.0})
    with pytest.raises(ValueError, match="is a URL with an account or a query") as refused:
        loader(tmp_path, manifest_filepath=str(tmp_path / "a.json"), tarred_audio_filepaths=None)
    assert "hidden" not in str(refused.value)


def test_messages_keep_no_secret():
    said = "403 for url='https://host/x.tar?sig=hidden&se=1' and (https://me:hidden@host/y), s3://bucket/a@b/c"
    assert without_secrets(said) == "403 for url='https://host/x.tar?***' and (https://***@host/y), s3://bucket/a@b/c"
    assert without_secrets("<s3://b/a?hidden><s3://b/b?hidden>") == "<s3://b/a?***><s3://b/b?***>"
    assert without_secrets(long := 1_000_000 * "x") == long  # in linear time, since manifests may have any names
    azure = "abfs://container@account.dfs.core.windows.net/a.tar"
    assert without_secrets(azure) == azure
