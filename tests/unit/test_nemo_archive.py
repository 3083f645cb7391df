"""Files that are not a ``.nemo``: each is refused with the reason."""

import io
import re
import tarfile

import pytest
from omegaconf import OmegaConf

from nemo_birq.checkpoint.nemo_archive import check_nemo, read_config

pytestmark = pytest.mark.unit


def pack(path, mode="w", links=(), **members):
    """Writes an archive with members by name (two underscores for a dot)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def test_a_good_file(nemo):
    config = read_config(nemo)
    assert config.target.endswith("SpeechEncDecSelfSupervisedModel") and config.encoder.d_model == 32


def test_a_compressed_file_is_one_too(nemo, tmp_path):
    with tarfile.open(nemo) as source, tarfile.open(tmp_path / "old.nemo", "w:gz") as packed:
        for member in source.getmembers():
            packed.addfile(member, source.extractfile(member) if member.isfile() else None)
    assert read_config(tmp_path / "old.nemo") == read_config(nemo)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.nemo"):
        check_nemo(tmp_path / "no.nemo")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_truncated_anywhere(nemo, tmp_path, share):
    data = nemo.read_bytes()
    (tmp_path / "torn.nemo").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"(?s)torn\.nemo.*\b{int(share * len(data))} bytes"):
        check_nemo(tmp_path / "torn.nemo")


def test_truncated_compressed(nemo, tmp_path):
    with tarfile.open(tmp_path / "whole.nemo", "w:gz") as packed:
        packed.add(nemo, "model_weights.ckpt")
    data = (tmp_path / "whole.nemo").read_bytes()
    (tmp_path / "torn.nemo").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"torn\.nemo.*\b{len(data) // 2} bytes"):
        check_nemo(tmp_path / "torn.nemo")


def test_no_archive(tmp_path):
    (tmp_path / "text.nemo").write_text("hello\n" * 1000)
    with pytest.raises(ValueError, match=r"(?s)text\.nemo.*\b6000 bytes"):
        check_nemo(tmp_path / "text.nemo")


def test_without_weights(tmp_path):
    path = pack(tmp_path / "a.nemo", model_config__yaml=b"target: x\n", notes__txt=b"")
    with pytest.raises(ValueError, match=r"a\.nemo.*model_weights\.ckpt.*model_config\.yaml, notes\.txt"):
        check_nemo(path)


@pytest.mark.parametrize("member", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
def test_paths_that_leave_the_folder_are_named(tmp_path, member):
    path = pack(tmp_path / "a.nemo", model_config__yaml=b"target: x\n", model_weights__ckpt=b"", **{member: b"x"})
    with pytest.raises(ValueError, match=rf"a\.nemo.* {re.escape(member)}\b"):
        check_nemo(path)


def test_links_are_named(tmp_path):
    path = pack(tmp_path / "a.nemo", model_config__yaml=b"", model_weights__ckpt=b"", links=[("key", "/etc/passwd")])
    with pytest.raises(ValueError, match=r"a\.nemo.*\blinks?\b.*\bkey\b"):
        check_nemo(path)


@pytest.mark.parametrize("config", [b"{ target: [", b"\xff\xfe\x00", b"- 1\n", b"sample_rate: 16000\n"])
def test_configurations_that_are_none(tmp_path, config):
    path = pack(tmp_path / "a.nemo", model_config__yaml=config, model_weights__ckpt=b"")
    with pytest.raises(ValueError, match=r"a\.nemo.*model_config\.yaml"):
        read_config(path)


def test_our_configuration_is_read_whole(nemo):
    assert OmegaConf.select(read_config(nemo), "birq.quantizer.num_codes") == 24
