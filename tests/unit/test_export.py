"""The bare encoder, its model card, and the paths to which they may be written."""

import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.modules import (
    AudioToMelSpectrogramPreprocessor,
    ConformerEncoder,
    ConformerMultiLayerFeatureExtractor,
)
from nemo.core import ModelPT
from omegaconf import OmegaConf

from nemo_birq import BiRQModel
from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.checkpoint.training_record import data_name, describe_data
from nemo_birq.data.factory import build_dataloader
from nemo_birq.export.bare_encoder import check_source, strip, write_nemo
from nemo_birq.export.output_files import check_output
from nemo_birq.report.events import scalars
from nemo_birq.utils.files import complete_files
from tests.helpers.models import BASE, FAST, make_batch, make_model, train, trained_model
from tests.helpers.nemo_files import SECRET, repack, save_pretrained
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return save_pretrained(tmp_path_factory.mktemp("pretrained") / "model.nemo")


def packed(path: Path, folder: Path) -> ModelCard:
    """Returns the card inside a ``.nemo``."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    packed = str((OmegaConf.load(folder / "model_config.yaml").get("card") or {}).get("file") or "")
    return ModelCard.load(folder / packed.removeprefix("nemo:")) if packed else None


def encode(model: ModelPT, layer: int | None = None) -> torch.Tensor:
    """Returns the output of the encoder, or of a layer counted from 1, from NeMo's extractor."""
    batch = make_batch()
    with torch.no_grad():
        features, lengths = model.eval().preprocessor(input_signal=batch.signal, length=batch.signal_length)
        if layer is None:
            return model.encoder(audio_signal=features, length=lengths)[0]
        extractor = ConformerMultiLayerFeatureExtractor(
            model.encoder, layer_idx_list=[layer - 1], include_final_output=False
        )
        return extractor(audio_signal=features, length=lengths)[0][0]


@pytest.mark.parametrize(
    "kind", [{}, FAST, {"encoder__self_attention_model": "rel_pos_local_attn", "encoder__att_context_size": [9, 9]}]
)
def test_bare_encoder_gives_the_same_outputs_and_holds_nothing_else(tmp_path, kind):
    model = trained_model(birq__loss__head="separate", **kind)
    model.save_to(str(tmp_path / "model.nemo"))
    (tmp_path / "hub").mkdir()
    bare = strip(tmp_path / "model.nemo")
    write_nemo(bare.model, tmp_path / "hub" / "bare.nemo")
    restored = ModelPT.restore_from(str(tmp_path / "hub" / "bare.nemo"), strict=True)
    assert (encode(restored) - encode(model)).abs().max() <= 1e-5
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder_losses.")}
    found = restored.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert set(bare.removed) == {"decoder_losses.anchor", "decoder_losses.enhanced", "birq_label_tensors.pt"}
    heads = [t for n, t in model.state_dict().items() if n.startswith("decoder_losses.anchor")]
    assert bare.removed["decoder_losses.anchor"] == 4 * sum(tensor.numel() for tensor in heads)


def test_a_layer_can_be_the_last(pretrained, tmp_path):
    write_nemo(strip(pretrained, layer=2).model, tmp_path / "two.nemo")
    restored = ModelPT.restore_from(str(tmp_path / "two.nemo"), strict=True)
    assert len(restored.encoder.layers) == 2 == restored.cfg.encoder.n_layers
    assert torch.equal(encode(restored), encode(BiRQModel.restore_from(str(pretrained)), layer=2))
    assert "the first 2 of 3 layers x 32" in (tmp_path / "README.md").read_text()
    for layer in (0, 4):
        with pytest.raises(ValueError, match=rf"--layer {layer}\b.*1 to 3"):
            strip(pretrained, layer=layer)


def test_configuration_keeps_no_path_of_the_trainers_machine(pretrained, tmp_path):
    assert SECRET in OmegaConf.to_yaml(ModelPT.restore_from(str(pretrained), return_config=True))
    bare = strip(pretrained)
    assert bare.removed_keys == ["birq", "decoder", "optim", "train_ds"]
    write_nemo(bare.model, tmp_path / "bare.nemo")
    with tarfile.open(tmp_path / "bare.nemo") as archive:
        archive.extractall(tmp_path / "in", filter="data")
    for path in (tmp_path / "in").iterdir():
        assert SECRET.encode() not in path.read_bytes() and str(pretrained.parent).encode() not in path.read_bytes()
    assert "books/train.json" in (tmp_path / "README.md").read_text()


def test_card_tells_what_the_run_did(pretrained, tmp_path):
    record = OmegaConf.to_container(ModelPT.restore_from(str(pretrained), return_config=True).pretraining)
    assert (record["steps"], record["ranks"], record["precision"]) == (4, 1, "32-true")
    assert record["status"] == "too short to judge" and record["alarms"] == []
    card = packed(pretrained, tmp_path)
    assert (
        card.data.license == "unknown"
        and card.data.library_name == "nemo"
        and card.data.pipeline_tag == "feature-extraction"
    )
    assert "\n4 steps, ended" in card.text and "too short to judge" in card.text
    assert "| licence | not chosen yet" in card.text and "No licence was chosen" in card.text
    # The last line that training logged, at step 3.
    health = record["health"]["training"]
    assert f"| anchor | training | {health['anchor_loss']:.3f} | {health['anchor_unigram_entropy']:.3f} |" in card.text
    assert 0 < health["anchor_loss"] < 10 and {"enhanced_loss", "selection_agreement"} <= health.keys()
    assert record["health"]["validation"].keys() >= {"anchor_loss", "enhanced_accuracy"}


def test_recorded_health_is_what_was_logged_last(tmp_path):
    model = make_model()
    train(model, tmp_path, 3, val_check_interval=2)
    model.save_to(str(tmp_path / "model.nemo"))
    logged = scalars(tmp_path)
    for stage, prefix in (("training", "train"), ("validation", "val")):
        assert len(model.cfg.pretraining.health[stage]) == (16 if stage == "training" else 14)
        for name, value in model.cfg.pretraining.health[stage].items():
            assert logged[f"{prefix}_{name}"][-1][1] == pytest.approx(value, rel=1e-6), name


def test_readme_of_a_folder_that_training_did_not_write_to_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("my project")
    model = make_model()
    model.save_to(str(tmp_path / "untrained.nemo"))
    train(model, tmp_path / "run", 1)
    assert (tmp_path / "README.md").read_text() == "my project" and not (tmp_path / "README-v1.md").exists()


def model_with(record: dict, **card: object) -> BiRQModel:
    base = {
        "steps": 72000, "epochs": 12.34, "ended": "2026-01-02", "ranks": 8, "precision": "bf16-mixed", "status": "unhealthy",
        "data": {
            "training": [{"name": "libri/train.json", "weight": 2.0, "utterances": 281241, "hours": 960.7},
                         {"name": "stream.json", "weight": 1.0, "utterances": None, "hours": None}],
            "validation": [{"name": "dev/dev.json", "weight": None, "utterances": 10, "hours": 0.5}],
        },
        "settings": {"birq": {"loss": {"enhanced_weight": 0.5}}, "optim": {"lr": 1e-4}},
        "health": {"training": {"anchor_loss": 4.0, "anchor_accuracy": 0.2, "mfu": 0.212, "padding_share": 0.07},
                   "validation": {"anchor_accuracy": 0.25}},
        "alarms": [{"name": "noise_labels", "step": 7, "value": 0.0097, "threshold": 0.1},
                   {"name": "non_finite_loss", "step": 9, "value": None, "threshold": None}],
        "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    return make_model(pretraining=base | record, card=card)


def test_card_of_a_given_record():
    card = build_card(model_with({}, license="cc-by-4.0", language=["en"], datasets=["openslr/librispeech_asr"]), "libri")
    text = card.text
    assert "| training | libri/train.json | 281,241 | 960.70 | 2.0 |" in text
    assert "| training | stream.json | not counted | not counted | 1.0 |" in text
    assert "72,000 steps, ended 2026-01-02, on 8 device(s), precision bf16-mixed" in text and "read 12.3 times" in text
    assert "reached 21 % of a matrix\nproduct's speed (MFU), and 7 % of the frames were padding." in text
    assert "**The run was not healthy**" in text and "| licence | `cc-by-4.0` |" in text
    assert "No licence was chosen" not in text
    assert "| `noise_labels` | 7 | 0.0097 | 0.1 |" in text and "| `non_finite_loss` | 9 |  |  |" in text
    assert " perplexity | normalized entropy |\n| --- | --- |" + 6 * " ---: |" + "\n| anchor | training |" in text
    assert "| anchor | training | 4.000 |  | 0.200 |  |  |  |" in text and "torch 2.13.0" in text
    again = ModelCard(str(card)).data  # the hub reads these
    assert (again.license, again.language, again.datasets) == ("cc-by-4.0", ["en"], ["openslr/librispeech_asr"])
    (result,) = again.eval_results
    assert (result.metric_value, result.dataset_name) == (0.25, "dev/dev.json")


def test_card_of_best_rq_and_of_a_model_that_nobody_trained():
    settings = {"birq": {"loss": {"enhanced_weight": 0}}}
    assert "arXiv [2202.01855]" in build_card(model_with({"settings": settings}), "model").text
    text = build_card(make_model(), "model").text
    assert "its training data are unknown" in text and "arXiv [2509.15430]" in text
    assert "logit_scale: 40.0" in text


def test_arguments_in_the_card_make_the_same_encoder():
    """Those for NeMo's script, over the defaults of NeMo's classes; the script's own default is another family of models."""
    changes = {
        "preprocessor__window_size": 0.02,
        "encoder__att_context_size": [9, 9],
        "encoder__xscaling": False,
        "encoder__conv_norm_type": "layer_norm",
    }
    model = trained_model(**FAST, **changes, encoder__pos_emb_max_len=5000, encoder__ff_expansion_factor=2)
    (command,) = re.findall(r"```bash\n(.*?)```", build_card(model, "model").text, re.S)
    arguments = shlex.split(command.replace("\\\n", " "))
    given = OmegaConf.from_dotlist([a for a in arguments if a.startswith(("model.encoder.", "model.preprocessor."))]).model
    encoder = ConformerEncoder(feat_in=given.preprocessor.features, **given.encoder)
    encoder.load_state_dict(model.encoder.state_dict(), strict=True)
    expected = encode(model)
    model.encoder = encoder
    model.preprocessor = AudioToMelSpectrogramPreprocessor(sample_rate=16000, dither=0, **given.preprocessor)
    assert torch.equal(encode(model), expected) and "--config-name=conformer_ctc_bpe" in arguments
    assert "+init_from_nemo_model=model.nemo" in arguments


def test_card_node_may_be_empty(tmp_path):
    make_model(card=None).save_to(str(tmp_path / "model.nemo"))
    assert packed(tmp_path / "model.nemo", tmp_path / "in").data.license == "unknown"


def test_bare_file_can_be_handed_on_again_with_another_licence(pretrained, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    write_nemo(strip(pretrained, license="cc-by-4.0").model, tmp_path / "a" / "bare.nemo")
    again = strip(tmp_path / "a" / "bare.nemo", language=["de"])
    assert again.removed_keys == [] and again.removed == {}
    write_nemo(again.model, tmp_path / "b" / "again.nemo")
    card = ModelCard.load(tmp_path / "b" / "README.md")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["de"])
    assert str(packed(tmp_path / "b" / "again.nemo", tmp_path / "in")) == str(card)
    assert "\n4 steps" in card.text and 'restore_from("again.nemo"' in card.text


def test_pretraining_does_not_go_on_with_a_bare_encoder(pretrained, tmp_path):
    write_nemo(strip(pretrained).model, tmp_path / "bare.nemo")
    with pytest.raises(ValueError, match=r"birq export.*restore_from"):
        BiRQModel.restore_from(str(tmp_path / "bare.nemo"))


def test_record_survives_saving_by_the_stock_class(pretrained, tmp_path):
    stock = ModelPT.restore_from(str(pretrained))
    stock.save_to(str(tmp_path / "stock.nemo"))
    (tmp_path / "hub").mkdir()
    write_nemo(strip(tmp_path / "stock.nemo").model, tmp_path / "hub" / "bare.nemo")
    assert "\n4 steps" in (tmp_path / "hub" / "README.md").read_text()


def test_hours_are_those_that_were_used():
    manifest = CORPUS / "validation" / "validation.json"
    durations = [json.loads(line)["duration"] for line in manifest.read_text().splitlines()]
    node = OmegaConf.create({
        "use_lhotse": True, "manifest_filepath": str(manifest), "batch_duration": 30, "shuffle": False,
        "min_duration": 2.0, "max_duration": 3.5,
    })  # fmt: skip
    (described,) = describe_data(node, build_dataloader(node, 16000, 0, 1, training=False))
    used = [duration for duration in durations if 2.0 <= duration <= 3.5]
    assert 0 < len(used) < len(durations)
    assert described == {
        "name": "validation/validation.json", "weight": None, "utterances": len(used),
        "hours": pytest.approx(sum(used) / 3600),
    }  # fmt: skip
    (streamed,) = describe_data(node, None)
    assert streamed["hours"] is None


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("/data/ami/sharded_manifests/manifest__OP_0..7_CL_.json", "ami/manifest__OP_0..7_CL_.json"),
        ("/home/a/corpus/dev.json", "corpus/dev.json"),
        ("/dev.json", "dev.json"),
        ("s3://bucket/x/dev.json", "x/dev.json"),
        ("https://host/x/dev.json?signature=a/b", "x/dev.json"),
        ("https://user:password@host/dev.json", "host/dev.json"),
        (str(Path.home() / "dev.json"), "dev.json"),
        (str(Path.home() / "sharded_manifests" / "manifest_0.json"), "manifest_0.json"),
        ("dev.json", "dev.json"),
    ],
)
def test_names_of_manifests_have_no_absolute_path(manifest, name):
    assert data_name(manifest) == name


# --- bad input ----------------------------------------------------------------------------------------------------


def test_output_is_checked_before_any_work(pretrained, tmp_path):
    source = tmp_path / "model.nemo"
    shutil.copy(pretrained, source)
    (tmp_path / "link.nemo").symlink_to(source)
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.ts").mkdir()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "README.md").write_text("mine")
    refused = {
        "model.nemo": (ValueError, r"\.nemo\b.*\binput\b"),
        "hub/../model.nemo": (ValueError, r"\.nemo\b.*\binput\b"),
        "link.nemo": (ValueError, r"\.nemo\b.*\binput\b"),
        "model.bin": (ValueError, r"model\.bin.*\.nemo, \.onnx, \.ts"),
        "there.onnx": (FileExistsError, r"there\.onnx.*--force"),
        "hub/new.nemo": (FileExistsError, r"README\.md.*--force"),
        "folder.ts": (FileExistsError, r"folder\.ts(?!.*--force)"),
        "file/new.ts": (OSError, r"/file\b.*File exists"),
    }
    for name, (error, message) in refused.items():
        with pytest.raises(error, match=message):
            check_output(source, tmp_path / name, force=False)
    check_output(source, tmp_path / "there.onnx", force=True)
    check_output(source, tmp_path / "hub" / "new.nemo", force=True)
    for name in ("model.nemo", "link.nemo"):
        with pytest.raises(ValueError, match=rf"{name}.*\binput\b"):
            check_output(source, tmp_path / name, force=True)
    check_output(source, tmp_path / "new" / "new.nemo", force=False)
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_failed_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "a.nemo").write_text("old")
    with pytest.raises(RuntimeError), complete_files(tmp_path) as folder:
        (folder / "a.nemo").write_text("half")
        raise RuntimeError("no space left")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nemo"] and (tmp_path / "a.nemo").read_text() == "old"


def test_files_of_another_kind_are_refused(pretrained, tmp_path):
    decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32, "num_classes": 2, "vocabulary": ["a", "b"],
    }  # fmt: skip
    config = {"preprocessor": BASE.preprocessor, "encoder": BASE.encoder, "decoder": decoder, "sample_rate": 16000}
    EncDecCTCModel(OmegaConf.create(config)).save_to(str(tmp_path / "ctc.nemo"))
    with pytest.raises(ValueError, match=r"ctc\.nemo.*EncDecCTCModel.*birq pretrain"):
        check_source(tmp_path / "ctc.nemo")

    def forget(folder):
        node = OmegaConf.load(folder / "model_config.yaml")
        del node.birq, node.pretraining
        OmegaConf.save(node, folder / "model_config.yaml")

    repack(pretrained, tmp_path / "ssl.nemo", forget)
    with pytest.raises(ValueError, match=r"ssl\.nemo.*SpeechEncDecSelfSupervisedModel.*birq pretrain"):
        check_source(tmp_path / "ssl.nemo")


def test_damaged_and_unsafe_files_are_refused(pretrained, tmp_path):
    (tmp_path / "short.nemo").write_bytes(pretrained.read_bytes()[:20000])
    shutil.copy(pretrained, tmp_path / "unsafe.nemo")
    with tarfile.open(tmp_path / "unsafe.nemo", "a") as archive:
        archive.add(__file__, arcname="../../outside.py")
    for name, message in (("short", r"\b20000 bytes"), ("unsafe", r"\.\./\.\./outside\.py"), ("missing", "")):
        with pytest.raises((ValueError, FileNotFoundError), match=rf"{name}\.nemo.*{message}"):
            strip(tmp_path / f"{name}.nemo")


def test_weights_that_do_not_fit_are_refused(pretrained, tmp_path):
    def damage(folder):
        tensors = torch.load(folder / "model_weights.ckpt", weights_only=True)
        del tensors["encoder.layers.1.norm_out.weight"]
        torch.save(tensors, folder / "model_weights.ckpt")

    repack(pretrained, tmp_path / "bad.nemo", damage)
    with pytest.raises(ValueError, match=r"(?s)bad\.nemo.*layers\.1\.norm_out\.weight"):
        strip(tmp_path / "bad.nemo")
    repack(pretrained, tmp_path / "worse.nemo", lambda folder: (folder / "model_weights.ckpt").write_bytes(b"no weights"))
    with pytest.raises(ValueError, match=r"worse\.nemo.*model_weights\.ckpt"):
        strip(tmp_path / "worse.nemo")
