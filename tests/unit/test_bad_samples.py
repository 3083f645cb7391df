"""Samples that are not audio: NaN, infinity, and amplitudes that no recording has."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.extraction.data import make_loader, open_data
from nemo_birq.scoring.results import score
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.scoring_models import make_ctc
from tests.helpers.shards import dataset_node, make

pytestmark = pytest.mark.unit


def float_wav(peak: float, subtype: str = "FLOAT") -> bytes:
    signal = np.where(np.arange(SAMPLE_RATE) % 50 < 25, 1.0, -1.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, signal * peak, SAMPLE_RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


GOOD = {"full.wav": float_wav(1.0), "above.wav": float_wav(3.0), "at the limit.wav": float_wav(99.0)}
BAD = {
    "integers16.wav": float_wav(32767.0),
    "integers24.wav": float_wav(8388607.0),
    "1e30.wav": float_wav(1e30),
    "1e300.wav": float_wav(1e300, "DOUBLE"),  # infinite in float32
    "inf.wav": float_wav(np.inf),
    "nan.wav": float_wav(np.nan),
}
KINDS = dict.fromkeys(BAD, "not a number") | dict.fromkeys(("integers16.wav", "integers24.wav", "1e30.wav"), "too loud")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The clips as single files with a manifest, and as a shard."""
    path = tmp_path_factory.mktemp("samples")
    (path / "audio").mkdir()
    lines = []
    for name, data in (GOOD | BAD).items():
        (path / "audio" / name).write_bytes(data)
        lines.append({"audio_filepath": f"audio/{name}", "duration": 1.0, "text": "a"})
    (path / "files.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_shards([Utterance(name, data, {"duration": 1.0}) for name, data in (GOOD | BAD).items()], path / "shards", 1)
    return path


@pytest.mark.parametrize("kind", ["files", "shards", "stream"])
def test_training_skips_and_names_them(folder, caplog, kind):
    batches = list(build_dataloader(dataset_node(folder, kind), SAMPLE_RATE, 0, 1, training=False))
    assert {name.rpartition("/")[2] for batch in batches for name in batch.ids} == set(GOOD)
    assert all(bool(batch.signal.isfinite().all()) and float(batch.signal.abs().max()) < 100 for batch in batches)
    assert sum(batch.skipped for batch in batches) >= len(BAD)  # the stream begins again until its batches are full
    for name, problem in {"integers16": "32767,", "integers24": "8.38861e+06,", "1e30": "1e+30,", "nan": "NaN"}.items():
        lines = [line for line in caplog.text.splitlines() if f"{name}.wav" in line or f"'{name}'" in line]
        assert lines and all(word in lines[0] for word in ("Skipped", problem))


def test_extraction_and_what_reads_as_it_does_leave_them_out(folder):
    data = open_data(str(folder / "files.json"), None, SAMPLE_RATE)
    rows, speech = next(iter(make_loader(data, [list(range(len(GOOD) + len(BAD)))], 0)))
    assert rows == [0, 1, 2] and speech.skipped == len(BAD)


def test_shards_are_built_without_them(folder, tmp_path):
    card = make(FolderRecipe(folder / "audio"), tmp_path / "out", max_skipped_share=0.7)
    assert {entry["name"]: entry["kind"] for entry in card["skipped"]} == KINDS
    assert card["utterances"] == len(GOOD)
    with tarfile.open(tmp_path / "out" / "audio_0.tar") as tar:
        assert sorted(tar.getnames()) == ["above.flac", "at_the_limit.flac", "full.flac"]


def test_verification_finds_them(folder):
    found, _ = verify(folder / "shards", True, 1, ProgressBars(disable=True))
    assert {problem.member for problem in found} == set(BAD)


def test_a_score_stops_with_file_and_line(folder, tmp_path):
    """Without it, the error rate would be that of another test set."""
    model = make_ctc()
    for name in (*BAD, "gone.wav"):
        path = folder / f"{name}.json"
        (folder / "audio" / "gone.wav").write_bytes(b"RIFF")
        lines = [{"audio_filepath": f"audio/{n}", "duration": 1.0, "text": "a"} for n in ("full.wav", name)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(ValueError, match=rf"{name}\.json, line 2: .*audio/{name}"):
            score(model, path)
        (folder / "audio" / "gone.wav").unlink()
    lines = [{"audio_filepath": f"audio/{name}", "duration": 1.0, "text": "a"} for name in GOOD]
    (folder / "good.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert score(model, folder / "good.json")["num_utterances"] == len(GOOD)
    (folder / "beyond.json").write_text(json.dumps(lines[0] | {"offset": 5.0}))
    with pytest.raises(ValueError, match=r"beyond\.json, line 1: .*no audio"):
        score(model, folder / "beyond.json")
