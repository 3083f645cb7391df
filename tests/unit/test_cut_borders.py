"""Recordings that are cut between their utterances: no audio is in two pieces, and none is from outside."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from nemo_birq.data.shards.cut import AT_UTTERANCES, EQUAL, cut, join_utterances
from nemo_birq.data.shards.headers import Header
from nemo_birq.data.shards.recipes.cuts import CutsRecipe
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.data.shards.segments import Segment, Skipped, Spoken
from tests.helpers.shards import lines, make, noise, write, write_lines

pytestmark = pytest.mark.unit


def test_captions_that_overlap():
    assert join_utterances([Spoken(0, 4, "a"), Spoken(3, 7, "b"), Spoken(6, 8, "c")], 8.0) == [Spoken(0, 8, "a b c")]
    # It is unknown on which side of 6 s the words of "b" and "c" are; "d" overlaps "e" only by rounding.
    rolling = [Spoken(0, 4, "a"), Spoken(3, 8, "b"), Spoken(6, 9, "c"), Spoken(9, 14.1, "d"), Spoken(14, 18, "e")]
    expected = [Spoken(0, 6, None), Spoken(6, 9, None), Spoken(9, 14, "d"), Spoken(14, 18, "e")]
    assert join_utterances(rolling, 8.0) == expected
    # One utterance over others: what follows them is still there.
    assert join_utterances([Spoken(0, 20, "long"), Spoken(5, 7, "in")], 8.0) == [Spoken(0, 5, None), Spoken(5, 20, None)]
    assert join_utterances([Spoken(0, 5, "a"), Spoken(0, 9, "b")], 8.0) == [Spoken(0, 9, None)]


TIMES = st.tuples(st.integers(-20, 80), st.integers(0, 40)).map(lambda pair: Spoken(pair[0] / 2, sum(pair) / 2, "x"))


@settings(max_examples=100, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=8), st.integers(0, 10), st.sampled_from([None, 10.0]))
@example([Spoken(0.0, 0.5, "x"), Spoken(1.0, 1.5, "x")], 0, None)  # joined, with the pause between them
def test_any_utterances_give_their_audio_once(spoken, start, duration):
    header = Header(25 * 100, 100, 1)
    end = 25.0 if duration is None else start + duration
    segment = Segment("x", "x", "x", start=start, duration=duration, spoken=tuple(spoken), line={"text": "all"})
    pieces = cut(segment, header, 4.0, Counter())
    wanted = {
        i for one in spoken for i in range(round(one.start * 100), round(one.end * 100)) if 100 * start <= i < 100 * end
    }
    if not wanted:
        assert (
            isinstance(pieces, Skipped) and pieces.name == "x" and f"none of its {len(spoken)} utterances" in pieces.reason
        )
        return
    frames = [i for piece in pieces for i in range(piece.start, piece.start + piece.frames)]
    assert len(frames) == len(set(frames)) and wanted <= set(frames)
    for piece in pieces:
        assert piece.frames <= 400 and {piece.start, piece.start + piece.frames - 1} <= wanted


def test_windows_over_supervisions(tmp_path):
    """Lhotse's cut_into_windows leaves supervisions whole that cross the border of a window."""
    recording = Recording.from_file(write(tmp_path / "long.wav", noise(30.0)), recording_id="long")
    spoken = [SupervisionSegment(f"s{i}", "long", 7.0 * i, min(7.0, 29.9 - 7 * i), text=f"w{i}") for i in range(5)]
    whole = MonoCut("c", 0, recording.duration, 0, recording=recording, supervisions=spoken)
    windows = list(CutSet.from_cuts([whole]).cut_into_windows(12.0))
    outside = [SupervisionSegment("z", "long", 20.0, 5.0, text="z")]
    windows.append(MonoCut("short", 0, 3.0, 0, recording=recording, supervisions=outside))
    windows.append(MonoCut("long", 0, 13.0, 0, recording=recording, supervisions=outside))
    CutSet.from_cuts(windows).to_file(tmp_path / "cuts.jsonl")
    card = make(CutsRecipe(tmp_path / "cuts.jsonl"), tmp_path / "out", max_duration=8.0)
    assert card["long_recordings"] == {AT_UTTERANCES: 5, EQUAL: 2, "not cut": 2}
    found = {
        name.removesuffix(".flac"): (line["duration"], line.get("text")) for name, line in lines(tmp_path / "out").items()
    }
    assert found == {
        "c-0-00000000-00007000": (7.0, "w0"), "c-0-00007000-00012000": (5.0, None),
        "c-1-00012000-00014000": (2.0, None), "c-1-00014000-00021000": (7.0, "w2"), "c-1-00021000-00024000": (3.0, None),
        "c-2": (6.0, None), "short": (3.0, None), "long-00000000-00006500": (6.5, None),
        "long-00006500-00013000": (6.5, None),
    }  # fmt: skip


def test_links_to_one_file_give_its_audio_once(tmp_path):
    path = write(tmp_path / "in" / "b.wav", noise(2.0))
    (tmp_path / "in" / "a.wav").symlink_to(path)
    (tmp_path / "in" / "c.wav").symlink_to(path)
    halves = [{"audio_filepath": name, "offset": at, "duration": 1.0} for name in ("b.wav", "c.wav") for at in (0.0, 1.0)]
    manifest = write_lines(tmp_path / "in" / "m.json", {"audio_filepath": "a.wav"}, *halves)
    card = make(ManifestRecipe([manifest]), tmp_path / "out", max_skipped_share=0.5)
    assert sorted(lines(tmp_path / "out")) == ["a.flac", "b-00000000-00001000.flac", "b-00001000-00002000.flac"]
    assert {entry["name"]: entry["reason"] for entry in card["skipped"]} == {
        f"c.wav-{times}": f"through a link, it has the same audio as b.wav-{times}"
        for times in ("00000000-00001000", "00001000-00002000")
    }


def test_a_caption_that_outlasts_its_recording_keeps_its_text():
    spoken = (Spoken(0, 6, "a"), Spoken(6, 12, "b"), Spoken(12, 20, "c"))
    counts = Counter()
    pieces = cut(Segment("x", "x", "x", spoken=spoken), Header(1000, 100, 1), 8.0, counts)
    assert [(p.start, p.frames, p.line["text"]) for p in pieces] == [(0, 600, "a"), (600, 400, "b")]
    assert counts == {AT_UTTERANCES: 2} and EQUAL not in counts
