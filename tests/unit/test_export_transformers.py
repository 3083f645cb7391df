"""The settings of NeMo's FastConformer that transformers has, and the refusal of the others."""

from pathlib import Path

import pytest
import torch

from nemo_birq import BiRQModel
from nemo_birq.export import transformers_folder
from nemo_birq.export.bare_encoder import strip
from nemo_birq.export.output_files import check_output
from nemo_birq.export.transformers_folder import convert, feature_deviation, output_deviation, write_folder
from nemo_birq.export.transformers_settings import check_settings, feature_extractor
from nemo_birq.utils.files import complete_folder
from tests.helpers.encoders import PARAKEET
from tests.helpers.models import make_config, make_model

SETTINGS = {
    "a FastConformer": {},
    "no biases, no scaling": {"encoder__use_bias": False, "encoder__xscaling": False},
    "shared biases": {"encoder__untie_biases": False},
    "other sizes": {
        "encoder__subsampling_factor": 4, "encoder__subsampling_conv_channels": -1, "encoder__conv_kernel_size": 5,
        "encoder__ff_expansion_factor": 2, "encoder__n_heads": 4, "encoder__conv_context_size": [2, 2],
    },
    "other features": {
        "preprocessor__n_fft": None, "preprocessor__window_size": 0.02, "preprocessor__window_stride": 0.0125,
        "preprocessor__preemph": None, "preprocessor__pad_to": 0, "preprocessor__dither": 0.1,
    },
    "8 kHz": {"preprocessor__sample_rate": 8000, "preprocessor__features": 40, "encoder__feat_in": 40},
}  # fmt: skip
REFUSED = {
    "encoder.subsampling": "striding",
    "encoder.causal_downsampling": True,
    "encoder.reduction": "pooling",
    "encoder.feat_out": 16,
    "encoder.self_attention_model": "rel_pos_local_attn",
    "encoder.att_context_size": [70, 13],
    "encoder.att_context_style": "chunked_limited",
    "encoder.att_chunk_context_size": [[70], [1], [0]],
    "encoder.conv_norm_type": "layer_norm",
    "encoder.conv_context_size": "causal",
    "encoder.conv_context_style": "dcc",
    "encoder.stochastic_depth_drop_prob": 0.1,
    "preprocessor.window": "hamming",
    "preprocessor.normalize": "all_features",
    "preprocessor.lowfreq": 20,
    "preprocessor.highfreq": 7600,
    "preprocessor.log": False,
    "preprocessor.log_zero_guard_type": "clamp",
    "preprocessor.log_zero_guard_value": 1e-5,
    "preprocessor.frame_splicing": 2,
    "preprocessor.exact_pad": True,
    "preprocessor.pad_value": -1,
    "preprocessor.mag_power": 1.0,
    "preprocessor.mel_norm": "null",
    "preprocessor.features": 20,
}
pytestmark = pytest.mark.unit


def random_model(**changes: object) -> BiRQModel:
    """A FastConformer in which no weight, bias or statistic has the value of its initialization."""
    model = make_model(**PARAKEET | changes).eval()
    with torch.no_grad():
        for tensor in model.encoder.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        for name, tensor in model.encoder.named_buffers():
            if "running" in name:
                tensor.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_transformers_has_give_equal_features_and_outputs(changes):
    model = random_model(**changes)
    check_settings(model.cfg, Path("model.nemo"))
    assert output_deviation(model, convert(model)) < 1e-5
    assert feature_deviation(model, feature_extractor(model)) < 1e-5


@pytest.mark.parametrize(("key", "value"), REFUSED.items(), ids=REFUSED)
def test_settings_that_transformers_lacks_are_refused(key, value):
    config = make_config(**PARAKEET | {key.replace(".", "__"): value})
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    with pytest.raises(ValueError) as raised:
        check_settings(config, Path("my.nemo"))
    assert "my.nemo" in str(raised.value) and f"{key}={shown}" in str(raised.value).replace("'", "")
    assert str(raised.value).count("(supported: ") == 1


def test_every_setting_that_is_lacking_is_named():
    with pytest.raises(ValueError, match=r"encoder\.subsampling=striding .*dw_striding.*conv_norm_type=layer_norm"):
        check_settings(make_config(encoder__conv_norm_type="layer_norm"), Path("my.nemo"))


def test_dropout_of_training_is_kept():
    rates = {"dropout": 0.11, "dropout_pre_encoder": 0.12, "dropout_emb": 0.13, "dropout_att": 0.14}
    config = convert(make_model(**PARAKEET, **{f"encoder__{key}": rate for key, rate in rates.items()})).config
    assert (config.activation_dropout, config.dropout) == (0.11, 0.12)
    assert (config.dropout_positions, config.attention_dropout, config.layerdrop) == (0.13, 0.14, 0.0)


def test_folder_that_differs_from_nemo_is_not_written(tmp_path, monkeypatch):
    random_model().save_to(str(tmp_path / "model.nemo"))
    other = convert(random_model(encoder__xscaling=False))
    monkeypatch.setattr(transformers_folder, "convert", lambda model: other)
    with pytest.raises(ValueError, match=r"out.*outputs.*NeMo.*\d\.\de[+-]\d\d"):
        write_folder(strip(tmp_path / "model.nemo").model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.nemo"]


def test_folder_is_checked_before_any_work(tmp_path):
    source = tmp_path / "model.nemo"
    source.write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "version-1.5").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("mine")
    (tmp_path / "odd" / "README.md").mkdir(parents=True)
    refused = {
        "file": r"/file is a file",
        "there": r"there/config\.json.*--force",
        "odd": r"odd/README\.md is a folder",
    }
    for name, message in refused.items():
        with pytest.raises(FileExistsError, match=message):
            check_output(source, tmp_path / name, force=False)
    for name in ("file", "odd"):
        with pytest.raises(FileExistsError):
            check_output(source, tmp_path / name, force=True)
    with pytest.raises(ValueError, match=r"version-1\.6.*without a suffix"):
        check_output(source, tmp_path / "version-1.6", force=False)
    check_output(source, tmp_path / "version-1.5", force=False)
    check_output(source, tmp_path / "there", force=True)
    check_output(source, tmp_path / "hub" / "new", force=False)
    assert not (tmp_path / "hub" / "new").exists() and (tmp_path / "there" / "config.json").read_text() == "mine"


def test_a_folder_is_complete_or_absent_and_keeps_other_files(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), complete_folder(folder) as new:
        (new / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with complete_folder(folder) as new:
        (new / "config.json").write_text("first")
    (tmp_path / "other").mkdir()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode  # not that of a temporary folder
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt), complete_folder(folder) as new:
        (new / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "config.json").read_text() == "first"
    with complete_folder(folder) as new:
        (new / "config.json").write_text("second")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "second", "mine.txt": "mine"}
