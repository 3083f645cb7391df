"""Extraction: layers, labels and parts, compared with NeMo and the model itself, and refused input."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.modules.conformer_encoder import ConformerMultiLayerFeatureExtractor
from omegaconf import OmegaConf

from nemo_birq.extraction.data import SpeechData, batches_by_length, divide, make_loader, open_data
from nemo_birq.extraction.features import check_space, compute_features
from nemo_birq.extraction.labels import check_can_label, compute_labels, write_labels
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import LoadedEncoder, load_encoder
from nemo_birq.modules.layer_pass import encode_to_layers, encoder_lengths, parse_layers
from tests.helpers.extraction import BATCH, COUNT, PART, extract, make_model_with_statistics, read_npz
from tests.helpers.manifests import TEST, short_lines, write_manifest
from tests.helpers.models import BASE, SAMPLE_RATE, make_model
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit

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


# --- the numbers ------------------------------------------------------------------------------------------------------


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


def test_labels_are_those_of_the_model(model, batch):
    expected = model.extract_labels(batch.signal, batch.signal_length)
    for kind, labels in (("anchor", expected.anchor), ("enhanced", expected.enhanced)):
        found = compute_labels(model, batch, kind)
        for i, length in enumerate(expected.lengths.tolist()):
            np.testing.assert_array_equal(found[i], labels[i, :length].numpy())
            assert found[i].min() >= 0 and found[i].shape == (length, 1)


def test_float16_is_rounding_or_refused(model, batch):
    opened = LoadedEncoder(model)
    full = compute_features(opened, batch, [2], torch.float32)
    half = compute_features(opened, batch, [2], torch.float16)
    for one, other in zip(full, half, strict=True):
        assert other["layer_2"].dtype == np.float16
        np.testing.assert_array_equal(other["layer_2"], one["layer_2"].astype(np.float16))
    loud = make_model()
    loud.eval().encoder.layers[1].norm_out.weight.data *= 1e6
    with pytest.raises(ValueError, match=r"\blayer 2\b.*float16.*float32"):
        compute_features(LoadedEncoder(loud), batch, [2], torch.float16)
    loud.encoder.layers[1].norm_out.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"\blayer 2\b(?!.*float32).*NaN"):
        compute_features(LoadedEncoder(loud), batch, [2], torch.float32)
    with pytest.raises(ValueError, match=r"\blayer 2\b.*NaN"):
        compute_labels(loud, batch, "enhanced")


# --- the data ---------------------------------------------------------------------------------------------------------


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


def test_lines_of_shards_are_those_of_their_members():
    data = open_data(str(SHARDS), None, SAMPLE_RATE)
    lines = list(data.lines())
    assert [line["duration"] for line in lines] == data.durations.tolist()
    assert [line["audio_filepath"] for line in lines] == [data.indexes[0].place(row).name for row in range(480)]
    written = [json.loads(line) for line in (SHARDS / "tarred_audio_manifest.json").open()]
    assert sorted(map(json.dumps, lines)) == sorted(map(json.dumps, written))
    pattern = str(SHARDS / "sharded_manifests" / "manifest__OP_0..3_CL_.json")
    assert list(open_data(pattern, str(SHARDS / "audio__OP_0..3_CL_.tar"), SAMPLE_RATE).lines()) == lines


def test_audio_that_is_gone_is_no_empty_result(model, tmp_path):
    """If a disk is absent for a while, written parts are kept, and the run resumes when it is back."""
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

    with pytest.raises(ValueError, match=r"\b2 consecutive utterances"):
        run_in_parts()
    for path in away:
        path.rename(path.with_suffix(".opus"))
    assert run_in_parts() == 4  # the first part was kept


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(tmp_path):
    same = {"layers": [1], "model": "x"}
    with PartStore(tmp_path / "a", same, {}), pytest.raises(ValueError, match=r"\bprocess\b.*/a\b"):
        PartStore(tmp_path / "a", same, {})
    with pytest.raises(ValueError, match=r"\blayers\b.*\[1\].*\[2\].*\bmodel\b.*\bx\b.*\by\b"):
        PartStore(tmp_path / "a", {"layers": [2], "model": "y"}, {})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"/b\b(?!.*settings)"):
        PartStore(tmp_path / "b", {}, {})


def test_layers_and_data_that_are_not_there(model, tmp_path, monkeypatch):
    assert parse_layers("3, 1,3", 3) == [1, 3]
    for wrong in ("0", "1,4", "-1"):
        with pytest.raises(ValueError, match=r"\blayers\b.*1 to 3"):
            parse_layers(wrong, 3)
    with pytest.raises(FileNotFoundError):
        open_data(str(tmp_path / "none.json"), None, SAMPLE_RATE)
    with pytest.raises(FileNotFoundError, match=r"audio_0\.tar.*tarred_manifests/train\b"):
        open_data(str(CORPUS), None, SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"tarred_audio_manifest\.json.*--tars"):
        open_data(str(SHARDS / "tarred_audio_manifest.json"), None, SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"train/audio_0\.tar.*--tars"):
        open_data(str(SHARDS / "audio_0.tar"), None, SAMPLE_RATE)
    (tmp_path / "empty.json").touch()
    with pytest.raises(ValueError, match=r"empty\.json"):
        open_data(str(tmp_path / "empty.json"), None, SAMPLE_RATE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(ValueError, match=r"GiB.*/new\b.*--dtype float16"):
        check_space(tmp_path / "new", LoadedEncoder(model), open_data(str(TEST), None, SAMPLE_RATE), [1], "float32")


def test_models_that_do_not_fit(tmp_path):
    fresh = make_model().eval()  # never trained
    with pytest.raises(ValueError, match="--labels anchor"):
        check_can_label(fresh, Path("fresh.nemo"), "enhanced")
    check_can_label(fresh, Path("fresh.nemo"), "anchor")
    with pytest.raises(FileNotFoundError):
        load_encoder(tmp_path / "none.nemo")
    (tmp_path / "torn.nemo").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"torn\.nemo"):
        load_encoder(tmp_path / "torn.nemo")
