"""ONNX and TorchScript, run by onnxruntime and torch.jit, compared with PyTorch."""

import json

import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

from nemo_birq.export.bare_encoder import strip
from nemo_birq.export.runtime_files import (
    EXTRA_FILE,
    describe,
    largest_deviation,
    open_runtime_file,
    write_runtime_file,
)
from tests.helpers.models import FAST, make_batch, trained_model

KINDS = {
    "conformer": {},
    "fastconformer": FAST,
    "local attention": {"encoder__self_attention_model": "rel_pos_local_attn", "encoder__att_context_size": [9, 9]},
}
pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.nemo"
    trained_model(**KINDS[request.param]).save_to(str(path))
    return strip(path).model


def features_told(path) -> dict:
    """Returns the metadata of the file."""
    if path.suffix == ".onnx":
        stored = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        return {key: json.loads(value) for key, value in stored.items()}
    extra = {EXTRA_FILE: ""}
    torch.jit.load(path, _extra_files=extra)
    return json.loads(extra[EXTRA_FILE])


@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_exported_encoder_equals_pytorch(model, tmp_path, suffix):
    """Lengths and batches, with padding, differ from those that were traced and those that the export compares."""
    out = tmp_path / f"encoder{suffix}"
    assert write_runtime_file(model, out) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    run = open_runtime_file(out)
    assert largest_deviation(model.encoder, run, ([8], [33, 9], [700, 699, 350, 16, 1], [2800], [120] * 9)) < 1e-5
    batch = make_batch()
    with torch.no_grad():
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        expected, expected_lengths = model.encoder(audio_signal=features, length=lengths)
        found, found_lengths = run(features, lengths)
    assert torch.equal(found_lengths, expected_lengths) and (found - expected).abs().max() < 1e-5
    told = features_told(out)
    assert told == describe(model) and told["preprocessor"]["features"] == 20
    assert told["seconds_per_output_frame"] == 0.01 * model.cfg.encoder.subsampling_factor
    assert told["longest_input_seconds"] == 5000 * 0.01 * model.cfg.encoder.subsampling_factor


def test_layer_k_alone_can_be_exported(tmp_path, batch, monkeypatch):
    """Without onnxruntime, nothing is compared."""
    monkeypatch.setattr("nemo_birq.export.runtime_files.find_spec", lambda name: None)
    full = trained_model().eval()
    full.save_to(str(tmp_path / "model.nemo"))
    assert write_runtime_file(strip(tmp_path / "model.nemo", layer=2).model, tmp_path / "two.onnx") is None
    features, lengths = full.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    outputs = []
    full.encoder.layers[1].register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    full.encoder(audio_signal=features, length=lengths)
    found, _ = open_runtime_file(tmp_path / "two.onnx")(features, lengths)
    assert (found - outputs[0].transpose(1, 2)).abs().max() < 1e-5
    names = {tensor.name for tensor in onnx.load(tmp_path / "two.onnx").graph.initializer}
    assert not any("layers.2." in name for name in names)


def test_file_that_differs_from_pytorch_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "model.nemo"
    trained_model().save_to(str(path))
    model = strip(path).model
    other = model.from_config_dict(OmegaConf.create(model.cfg.encoder)).eval()  # with other weights
    monkeypatch.setattr("nemo_birq.export.runtime_files._traceable", lambda model: other)
    with pytest.raises(ValueError, match=r"out\.ts.*PyTorch.*\d\.\de[+-]\d\d"):
        write_runtime_file(model, tmp_path / "out.ts")
    assert [file.name for file in tmp_path.iterdir()] == ["model.nemo"]
