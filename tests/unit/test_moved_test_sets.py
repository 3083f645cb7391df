"""Scores of one test set are comparable if its audio has moved between them."""

import pytest

from nemo_birq.scoring.comparison import compare
from nemo_birq.scoring.eval_sets import check_apart, identity, read_test_sets
from nemo_birq.scoring.results import summarize
from tests.helpers.shards import noise, write, write_lines

pytestmark = pytest.mark.unit

NAMES = ("s1/a.wav", "s1/b.wav", "s2/a.wav")


def scored(folder: str, heard: str, names=NAMES, texts=("one two", "three", "four five")) -> dict:
    lines = [
        {"audio_filepath": f"{folder}{name}", "duration": 1.0, "text": text} for name, text in zip(names, texts, strict=True)
    ]
    return {"manifest": f"{folder}test.json"} | summarize(lines, [heard] * len(lines))


@pytest.mark.parametrize("folder", ["/data/old/", "/mnt/new/deep/", "", "audio/", "./audio/../audio/"])
def test_a_test_set_that_was_moved(folder):
    here, there = (
        scored("/data/old/", "one two"),
        scored(folder, "three", tuple(reversed(NAMES)), ("four five", "three", "one two")),
    )
    found = compare(here, there)
    assert found["num_utterances"] == 3 and found["wer"]["first"] == pytest.approx(4 / 5)
    assert {u["audio_filepath"].rpartition("old/")[2] for u in found["utterances"]} == {"s1/a.wav", "s1/b.wav"}


def test_other_sets_are_still_refused():
    here = scored("/data/old/", "one two")
    with pytest.raises(ValueError, match="of different test sets"):
        compare(here, scored("/data/old/", "one", (*NAMES[:2], "s2/other.wav")))
    with pytest.raises(ValueError, match="different references"):
        compare(here, scored("/data/other/", "one", texts=("six", "three", "four five")))
    mixed = scored("", "one", ("/data/old/s1/a.wav", "s1/b.wav", "s2/a.wav"))
    with pytest.raises(ValueError, match="of different test sets"):
        compare(here, mixed)


def test_a_development_set_behind_links_is_the_test_set(tmp_path):
    lines = [{"audio_filepath": name, "duration": 1.0, "text": name} for name in ("a.wav", "b.wav")]
    for line in lines:
        write(tmp_path / "data" / line["audio_filepath"], noise(1.0))
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    write_lines(tmp_path / "data" / "test.json", *lines)
    write_lines(
        tmp_path / "dev.json", *(line | {"audio_filepath": f"linked/{line['audio_filepath']}"} for line in lines[::-1])
    )
    write_lines(tmp_path / "other.json", lines[0] | {"audio_filepath": "linked/a.wav"})
    test, dev, other = read_test_sets([str(tmp_path / name) for name in ("data/test.json", "dev.json", "other.json")])
    with pytest.raises(ValueError, match=r"test\.json is both the test set and the development set"):
        check_apart([test], dev)
    check_apart([test], other)


def test_parts_of_a_long_file_are_told_apart():
    first, second = ({"audio_filepath": "a.wav", "offset": 12345.67 + i / 100} for i in range(2))
    assert identity(first) != identity(second)
    assert identity({"audio_filepath": "a.wav", "offset": 0.1 + 0.2}) == identity({"audio_filepath": "a.wav", "offset": 0.3})
