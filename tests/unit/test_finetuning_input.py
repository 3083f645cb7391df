"""Invalid input of fine-tuning: it is refused before any work, with the reason and the remedy."""

import io
import json
import tarfile

import pytest
import torch

from nemo_birq.checkpoint.nemo_archive import read_config
from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.vocabulary import build_tokenizer
from nemo_birq.pretrained.architecture import take_architecture
from nemo_birq.pretrained.source import read_source_config
from tests.helpers.finetuning import build, config
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines(*texts):
    """Returns manifest lines of existing audio with these texts."""
    audio = sorted((CORPUS / "test" / "audio").iterdir())[0]
    return [{"audio_filepath": str(audio), "duration": 2.8} | ({} if t is None else {"text": t}) for t in texts]


def refused(cfg, error=ValueError) -> str:
    with pytest.raises(error) as caught:
        prepare(cfg)
    return str(caught.value)


# --- the pretrained file ----------------------------------------------------------------------------------------------


def test_no_file_is_named(nemo, tmp_path):
    assert "init_from_nemo_model is not set: give the .nemo" in refused(config("ctc_char", "null", tmp_path))
    cfg = config("ctc_char", nemo, tmp_path)
    cfg.init_from_nemo_model = "???"
    assert "init_from_nemo_model is not set" in refused(cfg)
    cfg.init_from_nemo_model = {"a": {"path": "x"}, "b": {"path": "y"}}
    assert "give a path, or one entry with a path" in refused(cfg)
    for part in ({"include": ["decoder"]}, {"include": ["encoder", "decoder"]}, {"exclude": ["encoder.layers.3"]}):
        cfg.init_from_nemo_model = {"a": {"path": str(nemo)} | part}
        assert "only the whole preprocessor and encoder can be loaded" in refused(cfg)


def test_missing_truncated_and_traversing_files(nemo, tmp_path):
    assert "gone.nemo does not exist" in refused(config("ctc_char", tmp_path / "gone.nemo", tmp_path), FileNotFoundError)
    (tmp_path / "torn.nemo").write_bytes(nemo.read_bytes()[: nemo.stat().st_size // 2])
    assert "truncated" in refused(config("ctc_char", tmp_path / "torn.nemo", tmp_path))
    (tmp_path / "bad.nemo").write_bytes(nemo.read_bytes())
    with tarfile.open(tmp_path / "bad.nemo", "a") as archive:
        archive.add(__file__, "../evil.py")
    assert "members outside of its folder, or links: ../evil.py" in refused(
        config("ctc_char", tmp_path / "bad.nemo", tmp_path)
    )


def test_a_file_that_holds_no_recognizer_and_no_pretraining(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    assert "weights.ckpt holds no NeMo model" in refused(config("ctc_char", tmp_path / "weights.ckpt", tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "was"),
    [
        ("encoder.n_layers", 4, 3),
        ("encoder.d_model", 48, 32),
        ("encoder.subsampling_factor", 8, 4),
        ("encoder.subsampling", "dw_striding", "striding"),
        ("encoder.conv_norm_type", "layer_norm", "batch_norm"),
        ("encoder.xscaling", False, True),
        ("encoder.conv_kernel_size", 7, 5),
        ("preprocessor.features", 40, 20),
        ("preprocessor.normalize", "all_features", "per_feature"),
        ("preprocessor.window_stride", 0.02, 0.01),
    ],
)
def test_an_architecture_that_differs_stops_with_the_key(nemo, tmp_path, key, value, was):
    """conv_norm_type and xscaling are not in the file, so the defaults of the class are used."""
    text = str(value).lower() if isinstance(value, bool) else value
    message = refused(config("ctc_char", nemo, tmp_path, f"+model.{key}={text}"))
    assert f"  model.{key}={value}; pretrained: {was}\n" in message and "partly from scratch" in message


def test_all_differences_are_listed_and_equal_keys_are_none(nemo, tmp_path):
    source = read_source_config(nemo)
    cfg = config("ctc_char", nemo, tmp_path, "model.sample_rate=8000", "+model.encoder.n_layers=9",
                 "+model.encoder.n_heads=4", "+model.encoder.d_model=32", "+model.preprocessor.dither=0.1")  # fmt: skip
    with pytest.raises(ValueError) as caught:
        take_architecture(cfg.model, source, "x.nemo")
    listed = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert listed == ["  model.sample_rate=8000; pretrained: 16000", "  model.encoder.n_heads=4; pretrained: 2",
                      "  model.encoder.n_layers=9; pretrained: 3"]  # fmt: skip


def test_a_whole_configuration_of_the_same_model_is_accepted(nemo, tmp_path):
    source = read_config(nemo)
    cfg = config("rnnt_bpe", nemo, tmp_path)
    cfg.model.encoder, cfg.model.preprocessor = source.encoder, source.preprocessor
    take_architecture(cfg.model, source, str(nemo))
    assert cfg.model.model_defaults.enc_hidden == 32


def test_weights_that_are_none(nemo, tmp_path):
    with tarfile.open(nemo) as source, tarfile.open(tmp_path / "odd.nemo", "w") as target:
        for member in source.getmembers():
            content = source.extractfile(member)
            if member.name.endswith("model_weights.ckpt"):
                content = io.BytesIO(content.read()[: member.size // 2])
                member.size = member.size // 2
            target.addfile(member, content)
    with pytest.raises(ValueError, match=r"odd\.nemo.*model_weights\.ckpt"):
        build(config("ctc_char", tmp_path / "odd.nemo", tmp_path))


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath", "tests"])
def test_characters_outside_the_labels(nemo, tmp_path, where):
    manifest = write(tmp_path / "upper.json", *lines("all good", "BAD Text 42"))
    override = f"test_manifests=[{manifest}]" if where == "tests" else f"{where}={manifest}"
    message = refused(config("ctc_char", nemo, tmp_path, override))
    assert f"manifest {manifest} has characters that are not in model.labels" in message
    assert "'B' 1 times, 'A' 1 times, 'D' 1 times, 'T' 1 times, '4' 1 times, '2' 1 times" in message
    assert ".opus: BAD Text 42" in message and "Put the texts in lower case" in message and "numbers as words" in message


def test_characters_outside_the_tokenizer(nemo, tmp_path):
    """The tokenizer is built from the training texts, which lack a letter of a test set."""
    manifest = write(tmp_path / "test.json", *lines("café at noon", "ok"))
    message = refused(config("ctc_bpe", nemo, tmp_path, f"test_manifests={manifest}"))
    assert "'é' 1 times" in message and "not in the tokenizer" in message and "café at noon" in message
    assert "lower case" not in message


def test_a_tokenizer_that_is_not_there(nemo, tmp_path):
    cfg = config("ctc_bpe", nemo, tmp_path, f"model.tokenizer.dir={tmp_path}")
    assert "holds no tokenizer.model: give another folder" in refused(cfg, FileNotFoundError)


@pytest.mark.parametrize("size", [3, 100000])
def test_a_tokenizer_that_cannot_be_built(nemo, tmp_path, size):
    cfg = config("ctc_bpe", nemo, tmp_path, f"build_tokenizer.vocab_size={size}")
    if size > 1000:  # SentencePiece makes as many as there are
        folder = build_tokenizer(cfg.build_tokenizer, ["some text", "some more"], tmp_path)
        assert (tmp_path / folder / "tokenizer.model").is_file()
    else:
        assert "set another build_tokenizer.vocab_size" in refused(cfg)


def test_a_kind_of_tokenizer_that_there_is_not(nemo, tmp_path):
    message = refused(config("ctc_bpe", nemo, tmp_path, "build_tokenizer.kind=wordpiece"))
    assert message == "build_tokenizer.kind=wordpiece: give one of unigram, bpe"


@pytest.mark.parametrize("value", ["1.5", "-1", "-0.1", "first", "true", "null"])
def test_a_freezing_that_is_neither_share_nor_number(nemo, tmp_path, value):
    """Before, 1.5 froze the encoder forever, and a word stopped the first step."""
    message = refused(config("ctc_char", nemo, tmp_path, f"freeze_encoder={value}"))
    assert message.endswith("give a share of the training, 0.0 to 1.0, or a whole number of steps")


@pytest.mark.parametrize("value", ["-1", "3", "1.0", "all", "true", "null"])
def test_fresh_layers_that_are_no_number_of_layers(nemo, tmp_path, value):
    """At least one of three layers must be pretrained."""
    message = refused(config("ctc_char", nemo, tmp_path, f"fresh_layers={value}"))
    assert message.endswith(": give a whole number from 0 to 2; the encoder has 3 layers")


def test_texts_that_are_missing(nemo, tmp_path):
    manifest = write(tmp_path / "unlabelled.json", *lines("one", None, None))
    for where in ("train", "validation"):
        message = refused(config("ctc_char", nemo, tmp_path, f"model.{where}_ds.manifest_filepath={manifest}"))
        assert "2 of 3 lines have no text" in message
        blank = write(tmp_path / "blank.json", *lines(" ", ""))
        message = refused(config("ctc_char", nemo, tmp_path, f"model.{where}_ds.manifest_filepath={blank}"))
        assert "the text of all 2 lines is empty" in message
    assert "has no text (2 such lines)" in refused(config("ctc_char", nemo, tmp_path, f"test_manifests={manifest}"))


# --- manifests --------------------------------------------------------------------------------------------------------


def test_empty_and_missing_sets(nemo, tmp_path):
    empty = write(tmp_path / "empty.json")
    assert f"manifest {empty} is empty" in refused(config("ctc_char", nemo, tmp_path, f"test_manifests=[{empty}]"))
    for where in ("train", "validation"):
        cfg = config("ctc_char", nemo, tmp_path, f"model.{where}_ds.manifest_filepath={empty}")
        assert f"manifest {empty} is empty" in refused(cfg)
        cfg.model[f"{where}_ds"].manifest_filepath = None
        assert f"model.{where}_ds.manifest_filepath is not set" in refused(cfg)
    gone = tmp_path / "gone.json"
    assert str(gone) in refused(config("ctc_char", nemo, tmp_path, f"test_manifests=[{gone}]"), FileNotFoundError)


def test_audio_that_is_missing(nemo, tmp_path):
    manifest = write(tmp_path / "train.json", *lines("one"), {"audio_filepath": "gone.wav", "duration": 1.0, "text": "two"})
    for where in ("train", "validation"):
        cfg = config("ctc_char", nemo, tmp_path, f"model.{where}_ds.manifest_filepath={manifest}")
        with pytest.raises(ValueError, match=r"\b1 of 2 .*train\.json.*gone\.wav"):
            prepare(cfg) if where == "validation" else build(cfg)  # before the model is made
    cfg = config("ctc_char", nemo, tmp_path, f"test_manifests=[{manifest}]")
    assert "gone.wav, which does not exist" in refused(cfg, FileNotFoundError)


def test_two_test_sets_of_one_name(nemo, tmp_path):
    """The names are those of scoring: the name of the file, or NAME=MANIFEST."""
    (tmp_path / "other").mkdir()
    first, second = (write(folder / "t.json", *lines("one")) for folder in (tmp_path, tmp_path / "other"))
    message = refused(config("ctc_char", nemo, tmp_path, f"test_manifests=[{first},{second}]"))
    assert "two test sets are called t" in message and f"second={second}" in message
    _, tests = prepare(config("ctc_char", nemo, tmp_path, f"test_manifests=['clean={first}',{second}]"))
    assert [(test.name, test.manifest) for test in tests] == [("clean", first), ("t", second)]


def test_a_validation_set_that_nemo_cannot_name_is_named_after_its_folder(nemo, tmp_path):
    """``birq make-shards --files`` writes manifest.json, which NeMo refuses as the name of a validation set."""
    manifest = tmp_path / "dev" / "manifest.json"
    manifest.parent.mkdir()
    write(manifest, *lines("one", "two"))
    cfg = config("ctc_char", nemo, tmp_path, f"model.validation_ds.manifest_filepath={manifest}")
    model, _ = build(cfg)
    assert model._validation_names == ["dev_"]
