"""Continued pretraining: the file with which a training begins, the check that it fits, and its tensors."""

import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from nemo.collections.asr.models import ASRModel
from nemo.core import ModelPT
from omegaconf import DictConfig, OmegaConf

from nemo_birq import BiRQModel, cli
from nemo_birq.checkpoint.nemo_archive import read_config, read_weights
from nemo_birq.pretrained.initialization import check_initial_file
from nemo_birq.pretrained.like import take_configuration
from nemo_birq.pretrained.source import read_source_config
from tests.helpers.encoders import stock_self_supervised
from tests.helpers.models import FAST, make_batch, make_config, make_model, train, trained_model
from tests.helpers.nemo_files import repack
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit


def begin(model: BiRQModel, path, **settings):
    return model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": str(path)} | settings))


def tensors_of(module: torch.nn.Module, *parts: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name.startswith(parts)}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys() and wanted
    different = [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)]
    assert not different


def labels(model: BiRQModel):
    batch = make_batch()
    return model.eval().extract_labels(batch.signal, batch.signal_length)


RECOGNIZERS = {
    "EncDecCTCModel": {"decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32,
                                   "num_classes": 2, "vocabulary": ["a", "b"]}},
    "EncDecRNNTModel": {
        "labels": ["a", "b"],
        "model_defaults": {"enc_hidden": 32, "pred_hidden": 16, "joint_hidden": 16},
        "decoder": {"_target_": "nemo.collections.asr.modules.RNNTDecoder", "normalization_mode": None,
                    "random_state_sampling": False, "blank_as_pad": True, "vocab_size": 2,
                    "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0}},
        "joint": {"_target_": "nemo.collections.asr.modules.RNNTJoint", "log_softmax": None, "fuse_loss_wer": False,
                  "num_classes": 2, "vocabulary": ["a", "b"],
                  "jointnet": {"encoder_hidden": 32, "pred_hidden": 16, "joint_hidden": 16, "activation": "relu",
                               "dropout": 0.0}},
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
    },
}  # fmt: skip


def stock_recognizer(kind: str, **changes) -> ASRModel:
    """Makes a recognizer of NeMo with the small encoder, or with a FastConformer if the changes select it."""
    base = make_config(**changes)
    target = {"EncDecHybridRNNTCTCModel": "hybrid_rnnt_ctc_models", "EncDecRNNTModel": "rnnt_models"}.get(kind, "ctc_models")
    extra = RECOGNIZERS["EncDecCTCModel" if kind == "EncDecCTCModel" else "EncDecRNNTModel"]
    if "Hybrid" in kind:
        extra = extra | {"aux_ctc": {"ctc_loss_weight": 0.3} | RECOGNIZERS["EncDecCTCModel"]}
    kept = {key: base[key] for key in ("sample_rate", "preprocessor", "encoder")}
    torch.manual_seed(5)
    return ASRModel.from_config_dict(
        OmegaConf.create(kept | extra | {"target": f"nemo.collections.asr.models.{target}.{kind}"})
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("EncDecCTCModel", {}), ("EncDecRNNTModel", FAST), ("EncDecHybridRNNTCTCModel", FAST),
     ("EncDecMaskedTokenPredModel", FAST), ("EncDecDenoiseMaskedTokenPredModel", FAST)],
)  # fmt: skip
def test_the_encoder_of_any_nemo_model(kind, changes, tmp_path):
    is_recognizer = kind in ("EncDecCTCModel", "EncDecRNNTModel", "EncDecHybridRNNTCTCModel")
    stock = stock_recognizer(kind, **changes) if is_recognizer else stock_self_supervised(kind)
    stock.save_to(str(tmp_path / "stock.nemo"))
    own = make_model(seed=1, **changes)
    heads = {name: tensor.clone() for name, tensor in tensors_of(own, "decoder_losses.").items()}
    report = begin(own, tmp_path / "stock.nemo")
    assert_equal(tensors_of(own, "encoder.", "preprocessor."), tensors_of(stock, "encoder.", "preprocessor."))
    assert_equal(tensors_of(own, "decoder_losses."), heads)
    assert set(report.taken) == {"encoder", "preprocessor"} and set(report.new) == {"decoder_losses"}
    assert OmegaConf.select(own.cfg, "pretraining.continued_from.kind") == kind
    assert OmegaConf.select(own.cfg, "pretraining.continued_from.labels") == "new"


def test_an_encoder_that_masks_after_its_subsampling(tmp_path):
    """NeMo wraps the subsampling of such a model (``mask_position: post_conv``), which changes the names of its tensors."""
    stock = stock_self_supervised("EncDecMaskedTokenPredModel", "post_conv")
    stock.save_to(str(tmp_path / "stock.nemo"))
    own = make_model(seed=1, **FAST)
    begin(own, tmp_path / "stock.nemo")
    wanted = {
        name.replace(".pre_encode.pre_encode.", ".pre_encode."): tensor
        for name, tensor in tensors_of(stock, "encoder.").items()
        if ".pre_encode.masking." not in name
    }
    assert len(wanted) < len(tensors_of(stock, "encoder."))
    assert_equal(tensors_of(own, "encoder."), wanted)


@pytest.mark.parametrize("suffix", [".nemo", ".ckpt"])
def test_a_model_of_ours_goes_on_with_its_labels(suffix, tmp_path):
    """Heads, projections, updated codes and statistics of layer k come from the file, and so do all labels."""
    before, path = trained_model(birq__labels__codebook="tracked", birq__quantizer__seed=3), tmp_path / f"before{suffix}"
    if suffix == ".nemo":
        before.save_to(str(path))
    else:
        content = {"state_dict": before.state_dict(), "hyper_parameters": {"cfg": before.cfg}, "global_step": 2}
        before.on_save_checkpoint(content)
        torch.save(content, path)
    own = make_model(seed=1, birq__labels__codebook="tracked", birq__quantizer__seed=3)
    key = "init_from_nemo_model" if suffix == ".nemo" else "init_from_ptl_ckpt"
    own.maybe_init_from_pretrained_checkpoint(OmegaConf.create({key: str(path)}))
    assert_equal(own.state_dict(), before.state_dict())
    for found, wanted in zip(labels(own), labels(before), strict=True):
        assert torch.equal(found, wanted)
    assert own.cfg.pretraining.continued_from.labels == "kept"

    fresh = make_model(seed=1, birq__labels__codebook="tracked", birq__quantizer__seed=4)
    drawn = fresh.anchor_labeler.quantizer.codebook.clone()
    fresh.maybe_init_from_pretrained_checkpoint(OmegaConf.create({key: str(path), "new_labels": True}))
    assert torch.equal(fresh.anchor_labeler.quantizer.codebook, drawn)
    assert_equal(tensors_of(fresh, "encoder."), tensors_of(before, "encoder."))
    assert int(fresh.enhanced_labeler.normalization.num_updates) == 0


def test_weights_of_nemo_s_own_way_are_equal(tmp_path):
    """Compares with NeMo's method on a self-supervised model, which it can open."""
    stock = make_model(seed=2, birq__loss__head="separate")
    stock.save_to(str(tmp_path / "a.nemo"))
    own, theirs = (make_model(seed=1, birq__loss__head="separate") for _ in range(2))
    begin(own, tmp_path / "a.nemo")
    ModelPT.maybe_init_from_pretrained_checkpoint(
        theirs, OmegaConf.create({"init_from_nemo_model": str(tmp_path / "a.nemo")})
    )
    assert_equal(own.state_dict(), theirs.state_dict())


def test_a_model_of_the_hub_from_its_cache(tmp_path, monkeypatch):
    """It is named by its repository and opened without a connection, from the cache of the hub's library."""
    from huggingface_hub import constants

    stock = make_model(seed=2)
    folder = tmp_path / "models--somebody--encoder"
    for inner in ("refs", "snapshots/abc"):
        (folder / inner).mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    stock.save_to(str(folder / "snapshots" / "abc" / "encoder.nemo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    own = make_model(seed=1)
    own.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_pretrained_model": "somebody/encoder"}))
    assert_equal(tensors_of(own, "encoder."), tensors_of(stock, "encoder."))
    with pytest.raises(ValueError, match="init_from_pretrained_model=somebody/gone cannot be downloaded"):
        own.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_pretrained_model": "somebody/gone"}))


def test_the_record_names_what_training_began_with(nemo_file, tmp_path):
    """After two continuations, the card and the configuration of the last file name all."""
    paths = [nemo_file, tmp_path / "first.nemo", tmp_path / "second.nemo"]
    for source, target in pairwise(paths):
        own = make_model(seed=1)
        begin(own, source)
        train(own, tmp_path / target.stem, 2)
        own.save_to(str(target))
    before = read_config(paths[-1]).pretraining.continued_from
    assert (before.file, before.steps, before.continued_from.file) == ("first.nemo", 2, "a.nemo")
    with tarfile.open(paths[-1]) as archive:
        name = next(name for name in archive.getnames() if name.endswith("README.md"))
        card = archive.extractfile(name).read().decode()
    assert "The training began with the encoder of first.nemo (BiRQModel), which had been trained for 2 steps" in card
    assert "Its labels and prediction heads were kept." in card


def whole(**changes) -> DictConfig:
    return OmegaConf.create({"model": make_config(**changes), "like": True})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder__n_layers": 4}, r"model\.encoder\.n_layers=4; pretrained: 3"),
        ({"encoder__conv_norm_type": "layer_norm"}, r"encoder\.conv_norm_type=layer_norm; pretrained: batch_norm"),
        ({"encoder__xscaling": False}, r"model\.encoder\.xscaling=False; pretrained: True"),  # no tensor shows it
        ({"preprocessor__normalize": "all_features"}, r"preprocessor\.normalize=all_features; pretrained: per_feature"),
        ({"birq__quantizer__num_codes": 12, "decoder__num_classes": 12}, r"quantizer\.num_codes=12; pretrained: 24"),
        ({"birq__quantizer__seed": 9}, r"model\.birq\.quantizer\.seed=9; pretrained: 0"),
        ({"birq__labels__layer": 1}, r"model\.birq\.labels\.layer=1; pretrained: 2"),
        ({"birq__anchor__normalization": "per_feature"}, r"birq\.anchor\.normalization=per_feature; pretrained: None"),
        ({"birq__loss__head": "separate"}, r"model\.birq\.loss\.head=separate; pretrained: shared"),
    ],
)  # fmt: skip
def test_what_differs_is_refused_with_the_list(changes, said, nemo_file):
    cfg = whole(**changes)
    cfg.init_from_nemo_model = str(nemo_file)
    with pytest.raises(ValueError, match=said):
        check_initial_file(cfg)
    with pytest.raises(ValueError, match=said):
        begin(make_model(**changes), nemo_file)


@pytest.fixture(scope="module")
def nemo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "a.nemo"
    make_model(seed=2).save_to(str(path))
    return path


def test_like_makes_any_configuration_fit(tmp_path):
    """Architecture and labels come from the file; dropout and keys that the file lacks stay."""
    before = trained_model(**FAST, birq__quantizer__num_codes=12, decoder__num_classes=12, birq__labels__codebook="tracked")
    before.save_to(str(tmp_path / "a.nemo"))
    cfg = whole(encoder__n_layers=7, encoder__dropout=0.3, birq__masking__span_frames=9)
    cfg.model.decoder.num_classes = "${model.birq.quantizer.num_codes}"
    cfg.init_from_nemo_model = str(tmp_path / "a.nemo")
    take_configuration(cfg)
    assert (cfg.model.encoder.n_layers, cfg.model.encoder.subsampling_factor) == (3, 8)
    assert (cfg.model.encoder.dropout, cfg.model.birq.masking.span_frames) == (0.3, 9)
    assert cfg.model.birq.quantizer.num_codes == 12 and cfg.model.birq.quantizer.get("checksum") is None
    own = BiRQModel(cfg.model)
    begin(own, tmp_path / "a.nemo")
    assert_equal(own.state_dict(), before.state_dict())

    new = whole(encoder__n_layers=7)
    new.update(init_from_nemo_model=str(tmp_path / "a.nemo"), new_labels=True)
    take_configuration(new)
    assert new.model.birq.quantizer.num_codes == 24 and new.model.encoder.n_layers == 3


def test_other_spellings_of_the_same_encoder_are_no_difference(nemo_file):
    """The file leaves a value out, or NeMo's encoder treats it as the same."""
    cfg = whole(encoder__att_context_size=[-1, -1], encoder__subsampling_conv_channels=8, encoder__dropout=0.2)
    cfg.model.encoder.update(conv_context_size=[2, 2], feat_out=-1, xscaling=True)
    cfg.init_from_nemo_model = str(nemo_file)
    check_initial_file(cfg)
    cfg.model.encoder.conv_context_size = [4, 0]
    with pytest.raises(ValueError, match=r"model\.encoder\.conv_context_size=\[4, 0\]; pretrained: None"):
        check_initial_file(cfg)


def test_what_names_no_file_is_refused(nemo_file, tmp_path):
    both = OmegaConf.create({"init_from_nemo_model": "a.nemo", "init_from_ptl_ckpt": "a.ckpt"})
    with pytest.raises(ValueError, match="init_from_nemo_model and init_from_ptl_ckpt are set"):
        check_initial_file(both)
    for name in ("gone.nemo", "gone.ckpt"):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
            read_source_config(Path(name))
    with pytest.raises(ValueError, match="like=true needs the file from which training starts"):
        take_configuration(whole())
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match=r"bare\.ckpt holds no NeMo model"):
        read_source_config(tmp_path / "bare.ckpt")

    def change(folder):
        config = OmegaConf.load(folder / "model_config.yaml")
        config.encoder._target_ = "nemo.collections.asr.modules.ConvASREncoder"
        OmegaConf.save(config, folder / "model_config.yaml")

    shutil.copy(nemo_file, tmp_path / "a.nemo")
    repack(tmp_path / "a.nemo", tmp_path / "conv.nemo", change)
    with pytest.raises(ValueError, match=r"conv\.nemo is a .* with the encoder .*ConvASREncoder: a training can only start"):
        read_source_config(tmp_path / "conv.nemo")


def test_untrained_model_of_a_file_has_its_weights(nemo_file, tmp_path):
    data = [f"model.{part}.manifest_filepath={CORPUS}/test/test.json" for part in ("train_ds", "validation_ds")]
    start = [f"init_from_nemo_model={nemo_file}", "like=true", "name=start", f"exp_manager.exp_dir={tmp_path}"]
    arguments = ["untrained-model", "--config-name=birq_conformer_tiny", *data, *start]
    done = CliRunner().invoke(cli.main, [*arguments, "trainer.accelerator=cpu"], prog_name="birq")
    assert done.exit_code == 0, done.output
    written, source = (read_weights(str(path)) for path in (tmp_path / "start" / "start.nemo", nemo_file))
    parts = ("encoder.", "decoder_losses.")
    wanted = {name: tensor for name, tensor in source.items() if name.startswith(parts)}
    assert_equal({name: tensor for name, tensor in written.items() if name.startswith(parts)}, wanted)
