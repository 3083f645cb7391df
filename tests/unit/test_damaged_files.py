"""Files that are damaged on the disk: the reader names the file and its reaction."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_birq.evaluation.label_quality.alignments import read_alignments
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.features import write_npz
from nemo_birq.extraction.labels import finish, is_complete, parts_folder, settings_path
from nemo_birq.extraction.store import PartStore
from nemo_birq.finetuning.vocabulary import pieces
from nemo_birq.loading import load_model
from nemo_birq.report.experiment_folder import read_run
from nemo_birq.runs.restoring import Restoring
from nemo_birq.scoring.beam_search import open_beam_search
from tests.helpers.models import make_model, train
from tests.helpers.nemo_files import repack
from tests.helpers.scoring_models import make_ctc, write_words
from tests.helpers.shards import make_shards

pytestmark = pytest.mark.unit


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# --- shards ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_lacks_a_shard_is_refused(tmp_path):
    shards = make_shards(tmp_path / "shards")
    assert len(open_data(str(shards), None, 16_000).durations) == 8
    (shards / "audio_1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shards lacks audio_1\.tar"):
        open_data(str(shards), None, 16_000)


# --- stores -----------------------------------------------------------------------------------------------------------


LINES = [{"audio_filepath": f"{number}.wav", "duration": 1.0} for number in range(2)]
ARRAYS = [{"layer_1": np.full((3, 4), number, np.float32)} for number in range(2)]


@pytest.mark.parametrize("name", ["part-000000.npz", "part-000000.jsonl", "part-000000.sha256"])
def test_a_part_with_a_flipped_bit_is_made_again(tmp_path, name):
    with PartStore(tmp_path / "store", {}, {}) as store:
        write_npz(store, 0, LINES, ARRAYS, ["0", "1"])
        assert store.has(0)
        flip(store.folder / name, 70)
        assert not store.has(0)
        write_npz(store, 0, LINES, ARRAYS, ["0", "1"])
        assert store.has(0)
        with np.load(store.folder / "part-000000.npz") as arrays:
            assert arrays["1/layer_1"].tolist() == ARRAYS[1]["layer_1"].tolist()


def test_parts_of_earlier_versions_have_no_checksums(tmp_path):
    with PartStore(tmp_path / "store", {}, {}) as store:
        write_npz(store, 0, LINES, ARRAYS, ["0", "1"])
        store.checksums_path(0).unlink()
        assert store.has(0)


def test_complete_labels_that_were_changed_are_refused(tmp_path):
    out, settings = tmp_path / "labels.json", {"what": "anchor labels"}
    with PartStore(parts_folder(out), settings, {}) as store:
        for number in range(2):
            with store.writing(number, [line | {"anchor_labels": [1, 2, number]} for line in LINES]):
                pass
        finish(store, 2, out)
    assert len(out.read_text().splitlines()) == 4
    assert is_complete(out, settings)
    out.write_text(out.read_text().replace("[1, 2, 1]", "[1, 3, 1]"))
    with pytest.raises(ValueError, match=r"labels\.json is damaged .*labels\.json\.settings\.json"):
        is_complete(out, settings)
    made = json.loads(settings_path(out).read_text())
    del made["sha256"]  # as earlier versions wrote it
    settings_path(out).write_text(json.dumps(made))
    assert is_complete(out, settings)


# --- event files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(20):
            writer.add_scalar("train_loss", 10.0 - step, step)
            writer.add_scalar("train_new", step, step, new_style=True)
    return tmp_path / "run"


def test_both_forms_of_scalars_are_read(run):
    found = read_run(run)
    assert [point.value for point in found.curves["train_loss"]] == [10.0 - step for step in range(20)]
    assert [(point.step, point.value) for point in found.curves["train_new"]] == [(step, step) for step in range(20)]
    assert found.notes == []


def test_an_event_file_is_read_up_to_its_damage(run):
    events = next(run.glob("events.out*"))
    content = events.read_bytes()
    flip(events, len(content) // 2)
    found = read_run(run)
    kept = [point.value for point in found.curves["train_loss"]]
    assert 0 < len(kept) < 20
    assert kept == [10.0 - step for step in range(len(kept))]
    assert len(found.notes) == 1 and events.name in found.notes[0] and "Left out: " in found.notes[0]
    events.write_bytes(b"")
    with pytest.raises(ValueError, match=events.name):
        read_run(run)


# --- files that libraries read ----------------------------------------------------------------------------------------


def test_libraries_that_fail_get_the_name_of_the_file(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x05" + bytes(100))
    with pytest.raises(ValueError, match=r"tokenizer\.model .*damaged"):
        pieces(str(tmp_path))
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "0.TextGrid").write_text('{"a": [1, 2]}\n')
    with pytest.raises(ValueError, match=r"0\.TextGrid is not a readable TextGrid"):
        read_alignments(tmp_path / "grids", {"0"})


def test_n_grams_that_kenlm_cannot_read_are_of_a_named_file(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    arpa = write_words(tmp_path / "words.arpa", ["good day", "day good"])
    arpa.write_text(arpa.read_text().replace("\\2-grams:", "\\2-gr"))
    with pytest.raises(ValueError, match=r"words\.arpa cannot be read"):
        open_beam_search(arpa, make_ctc())


# --- models -----------------------------------------------------------------------------------------------------------


def checkpoint(path: Path, change: Callable[[dict], object]) -> Path:
    """Writes a checkpoint whose zip checksums fit, and whose content was changed."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    change(content)
    changed = path.with_name("changed.ckpt")
    torch.save(content, changed)
    return changed


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    trainer = train(make_model(), folder, 1)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


WEIGHT = "encoder.layers.0.norm_out.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["state_dict"][WEIGHT].fill_(float("nan")), f"state_dict.{WEIGHT} .*not finite"),
        (lambda content: content["state_dict"].update({WEIGHT: torch.ones(3)}), f"do not fit .*{WEIGHT}"),
        (lambda content: content["state_dict"].pop(WEIGHT), f"do not fit .*{WEIGHT}"),
        (lambda content: content.pop("state_dict"), "lacks 'state_dict'"),
    ],
)
def test_a_checkpoint_whose_content_was_changed_is_named(trained, change, said):
    assert load_model(trained).trained_steps == 1
    with pytest.raises(ValueError, match=rf"changed\.ckpt .*{said}"):
        load_model(checkpoint(trained, change))


def test_a_nemo_whose_weights_do_not_fit_is_named(tmp_path, nemo):
    def change(folder: Path) -> None:
        weights = folder / "model_weights.ckpt"
        content = torch.load(weights, weights_only=True)
        del content[WEIGHT]
        torch.save(content, weights)

    repack(nemo, tmp_path / "changed.nemo", change)
    with pytest.raises(ValueError, match=rf"changed\.nemo: its weights do not fit .*{WEIGHT}"):
        load_model(tmp_path / "changed.nemo")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["state"][3].update(exp_avg=torch.ones(3, 3)), "exp_avg of optimizer 0"),
        (lambda state: state["state"][3].update(exp_avg="a"), "exp_avg of optimizer 0"),
        (lambda state: state["state"][3]["step"].fill_(float("nan")), r"step of encoder\..* in optimizer 0 holds NaN"),
        (lambda state: state["state"][5]["exp_avg_sq"][0].fill_(float("inf")), r"exp_avg_sq of encoder\..* holds NaN"),
        (lambda state: state.pop("param_groups"), "KeyError"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_of_a_named_checkpoint(trained, tmp_path, change, said):
    path = checkpoint(trained, lambda content: change(content["optimizer_states"][0]))
    with pytest.raises(ValueError, match=rf"changed\.ckpt does not fit this run .*{said}"):
        train(make_model(), tmp_path, 2, ckpt_path=str(path), callbacks=[Restoring()])


def test_an_error_of_training_stays_what_it_is(trained, tmp_path):
    def fail(batch: object) -> None:
        raise TypeError("of the data")

    with pytest.raises(TypeError, match="of the data"):
        train(make_model(), tmp_path, 2, change=fail, ckpt_path=str(trained), callbacks=[Restoring()])
