"""Pushing to the Hugging Face hub with NeMo's own method; only the two calls that go over the network are replaced."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from nemo.core import ModelPT

from nemo_birq.export.bare_encoder import strip, write_nemo
from tests.helpers.models import trained_model

REPO = "somebody/my-encoder"
pytestmark = pytest.mark.unit


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder instead of the hub, to which uploads are copied."""
    stored = tmp_path / "stored"
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: SimpleNamespace(repo_id=repo_id))

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, stored / repo_id)

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    # from_pretrained looks into the local cache first.
    monkeypatch.setattr(
        "nemo.core.classes.common.try_to_load_from_cache", lambda repo_id, filename: str(stored / repo_id / filename)
    )
    return stored


def test_pretrained_model_is_pushed_with_our_card(hub):
    model = trained_model()
    url = model.push_to_hf_hub(REPO, token="none")
    assert url == f"https://huggingface.co/{REPO}/tree/main"
    assert {path.name for path in (hub / REPO).iterdir()} == {"my-encoder.nemo", "README.md"}
    card = ModelCard.load(hub / REPO / "README.md")
    assert card.data.library_name == "nemo" and card.data.license == "unknown"  # NeMo's own card says cc-by-4.0
    assert f'ModelPT.from_pretrained("{REPO}"' in card.text
    restored = ModelPT.from_pretrained(REPO, map_location="cpu")
    assert all(torch.equal(restored.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_bare_encoder_is_pushed_from_stock_nemo_with_the_card_beside_it(hub, tmp_path):
    model = trained_model()
    model.save_to(str(tmp_path / "model.nemo"))
    (tmp_path / "hub").mkdir()
    write_nemo(strip(tmp_path / "model.nemo", license="cc-by-4.0").model, tmp_path / "hub" / "my-encoder.nemo")
    stock = ModelPT.restore_from(str(tmp_path / "hub" / "my-encoder.nemo"))
    stock.push_to_hf_hub(REPO, token="none", model_card=ModelCard.load(tmp_path / "hub" / "README.md"))
    assert (hub / REPO / "README.md").read_text() == (tmp_path / "hub" / "README.md").read_text()
    restored = ModelPT.from_pretrained(REPO, map_location="cpu").encoder.state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in model.encoder.state_dict().items())
