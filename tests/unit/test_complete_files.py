"""Results are complete or absent: an error during writing leaves an older file unchanged."""

import tarfile
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from nemo_birq.finetuning import vocabulary
from nemo_birq.finetuning.training import save_best
from nemo_birq.scoring.ngram_estimation import estimate, write_arpa
from nemo_birq.utils.files import complete_files
from nemo_birq.utils.pictures import write_picture


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.unit
def test_a_picture_is_complete_or_absent(tmp_path, monkeypatch):
    figure = Figure()
    figure.subplots().plot([1, 2])
    write_picture(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    write_picture(figure, tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")

    def killed(path, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        write_picture(figure, tmp_path / "a.png")
    assert names(tmp_path) == ["a.pdf", "a.png"] and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.unit
def test_a_language_model_is_complete_or_absent(tmp_path):
    model = estimate([["a", "b"]], 2)
    model[1][("x", "y")] = (-1.0, 1.0)  # has no logarithm
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        write_arpa(model, tmp_path / "a.arpa")
    assert names(tmp_path) == []


@pytest.mark.unit
def test_files_are_moved_in_the_order_of_their_names(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr("nemo_birq.utils.files.os.replace", lambda old, new: moved.append(Path(new).name))
    with complete_files(tmp_path) as folder:
        for name in ("c", "a", "b"):
            (folder / name).write_text(name)
    assert moved == ["a", "b", "c"]


@pytest.mark.unit
def test_a_tokenizer_that_was_not_finished_is_built_again(tmp_path, monkeypatch):
    """NeMo would treat a truncated tokenizer.model as finished."""
    settings = OmegaConf.create({"kind": "bpe", "vocab_size": 20})
    texts = ["the cat sat", "the dog sat"]
    folder = Path(vocabulary.build_tokenizer(settings, texts, tmp_path))
    assert names(folder) == [".lock", "tokenizer.model", "tokenizer.vocab", "vocab.txt"]
    whole = (folder / "tokenizer.model").read_bytes()
    (folder / "text.txt").write_text("killed while it was built")
    (folder / "tokenizer.model").write_bytes(whole[:50])
    assert vocabulary.build_tokenizer(settings, texts, tmp_path) == str(folder)
    assert (folder / "tokenizer.model").read_bytes() == whole and len(names(folder)) == 4
    monkeypatch.setattr(vocabulary, "create_spt_model", None)  # the same texts and settings: not built again
    assert vocabulary.build_tokenizer(settings, texts, tmp_path) == str(folder)


class Recognizer(torch.nn.Module):
    """Writes half of its file, and the other half unless it is killed."""

    killed = False

    def save_to(self, path: str) -> None:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("half"))
            if self.killed:
                raise KeyboardInterrupt
            archive.addfile(tarfile.TarInfo("whole"))


def is_whole(path: Path) -> bool:
    with tarfile.open(path) as archive:
        return "whole" in archive.getnames()


class Trainer:
    checkpoint_callback = None
    is_global_zero = True


@pytest.mark.unit
def test_the_recognizer_at_the_end_is_complete_or_absent(tmp_path):
    model = Recognizer()
    path = save_best(model, Trainer(), tmp_path, "asr")
    assert is_whole(path)
    model.killed = True
    with pytest.raises(KeyboardInterrupt):
        save_best(model, Trainer(), tmp_path, "asr")
    assert names(path.parent) == ["asr.nemo"] and is_whole(path)
    model.killed = False
    assert save_best(model, Trainer(), tmp_path, "asr") == path
    assert names(path.parent) == ["asr-v1.nemo", "asr.nemo"]
