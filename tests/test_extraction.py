"""Extraction: against stock NeMo and the model itself; whole or not there, whenever it is killed."""

import json
import runpy
import shutil
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.modules.conformer_encoder import ConformerMultiLayerFeatureExtractor
from nemo.utils import logging as nemo_logging
from omegaconf import OmegaConf

from nemo_birq.extraction import store
from nemo_birq.extraction.data import SpeechData, batches_by_length, divide, make_loader, open_data
from nemo_birq.extraction.features import DTYPES, FORMATS, check_space, compute_features
from nemo_birq.extraction.labels import check_can_label, compute_labels, finish, is_complete, parts_folder, write_labels
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import LoadedEncoder, load_encoder
from nemo_birq.modules.layer_pass import encode_to_layer, encode_to_layers, encoder_lengths, parse_layers
from tests.conftest import BASE, CORPUS, ROOT, SAMPLE_RATE, make_batch, make_model

TEST = CORPUS / "test" / "test.json"
SHARDS = CORPUS / "train"
COUNT = 24  # utterances, 64 s
PART, BATCH = 15.0, 6.0  # seconds; several parts, each of several batches


@pytest.fixture(scope="module")
def model():
    """With the statistics that a training leaves."""
    made = make_model()
    made.train()
    batch = make_batch(seed=3)
    features, lengths = made.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    hidden, _ = encode_to_layer(made.encoder, features, lengths, made.layer)
    valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        made.enhanced_labeler(hidden, valid, torch.arange(valid.numel()))
    return made.eval()


@pytest.fixture(scope="module")
def nemo_file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.nemo"
    model.save_to(str(path))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """The first utterances of the test set."""
    path = tmp_path_factory.mktemp("data") / "few.json"
    lines = [json.loads(line) for line in TEST.read_text().splitlines()][:COUNT]
    lines = [line | {"audio_filepath": str(TEST.parent / line["audio_filepath"])} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def data(manifest) -> SpeechData:
    return open_data(str(manifest), None, SAMPLE_RATE)


def extract(model, data, folder, kind="npz", layers=(1, 3), compute=None, workers=0, dtype="float32"):
    compute = compute or partial(compute_features, LoadedEncoder(model), layers=layers, dtype=DTYPES[dtype])
    with PartStore(folder, {"format": kind}, {}) as parts, progress_bar(disable=True) as progress:
        return run_parts(data, parts, compute, FORMATS[kind], progress, PART, BATCH, workers)


def read_npz(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of all utterances, found by the lists."""
    found = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            with np.load(folder / line["features_filepath"]) as arrays:
                names = [name for name in arrays if name.startswith(line["features_key"] + "/")]
                found[line["features_key"]] = {name.split("/")[1]: arrays[name] for name in names}
                assert {len(array) for array in found[line["features_key"]].values()} == {line["num_frames"]}
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_features_are_those_of_nemo_one_utterance_at_a_time(model, data, tmp_path):
    extract(model, data, tmp_path / "out")
    found = read_npz(tmp_path / "out")
    assert len(found) == COUNT
    extractor = ConformerMultiLayerFeatureExtractor(model.encoder, layer_idx_list=[0, 2], include_final_output=False)
    for _, speech in list(make_loader(data, [[row] for row in range(0, COUNT, 4)], 0)):
        name = Path(speech.ids[0]).stem
        with torch.no_grad():
            features, lengths = model.preprocessor(input_signal=speech.signal, length=speech.signal_length)
            expected, (length, _) = extractor(audio_signal=features, length=lengths)
        for layer, output in zip((1, 3), expected, strict=True):
            got = found[name][f"layer_{layer}"]
            assert got.shape == (int(length[0]), 32) and got.dtype == np.float32
            # Alone or in a batch, sums are formed in another order: rounding, nothing else.
            np.testing.assert_allclose(got, output[0, :, : int(length[0])].T, atol=2e-5)


@pytest.mark.unit
@pytest.mark.parametrize("subsampling, changes", [
    ("striding", {}), ("dw_striding", {"subsampling_factor": 8}), ("stacking", {}),
    ("striding", {"causal_downsampling": True}),
    ("striding", {"conv_norm_type": "layer_norm", "self_attention_model": "abs_pos"}),
])  # fmt: skip
def test_layers_and_lengths_of_every_kind_of_encoder(subsampling, changes):
    torch.manual_seed(0)
    encoder = ConformerEncoder.from_config_dict(OmegaConf.merge(BASE.encoder, {"subsampling": subsampling} | changes)).eval()
    for frames in (80, 83, 96, 101):
        features, lengths = torch.randn(3, 20, frames), torch.tensor([frames, frames - 7, 41])
        with torch.no_grad():
            outputs, found = encode_to_layers(encoder, features, lengths, [3, 1])
            last, expected = encoder(audio_signal=features, length=lengths)
        torch.testing.assert_close(outputs[3], last.transpose(1, 2), rtol=0, atol=0)
        assert set(outputs) == {1, 3} and torch.equal(found, expected)
        assert torch.equal(encoder_lengths(encoder, features, lengths), expected)


@pytest.mark.unit
def test_layers_above_the_highest_are_not_run(model, batch):
    counted = []
    hooks = [layer.register_forward_hook(lambda *_, i=i: counted.append(i)) for i, layer in enumerate(model.encoder.layers)]
    hooks.append(model.encoder.pre_encode.register_forward_hook(lambda *_: counted.append("front")))
    compute_features(LoadedEncoder(model), batch, [2], torch.float32)
    assert counted == ["front", 0, 1]
    counted.clear()
    compute_labels(model, batch, "enhanced")
    assert counted == ["front", 0, 1]
    counted.clear()
    compute_labels(model, batch, "anchor")
    assert counted == []  # anchor labels need no encoder
    for hook in hooks:
        hook.remove()
    assert not any(layer._forward_hooks for layer in model.encoder.layers)


@pytest.mark.unit
def test_labels_are_those_of_the_model(model, batch):
    expected = model.extract_labels(batch.signal, batch.signal_length)
    for kind, labels in (("anchor", expected.anchor), ("enhanced", expected.enhanced)):
        found = compute_labels(model, batch, kind)
        for i, length in enumerate(expected.lengths.tolist()):
            np.testing.assert_array_equal(found[i], labels[i, :length].numpy())
            assert found[i].min() >= 0 and found[i].shape == (length, 1)


@pytest.mark.unit
def test_float16_is_rounding_or_refused(model, batch):
    opened = LoadedEncoder(model)
    full = compute_features(opened, batch, [2], torch.float32)
    half = compute_features(opened, batch, [2], torch.float16)
    for one, other in zip(full, half, strict=True):
        assert other["layer_2"].dtype == np.float16
        np.testing.assert_array_equal(other["layer_2"], one["layer_2"].astype(np.float16))
    loud = make_model()
    loud.eval().encoder.layers[1].norm_out.weight.data *= 1e6
    with pytest.raises(ValueError, match=r"layer 2: .*which float32 would hold"):
        compute_features(LoadedEncoder(loud), batch, [2], torch.float16)
    loud.encoder.layers[1].norm_out.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"hold NaN or infinity, as after a training that diverged$"):
        compute_features(LoadedEncoder(loud), batch, [2], torch.float32)
    with pytest.raises(ValueError, match="hold NaN"):
        compute_labels(loud, batch, "enhanced")


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_parts_and_batches_hold_each_utterance_once(data):
    durations = data.durations
    parts = divide(durations, PART)
    assert len(parts) > 3 and [row for part in parts for row in range(part.first, part.last)] == list(range(COUNT))
    for part in parts:
        batches = batches_by_length(range(part.first, part.last), durations, BATCH)
        assert sorted(row for rows in batches for row in rows) == list(range(part.first, part.last))
        assert all(len(rows) * durations[rows].max() <= BATCH for rows in batches)
    assert [part.last - part.first for part in divide(np.array([50.0, 1.0, 1.0]), 10.0)] == [1, 2]
    assert batches_by_length([0, 1], np.array([50.0, 1.0]), 10.0)[0] == [0]  # longer than a batch: one by itself


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


@pytest.mark.unit
def test_lines_of_shards_are_those_of_their_members():
    data = open_data(str(SHARDS), None, SAMPLE_RATE)
    lines = list(data.lines())
    assert [line["duration"] for line in lines] == data.durations.tolist()
    assert [line["audio_filepath"] for line in lines] == [data.indexes[0].place(row).name for row in range(480)]
    written = [json.loads(line) for line in (SHARDS / "tarred_audio_manifest.json").open()]
    assert sorted(map(json.dumps, lines)) == sorted(map(json.dumps, written))
    pattern = str(SHARDS / "sharded_manifests" / "manifest__OP_0..3_CL_.json")
    assert list(open_data(pattern, str(SHARDS / "audio__OP_0..3_CL_.tar"), SAMPLE_RATE).lines()) == lines


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


@pytest.mark.unit
def test_audio_that_is_gone_is_no_empty_result(model, tmp_path):
    """As when a disk is away for a while: what was written stays, and the run goes on when it is back."""
    paths = [tmp_path / f"{i}.opus" for i in range(6)]
    source = CORPUS / "test" / "audio" / "spk030-test-00000.opus"
    for path in paths:
        shutil.copy(source, path)
    lines = [{"audio_filepath": str(path), "duration": 1.0, "text": ""} for path in paths]
    (tmp_path / "m.json").write_text("\n".join(map(json.dumps, lines)))
    data = open_data(str(tmp_path / "m.json"), None, SAMPLE_RATE)
    away = [path.rename(path.with_suffix(".away")) for path in paths[2:]]

    def run_in_parts() -> int:
        with PartStore(tmp_path / "out", {}, {}) as parts, progress_bar(disable=True) as progress:
            compute, write = partial(compute_labels, model, kind="anchor"), write_labels("anchor")
            return run_parts(data, parts, compute, write, progress, 2.0, BATCH, 0).utterances

    with pytest.raises(ValueError, match="none of 2 utterances one after the other"):
        run_in_parts()
    for path in away:
        path.rename(path.with_suffix(".opus"))
    assert run_in_parts() == 4  # the first part was kept


# --- formats and interruptions --------------------------------------------------------------------------------------


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
    (tmp_path / "out" / ".writing" / "half").write_bytes(b"half")  # what a kill leaves
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
    with pytest.raises(ValueError, match="what was enhanced, now anchor"):
        is_complete(out, {"what": "anchor"})
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match="is not of this script"):
        is_complete(tmp_path / "mine.json", settings)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_a_folder_of_something_else_is_refused(tmp_path):
    same = {"layers": [1], "model": "x"}
    with PartStore(tmp_path / "a", same, {}), pytest.raises(ValueError, match="another process"):
        PartStore(tmp_path / "a", same, {})
    with pytest.raises(ValueError, match=r"layers was \[1\], now \[2\]; model was x, now y"):
        PartStore(tmp_path / "a", {"layers": [2], "model": "y"}, {})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"):
        PartStore(tmp_path / "b", {}, {})


@pytest.mark.unit
def test_layers_and_data_that_are_not_there(model, tmp_path, monkeypatch):
    assert parse_layers("3, 1,3", 3) == [1, 3]
    for wrong in ("0", "1,4", "-1"):
        with pytest.raises(ValueError, match="has the layers 1 to 3"):
            parse_layers(wrong, 3)
    with pytest.raises(FileNotFoundError):
        open_data(str(tmp_path / "none.json"), None, SAMPLE_RATE)
    with pytest.raises(FileNotFoundError, match=r"name one of the folders below: .*train"):
        open_data(str(CORPUS), None, SAMPLE_RATE)
    with pytest.raises(ValueError, match="give the folder that holds"):
        open_data(str(SHARDS / "tarred_audio_manifest.json"), None, SAMPLE_RATE)
    with pytest.raises(ValueError, match="is a tar file: give the folder"):
        open_data(str(SHARDS / "audio_0.tar"), None, SAMPLE_RATE)
    (tmp_path / "empty.json").touch()
    with pytest.raises(ValueError, match="nothing that can be used"):
        open_data(str(tmp_path / "empty.json"), None, SAMPLE_RATE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(ValueError, match="take fewer layers or --dtype float16"):
        check_space(tmp_path / "new", LoadedEncoder(model), open_data(str(TEST), None, SAMPLE_RATE), [1], "float32")


@pytest.mark.unit
def test_models_that_do_not_fit(tmp_path):
    fresh = make_model().eval()  # never trained
    with pytest.raises(ValueError, match="never made enhanced labels"):
        check_can_label(fresh, "enhanced")
    check_can_label(fresh, "anchor")
    with pytest.raises(FileNotFoundError):
        load_encoder(tmp_path / "none.nemo")
    (tmp_path / "torn.nemo").write_bytes(b"torn")
    with pytest.raises(ValueError, match="torn"):
        load_encoder(tmp_path / "torn.nemo")


def test_features_of_a_recognizer(model, batch, tmp_path):
    """Stock NeMo's class, such as a pretrained encoder becomes by fine-tuning."""
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


# --- the scripts, as a user runs them ---------------------------------------------------------------------------------


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
    parts_folder(out).mkdir()  # as a kill leaves it
    main("extract_labels.py", nemo_file, manifest, *options)
    assert "is complete already" in capsys.readouterr().out and not parts_folder(out).exists()


@pytest.mark.system
def test_scripts_say_what_is_wrong(nemo_file, tmp_path):
    def refused(message: str, script: str, *arguments: str):
        with pytest.raises(SystemExit, match=f"{script}: .*{message}"):
            main(script, nemo_file, *arguments)

    out = ["--out", str(tmp_path / "out")]
    refused("has the layers 1 to 3", "extract_features.py", str(TEST), "--layers", "2,9", *out)
    refused("give whole numbers", "extract_features.py", str(TEST), "--layers", "all", *out)
    refused("none.json does not exist", "extract_labels.py", "none.json", "--labels", "anchor", *out)
    sets = ["--train", str(TEST), "--dev", str(TEST), "--test", str(TEST)]
    refused("has the layers 1 to 3", "probe.py", *sets, "--layers", "9")
    refused("epochs=0", "probe.py", *sets, "--epochs", "0")
    refused("60 utterances of the dev set are in the train set", "probe.py", *sets)
    assert not (tmp_path / "out").exists()  # nothing is begun
