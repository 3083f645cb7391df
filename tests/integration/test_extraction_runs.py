"""Whole runs of extraction: shards, formats, interruptions, recognizers, and the scripts as a user runs them."""

import json
import runpy
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet
from nemo.collections.asr.models import EncDecCTCModel
from nemo.utils import logging as nemo_logging
from omegaconf import OmegaConf

from nemo_birq.extraction import store
from nemo_birq.extraction.data import SpeechData, divide, make_loader, open_data
from nemo_birq.extraction.features import compute_features
from nemo_birq.extraction.labels import compute_labels, finish, is_complete, parts_folder, write_labels
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import LoadedEncoder, load_encoder
from tests.helpers.extraction import BATCH, COUNT, PART, extract, make_model_with_statistics, read_npz
from tests.helpers.manifests import TEST, short_lines, write_manifest
from tests.helpers.models import BASE, SAMPLE_RATE
from tests.helpers.paths import CORPUS, ROOT

pytestmark = pytest.mark.integration

SHARDS = CORPUS / "train"


@pytest.fixture(scope="module")
def model():
    return make_model_with_statistics()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data") / "few.json", short_lines(COUNT))


@pytest.fixture(scope="module")
def data(manifest) -> SpeechData:
    return open_data(str(manifest), None, SAMPLE_RATE)


@pytest.fixture(scope="module")
def nemo_file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.nemo"
    model.save_to(str(path))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_and_single_files_give_the_same(model, tmp_path):
    (tmp_path / "shards" / "sharded_manifests").mkdir(parents=True)
    (tmp_path / "shards" / "audio_0.tar").symlink_to(SHARDS / "audio_0.tar")
    lines = [json.loads(line) for line in (SHARDS / "sharded_manifests" / "manifest_0.json").open()][:30]
    text = "\n".join(map(json.dumps, reversed(lines)))  # another order than in the shard
    (tmp_path / "shards" / "sharded_manifests" / "manifest_0.json").write_text(text)
    with tarfile.open(SHARDS / "audio_0.tar") as archive:
        members = [archive.getmember(line["audio_filepath"]) for line in lines]
        archive.extractall(tmp_path / "files", members=members, filter="data")
    (tmp_path / "files" / "m.json").write_text(text)

    for name, data in (("single", "files/m.json"), ("tarred", "shards")):
        extract(model, open_data(str(tmp_path / data), None, SAMPLE_RATE), tmp_path / name, layers=[2])
    one, other = read_npz(tmp_path / "single"), read_npz(tmp_path / "tarred")
    assert len(one) == 30 and one.keys() == other.keys()
    for name, arrays in one.items():
        np.testing.assert_allclose(arrays["layer_2"], other[name]["layer_2"], atol=2e-5)


def test_segments_of_one_file_and_lines_that_cannot_be_used(model, tmp_path, caplog):
    audio = CORPUS / "test" / "audio" / "spk030-test-00000.opus"
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF no audio at all")
    lines = [
        {"audio_filepath": str(audio), "duration": 1.0, "text": "a"},
        {"audio_filepath": str(broken), "duration": 1.0, "text": "b"},
        {"audio_filepath": str(audio), "offset": 1.0, "duration": 0.9, "text": "c"},
    ]
    (tmp_path / "m.json").write_text("\n".join(map(json.dumps, lines)))
    nemo_logging._logger.addHandler(caplog.handler)
    try:
        done = extract(model, open_data(str(tmp_path / "m.json"), None, SAMPLE_RATE), tmp_path / "out", layers=[1])
    finally:
        nemo_logging._logger.removeHandler(caplog.handler)
    assert (done.utterances, done.unreadable) == (2, 1)
    assert [broken.name in message for message in caplog.messages if "Skipped" in message] == [True]  # once
    listed = [json.loads(line) for line in (tmp_path / "out" / "part-000000.jsonl").open()]
    assert [(line["text"], line["features_key"], line["num_frames"]) for line in listed] == [
        ("a", "spk030-test-00000", 25), ("c", "spk030-test-00000-2", 23)
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_lhotse_reads_the_same_arrays(model, data, tmp_path, dtype):
    extract(model, data, tmp_path / "npz", dtype=dtype)
    extract(model, data, tmp_path / "lhotse", kind="lhotse", dtype=dtype, workers=1)
    expected = read_npz(tmp_path / "npz")
    cuts = list(CutSet.from_shar(in_dir=tmp_path / "lhotse" / "shar"))
    assert [cut.id for cut in cuts] == list(expected)
    for cut, line in zip(cuts, data.lines(), strict=True):
        for layer in (1, 3):
            got = getattr(cut, f"load_layer_{layer}")()
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, expected[cut.id][f"layer_{layer}"])
        assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == (line["text"], line["speaker"])
        assert cut.duration == line["duration"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["npz", "lhotse"])
@pytest.mark.parametrize("when", ["computing", "writing"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(model, data, tmp_path, monkeypatch, kind, when):
    assert extract(model, data, tmp_path / "whole", kind).resumed == 0
    compute = partial(compute_features, LoadedEncoder(model), layers=(1, 3), dtype=torch.float32)
    calls = []

    def until_killed(batch):
        calls.append(batch)
        if len(calls) == 8:
            raise Killed
        return compute(batch)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        if when == "writing":  # files of the second part are in place, its list is not
            write = store.write_text
            patched.setattr(store, "write_text", lambda path, text: (_ for _ in ()).throw(Killed) if "000001" in path.name
                            else write(path, text))  # fmt: skip
            extract(model, data, tmp_path / "out", kind)
        else:
            extract(model, data, tmp_path / "out", kind, compute=until_killed)
    before = {name for name in contents(tmp_path / "out") if name.endswith(".jsonl")}
    assert 0 < len(before) < len(divide(data.durations, PART))
    (tmp_path / "out" / ".writing").mkdir(exist_ok=True)
    (tmp_path / "out" / ".writing" / "half").write_bytes(b"half")  # left by a killed run
    calls.clear()
    done = extract(model, data, tmp_path / "out", kind, compute=lambda batch: calls.append(batch) or compute(batch))
    assert done.resumed == len(before) and done.utterances < COUNT
    assert sum(len(batch.ids) for batch in calls) == done.utterances  # nothing was done twice
    one, other = contents(tmp_path / "whole"), contents(tmp_path / "out")
    if kind == "npz":
        assert one == other
    else:  # gzip and tar carry the time of day
        assert one.keys() == other.keys()
        cuts = [CutSet.from_shar(in_dir=tmp_path / name / "shar") for name in ("whole", "out")]
        for a, b in zip(*cuts, strict=True):
            np.testing.assert_array_equal(a.load_layer_3(), b.load_layer_3())
    assert extract(model, data, tmp_path / "out", kind, compute=compute).utterances == 0


def test_labels_of_a_manifest(model, data, tmp_path):
    out = tmp_path / "deep" / "labels.json"
    out.parent.mkdir()
    settings = {"what": "enhanced"}
    assert not is_complete(out, settings)
    with PartStore(parts_folder(out), settings, {}) as parts, progress_bar(disable=True) as progress:
        compute = partial(compute_labels, model, kind="enhanced")
        done = run_parts(data, parts, compute, write_labels("enhanced"), progress, PART, BATCH, 0)
        finish(parts, done.parts, out)
    lines = [json.loads(line) for line in out.open()]
    assert len(lines) == COUNT and not parts_folder(out).exists() and is_complete(out, settings)
    for line, entry in zip(lines, data.lines(), strict=True):
        labels = line.pop("enhanced_labels")
        assert line == entry and all(isinstance(label, int) and 0 <= label < 24 for label in labels)
    again = open_data(str(out), None, SAMPLE_RATE)  # a NeMo manifest
    assert len(again.durations) == COUNT
    with pytest.raises(ValueError, match=r"labels\.json.*enhanced.*anchor.*--out"):
        is_complete(out, {"what": "anchor"})
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mine\.json exists.*not made by this command.*--out"):
        is_complete(tmp_path / "mine.json", settings)


def test_features_of_a_recognizer(model, batch, tmp_path):
    """The model is stock NeMo's class, like a fine-tuned encoder."""
    vocabulary = ["a", "b"]
    recognizer = EncDecCTCModel(OmegaConf.create({
        "sample_rate": SAMPLE_RATE, "preprocessor": BASE.preprocessor, "encoder": BASE.encoder, "train_ds": None,
        "validation_ds": None, "optim": None, "labels": vocabulary,
        "decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32, "num_classes": 2,
                    "vocabulary": vocabulary},
    }))  # fmt: skip
    recognizer.encoder.load_state_dict(model.encoder.state_dict())
    recognizer.save_to(str(tmp_path / "ctc.nemo"))
    opened = load_encoder(tmp_path / "ctc.nemo")
    assert isinstance(opened.model, EncDecCTCModel) and (opened.depth, opened.sample_rate) == (3, SAMPLE_RATE)
    found = compute_features(opened, batch, [2], torch.float32)
    expected = compute_features(LoadedEncoder(model), batch, [2], torch.float32)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["layer_2"], other["layer_2"])


def main(script: str, *arguments: object) -> None:
    """Runs a script in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")


@pytest.mark.system
def test_extract_features_as_a_user(nemo_file, model, manifest, data, tmp_path, capsys):
    options = ["--layers", "3,1", "--part-minutes", "0.25", "--out", str(tmp_path / "out")]
    main("extract_features.py", nemo_file, manifest, *options)
    printed = capsys.readouterr().out
    assert f"{COUNT} utterances, 0.02 h of audio, in {len(divide(data.durations, PART))} parts" in printed
    assert len((tmp_path / "out" / "manifest.json").read_text().splitlines()) == COUNT
    extract(model, data, tmp_path / "expected")
    expected = read_npz(tmp_path / "expected")
    for name, arrays in read_npz(tmp_path / "out").items():
        for layer in ("layer_1", "layer_3"):
            np.testing.assert_allclose(arrays[layer], expected[name][layer], atol=2e-5)


@pytest.mark.system
@pytest.mark.parametrize("kind", ["anchor", "enhanced"])
def test_extract_labels_as_a_user(nemo_file, model, manifest, data, tmp_path, capsys, kind):
    out = tmp_path / "new" / "labels.json"
    options = ["--labels", kind, "--out", out, "--workers", 0]
    main("extract_labels.py", nemo_file, manifest, *options)
    assert f"{COUNT} utterances" in capsys.readouterr().out
    lines = [json.loads(line) for line in out.open()]
    for row in range(0, COUNT, 4):  # the statistics of layer k came with the file
        expected = compute_labels(model, make_loader(data, [[row]], 0).dataset[[row]].speech, kind)[0][:, 0]
        assert np.mean(lines[row][f"{kind}_labels"] == expected) > 0.97  # rounding may move a frame between two codes
    parts_folder(out).mkdir()  # like after a kill
    main("extract_labels.py", nemo_file, manifest, *options)
    assert "is already complete" in capsys.readouterr().out and not parts_folder(out).exists()


@pytest.mark.system
def test_scripts_say_what_is_wrong(nemo_file, tmp_path):
    def refused(message: str, script: str, *arguments: str):
        with pytest.raises(SystemExit, match=f"{script}: .*{message}"):
            main(script, nemo_file, *arguments)

    out = ["--out", str(tmp_path / "out")]
    refused(r"layers.*9.*1 to 3", "extract_features.py", str(TEST), "--layers", "2,9", *out)
    refused("layers.*'all'", "extract_features.py", str(TEST), "--layers", "all", *out)
    refused(r"none\.json", "extract_labels.py", "none.json", "--labels", "anchor", *out)
    sets = ["--train", str(TEST), "--dev", str(TEST), "--test", str(TEST)]
    refused(r"layers.*9.*1 to 3", "probe.py", *sets, "--layers", "9")
    refused("epochs=0", "probe.py", *sets, "--epochs", "0")
    refused(r"\b60 .*\bdev .*\btrain ", "probe.py", *sets)
    assert not (tmp_path / "out").exists()  # nothing is begun
