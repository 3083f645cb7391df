"""Checkpoints of Lightning: complete beside their name, and refused in one line where they are damaged or hostile."""

import resource
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from nemo.collections.common.callbacks import EMA
from nemo.utils.callbacks import NeMoModelCheckpoint

from nemo_birq.checkpoint.lightning_checkpoint import CompleteCheckpointIO, check_checkpoint, read_checkpoint
from tests.helpers.hostile_files import Bomb, flip
from tests.helpers.models import make_model, train

pytestmark = pytest.mark.unit


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def largest_file(size: int):
    """Limits the size of files of this process, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def no_temporary_folder(tmp_path_factory, monkeypatch):
    """Sets a TMPDIR that accepts no files."""
    folder = tmp_path_factory.mktemp("absent") / "absent"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def test_a_trainer_saves_and_loads_without_a_temporary_folder(tmp_path, no_temporary_folder):
    model = make_model()
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_steps": 0}
    trainer = pl.Trainer(plugins=[CompleteCheckpointIO()], **options)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "new" / "model.ckpt")
    assert names(tmp_path / "new") == ["model.ckpt"]
    found = trainer.strategy.load_checkpoint(tmp_path / "new" / "model.ckpt")
    assert all(torch.equal(found["state_dict"][key], value) for key, value in model.state_dict().items())
    assert found["hyper_parameters"]["cfg"] == model.cfg
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt does not exist"):
        trainer.strategy.load_checkpoint(tmp_path / "absent.ckpt")


def test_a_url_is_written_and_read_by_fsspec():
    CompleteCheckpointIO().save_checkpoint({"a": torch.ones(2)}, "memory://folder/model.ckpt")
    assert torch.equal(CompleteCheckpointIO().load_checkpoint("memory://folder/model.ckpt")["a"], torch.ones(2))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path, io = tmp_path / "last.ckpt", CompleteCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    with largest_file(100_000), pytest.raises(OSError, match=r"last\.ckpt cannot be written \(.*File too large.*Make room"):
        io.save_checkpoint({"step": 2, "weight": torch.zeros(100_000)}, path)
    assert names(tmp_path) == ["last.ckpt"] and io.load_checkpoint(path) == {"step": 1}


def test_a_nemo_is_written_without_a_temporary_folder(tmp_path, no_temporary_folder):
    make_model().save_to(str(tmp_path / "model.nemo"))
    assert names(tmp_path) == ["model.nemo"] and tempfile.tempdir.endswith("absent")


def test_a_full_disk_names_the_nemo_and_leaves_the_old_one(tmp_path):
    path, model = tmp_path / "model.nemo", make_model()
    model.save_to(str(path))
    before = path.read_bytes()
    for size in (1000, 100_000, len(before) - 15_000):  # label tensors, weights, the archive
        with largest_file(size), pytest.raises(OSError, match=r"model\.nemo cannot be written \(.*Make room"):
            model.save_to(str(path))
        assert names(tmp_path) == ["model.nemo"] and path.read_bytes() == before


def test_moving_averages_go_on_where_they_were(tmp_path):
    """This uses NeMo's callbacks, whose averages are in a separate checkpoint."""

    def run(steps: int, checkpoint: str | None = None) -> tuple[pl.Trainer, str]:
        saving = NeMoModelCheckpoint(
            dirpath=str(tmp_path / str(steps)), monitor="step", mode="max", every_n_train_steps=2, save_last=False,
            save_nemo_on_train_end=False,
        )  # fmt: skip
        trainer = train(
            make_model(), tmp_path, steps, ckpt_path=checkpoint, plugins=[CompleteCheckpointIO()], enable_checkpointing=True,
            callbacks=[EMA(0.5), saving], num_sanity_val_steps=0,
        )  # fmt: skip
        return trainer, saving.best_model_path

    first, path = run(2)
    averages = first.optimizers[0].ema_params
    average = path.replace(".ckpt", "-EMA.ckpt")
    found = read_checkpoint(average)
    assert names(tmp_path / "2") == sorted([Path(path).name, Path(average).name])
    assert all(torch.equal(one, two) for one, two in zip(found["optimizer_states"][0]["ema"], averages, strict=True))
    again, _ = run(4, path)
    assert again.optimizers[0].current_step == 4 and again.global_step == 4
    flip(Path(average), Path(average).read_bytes().index(averages[-1].numpy().tobytes()))
    with pytest.raises(ValueError, match=r"-EMA\.ckpt cannot be read as a checkpoint \(it is damaged"):
        run(4, path)


def test_an_error_of_the_model_stays_what_it_is(tmp_path):
    with pytest.raises(AttributeError, match="pickle"):
        CompleteCheckpointIO().save_checkpoint({"function": lambda: None}, tmp_path / "a.ckpt")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.ckpt", "a-EMA.ckpt"])
def test_damaged_and_hostile_checkpoints_are_refused(tmp_path, name):
    """This includes the moving averages, which NeMo reads after the named checkpoint."""
    io, content = CompleteCheckpointIO(), {"weight": torch.arange(1000.0)}
    for file in ("a.ckpt", "a-EMA.ckpt"):
        io.save_checkpoint(content, tmp_path / file)
    data = (tmp_path / name).read_bytes()
    position = data.index(torch.arange(1000.0).numpy().tobytes()) + 40
    flip(tmp_path / name, position)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a checkpoint \(it is damaged.* archive/data/0 "):
        io.load_checkpoint(tmp_path / "a.ckpt")
    torch.save(content | {"bomb": Bomb(tmp_path / "ran")}, tmp_path / name)
    for refuse in (lambda path: io.load_checkpoint(tmp_path / "a.ckpt"), read_checkpoint, check_checkpoint):
        with pytest.raises(ValueError, match=rf"{name} cannot .* could run code") as error:
            refuse(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
