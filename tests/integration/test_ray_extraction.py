"""Extraction by the tasks of a cluster: the same files as without one. Ray takes part where it is installed."""

import gzip
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nemo_birq.extraction import on_cluster
from nemo_birq.extraction.clustering import FrameExtraction, Spread, cluster
from nemo_birq.extraction.clustering_command import cluster_labels
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.features import FeatureExtraction
from nemo_birq.extraction.features_command import extract_features
from nemo_birq.extraction.labels import LabelExtraction
from nemo_birq.extraction.labels_command import extract_labels
from nemo_birq.extraction.run import progress_bar
from nemo_birq.extraction.store import PartStore
from nemo_birq.labels.teacher import read_teacher_file
from nemo_birq.loading import load_encoder
from tests.helpers.extraction import BATCH, COUNT, PART, make_model_with_statistics
from tests.helpers.manifests import short_lines, write_manifest
from tests.helpers.models import SAMPLE_RATE

pytestmark = pytest.mark.integration

SIZES = ["--batch-seconds", str(BATCH), "--part-minutes", str(PART / 60), "--workers", "0"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data") / "few.json", short_lines(COUNT))


@pytest.fixture(scope="module")
def nemo_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.nemo"
    make_model_with_statistics().save_to(str(path))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of all files but the settings, which name the command; gzip writes the time, so that checksums differ."""
    files = [path for path in folder.rglob("*") if path.is_file() and "settings" not in path.name]
    is_packed = any(path.suffix == ".gz" for path in files)
    return {
        str(path.relative_to(folder)): gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in files
        if not (is_packed and path.suffix == ".sha256")
    }


def run(command, *arguments: object) -> None:
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


def extract_by_jobs(extraction, data, folder: Path) -> on_cluster.ExtractionSummary:
    with PartStore(folder, {}, {}) as store, progress_bar(disable=True) as progress:
        return on_cluster.run_parts_on(1, extraction, data, store, progress, PART, BATCH, 0)


@pytest.mark.parametrize("format", ["npz", "lhotse"])
def test_features_by_jobs_are_those_of_one_run(nemo_file, manifest, tmp_path, format):
    arguments = nemo_file, manifest, "--layers", "1,3", "--format", format, *SIZES
    run(extract_features, *arguments, "--out", tmp_path / "one")
    expected = contents(tmp_path / "one")
    del expected["manifest.json"]
    data = open_data(str(manifest), None, SAMPLE_RATE)
    extraction = FeatureExtraction(str(nemo_file), str(manifest), None, (1, 3), "float32", format)
    assert extract_by_jobs(extraction, data, tmp_path / "jobs")[:3] == (4, 0, COUNT)
    assert contents(tmp_path / "jobs") == expected
    (tmp_path / "jobs" / "part-000002.jsonl").unlink()  # a part that a killed run had begun
    assert extract_by_jobs(extraction, data, tmp_path / "jobs")[:2] == (4, 3)
    assert contents(tmp_path / "jobs") == expected


def test_a_machine_with_another_model_or_other_data_is_refused(nemo_file, manifest, tmp_path, monkeypatch):
    data = open_data(str(manifest), None, SAMPLE_RATE)
    other = write_manifest(tmp_path / "other.json", short_lines(COUNT - 1))
    with pytest.raises(ValueError, match="sees other manifests or audio under the same names: put the data"):
        extract_by_jobs(LabelExtraction(str(nemo_file), str(other), None, "anchor"), data, tmp_path / "data")
    monkeypatch.setattr(on_cluster, "_describe", lambda *described: on_cluster._Work(described[0], "other", "", 0))
    with pytest.raises(ValueError, match=r"sees another file as \S+small\.nemo: put the model into a shared folder"):
        extract_by_jobs(LabelExtraction(str(nemo_file), str(manifest), None, "anchor"), data, tmp_path / "model")


def test_clusters_of_frames_by_jobs_are_those_of_one_run(nemo_file, manifest, monkeypatch):
    monkeypatch.setattr("nemo_birq.extraction.clustering.BATCHES_OF_A_TASK", 2)
    data, opened = open_data(str(manifest), None, SAMPLE_RATE), load_encoder(nemo_file)
    spread = Spread(1, FrameExtraction(str(nemo_file), str(manifest), None, 2), 0)
    with progress_bar(disable=True) as progress:
        one, other = (
            cluster(opened, data, 2, 8, progress, "small", batch_seconds=BATCH, spread=by) for by in (None, spread)
        )
    assert torch.equal(one.file.centroids, other.file.centroids)
    assert (one.frames, one.utterances, one.unreadable) == (other.frames, other.utterances, other.unreadable)


def test_the_commands_on_a_ray_cluster(nemo_file, manifest, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'nemo_birq[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise, which is little on a machine that has other work
    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        for out, by in (("one", []), ("ray", ["--ray"])):
            arguments = nemo_file, manifest, *SIZES, *by
            run(extract_features, *arguments, "--layers", "1,3", "--out", tmp_path / out / "features")
            run(extract_labels, *arguments, "--labels", "enhanced", "--out", tmp_path / out / "labels.json")
            run(
                cluster_labels, nemo_file, manifest, *SIZES[:2], "--workers", 0, *by, "--layer", 2, "--clusters", 8,
                "--out", tmp_path / out / "teacher.pt",
            )  # fmt: skip
    finally:
        ray.shutdown()
    one, other = (read_teacher_file(tmp_path / out / "teacher.pt") for out in ("one", "ray"))
    assert torch.equal(one.centroids, other.centroids)
    for out in ("one", "ray"):
        (tmp_path / out / "teacher.pt").unlink()
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
