"""Pretrained .nemo files as a run leaves them, and changed copies of them."""

import tarfile
from pathlib import Path

from omegaconf import OmegaConf

from nemo_birq.checkpoint.nemo_archive import CHECKSUMS
from tests.helpers.models import make_model, train

SECRET = "/home/somebody/private"


def save_pretrained(path: Path) -> Path:
    """Writes a ``.nemo`` after four steps of a real trainer, with the configuration of a run."""
    model = make_model(birq__loss__head="separate", optim={"name": "adamw", "lr": 1e-3})
    train(model, path.parent, 4, val_check_interval=2)
    OmegaConf.update(model.cfg, "train_ds", {"manifest_filepath": f"{SECRET}/books/train.json"}, force_add=True)
    model.save_to(str(path))
    return path


def repack(source: Path, target: Path, change) -> None:
    """Writes a copy of a .nemo after a function has changed its folder, without the list of checksums."""
    folder = target.with_suffix("")
    with tarfile.open(source) as tar:
        tar.extractall(folder, filter="data")
    change(folder)
    (folder / CHECKSUMS).unlink(missing_ok=True)
    with tarfile.open(target, "w") as tar:
        tar.add(folder, arcname=".")
