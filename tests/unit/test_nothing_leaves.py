"""Tests that files which leave the machine name neither its folders nor its account: exports, uploads, shards."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from huggingface_hub import HfApi
from omegaconf import OmegaConf

import nemo_birq
from nemo_birq import BiRQModel
from nemo_birq.checkpoint.tar_owner import forget_owner
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.export.bare_encoder import strip, write_nemo
from nemo_birq.export.runtime_files import write_runtime_file
from tests.helpers.models import make_model
from tests.helpers.nemo_files import SECRET
from tests.helpers.shards import make, noise, write, write_lines

pytestmark = pytest.mark.unit


def owners(path: Path) -> set[tuple]:
    with tarfile.open(path) as archive:
        return {(member.uid, member.gid, member.uname, member.gname) for member in archive}


def model_with_data() -> BiRQModel:
    """A model with data on this machine in its configuration."""
    model = make_model()
    OmegaConf.update(model.cfg, "train_ds", {"manifest_filepath": f"{SECRET}/train.json"}, force_add=True)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.nemo"
    model_with_data().save_to(str(path))
    return path


def write_foreign_tar(path: Path) -> dict[str, bytes]:
    """A tar file of an account whose names and numbers need an extended header, with members of all sizes."""
    contents = {"empty": b"", "a": b"a" * 700, "ü/" + 120 * "long": bytes(range(256)) * 8}
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 12.5
            member.uname, member.gname, member.uid, member.gid = "jürgen", "g" * 40, 3_000_000, 70_000
            archive.addfile(member, io.BytesIO(content))
    return contents


def test_the_owner_of_a_tar_is_forgotten_and_its_members_are_not(tmp_path):
    contents = write_foreign_tar(tmp_path / "x.tar")
    size = (tmp_path / "x.tar").stat().st_size
    forget_owner(tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    assert "jürgen".encode() not in data and b"ggg" not in data and b"3000000" not in data and len(data) == size
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == contents


def test_a_nemo_does_not_name_its_account(saved, tmp_path):
    with tarfile.open(tmp_path / "own.tar", "w") as archive:
        archive.add(__file__, "x")
    assert owners(tmp_path / "own.tar") != {(0, 0, "", "")}  # written by NeMo
    write_nemo(strip(saved).model, tmp_path / "bare.nemo")
    assert owners(saved) == owners(tmp_path / "bare.nemo") == {(0, 0, "", "")}


@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_runtime_files_hold_no_path(saved, tmp_path, suffix):
    out = tmp_path / f"encoder{suffix}"
    write_runtime_file(strip(saved).model, out)
    if suffix == ".onnx":
        contents = [onnx.load(out).SerializeToString()]
    else:
        with zipfile.ZipFile(out) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    for folder in (Path(torch.__file__).parents[1], Path(nemo_birq.__file__).parents[1], tmp_path, Path("/home")):
        assert not any(f"{folder}/".encode() in content for content in contents)


def test_an_upload_leaves_the_paths_of_the_data_behind(saved, tmp_path, monkeypatch):
    """The test uses the hub's own code except the two calls that need a network."""
    uploaded: dict[str, bytes] = {}

    def upload(self, *, folder_path, **options):
        for path in Path(folder_path).iterdir():
            uploaded[path.name] = path.read_bytes()

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: type("Repo", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = model_with_data()
    model.push_to_hf_hub("somebody/encoder", token="none")
    assert set(uploaded) == {"encoder.nemo", "README.md"}
    assert SECRET.encode() in saved.read_bytes() and not any(SECRET.encode() in content for content in uploaded.values())
    assert model.cfg.train_ds.manifest_filepath == f"{SECRET}/train.json"
    (tmp_path / "encoder.nemo").write_bytes(uploaded["encoder.nemo"])
    assert owners(tmp_path / "encoder.nemo") == {(0, 0, "", "")}
    restored = nemo_birq.load_model(tmp_path / "encoder.nemo").state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in model.state_dict().items())


def test_shards_name_neither_folders_nor_the_account(tmp_path, monkeypatch):
    """Neither do the plan and the card beside them; the plan still tells another input."""
    home, lists = tmp_path / "home" / "somebody", tmp_path / "lists"
    monkeypatch.setenv("HOME", str(home))
    write(home / "audio" / "a.wav", noise(0.5))
    (home / "audio" / "b.wav").write_bytes(b"no audio")
    lists.mkdir()
    manifest = write_lines(lists / "x.json", *({"audio_filepath": str(home / "audio" / f"{name}.wav")} for name in "abc"))
    recipe, options = ManifestRecipe([manifest], lists), {"max_skipped_share": 1.0}
    card = make(recipe, tmp_path / "out", **options)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        assert not any(word in path.read_bytes() for word in (str(tmp_path).encode(), b"somebody")), path
    assert owners(tmp_path / "out" / "audio_0.tar") == {(0, 0, "", "")}
    assert card["source"]["input"] == ["x.json"] and card["skipped"][0]["name"] == "~/audio/b.wav"
    assert make(recipe, tmp_path / "out", **options) == card
    plan = json.loads((tmp_path / "out" / "build_plan.json").read_text())
    plan["source"] |= {"input": [str(manifest.resolve())], "root": str(lists.resolve())}  # as earlier versions wrote it
    (tmp_path / "out" / "build_plan.json").write_text(json.dumps(plan))
    assert make(recipe, tmp_path / "out", **options) == card
    (tmp_path / "other").mkdir()
    other = ManifestRecipe([Path(shutil.copy(manifest, tmp_path / "other"))], lists)
    with pytest.raises(BuildError, match=r"input was \['x\.json \(path \w+\)'\] and is \['x\.json \(path \w+\)'\]"):
        make(other, tmp_path / "out", **options)
