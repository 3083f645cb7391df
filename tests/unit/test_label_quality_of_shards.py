"""Label quality reads manifests of single files and tar shards by the same path, with the same numbers."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nemo_birq.evaluation.label_quality.evaluation import evaluate
from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
from nemo_birq.evaluation.label_quality.utterances import open_speech, read_utterances
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import make_model
from tests.helpers.paths import CORPUS

SHARDS = CORPUS / "train"
CTM = SHARDS / "phones.ctm"
PATTERN = SHARDS / "sharded_manifests" / "manifest__OP_0..3_CL_.json"
TARS = str(SHARDS / "audio__OP_0..3_CL_.tar")
HOURS = 60 / 3600


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Manifest of the members of the shards as single files, in the reverse order."""
    folder = tmp_path_factory.mktemp("files")
    for tar in SHARDS.glob("audio_*.tar"):
        with tarfile.open(tar) as archive:
            archive.extractall(folder, filter="data")
    lines = (SHARDS / "tarred_audio_manifest.json").read_text().splitlines()
    (folder / "files.json").write_text("\n".join(reversed(lines)))
    return folder / "files.json"


@pytest.mark.unit
def test_same_numbers_from_shards_and_from_single_files(manifest):
    model = make_model().eval()
    sets = [
        read_utterances(manifest, CTM, HOURS),
        read_utterances(SHARDS, CTM, HOURS),
        read_utterances(PATTERN, CTM, HOURS, TARS),
    ]
    assert 60 <= sets[0].seconds < 66 and len(sets[0].lines) < 480
    with ProgressBars(disable=True) as progress:
        expected, *found = [evaluate(model, utterances, progress) for utterances in sets]
    for utterances, evaluation in zip(sets[1:], found, strict=True):
        assert list(utterances.lines) == list(sets[0].lines) and utterances.coverage == sets[0].coverage
        assert evaluation.rows == expected.rows and evaluation.notes == expected.notes
        assert all(np.array_equal(evaluation.joint[labels], expected.joint[labels]) for labels in ("anchor", "enhanced"))


@pytest.mark.unit
def test_one_utterance_of_a_shard_is_viewed_as_from_its_file(manifest):
    model = make_model().eval()
    from_file, from_shard = open_speech(manifest), open_speech(SHARDS)
    name = sorted(from_file.rows)[100]
    one, two = (view_utterance(model, speech, name, [], [], seed=1) for speech in (from_file, from_shard))
    assert (one.name, one.text) == (two.name, two.text) == (name, from_file.lines[name]["text"])
    assert np.array_equal(one.features, two.features) and np.array_equal(one.enhanced.labels, two.enhanced.labels)


@pytest.mark.unit
def test_an_utterance_that_cannot_be_used_is_refused(manifest, tmp_path):
    """Otherwise two models could be compared on different utterances."""
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines = [line | {"audio_filepath": str(manifest.parent / line["audio_filepath"])} for line in lines]
    lines[7]["audio_filepath"] = str(tmp_path / "gone.flac")
    (tmp_path / "m.json").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"\b1 of 480 .*m\.json.*gone\.flac"):
        open_speech(tmp_path / "m.json")
