"""The table of encoders has the numbers of birq probe, for a .nemo and for the folder that birq export writes of it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nemo_birq import cli
from nemo_birq.export.bare_encoder import strip
from nemo_birq.export.transformers_folder import write_folder
from tests.helpers.encoders import PARAKEET, write_wav2vec2
from tests.helpers.models import make_model
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.integration
HAS_FASTABX = find_spec("fastabx") is not None
SHORT = ("--epochs", "2", "--workers", "0")
PHONES = ("--alignments", *(str(CORPUS / part / "phones.ctm") for part in ("test", "validation", "test")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, its export, a random Wav2Vec2, and three small sets."""
    folder = tmp_path_factory.mktemp("user")
    make_model(**PARAKEET).save_to(str(folder / "ours.nemo"))
    write_folder(strip(folder / "ours.nemo").model, folder / "hub")
    write_wav2vec2(folder / "wav2vec2")
    for name, source, chosen in (
        ("train", "test/test.json", slice(0, 30)),
        ("dev", "validation/validation.json", slice(0, 16)),
        ("test", "test/test.json", slice(30, 60)),
    ):
        lines = [json.loads(line) for line in (CORPUS / source).read_text().splitlines()[chosen]]
        lines = [line | {"audio_filepath": str((CORPUS / source).parent / line["audio_filepath"])} for line in lines]
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def birq(command: str, folder: Path, *arguments: str) -> Result:
    sets = [part for name in ("train", "dev", "test") for part in (f"--{name}", str(folder / f"{name}.json"))]
    return CliRunner().invoke(cli.main, [command, *arguments, *sets, *SHORT], prog_name="birq")


@pytest.fixture(scope="module")
def compared(folder) -> dict:
    done = birq(
        "compare-encoders", folder, *(str(folder / name) for name in ("ours.nemo", "hub", "wav2vec2")), *PHONES,
        "--abx", "phone", "--out", str(folder / "encoders"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (folder / "encoders" / "encoders.png").is_file()
    return json.loads((folder / "encoders" / "encoders.json").read_text()) | {"printed": done.output}


def test_numbers_are_those_of_the_probe(folder, compared):
    ours = compared["encoders"][0]
    for task, alignments in (("frames", PHONES), ("ctc", ())):
        done = birq(
            "probe", folder, str(folder / "ours.nemo"), *alignments, "--no-baselines", "--out", str(folder / "probe")
        )
        assert done.exit_code == 0, done.output
        probe = json.loads((folder / "probe" / f"probe_{task}_ours.json").read_text())
        assert ours[task]["rows"] == probe["rows"] and ours[task]["metric"] == probe["metric"]
        assert ours[task]["constant_error"] == probe["constant_error"]
        singles = [row for row in probe["rows"] if row["layer"] is not None]
        assert ours[task]["best_layer"] == min(singles, key=lambda row: row["dev_loss"])
        assert ours[task]["weighted_sum"] == next(row for row in probe["rows"] if row["layer"] is None)


def test_an_exported_folder_has_the_numbers_of_its_nemo(compared):
    """Up to the rounding of outputs to float16."""
    ours, hub, wav2vec2 = compared["encoders"]
    assert [one["name"] for one in compared["encoders"]] == ["ours", "hub", "wav2vec2"]
    for key in ("parameters", "frame_rate", "depth", "width"):
        assert ours[key] == hub[key]
    assert (hub["kind"], wav2vec2["kind"], wav2vec2["frame_rate"]) == ("ParakeetEncoder", "Wav2Vec2Model", 50)
    for task in ("frames", "ctc"):
        for first, second in zip(ours[task]["rows"], hub[task]["rows"], strict=True):
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
            assert first["error"] == pytest.approx(second["error"], abs=0.01)
    for first, second in zip(ours["abx"], hub["abx"], strict=True):
        for part in ("dev", "test"):
            for kind in ("within", "across"):
                assert first[part][kind]["error"] == pytest.approx(second[part][kind]["error"], abs=0.005)


def test_abx_is_a_column_or_a_note(compared):
    assert "frame" in compared["printed"] and "CER" in compared["printed"]
    assert ("ABX needs fastabx" in compared["printed"]) == (not HAS_FASTABX)
    assert bool(compared["encoders"][0]["abx"]) == HAS_FASTABX
    assert compared["abx_items"] == ("phone" if HAS_FASTABX else None)
    for layer in compared["encoders"][0]["abx"]:
        for found in (layer["test"]["within"], layer["test"]["across"]):
            assert 0 < found["interval"][0] < found["error"] < found["interval"][1] < 1 and found["error"] < 0.5


def test_an_encoder_that_does_not_exist_ends_before_any_work(folder):
    done = birq("compare-encoders", folder, str(folder / "ours.nemo"), str(folder / "none"), "--out", str(folder / "no"))
    assert done.exit_code != 0 and "none does not exist" in str(done.exception) and not (folder / "no").exists()
