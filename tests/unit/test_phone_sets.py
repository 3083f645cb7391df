"""Phones in the forms of all kinds of aligners: names, rounded times, sets that differ from that of the training set."""

import json
from pathlib import Path

import numpy as np
import pytest

from nemo_birq.evaluation.label_quality.alignments import phones_at, read_alignments
from nemo_birq.evaluation.label_quality.phone_sets import ARPABET, phone_names
from nemo_birq.evaluation.probing.data import open_sets
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.shards import noise, write, write_lines

pytestmark = pytest.mark.unit

# English X-SAMPA.
XSAMPA = [
    *"pbtdkgfvTDszSZhmnNlrwjIe{VQU@",
    "tS",
    "dZ",
    "i:",
    "u:",
    "3:",
    "A:",
    "O:",
    "eI",
    "aI",
    "OI",
    "@U",
    "aU",
    "I@",
    "e@",
]


def test_sets_that_tell_case_apart_stay_apart():
    assert len(set(phone_names(XSAMPA).values())) == len(XSAMPA)
    for pair in ("sS", "zZ", "tT", "dD", "nN"):  # a small corpus may have only symbols that ARPAbet has, too
        assert phone_names(pair) == {symbol: symbol for symbol in pair}
    names = phone_names([*XSAMPA, "sil", "SP", ""])
    assert {names[label] for label in ("sil", "SP", "")} == {"SIL"} and names["s"] == "s"
    mandarin = ["b", "ao1", "ao2", "ao4", "sh"]  # tones, not stress
    assert phone_names(mandarin) == {label: label for label in mandarin}


def test_arpabet_in_its_forms():
    lower = {"ah0": "AH", "ah1_B": "AH", "hh": "HH", "sil": "SIL", "SIL": "SIL"}
    assert phone_names(lower) == lower
    upper = {"AH0": "AH", "AH1_B": "AH", "S": "S", "<unk>": "<unk>", "spn": "SIL"}
    assert phone_names(upper) == upper
    assert phone_names(ARPABET) == {phone: phone for phone in ARPABET}


def test_the_whole_file_decides(tmp_path):
    """The utterances that are read do not decide, because those of a small test set may fit ARPAbet by chance."""
    (tmp_path / "a.ctm").write_text("u 1 0.0 0.5 s\nu 1 0.5 0.5 t\nv 1 0.0 0.5 S\nv 1 0.5 0.5 @\n")
    assert [item.symbol for item in read_alignments(tmp_path / "a.ctm", {"u"}).phones["u"]] == ["s", "t"]
    (tmp_path / "a.ctm").write_text("u 1 0.0 0.5 s\nu 1 0.5 0.5 t\n")
    assert [item.symbol for item in read_alignments(tmp_path / "a.ctm", {"u"}).phones["u"]] == ["S", "T"]


# --- TextGrids --------------------------------------------------------------------------------------------------------


def textgrid(*intervals, tier="phones") -> str:
    rows = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {intervals[-1][1]}",
            "tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"',
            f'        name = "{tier}"', "        xmin = 0", f"        xmax = {intervals[-1][1]}",
            f"        intervals: size = {len(intervals)}"]  # fmt: skip
    for number, (start, end, label) in enumerate(intervals, start=1):
        rows += [f"        intervals [{number}]:", f"            xmin = {start}", f"            xmax = {end}",
                 f'            text = "{label}"']  # fmt: skip
    return "\n".join(rows) + "\n"


def test_textgrids_with_rounded_times(tmp_path):
    ulp = [(0, 0.1, "HH"), (0.1, 0.1 + 0.2, "EY1"), (0.3, 0.5, "IH1")]  # 0.1 + 0.2 is above 0.3
    empty = [(0, 0.74, "HH"), (0.74, 0.81, "EY1"), (0.81, 0.81, "sp"), (0.81, 1.07, "IH1")]
    centiseconds = [(0, 0.33, "HH"), (0.32, 0.66, "EY1"), (0.66, 1.0, "IH1")]
    tiny = [(0, 5e-17, "sp"), (5e-17, 0.5, "HH"), (0.5, 0.7, "EY1"), (0.7, 1.0, "IH1")]
    for name, intervals in {"ulp": ulp, "empty": empty, "centiseconds": centiseconds, "tiny": tiny}.items():
        (tmp_path / f"{name}.textgrid").write_bytes(b"\xef\xbb\xbf" + textgrid(*intervals).replace("\n", "\r\n").encode())
        found = read_alignments(tmp_path, {name}).phones[name]
        assert [item.symbol for item in found] == ["HH", "EY", "IH"], name
    assert phones_at(read_alignments(tmp_path, {"empty"}).phones["empty"], np.array([0.8, 0.81, 1.0])) == ["EY", "IH", "IH"]
    (tmp_path / "silent.TEXTGRID").write_text(textgrid((0.0, 0.0, "sil")))
    assert phones_at(read_alignments(tmp_path, {"silent"}).phones["silent"], np.array([0.0, 0.1])) == [None, None]


def test_textgrids_that_are_wrong_and_files_beside_them(tmp_path):
    (tmp_path / "u.TextGrid").write_text(textgrid((0, 0.5, "HH"), (0.3, 1.0, "EY1")))
    with pytest.raises(ValueError, match=r"u\.TextGrid has intervals that overlap: 'EY1' begins at 0\.3 s"):
        read_alignments(tmp_path, {"u"})
    (tmp_path / "u.TextGrid").write_bytes(textgrid((0, 0.5, "HH"), (0.5, 1.0, "EY1")).encode("utf-16"))
    (tmp_path / "._u.TextGrid").write_bytes(b"\x00\x05\x16\x07")  # a companion of macOS
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "._u.TextGrid").write_bytes(b"\x00\x05\x16\x07")
    found = read_alignments(tmp_path, {"u"})
    assert [item.symbol for item in found.phones["u"]] == ["HH", "EY"] and found.available == 1


# --- phones that the training set lacks -------------------------------------------------------------------------------

SETS = {"train": ("s a t", "S a n", "a s"), "dev": ("s a t", "S a n"), "test": ("s a Z", "t a n a")}


@pytest.fixture
def paths(tmp_path) -> dict[str, str]:
    found = {}
    for name, texts in SETS.items():
        lines = []
        for number, text in enumerate(texts):
            write(tmp_path / name / f"{name}{number}.wav", noise(1.0))
            lines.append({"audio_filepath": f"{name}{number}.wav", "duration": 1.0, "phones": text.split()})
        found[name] = str(write_lines(tmp_path / name / "manifest.json", *lines))
        ctm = [f"{name}{i} 1 {0.2 * j} 0.2 {phone}" for i, text in enumerate(texts) for j, phone in enumerate(text.split())]
        (tmp_path / f"{name}.ctm").write_text("\n".join(ctm) + "\n")
    return found


def test_sequences_of_phones(paths):
    sets, task = open_sets(paths, "phones", None, None, SAMPLE_RATE)
    assert task.metric == "PER" and task.symbols == ["S", "a", "n", "s", "t"]
    assert sets["test"].sequences == [["s", "a"], ["t", "a", "n", "a"]] and sets["test"].left_out == {"Z": 1}
    assert not sets["train"].left_out and not sets["dev"].left_out


def test_phones_of_frames(paths, tmp_path):
    alignments = {name: str(tmp_path / f"{name}.ctm") for name in SETS}
    sets, task = open_sets(paths, "phones", alignments, None, SAMPLE_RATE)
    assert task.symbols == ["S", "a", "n", "s", "t"] and sets["test"].left_out == {"Z": 1}

    class Times:
        def middles(self, count):
            return np.array([0.1, 0.3, 0.5])

    assert sets["test"].targets(task, 0, 3, Times()).tolist() == [3, 1, -1]
    assert sets["dev"].targets(task, 1, 3, Times()).tolist() == [0, 1, 2]


def test_sets_with_mostly_other_phones_are_refused(paths, tmp_path):
    lines = [json.loads(line) | {"phones": ["1", "2", "a"]} for line in Path(paths["test"]).read_text().splitlines()]
    write_lines(tmp_path / "test" / "manifest.json", *lines)
    with pytest.raises(ValueError, match=r"test set .*lacks 4 of its 6 phones \(1 2 times, 2 2 times\)"):
        open_sets(paths, "phones", None, None, SAMPLE_RATE)


def test_links_to_the_same_files_are_the_same_utterances(paths, tmp_path):
    (tmp_path / "linked").symlink_to(tmp_path / "train")
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "train").glob("*.wav"):
        (tmp_path / "copy" / path.name).symlink_to(path)
    (tmp_path / "copy" / "manifest.json").write_bytes((tmp_path / "train" / "manifest.json").read_bytes())
    for folder in ("linked", "copy"):
        with pytest.raises(ValueError, match=r"3 utterances of the test set are in the train set"):
            open_sets(paths | {"test": str(tmp_path / folder / "manifest.json")}, "phones", None, None, SAMPLE_RATE)
