"""A run that is resumed with other settings: listed changes, refused changes, and training that continues."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import open_dict

from nemo_birq.runs import changed_settings
from nemo_birq.runs.changed_settings import TrainerSettings, check_changed_settings
from nemo_birq.runs.resuming import prepare_resuming
from tests.helpers.hostile_files import Bomb
from tests.helpers.models import make_model, train

pytestmark = pytest.mark.unit
SETTINGS = {"optim__lr": 1e-3}


def build(**changes):
    return make_model(**{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def same():
    """The model of the checkpoint's configuration."""
    return build()


def trainer_at(path, **options):
    options = {"max_steps": 4} | options
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options
    )  # fmt: skip
    trainer.ckpt_path = str(path)
    return trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint after two steps of four."""
    folder = tmp_path_factory.mktemp("run")
    stop = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: (
            trainer.save_checkpoint(folder / "last.ckpt") if trainer.global_step == 2 else 0
        )
    )
    train(build(), folder, 4, callbacks=[TrainerSettings(), stop])
    return folder / "last.ckpt"


@pytest.fixture
def said(monkeypatch):
    said = []
    log = SimpleNamespace(info=said.append, warning=said.append)
    monkeypatch.setattr(changed_settings, "logging", log)
    return said


def edited(checkpoint, folder, edit):
    content = torch.load(checkpoint, weights_only=False)
    edit(content)
    torch.save(content, folder / "edited.ckpt")
    return folder / "edited.ckpt"


def test_same_settings_log_nothing(checkpoint, same, said):
    check_changed_settings(same, trainer_at(checkpoint))
    assert not said


def test_a_key_whose_default_is_null_is_compared_too(tmp_path, said):
    def tracked(dimension):
        return build(birq__labels__codebook="tracked", birq__labels__code_dim=dimension)

    train(tracked(8), tmp_path, 1).save_checkpoint(tmp_path / "tracked.ckpt")
    check_changed_settings(tracked(8), trainer_at(tmp_path / "tracked.ckpt"))
    assert not said
    with pytest.raises(ValueError, match=r"cannot be loaded with other values of model\.birq\.labels\.code_dim: 8 -> 6\."):
        check_changed_settings(tracked(6), trainer_at(tmp_path / "tracked.ckpt"))


def test_what_changes_is_listed(checkpoint, said):
    model = build(optim__lr=1e-4, optim__sched={"name": "CosineAnnealing"}, birq__masking__span_frames=10,
                  encoder__dropout=0.2, birq__watch__probe_seconds=1.0)  # fmt: skip
    with open_dict(model.cfg):  # the data are not there, and a model would look for them
        model.cfg.train_ds = {"manifest_filepath": "/other.json", "batch_duration": 30, "num_workers": 7, "pin_memory": True}
    check_changed_settings(model, trainer_at(checkpoint, max_steps=9, accumulate_grad_batches=2, gradient_clip_val=1.0))
    (text,) = said
    assert text.splitlines() == [
        f"These settings differ from the checkpoint {checkpoint}:",
        "  model.birq.masking.span_frames: 12 -> 10",
        "  model.encoder.dropout: None -> 0.2",
        "  model.optim.lr: 0.001 -> 0.0001",
        "  model.optim.sched.name: None -> CosineAnnealing",
        "  model.train_ds.batch_duration: None -> 30",
        "  model.train_ds.manifest_filepath: None -> /other.json",
        "  trainer.max_steps: 4 -> 9",
        "  trainer.accumulate_grad_batches: 1 -> 2",
        "  trainer.gradient_clip_val: None -> 1.0",
    ]


def test_other_labels_are_refused_unless_they_are_allowed_by_name(checkpoint, said):
    model = build(birq__labels__logit_scale=20.0, birq__labels__layer=1, preprocessor__window_size=0.02)
    keys = ["model.birq.labels.layer", "model.birq.labels.logit_scale", "model.preprocessor.window_size"]
    with pytest.raises(ValueError) as error:
        check_changed_settings(model, trainer_at(checkpoint))
    text = str(error.value)
    assert len(text.splitlines()) == 1 and str(checkpoint) in text
    for change in ("labels.layer: 2 -> 1", "labels.logit_scale: 40.0 -> 20.0", "preprocessor.window_size: 0.025 -> 0.02"):
        assert change in text
    assert "restore the old values, or start a new experiment (another name=)" in text
    assert f"'resume_with_changed=[{','.join(keys)}]'" in text
    with pytest.raises(ValueError, match=r"would change with model.birq.labels.layer: 2 -> 1\. "):
        check_changed_settings(model, trainer_at(checkpoint), keys[1:])
    assert not said
    check_changed_settings(model, trainer_at(checkpoint), [*keys, "model.birq.labels.hard"])
    assert all(key in said[0] for key in keys)


def test_an_allowed_change_counts(checkpoint, tmp_path):
    model = build(birq__labels__logit_scale=20.0)
    allowed = ["model.birq.labels.logit_scale"]
    trainer = trainer_at(checkpoint)
    prepare_resuming(model, trainer, allowed)
    resumed = train(model, tmp_path, 4, ckpt_path=str(checkpoint), callbacks=trainer.callbacks[-2:])
    assert resumed.global_step == 4 and model.enhanced_labeler.logit_scale == 20.0
    resumed.save_checkpoint(tmp_path / "next.ckpt")
    check_changed_settings(build(birq__labels__logit_scale=20.0), trainer_at(tmp_path / "next.ckpt"))  # it is the new value


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"birq__quantizer__seed": 3}, ["birq.quantizer.seed: 0 -> 3"]),
        ({"birq__labels__codebook": "tracked"}, ["birq.labels.codebook: random -> tracked"]),
        ({"encoder__n_layers": 4, "encoder__dropout": 0.3}, ["encoder.n_layers: 3 -> 4"]),
        ({"birq__quantizer__num_codes": 48, "decoder__num_classes": 48},
         ["birq.quantizer.num_codes: 24 -> 48", "decoder.num_classes: 24 -> 48"]),
        ({"birq__loss__head": "separate"}, ["birq.loss.head: shared -> separate"]),
    ],
    ids=["seed", "codebook", "depth", "codes", "heads"],
)  # fmt: skip
def test_what_would_not_load_is_refused_even_by_name(checkpoint, changes, keys):
    allowed = [f"model.{key.partition(':')[0]}" for key in keys]
    with pytest.raises(ValueError, match="cannot be loaded with other values of") as error:
        check_changed_settings(build(**changes), trainer_at(checkpoint), allowed)
    assert all(f"model.{key}" in str(error.value) for key in keys)
    assert "resume_with_changed" not in str(error.value)


def test_a_checkpoint_of_an_earlier_version_resumes_without_complaint(checkpoint, same, tmp_path, said):
    def edit(content):
        del content["birq_trainer_settings"]
        birq = content["hyper_parameters"]["cfg"].birq
        with open_dict(birq):
            del birq.labels.codebook_momentum, birq.relabelling, birq.watch
            birq.labels.statistics = "batch"

    old = edited(checkpoint, tmp_path, edit)
    check_changed_settings(same, trainer_at(old, max_steps=9, accumulate_grad_batches=2))
    assert not said


def test_what_the_code_writes_is_not_compared(checkpoint, same, tmp_path, said):
    def edit(content):
        cfg = content["hyper_parameters"]["cfg"]
        with open_dict(cfg):
            cfg.nemo_version, cfg.target, cfg.pretraining, cfg.card = "1", "a.b", {"steps": 3}, {"license": "mit"}
            cfg.birq.quantizer.tensors, cfg.birq.quantizer.checksum = "file", "0"

    check_changed_settings(same, trainer_at(edited(checkpoint, tmp_path, edit)))
    assert not said


def test_fewer_steps_or_epochs_than_there_are_say_so(checkpoint, same, tmp_path, said):
    check_changed_settings(same, trainer_at(checkpoint, max_steps=2))
    text = "trainer.max_steps=2, and the checkpoint has 2 steps. To continue, set trainer.max_steps above 2"
    assert said[-1] == f"Nothing is left to train: {text}"

    def edit(content):
        content["loops"]["fit_loop"]["epoch_progress"]["current"] |= {"processed": 3, "completed": 3}

    later = edited(checkpoint, tmp_path, edit)
    check_changed_settings(same, trainer_at(later, max_steps=-1, max_epochs=3))
    assert said[-1].endswith(
        "trainer.max_epochs=3, and the checkpoint has 3 epochs. To continue, set trainer.max_epochs above 3"
    )
    with pytest.raises(
        ValueError, match=r"nothing is left to train: trainer\.max_epochs=2, and the checkpoint has 3 epochs"
    ):
        check_changed_settings(same, trainer_at(later, max_steps=-1, max_epochs=2))


def test_a_damaged_checkpoint_is_named(same, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"training cannot resume from .*last\.ckpt: it cannot be read"):
        check_changed_settings(same, trainer_at(tmp_path / "last.ckpt"))
    torch.save({"bomb": Bomb(tmp_path / "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"training cannot resume from .*last\.ckpt: .* could run code"):
        check_changed_settings(same, trainer_at(tmp_path / "last.ckpt"))
    assert not (tmp_path / "ran").exists()
