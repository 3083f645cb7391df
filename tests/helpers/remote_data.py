"""Shards behind URLs: files on a server, loaders, and batches that must be equal."""

import shutil
from pathlib import Path
from typing import NamedTuple

import fsspec
import torch
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.stores import Store


class Place(NamedTuple):
    """A server and the URL of an empty folder on it."""

    store: Store
    url: str

    def put(self, folder: Path) -> None:
        """Copies files and folders into the folder."""
        system, path = fsspec.url_to_fs(self.url) if self.url.startswith("s3") else (None, None)
        for file in folder.rglob("*"):
            if file.is_file():
                name = str(file.relative_to(folder))
                if system is not None:
                    system.pipe_file(f"{path}/{name}", file.read_bytes())
                else:
                    target = self.store.app.folder / self.url.rpartition("/")[2] / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)


def node(folder, **changes) -> dict:
    shards = {
        "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..1_CL_.json",
        "tarred_audio_filepaths": f"{folder}/audio__OP_0..1_CL_.tar",
    }
    return shards | {"use_lhotse": True, "batch_size": 3, "shuffle": True} | changes


def loader(folder, training=False, **changes):
    return build_dataloader(OmegaConf.create(node(folder, **changes)), SAMPLE_RATE, 0, 1, training)


def assert_equal(found, expected) -> None:
    found, expected = list(found), list(expected)
    assert [batch.ids for batch in found] == [batch.ids for batch in expected]
    assert all(torch.equal(one.signal, other.signal) for one, other in zip(found, expected, strict=True))
    assert not any(batch.skipped for batch in found)
