"""Encoders of NeMo and of transformers behind one interface: outputs, lengths and times of frames, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_birq.evaluation.encoders.nemo import NemoEncoder
from nemo_birq.evaluation.encoders.opening import check_path, open_encoder
from nemo_birq.evaluation.encoders.transformers_folder import TransformersEncoder
from nemo_birq.export.bare_encoder import strip
from nemo_birq.export.transformers_folder import write_folder
from nemo_birq.loading import load_encoder
from tests.helpers.encoders import FAMILY, PARAKEET, stock_self_supervised, write_wav2vec2
from tests.helpers.models import make_batch, make_model

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A .nemo, and beside it the folder that birq export writes."""
    folder = tmp_path_factory.mktemp("exported")
    make_model(**PARAKEET).save_to(str(folder / "model.nemo"))
    write_folder(strip(folder / "model.nemo").model, folder / "hub")
    return folder


def encode(encoder, *layers: int):
    batch = make_batch((2.0, 1.37, 0.7))
    with torch.inference_mode():
        return encoder.encode(batch.signal, batch.signal_length, layers)


def test_an_exported_folder_has_the_layers_of_its_nemo(exported):
    ours, theirs = open_encoder(exported / "model.nemo"), open_encoder(exported / "hub")
    assert isinstance(ours, NemoEncoder) and isinstance(theirs, TransformersEncoder)
    for key in ("sample_rate", "depth", "width", "num_parameters", "times"):
        assert getattr(ours, key) == getattr(theirs, key), key
    wanted, found = encode(ours, 1, 3), encode(theirs, 1, 3)
    assert torch.equal(wanted.lengths, found.lengths)
    for row, length in enumerate(wanted.lengths.tolist()):
        for first, second in zip(wanted.layers, found.layers, strict=True):
            torch.testing.assert_close(first[row, :length], second[row, :length], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILY)
def test_layers_of_the_wav2vec2_family(kind, tmp_path):
    encoder = open_encoder(write_wav2vec2(tmp_path, kind))
    assert (encoder.kind, encoder.depth, encoder.width) == (f"{kind}Model", 3, 32)
    outputs = encode(encoder, 1, 2, 3)
    assert outputs.lengths.tolist() == [99, 68, 34]  # of 32000, 21920 and 11200 samples: (n - 400) // 320 + 1
    single = make_batch((2.0, 1.37, 0.7))
    inputs = encoder._extractor(single.signal[2, :11200].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        last = encoder._encoder(**inputs).last_hidden_state
    torch.testing.assert_close(outputs.layers[2][2, :34], last[0])
    assert not torch.allclose(outputs.layers[0][2, :34], outputs.layers[1][2, :34])


def test_times_of_frames_are_those_of_the_convolutions(tmp_path):
    """The samples that a frame depends on lie symmetrically about its middle."""
    encoder = open_encoder(write_wav2vec2(tmp_path))
    signal = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    frames = encoder._encoder.feature_extractor(signal)  # (1, D, T')
    for frame in (0, 7):
        gradient = torch.autograd.grad(frames[0, :, frame].square().sum(), signal, retain_graph=True)[0][0]
        seen = gradient.nonzero().flatten()
        middle = float(seen[0] + seen[-1]) / 2 / 16000
        assert encoder.times.middles(8)[frame] == pytest.approx(middle, abs=1e-9)


def test_a_folder_with_a_head_gives_its_encoder(tmp_path):
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
              "subsampling_conv_channels": 8, "num_mel_bins": 80}  # fmt: skip
    torch.manual_seed(2)
    model = ParakeetForCTC(ParakeetCTCConfig(vocab_size=10, encoder_config=config)).eval()
    model.save_pretrained(tmp_path)
    ParakeetFeatureExtractor().save_pretrained(tmp_path)
    encoder = open_encoder(tmp_path)
    assert (encoder.kind, encoder.times.step) == ("ParakeetEncoder", 0.08)
    assert encoder.num_parameters == sum(tensor.numel() for tensor in model.encoder.parameters())
    outputs = encode(encoder, 1, 2)
    assert outputs.lengths.tolist() == [25, 18, 9]  # of 200, 137 and 70 mel frames


def test_masking_after_the_subsampling_is_removed(tmp_path):
    """NeMo wraps the subsampling of such a model; without masking, the outputs are the same."""
    model = stock_self_supervised("EncDecMaskedTokenPredModel", "post_conv").eval()
    model.save_to(str(tmp_path / "nest.nemo"))
    encoder = NemoEncoder(load_encoder(tmp_path / "nest.nemo"))
    assert encoder.times == NemoEncoder(load_encoder_of_pre_conv(tmp_path)).times
    batch = make_batch()
    with torch.inference_mode():
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        model.pre_encoder.set_masking_enabled(apply_mask=False)
        wanted, wanted_len = model.encoder(audio_signal=features, length=lengths)
        outputs = encoder.encode(batch.signal, batch.signal_length, [3])
    assert torch.equal(outputs.lengths, wanted_len)
    for row, length in enumerate(wanted_len.tolist()):
        torch.testing.assert_close(outputs.layers[0][row, :length], wanted[row, :, :length].T)


def load_encoder_of_pre_conv(folder: Path):
    stock_self_supervised("EncDecMaskedTokenPredModel").save_to(str(folder / "pre_conv.nemo"))
    return load_encoder(folder / "pre_conv.nemo")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_missing_weights_are_refused(tmp_path):
    """Transformers would draw them at random."""
    write_wav2vec2(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if "layers.1" in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"lacks 1 tensors of Wav2Vec2Model, such as {name}"):
        open_encoder(tmp_path)


def test_code_of_a_folder_is_not_run(tmp_path):
    write_wav2vec2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ValueError, match="cannot be opened by transformers"):
        open_encoder(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_encoders_with_other_frames_are_refused(tmp_path):
    """SEW has the convolutions of Wav2Vec2, and joins two of their frames."""
    from transformers import (
        SEWConfig,
        SEWModel,
        Wav2Vec2FeatureExtractor,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperModel,
    )

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    convolutions = {"conv_dim": [16] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    SEWModel(SEWConfig(**sizes, **convolutions, **positions, squeeze_factor=2)).save_pretrained(tmp_path / "sew")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "sew")
    with pytest.raises(ValueError, match=r"sew: SEWModel gives 49 frames .* 100 frames"):
        open_encoder(tmp_path / "sew")
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
             "decoder_start_token_id": 1}  # fmt: skip
    WhisperModel(WhisperConfig(**small)).save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match="times of the frames of a whisper are not known"):
        open_encoder(tmp_path / "whisper")


def test_paths_are_checked_before_any_work(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileNotFoundError, match=r"none\.nemo does not exist"):
        check_path(tmp_path / "none.nemo")
    with pytest.raises(ValueError, match=r"empty has no config\.json"):
        check_path(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"model\.onnx: give a \.nemo"):
        check_path(tmp_path / "model.onnx")
