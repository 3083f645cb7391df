"""Files of torch.save that are damaged or hostile: each is refused with a reason, and no code of them runs."""

import io

import pytest
import torch

from nemo_birq.utils.torch_files import check_torch_file, check_zip, load_torch_file
from tests.helpers.hostile_files import Bomb

pytestmark = pytest.mark.unit
CONTENT = {"weight": torch.arange(24.0).reshape(4, 6), "name": "a model", "steps": [1, 2, 3]}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def is_content(found: object) -> bool:
    same = found.keys() == CONTENT.keys() and torch.equal(found["weight"], CONTENT["weight"])
    return same and all(found[key] == CONTENT[key] for key in ("name", "steps"))


def test_a_changed_byte_is_found_or_changes_nothing():
    """PyTorch itself would return other weights."""
    data, found, unnoticed = saved(CONTENT), 0, 0
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        try:
            assert is_content(load_torch_file(io.BytesIO(damaged))), position
        except ValueError:
            found += 1
            try:
                unnoticed += not is_content(torch.load(io.BytesIO(damaged), weights_only=True))
            except Exception:
                continue
    assert found > 0.5 * len(data) and unnoticed > 90  # the bytes of the tensor are 96


@pytest.mark.parametrize("length", [0, 1, 22, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, length):
    data = saved(CONTENT)
    (tmp_path / "torn.pt").write_bytes(data[: length if isinstance(length, int) else int(length * len(data))])
    for refuse in (check_zip, check_torch_file, load_torch_file):
        with pytest.raises(ValueError, match=r"not a file of torch\.save, or it is damaged"):
            refuse(tmp_path / "torn.pt")


def test_other_files_are_refused(tmp_path):
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # PyTorch 1.5: has no checksums
    with pytest.raises(ValueError, match=r"not a file of torch\.save"):
        check_zip(tmp_path / "old.pt")
    with pytest.raises(FileNotFoundError):
        check_zip(tmp_path / "absent.pt")


def test_a_bomb_is_named_and_does_not_go_off(tmp_path):
    data = saved({"weight": torch.zeros(2), "bomb": Bomb(tmp_path / "ran")})
    check_zip(io.BytesIO(data))  # it is not damaged
    for refuse in (check_torch_file, load_torch_file):
        with pytest.raises(ValueError, match=r"it holds .*Path.*could run code"):
            refuse(io.BytesIO(data))
    assert not (tmp_path / "ran").exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "ran").exists()  # it works
