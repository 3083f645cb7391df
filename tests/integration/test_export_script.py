"""The script that writes a bare encoder, as a user runs it."""

import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.helpers.nemo_files import save_pretrained
from tests.helpers.paths import ROOT
from tests.helpers.scripts import run

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return save_pretrained(tmp_path_factory.mktemp("pretrained") / "model.nemo")


def test_script_says_what_it_did_and_never_overwrites(pretrained, tmp_path, monkeypatch):
    out = tmp_path / "bare.nemo"
    printed = run("export_encoder.py", str(pretrained), str(out), "--license", "apache-2.0", fresh=True)
    assert (
        "removed from the configuration: birq, decoder, optim, train_ds" in printed and "decoder_losses.enhanced" in printed
    )
    sizes = [path.stat().st_size / 1e6 for path in (pretrained, out)]
    assert all(f"{size:.2f} MB" in printed for size in sizes) and sizes[1] < sizes[0]
    assert ModelCard.load(tmp_path / "README.md").data.license == "apache-2.0"
    written = out.read_bytes()
    monkeypatch.setattr("sys.argv", ["export_encoder.py", str(pretrained), str(out)])
    with pytest.raises(SystemExit, match=r"export_encoder\.py: .*bare\.nemo.*--force"):
        runpy.run_path(str(ROOT / "scripts" / "export_encoder.py"), run_name="__main__")
    assert out.read_bytes() == written
