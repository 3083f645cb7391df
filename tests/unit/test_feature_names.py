"""Names of utterances in extracted features are those of their files, and unique over all parts."""

import json
import math
from itertools import count

import numpy as np
import pytest
from lhotse import CutSet

from nemo_birq.extraction.data import Part
from nemo_birq.extraction.features import write_npz, write_shar
from nemo_birq.extraction.run import entries_of, with_names
from nemo_birq.extraction.store import PartStore

pytestmark = pytest.mark.unit


def line(path: str) -> dict:
    return {"audio_filepath": path, "duration": 1.0, "text": "t", "snr": math.nan}


LINES = [line(path) for path in ("s1/a.wav", "s1/b.wav", "s2/a.wav", "s2/a-2.wav", "s3/a.wav", "s3/b.wav")]
NAMES = ["a", "b", "a-2", "a-2-2", "a-3", "b-2"]


def test_names_differ_and_are_those_of_the_files_where_they_can():
    assert [name for _, name in with_names(LINES)] == NAMES
    many = [name for _, name in with_names(line(f"s{i}/audio.wav") for i in range(20_000))]
    assert len(set(many)) == 20_000 and many[:3] == ["audio", "audio-2", "audio-3"]


def test_ids_of_a_shar_differ_over_its_parts(tmp_path):
    """A resumed run gives the remaining utterances the same names as an uninterrupted run."""
    parts = [Part(0, 0, 2), Part(1, 2, 4), Part(2, 4, 6)]
    numbers = count()
    with PartStore(tmp_path / "out", {}, {}) as store, PartStore(tmp_path / "npz", {}, {}) as other:
        for todo in (parts[:1], parts[1:]):
            for part, found in zip(todo, entries_of(todo, LINES), strict=True):
                results = [{"layer_1": np.full((3, 2), next(numbers), dtype=np.float32)} for _ in found]
                args = [entry for _, entry, _ in found], results, [name for *_, name in found]
                write_shar(store, part.number, *args)
                write_npz(other, part.number, *args)
        cuts = list(CutSet.from_shar(in_dir=str(tmp_path / "out" / "shar")))
        assert [cut.id for cut in cuts] == NAMES == [cut.supervisions[0].id for cut in cuts]
        assert [cut.load_layer_1()[0, 0] for cut in cuts] == list(range(6)) and cuts[0].snr is None
        keys = [json.loads(text)["features_key"] for n in range(3) for text in other.list_path(n).read_text().splitlines()]
        assert keys == NAMES
    assert b"NaN" not in b"".join(path.read_bytes() for path in (tmp_path / "out").glob("part-*.jsonl"))
